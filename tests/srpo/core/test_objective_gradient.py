"""The whole objective, velocity to loss, against finite differences; and a batch against its samples."""

import pytest
import torch

from srpo.core.objective.direct_align import branch_sigmas, direct_align
from srpo.core.objective.relative_reward import branch_reward, reward_loss


class Toy(torch.nn.Module):
    """A small smooth model in float64, one of everything: velocity, decoder and image tower."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.velocity = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 5)).double()
        self.decode = torch.nn.Linear(5, 9).double().requires_grad_(False)
        self.image = torch.nn.Linear(9, 4).double().requires_grad_(False)

    def loss(self, branch, x0, noise, positive, negative):
        start, end = branch_sigmas(branch, torch.tensor(0.9).double(), torch.tensor(0.75).double())

        def velocity(x, sigma):
            return self.velocity(torch.cat([x, sigma.to(x).reshape(-1, 1)], 1))

        pixels = self.decode(direct_align(velocity, x0, noise, start, end))
        features = torch.nn.functional.normalize(self.image(pixels), dim=-1)
        k = torch.full((len(x0),), 0.2, dtype=torch.float64)
        inverted = torch.full((len(x0),), branch == "inversion")
        return reward_loss(branch_reward(inverted, features, positive, negative, k), 0.7)


def inputs(batch=3):
    generator = torch.Generator().manual_seed(2)
    x0, noise = (torch.randn(batch, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    positive, negative = (
        torch.nn.functional.normalize(torch.randn(batch, 4, generator=generator, dtype=torch.float64), dim=-1)
        for _ in range(2)
    )
    return x0, noise, positive, negative


@pytest.mark.parametrize("branch", ["denoise", "inversion"])
def test_gradient_agrees_with_finite_differences(branch):
    toy, data = Toy(), inputs()
    toy.loss(branch, *data).mean().backward()
    weight = toy.velocity[0].weight
    for place in [(0, 0), (3, 2), (7, 5)]:
        found = float(weight.grad[place])
        with torch.no_grad():
            losses = []
            for change in (1e-6, -2e-6):
                weight[place] += change
                losses.append(float(toy.loss(branch, *data).mean()))
            weight[place] += 1e-6
        assert found == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-5, abs=1e-9)
        assert found != 0


@pytest.mark.parametrize("branch", ["denoise", "inversion"])
def test_a_batch_equals_its_samples(branch):
    toy, data = Toy(), inputs()
    whole = toy.loss(branch, *data)
    alone = torch.cat([toy.loss(branch, *(part[i : i + 1] for part in data)) for i in range(3)])
    torch.testing.assert_close(whole, alone, rtol=1e-12, atol=1e-12)


def test_both_branches_push_the_velocity_the_same_way():
    """With equal discounts, and images near x0, the two branches' gradients agree in direction."""
    toy, data = Toy(), inputs()
    gradients = []
    for branch in ("denoise", "inversion"):
        toy.zero_grad()
        toy.loss(branch, *data).mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in toy.velocity.parameters()]))
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.5
