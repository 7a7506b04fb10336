"""Direct-Align against its closed forms, in float64 and float32."""

import pytest
import torch

from srpo.core.objective.direct_align import branch_sigmas, direct_align, euler_rollout, inject, recover, true_velocity

SIGMAS = [0.01, 0.3, 0.667, 0.75, 0.964, 0.999]


def latents(dtype=torch.float64, batch=3):
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(batch, 5, 4, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3))


@pytest.mark.parametrize("sigma", SIGMAS)
def test_recovery_inverts_injection(sigma):
    x0, noise, _ = latents()
    sigma = torch.full((3,), sigma, dtype=torch.float64)
    torch.testing.assert_close(recover(inject(x0, noise, sigma), noise, sigma), x0, rtol=0, atol=1e-10)


@pytest.mark.parametrize("branch", ["denoise", "inversion"])
@pytest.mark.parametrize("matched", [False, True])
def test_a_perfect_velocity_gives_the_image_back(branch, matched):
    x0, noise, _ = latents()
    high, low = torch.tensor(0.9, dtype=torch.float64), torch.tensor(0.8, dtype=torch.float64)
    start, end = branch_sigmas(branch, high, low, matched)
    found = direct_align(lambda x, sigma: true_velocity(x0, noise), x0, noise, start, end)
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-10)


@pytest.mark.parametrize("low", SIGMAS[:-1])
def test_denoise_has_its_closed_form(low):
    x0, noise, v = latents()
    high = torch.tensor(0.999, dtype=torch.float64)
    low = torch.tensor(low, dtype=torch.float64)
    c = (high - low) / (1 - low)
    found = direct_align(lambda x, sigma: v, x0, noise, high, low)
    torch.testing.assert_close(found, x0 - c * (v - true_velocity(x0, noise)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("high", SIGMAS[1:])
def test_inversion_has_its_closed_form_with_the_other_sign(high):
    x0, noise, v = latents()
    low = torch.tensor(0.01, dtype=torch.float64)
    high = torch.tensor(high, dtype=torch.float64)
    c = (high - low) / (1 - high)
    found = direct_align(lambda x, sigma: v, x0, noise, low, high)
    torch.testing.assert_close(found, x0 + c * (v - true_velocity(x0, noise)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("branch", "sign"), [("denoise", -1.0), ("inversion", 1.0)])
def test_the_gradient_reaches_the_velocity_with_the_sign_of_its_branch(branch, sign):
    x0, noise, v = latents()
    v.requires_grad_()
    start, end = branch_sigmas(branch, torch.tensor(0.9).double(), torch.tensor(0.8).double())
    direct_align(lambda x, sigma: v, x0, noise, start, end).sum().backward()
    c = 0.1 / (1 - float(end))
    torch.testing.assert_close(v.grad, torch.full_like(v, sign * c), rtol=1e-6, atol=1e-9)


def test_matched_destination_ends_both_branches_at_the_same_sigma():
    high, low = torch.tensor(0.9), torch.tensor(0.8)
    assert branch_sigmas("denoise", high, low, True)[1] == branch_sigmas("inversion", high, low, True)[1] == low
    assert float(branch_sigmas("inversion", high, low, True)[0]) == pytest.approx(0.7)
    assert branch_sigmas("inversion", high, low) == (low, high)


def test_every_sample_may_have_its_own_sigma():
    x0, noise, v = latents()
    start, end = torch.tensor([0.9, 0.8, 0.95]).double(), torch.tensor([0.7, 0.75, 0.2]).double()
    together = direct_align(lambda x, sigma: v[: len(x)] * sigma.reshape(-1, 1, 1), x0, noise, start, end)
    for i in range(3):
        alone = direct_align(
            lambda x, sigma, row=v[i : i + 1]: row * sigma.reshape(-1, 1, 1),
            x0[i : i + 1],
            noise[i : i + 1],
            start[i : i + 1],
            end[i : i + 1],
        )
        torch.testing.assert_close(together[i : i + 1], alone)


def test_recovery_stays_exact_when_the_model_computes_in_bfloat16():
    """At sigma .964 a bfloat16 recovery would be off by .22; float32 arithmetic around a bfloat16 model is not."""
    x0, noise, _ = latents(torch.float32)
    high, low = torch.tensor(0.964), torch.tensor(0.943)
    found = direct_align(lambda x, sigma: true_velocity(x0, noise), x0.bfloat16().float(), noise, high, low)
    assert (found - x0.bfloat16().float()).abs().max() < 0.02
    exact = direct_align(lambda x, sigma: true_velocity(x0, noise), x0, noise, high, low)
    assert exact.dtype == torch.float32
    assert (exact - x0).abs().max() < 1e-4


def test_recovery_refuses_pure_noise():
    x0, noise, _ = latents()
    with pytest.raises(ValueError, match=r"1\.0.*at most 0\.999"):
        direct_align(lambda x, sigma: noise, x0, noise, torch.tensor(0.9), torch.tensor(1.0))


def test_a_rollout_along_a_constant_velocity_is_exact():
    x0, noise, _ = latents(torch.float32)
    sigmas = torch.tensor([1.0, 0.7, 0.2, 0.0], dtype=torch.float64)
    found = euler_rollout(lambda x, sigma: true_velocity(x0, noise), noise, sigmas)
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-5)
    assert not found.requires_grad
