"""The head that LAION's aesthetic predictor and ImageReward share: linear layers without anything between them."""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from srpo.core.contracts.errors import InputError


def head_weights(weights: Mapping[str, Tensor], prefix: str = "layers") -> dict[str, Tensor]:
    """``<number>.weight`` and ``<number>.bias`` of the linear layers, numbered from 0; dropout between them is gone.

    Raises:
        InputError: these are no linear layers that follow each other to one number.
    """
    found = {}
    for name, value in weights.items():
        match = re.fullmatch(re.escape(prefix) + r"\.(\d+)\.(weight|bias)", name)
        if match:
            found[int(match[1]), match[2]] = value
    places = sorted({place for place, _ in found})
    layers = {f"{i}.{kind}": found.get((place, kind)) for i, place in enumerate(places) for kind in ("weight", "bias")}
    complete = {name: value for name, value in layers.items() if value is not None}
    matrices = [complete[f"{i}.weight"] for i in range(len(places)) if f"{i}.weight" in complete]
    fit = all(below.shape[0] == above.shape[1] for below, above in itertools.pairwise(matrices))
    if not matrices or len(complete) < len(layers) or not fit or len(matrices[-1]) != 1:
        raise InputError(
            f"the head's weights are {', '.join(sorted(weights)) or 'none'}: they must be {prefix}.<number>.weight and "
            ".bias of linear layers that end in one number"
        )
    return complete


def load_head(path: Path, device: torch.device) -> nn.Sequential:
    """The head in ``path`` (safetensors, named as :func:`head_weights` does), in float32: it is small."""
    weights = {name: value.float() for name, value in load_file(path).items()}
    shapes = [weights[f"{place}.weight"].shape for place in range(len(weights) // 2)]
    head = nn.Sequential(*(nn.Linear(shape[1], shape[0]) for shape in shapes))
    head.load_state_dict(weights)
    return head.to(device).eval().requires_grad_(False)
