"""AdamW with 8-bit moments and stochastic rounding, against torch's own AdamW in float32."""

import socket

import pytest
import sharded_adamw8bit
import torch

from srpo.train.adamw8bit import BLOCK, FIRST, SECOND, AdamW8bit, quantised, random_bits, rounded
from srpo.train.gradients import GradientSums, clip_gradient

SETTINGS = {"lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 1e-2}
CPU = torch.device("cpu")


def gradients(steps, shape, seed=0):
    """Gradients with a direction of their own and noise, whose size differs by a thousand between columns."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(shape, generator=generator)
    sizes = torch.logspace(-6, -3, shape[-1])
    return [(mean + torch.randn(shape, generator=generator)) * sizes for _ in range(steps)]


def run(steps, start, seed=0, settings=None, rows=slice(None)):
    """(float32 weights of torch's AdamW, bfloat16 weights of ours, our optimiser) after the same gradients."""
    settings = settings or SETTINGS
    exact = torch.nn.Parameter(start[rows].clone())
    ours = torch.nn.Parameter(start[rows].bfloat16())
    ours.grad_dtype = None
    reference = torch.optim.AdamW([exact], **settings)
    optimizer = AdamW8bit([("w", ours)], seed, **settings)
    for gradient in gradients(steps, start.shape):
        exact.grad, ours.grad = gradient[rows].clone(), gradient[rows].clone()
        reference.step()
        optimizer.step()
    return exact.detach(), ours.detach(), optimizer


def test_it_moves_as_adamw_in_float32_does():
    """Over 20 steps the way is that of float32 masters: 2 % in length, and within 15 % of it everywhere in the mean."""
    start = torch.zeros(64, 300)
    exact, ours, _ = run(20, start)
    assert float(ours.float().norm() / exact.norm()) == pytest.approx(1, abs=0.02)
    assert float((ours.float() - exact).norm() / exact.norm()) < 0.15
    assert float(torch.cosine_similarity(ours.float().flatten(), exact.flatten(), dim=0)) > 0.99


def test_steps_far_below_the_resolution_of_bfloat16_still_move_the_weights():
    """At weights of 1 a step of 1e-4 is a 40th of bfloat16's; to nearest, nothing would ever move."""
    start = torch.ones(64, 512)
    settings = {"lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": 0.0}
    exact, ours, _ = run(20, start, settings=settings)
    assert (start + settings["lr"] * 2).bfloat16().equal(start.bfloat16())
    moved, expected = ours.float() - start, exact - start
    assert float((moved * expected).sum() / expected.square().sum()) == pytest.approx(1, abs=0.05)


def test_stochastic_rounding_is_right_in_the_mean_and_exact_where_it_can_be():
    values = torch.tensor([1.0 + 2**-9, -3.0 - 2**-10, 1e-8, 0.5])
    mean = torch.zeros(4, dtype=torch.float64)
    for key in range(4000):
        mean += rounded(values, random_bits(0, 4, key, CPU) & 0xFFFF).double()
    width = torch.tensor([2**-7, 2**-6, 2**-34, 0.0])
    assert ((mean / 4000 - values.double()).abs() <= 0.04 * width).all()  # 5 standard deviations
    exact = torch.randn(1000).bfloat16().float()
    assert torch.equal(rounded(exact, random_bits(0, 1000, 7, CPU) & 0xFFFF).float(), exact)


def test_moments_are_quantised_without_bias():
    values = torch.randn(8, 300, generator=torch.Generator().manual_seed(0))
    for table, wanted in ((FIRST, values), (SECOND, values.square() + 1e-6)):
        mean = torch.zeros_like(wanted, dtype=torch.float64)
        for key in range(400):
            codes, scale = quantised(wanted, table, random_bits(0, wanted.numel(), key, CPU).view(8, 300) & 0xFFFF)
            spread = scale.repeat_interleave(BLOCK, dim=1)[:, :300]
            mean += (table[codes.int()] * spread).double() / 400
        assert float(((mean - wanted.double()).abs() / wanted.abs()).max()) < 0.02
        assert codes.dtype == torch.uint8
        largest = wanted[:, :BLOCK].abs().argmax(1, keepdim=True)
        assert torch.equal((table[codes.int()] * spread).gather(1, largest), wanted.gather(1, largest))


def test_random_bits_are_uniform_and_a_function_of_key_and_element():
    bits = random_bits(0, 100_000, 12345, CPU)
    assert torch.equal(bits[500:600], random_bits(500, 100, 12345, CPU))
    assert not torch.equal(bits, random_bits(0, 100_000, 12346, CPU))
    for part in (bits & 0xFFFF, bits >> 16):
        counts = torch.histc(part.float(), bins=64, min=0, max=65536)
        assert float(((counts - 100_000 / 64) ** 2 / (100_000 / 64)).sum()) < 120  # chi-square, 63 degrees of freedom
    shares = torch.corrcoef(torch.stack([bits[:-1] & 0xFFFF, bits[1:] & 0xFFFF, bits[:-1] >> 16]).double())
    assert float((shares - torch.eye(3)).abs().max()) < 0.02


def test_a_shard_is_updated_as_it_is_within_the_whole_parameter(monkeypatch):
    """Rows 40 to 64 alone, as a rank holds them, end as they do in the whole parameter: bit for bit."""
    from srpo.train import adamw8bit

    start = torch.randn(64, 300, generator=torch.Generator().manual_seed(1))
    _, whole, _ = run(3, start)
    monkeypatch.setattr(adamw8bit, "first_row", lambda parameter: 40)
    _, part, _ = run(3, start, rows=slice(40, 64))
    assert torch.equal(part, whole[40:])
    monkeypatch.setattr(adamw8bit, "first_row", lambda parameter: 0)
    monkeypatch.setattr(adamw8bit, "CHUNK", 1000)  # worked on three rows at a time
    assert torch.equal(run(3, start)[1], whole)


def test_moments_take_a_byte_and_small_parameters_keep_float32():
    large = torch.nn.Parameter(torch.zeros(64, 512, dtype=torch.bfloat16))
    small = torch.nn.Parameter(torch.zeros(5000, dtype=torch.bfloat16))
    optimizer = AdamW8bit([("large", large), ("small", small)], 0, **SETTINGS)
    stored = [value for name, value in optimizer.state[large].items() if name != "step"]
    assert sum(value.numel() * value.element_size() for value in stored) == 2 * large.numel() * (1 + 4 / BLOCK)
    assert optimizer.state[small]["exp_avg"].dtype == torch.float32


def test_a_gradient_is_summed_in_float32_and_clipped():
    """256 passes of half a unit of the sum's last place in bfloat16: added there, they would be lost."""
    weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.bfloat16))
    sums = GradientSums([weight])
    for size in (1.0, *[2**-9] * 256):
        (weight * torch.full((4,), size, dtype=torch.bfloat16)).sum().backward()
    sums.give()
    assert weight.grad.dtype == torch.float32
    assert weight.grad.tolist() == [1.5] * 4
    assert clip_gradient([weight], 0.3) == pytest.approx(3.0)
    assert float(weight.grad.norm()) == pytest.approx(0.3, rel=1e-4)
    weight.grad = None
    sums.give()
    assert weight.grad is None, "what was given is not given again"


@pytest.mark.real
def test_a_checkpoint_is_read_on_another_number_of_ranks_and_goes_on_bit_for_bit(tmp_path):
    """Four steps on one rank are two on one and two on three, and two on two and two on one: weights and moments."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    def ranks(number, load, first, last, save):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        arguments = (number, port, load and tmp_path / load, first, last, tmp_path / save)
        torch.multiprocessing.spawn(sharded_adamw8bit.steps, arguments, nprocs=number)

    def state(name):
        dcp_to_torch_save(tmp_path / name, tmp_path / f"{name}.pt")
        stored = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        return stored["model"] | {
            f"{n}.{k}": v for n, part in stored["optimizer"]["state"].items() for k, v in part.items()
        }

    ranks(1, None, 0, 4, "whole")
    ranks(1, None, 0, 2, "one")
    ranks(3, "one", 2, 4, "one-three")
    ranks(2, None, 0, 2, "two")
    ranks(1, "two", 2, 4, "two-one")
    expected = state("whole")
    assert expected["even.exp_avg"].dtype == torch.uint8
    for name in ("one-three", "two-one"):
        found = state(name)
        assert found.keys() == expected.keys()
        assert [key for key in expected if not torch.equal(found[key], expected[key])] == []
