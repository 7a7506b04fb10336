"""The gradient of a step: summed in float32 whatever the weights are stored in, and clipped over all shards."""

from typing import Any

import torch
from torch import Tensor

from srpo.train.adamw8bit import local


class GradientSums:
    """Keeps the gradient of bfloat16 parameters in float32 while the passes of a step add to it.

    autograd and FSDP add in the dtype of the weights, and the 64 passes of a step on one GPU would be lost in the
    rounding of bfloat16. So each pass's gradient is taken away as soon as it stands; with float32 weights that is not
    needed, and nothing is done.
    """

    def __init__(self, parameters: list[Any]) -> None:
        self.sums: dict[Any, Any] = {}
        for parameter in parameters:
            if parameter.dtype != torch.float32:
                parameter.grad_dtype = None  # of any dtype: what the optimiser reads is the float32 sum
                parameter.register_post_accumulate_grad_hook(self._add)

    def give(self) -> None:
        """Hand the sums over as the parameters' gradients; the next pass starts from zero."""
        for parameter, total in self.sums.items():
            parameter.grad = total
        self.sums.clear()

    @torch.no_grad()
    def _add(self, parameter: Any) -> None:
        if parameter in self.sums:
            local(self.sums[parameter]).add_(local(parameter.grad))
        else:
            self.sums[parameter] = parameter.grad.float()
        parameter.grad = None


def clip_gradient(parameters: list[Any], limit: float) -> float:
    """Clip the gradient over all shards to the norm ``limit``; returns the norm that it had."""
    norm: Tensor = torch.nn.utils.clip_grad_norm_(parameters, limit)
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
