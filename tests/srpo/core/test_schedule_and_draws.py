"""Sigmas against diffusers' own scheduler and the published numbers; randomness that no rank can change."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from srpo.core.contracts.order import prompt_order
from srpo.core.objective import draws
from srpo.core.objective.schedule import discount, draw_interval, late_weight, sampler_sigmas, training_sigmas


@pytest.mark.parametrize(("steps", "shift"), [(25, 3.0), (50, 3.0), (4, 1.0), (1, 3.0)])
def test_sampler_sigmas_are_those_of_diffusers(steps, shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps))
    np.testing.assert_allclose(sampler_sigmas(steps, shift).numpy(), scheduler.sigmas.numpy(), atol=1e-6)


def test_the_default_range_is_steps_5_to_25_of_the_published_schedule():
    from srpo.train.config import Config

    sigmas = sampler_sigmas(50, 3.0)
    assert float(sigmas[5]) == pytest.approx(Config().sigma_high, abs=1e-12)
    assert float(sigmas[25]) == pytest.approx(Config().sigma_low, abs=1e-12)


@given(st.integers(0, 10_000), st.integers(1, 999))
def test_intervals_have_their_width_and_lie_in_the_range(step, width):
    grid = training_sigmas(0.75, 0.96, 1000)
    high, low = draw_interval(grid, width, draws.generator(0, "interval", step))
    assert 0.75 - 1e-12 <= low < high <= 0.96 + 1e-12
    assert high - low == pytest.approx(0.21 * width / 1000, rel=1e-9)


def test_discounts_run_linearly_in_sigma():
    sigma = torch.tensor([0.75, 0.855, 0.96, 0.5, 0.99], dtype=torch.float64)
    found = discount(sigma, 0.75, 0.96, 0.30, 0.01)
    np.testing.assert_allclose(found.numpy(), [0.30, 0.155, 0.01, 0.30, 0.01], atol=1e-12)


def test_the_late_weight_runs_from_0_to_1():
    found = late_weight(torch.tensor([0.2, 0.55, 0.9], dtype=torch.float64), 0.2, 0.9)
    np.testing.assert_allclose(found.numpy(), [0.0, 0.75, 1.0], atol=1e-12)


def test_noise_depends_on_every_part_of_its_name_and_on_nothing_else():
    torch.manual_seed(123)
    first = draws.noise((2, 3), 0, "noise", 5, 1)
    torch.manual_seed(9)
    assert torch.equal(first, draws.noise((2, 3), 0, "noise", 5, 1))
    others = [(1, "noise", 5, 1), (0, "guard", 5, 1), (0, "noise", 6, 1), (0, "noise", 5, 2)]
    for seed, purpose, *numbers in others:
        assert not torch.equal(first, draws.noise((2, 3), seed, purpose, *numbers))


@given(st.integers(1, 40), st.integers(0, 200), st.integers(0, 5))
def test_training_prompts_are_drawn_in_whole_passes(total, count, seed):
    order = prompt_order(count, total, seed)
    assert len(order) == count
    for start in range(0, count - total + 1, total):
        assert sorted(order[start : start + total]) == list(range(total))
    longer = prompt_order(count + 7, total, seed)
    assert longer[:count] == order  # a longer run begins with the same prompts


def test_word_pairs_come_from_their_lists_and_vary():
    pairs = {draws.word_pair(["a", "b"], ["x", "y", "z"], 0, step) for step in range(100)}
    assert pairs == {(p, n) for p in "ab" for n in "xyz"}
