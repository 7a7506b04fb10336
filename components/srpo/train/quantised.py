"""A frozen base under LoRA in eight bits: each matrix as int8, with a scale for every row."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

BLOCKS = ("transformer_blocks", "single_transformer_blocks")  # where a model's large matrices are
SCALE = "weight_scale"


class Int8Linear(nn.Module):
    """A frozen linear layer of ``weight`` int8 ``[out, in]`` times ``weight_scale`` float32 ``[out, 1]``.

    It computes in the dtype of what enters, in which whole numbers up to 127 are exact. The matrix in that dtype is
    made for each product and not kept, for the backward pass neither: a gradient goes through it to the input alone.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        device = linear.weight.device
        self.bias = linear.bias
        self.register_buffer("weight", torch.empty(linear.weight.shape, dtype=torch.int8, device=device))
        self.register_buffer(SCALE, torch.empty(len(linear.weight), 1, device=device))

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = _Product.apply(x, self.weight, self.weight_scale)
        return product if self.bias is None else product + self.bias


class _Product(torch.autograd.Function):
    """``x (scale W)^T``; a row's scale is that of an output channel, so it is applied to the product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return (nn.functional.linear(x, weight.to(x.dtype)) * scale.T).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,), (weight, scale) = gradients, ctx.saved_tensors
        return (gradient * scale.T).to(gradient.dtype) @ weight.to(gradient.dtype), None, None


def quantised(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """``matrix [out, in]`` as int8 and the float32 scale ``[out, 1]`` of each row: off by at most half a scale."""
    matrix = matrix.float()
    scale = (matrix.abs().amax(1, keepdim=True) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (matrix / scale).round().to(torch.int8), scale


def quantise_frozen(model: nn.Module) -> None:
    """Put :class:`Int8Linear` in the place of every linear layer of the blocks whose weight is not trained."""
    for name in BLOCKS:
        for parent in list(getattr(model, name, nn.Module()).modules()):
            for child, module in list(parent.named_children()):
                if type(module) is nn.Linear and not module.weight.requires_grad:
                    setattr(parent, child, Int8Linear(module))


def is_quantised(name: str, shape: Sequence[int]) -> bool:
    """Whether the base's tensor ``name`` is a matrix that :func:`quantise_frozen` holds in eight bits."""
    return name.startswith(BLOCKS) and name.endswith(".weight") and len(shape) == 2
