"""Each reward form against a few lines of numpy, and what the branches do with it."""

import numpy as np
import pytest
import torch

from srpo.core.objective.relative_reward import (
    branch_reward,
    image_pair_reward,
    relative_reward,
    reward_loss,
    with_word,
)

RNG = np.random.default_rng(0)
F, C1, C2 = (RNG.normal(size=(4, 8)) for _ in range(3))
K = np.array([0.1, 0.2, 0.0, 1.0])
EXPECTED = {
    "plain": (F * C1).sum(1),
    "sgp": (F * C1).sum(1),
    "srp": (F * (C1 - C2)).sum(1),
    "cfg": (F * ((1 - K)[:, None] * C2 + K[:, None] * C1)).sum(1),
    "stable": (F * ((1 + K)[:, None] * C1 - C2)).sum(1),
}


def tensors(*arrays):
    return [torch.from_numpy(array) for array in arrays]


@pytest.mark.parametrize("form", sorted(EXPECTED))
def test_form(form):
    found = relative_reward(*tensors(F, C1, C2, K), form)
    np.testing.assert_allclose(found.numpy(), EXPECTED[form], rtol=1e-12)


def test_the_inversion_swaps_the_words():
    f, c1, c2, k = tensors(F, C1, C2, K)
    inverted = torch.tensor([False, True, True, False])  # both branches share a batch: each image has its own
    denoise, inversion = relative_reward(f, c1, c2, k), relative_reward(f, c2, c1, k)
    found = branch_reward(inverted, f, c1, c2, k)
    torch.testing.assert_close(found, torch.where(inverted, inversion, denoise))
    assert not torch.isclose(denoise, inversion).any()


def test_every_caption_has_its_own_features():
    """Scoring only the first caption of a batch would make all rewards use row 0."""
    f, c1, c2, k = tensors(F, C1, C2, K)
    whole = relative_reward(f, c1, c2, k)
    rows = torch.cat([relative_reward(f[i : i + 1], c1[i : i + 1], c2[i : i + 1], k[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(whole, rows)


def test_the_margin_stops_the_gradient():
    reward = torch.tensor([0.2, 0.7, 0.9], requires_grad=True)
    loss = reward_loss(reward, 0.7)
    torch.testing.assert_close(loss.detach(), torch.tensor([0.5, 0.0, 0.0]))
    loss.sum().backward()
    assert reward.grad.tolist() == [-1.0, 0.0, 0.0]


def test_the_control_word_goes_before_the_prompt():
    assert with_word("Real", "a cat") == "Real. a cat"
    assert with_word("", "a cat") == "a cat"


def test_unknown_names_are_refused():
    f, c1, c2, k = tensors(F, C1, C2, K)
    with pytest.raises(ValueError, match="'nonsense'"):
        relative_reward(f, c1, c2, k, "nonsense")


def test_without_a_margin_the_weighted_reward_is_the_loss():
    reward = torch.tensor([0.2, 2.0], requires_grad=True)
    loss = reward_loss(reward, None, torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(loss.detach(), torch.tensor([-0.1, -2.0]))
    loss.sum().backward()
    assert reward.grad.tolist() == [-0.5, -1.0]


def test_an_image_only_reward_is_held_against_its_noised_copy():
    clean, noised, k = tensors(np.array([2.0, 3.0]), np.array([1.5, 3.5]), np.array([0.1, 0.0]))
    denoise, inversion = torch.tensor([False, False]), torch.tensor([True, True])
    np.testing.assert_allclose(image_pair_reward(denoise, clean, noised, k), [1.1 * 2.0 - 1.5, 3.0 - 3.5])
    np.testing.assert_allclose(image_pair_reward(inversion, clean, noised, k), [1.1 * 1.5 - 2.0, 3.5 - 3.0])
