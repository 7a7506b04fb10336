"""The baselines' estimates and gradients against hand-written samplers."""

import pytest
import torch

from srpo.core.objective.baselines import draft, draft_lv, refl
from srpo.core.objective.direct_align import euler_rollout
from srpo.core.objective.schedule import sampler_sigmas


class Linear(torch.nn.Module):
    """v = w x + sigma: one weight, so that gradients can be written down; counts its calls with gradient."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.calls_with_gradient = 0

    def forward(self, x, sigma):
        self.calls_with_gradient += torch.is_grad_enabled()
        return self.w * x + sigma.reshape(-1, 1)


NOISE = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
SIGMAS = sampler_sigmas(6, 3.0)


def by_hand(w, stop):
    x = NOISE.clone()
    for i in range(stop):
        x = x + (SIGMAS[i + 1] - SIGMAS[i]) * (w * x + SIGMAS[i])
    return x


def test_refl_jumps_from_its_stop_to_the_clean_latent():
    model = Linear()
    found = refl(model, NOISE, SIGMAS, 4)
    x = by_hand(0.3, 4)
    torch.testing.assert_close(found.detach(), x - SIGMAS[4] * (0.3 * x + SIGMAS[4]))
    found.sum().backward()
    assert model.calls_with_gradient == 1
    assert float(model.w.grad) == pytest.approx(float((-SIGMAS[4] * x).sum()))


@pytest.mark.parametrize("last", [1, 3])
def test_draft_is_the_sampler_with_gradient_through_its_last_steps(last):
    model = Linear()
    found = draft(model, NOISE, SIGMAS, last)
    torch.testing.assert_close(found.detach(), euler_rollout(Linear(), NOISE, SIGMAS))
    found.sum().backward()
    assert model.calls_with_gradient == last
    w = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    x = by_hand(0.3, 6 - last)
    for i in range(6 - last, 6):
        x = x + (SIGMAS[i + 1] - SIGMAS[i]) * (w * x + SIGMAS[i])
    x.sum().backward()
    torch.testing.assert_close(model.w.grad, w.grad)


def test_draft_lv_cleans_a_renoised_sample():
    model = Linear()
    x0, noise, sigma = NOISE, torch.tensor([[0.5, 0.5]], dtype=torch.float64), SIGMAS[5]
    found = draft_lv(model, x0, noise, sigma)
    x = (1 - sigma) * x0 + sigma * noise
    torch.testing.assert_close(found.detach(), x - sigma * (0.3 * x + sigma))
    found.sum().backward()
    assert model.calls_with_gradient == 1
    assert float(model.w.grad) == pytest.approx(float((-sigma * x).sum()))
