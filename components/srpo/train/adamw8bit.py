"""AdamW for bfloat16 weights: moments of 8 bits, and stochastic rounding of whatever is stored.

A step of 5e-6 is far below bfloat16's resolution (2^-8 of a weight), so rounded to nearest most weights would never
move; rounded up or down with the chance that makes the mean right, they move as float32 ones do. The same holds for
the moments: with beta2 = .999 a step changes the second one by .1 %, less than an 8-bit code is wide.

A moment is stored as codes and one scale for each block of a row, so a shard (whole rows) is quantised as it would be
within the whole parameter; and the random bits of an element are a function of (seed, step, parameter, element). So
nothing depends on the number of ranks, and a distributed checkpoint is read on another number of them as it stands.
Moments of vectors and of small matrices stay in float32: they are few.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import functional

from srpo.core.objective import draws

BLOCK = 256  # elements of a row that share one scale
SMALLEST = 4096  # elements from which on a matrix's moments have 8 bits
CHUNK = 2**24  # elements that are worked on at once: what bounds the float32 temporaries

# What the codes stand for, as a share of the block's largest value: levels 7.5 % apart, over 4 decades of the first
# moment and 8 of the second, which is a square. The second has no zero: an update divides by its root.
_LEVELS = torch.logspace(-4, 0, 127, dtype=torch.float64)
FIRST = torch.cat([-_LEVELS.flip(0), torch.zeros(1, dtype=torch.float64), _LEVELS]).float()
SECOND = torch.logspace(-8, 0, 256, dtype=torch.float64).float()


class AdamW8bit(torch.optim.Optimizer):
    """AdamW over named bfloat16 parameters, plain or sharded by rows; gradients are float32 or bfloat16.

    Args:
        named: names and parameters; a name decides its parameter's random bits.
        seed: of the run.
        lr, betas, weight_decay, eps: as torch's own AdamW has them.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, Any]],
        seed: int,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        eps: float = 1e-8,
    ) -> None:
        self.names = {parameter: name for name, parameter in named}
        self.seed = seed
        super().__init__(list(self.names), {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": eps})
        for parameter in self.names:
            self.state[parameter] = empty_state(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step on every parameter that has a gradient; ``closure`` is not used."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    state["step"] += 1
                    key = draws.generator(self.seed, "rounding", int(state["step"]), self.names[parameter])
                    update(parameter, state, group, key.initial_seed())


def update(parameter: Any, state: dict[str, Any], group: dict[str, Any], key: int) -> None:
    """AdamW on this rank's rows of ``parameter``, a chunk of rows at a time; ``key`` decides the random bits."""
    (beta1, beta2), lr, step = group["betas"], group["lr"], float(state["step"])
    weights, gradients = as_rows(local(parameter)), as_rows(local(parameter.grad))
    stored = {name: local(value) for name, value in state.items() if name != "step"}
    rows, columns = weights.shape
    many = max(1, CHUNK // columns)
    for first in range(0, rows, many):
        part = slice(first, min(first + many, rows))
        number = (first_row(parameter) + first) * columns
        bits = random_bits(number, weights[part].numel(), key, weights.device).view(-1, columns)
        more = random_bits(number, weights[part].numel(), key ^ 0x5BD1E995, weights.device).view(-1, columns)
        gradient = gradients[part].float()
        one = read_moment(stored, "exp_avg", part, FIRST).lerp_(gradient, 1 - beta1)
        two = read_moment(stored, "exp_avg_sq", part, SECOND).mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        write_moment(stored, "exp_avg", part, FIRST, one, bits >> 16)
        write_moment(stored, "exp_avg_sq", part, SECOND, two, more & 0xFFFF)
        root = two.div_(1 - beta2**step).sqrt_().add_(group["eps"])
        moved = weights[part].float().mul_(1 - lr * group["weight_decay"])
        moved.addcdiv_(one, root, value=-lr / (1 - beta1**step))
        weights[part] = moved if weights.dtype == torch.float32 else rounded(moved, bits & 0xFFFF)


def empty_state(parameter: Any) -> dict[str, Any]:
    """A parameter's state before the first step; tensors are sharded as the parameter is."""
    rows = as_rows(local(parameter))
    state: dict[str, Any] = {"step": torch.tensor(0.0)}
    for name in ("exp_avg", "exp_avg_sq"):
        if parameter.ndim < 2 or parameter.numel() < SMALLEST:
            state[name] = sharded_like(parameter, torch.zeros_like(rows, dtype=torch.float32))
        else:
            scales = rows.new_zeros((len(rows), -(-rows.shape[1] // BLOCK)), dtype=torch.float32)
            state[name] = sharded_like(parameter, torch.zeros_like(rows, dtype=torch.uint8))
            state[f"{name}_scale"] = sharded_like(parameter, scales)
    return state


def read_moment(stored: dict[str, Tensor], name: str, part: slice, table: Tensor) -> Tensor:
    """Rows of a moment in float32, as a tensor of its own."""
    values = stored[name][part]
    if values.dtype != torch.uint8:
        return values.clone()
    scale = stored[f"{name}_scale"][part].repeat_interleave(BLOCK, dim=1)[:, : values.shape[1]]
    return table.to(values.device)[values.int()] * scale


def write_moment(
    stored: dict[str, Tensor], name: str, part: slice, table: Tensor, values: Tensor, random: Tensor
) -> None:
    """Store rows of a moment; ``random`` has 16 bits for each element."""
    if stored[name].dtype != torch.uint8:
        stored[name][part] = values
    else:
        stored[name][part], stored[f"{name}_scale"][part] = quantised(values, table, random)


def quantised(values: Tensor, table: Tensor, random: Tensor) -> tuple[Tensor, Tensor]:
    """Codes ``[R, C]`` and scales ``[R, blocks]`` of ``values [R, C]``: right in the mean, exact where a level is."""
    table, columns = table.to(values.device), values.shape[1]
    blocks = functional.pad(values, (0, -columns % BLOCK)).unflatten(1, (-1, BLOCK))
    scale = blocks.abs().amax(-1)
    shares = (blocks / scale.clamp_min(1e-38)[..., None]).flatten(1)[:, :columns].clamp_min(float(table[0]))
    lower = (torch.bucketize(shares, table, out_int32=True, right=True) - 1).clamp_(0, len(table) - 2)
    low, high = table[lower], table[lower + 1]
    upwards = random < (shares - low) / (high - low) * 65536
    return (lower + upwards).to(torch.uint8), scale


def rounded(values: Tensor, random: Tensor) -> Tensor:
    """``values`` in bfloat16, away from zero with the chance of what is cut off: right in the mean.

    ``random`` has 16 bits for each element. A bfloat16 number is the upper half of a float32 one.
    """
    bits = values.view(torch.int32) + random.to(torch.int32)
    return (bits & -65536).view(torch.float32).bfloat16()


def random_bits(first: int, count: int, key: int, device: torch.device) -> Tensor:
    """32 random bits for each of the elements ``first``, ``first + 1`` ...: int64 ``[count]``, a hash of (key, number).

    Multiply and shift (T. Mueller's integer hash) on the numbers themselves: no generator has a state to keep in step.
    """
    mask = 0xFFFFFFFF
    x = torch.arange(first, first + count, device=device).mul_(0x9E3779B1).add_(key & mask).bitwise_and_(mask)
    for _ in range(2):
        x.bitwise_xor_(x >> 16).mul_(0x45D9F3B).bitwise_and_(mask)
    return x.bitwise_xor_(x >> 16)


def first_row(parameter: Any) -> int:
    """The number, within the whole parameter, of the first row that this rank holds."""
    if not isinstance(parameter, DTensor):
        return 0
    mesh = parameter.device_mesh
    return min(len(parameter), mesh.get_local_rank() * -(-len(parameter) // mesh.size()))


def local(tensor: Any) -> Tensor:
    """This rank's rows of a sharded tensor, or the tensor itself; memory is shared."""
    found: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return found.detach()


def as_rows(tensor: Tensor) -> Tensor:
    """``[R, C]``: the first axis against all others; memory is shared."""
    return tensor.view(len(tensor), math.prod(tensor.shape[1:]))


def sharded_like(parameter: Any, rows: Tensor) -> Any:
    """``rows [local R, C]`` as a tensor that is sharded over the ranks as ``parameter`` is."""
    if not isinstance(parameter, DTensor):
        return rows
    shape = torch.Size((len(parameter), rows.shape[1]))
    return DTensor.from_local(
        rows, parameter.device_mesh, parameter.placements, run_check=False, shape=shape, stride=(shape[1], 1)
    )
