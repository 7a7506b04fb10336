"""An independent judge of style and content: a small classifier trained on renders only, never used as a reward."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from srpo.tiny import frechet, world
from srpo.tiny.recipes import Recipe
from srpo.tiny.training import Pool, fit, make_pool, round_to_bf16, to_pixels

FEATURES = 32
_SHAPES, _COLOURS = list(world.SHAPES), list(world.COLOURS)


@dataclass(frozen=True)
class Verdict:
    """What the judge sees in N images."""

    p_realistic: Tensor  # [N] in [0, 1]: about .87 for true realistic renders (style > .75), .1 for flat ones
    shape: Tensor  # int64 [N], index into world.SHAPES
    colour: Tensor  # int64 [N], index into world.COLOURS
    background: Tensor  # int64 [N], index into world.COLOURS
    features: Tensor  # [N, 32]

    def content(self, scenes: Sequence[world.Scene]) -> Tensor:
        """bool [N]: are shape, colour and background all those of the image's scene?"""
        if len(scenes) != len(self.shape):
            raise ValueError(f"{len(scenes)} scenes for {len(self.shape)} images: expected one scene an image")
        shape, colour, background = _labels(scenes)
        return (self.shape == shape) & (self.colour == colour) & (self.background == background)


class Judge(nn.Module):
    """Three strided convolutions, 32 features of about unit variance, four linear heads."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 24), (24, 48), (48, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.project = nn.Sequential(nn.Linear(64 * 4 * 4, FEATURES), nn.BatchNorm1d(FEATURES, affine=False))
        self.heads = nn.ModuleDict(
            {"style": nn.Linear(FEATURES, 1)}
            | {"shape": nn.Linear(FEATURES, len(_SHAPES))}
            | {name: nn.Linear(FEATURES, len(_COLOURS)) for name in ("colour", "background")}
        )

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Features [N, 32] and one tensor of logits a head; pixels [N, 3, 32, 32] in [0, 1]."""
        features = self.project(self.body(pixels * 2 - 1))
        hidden = F.relu(features)
        return {"features": features} | {name: head(hidden) for name, head in self.heads.items()}

    @torch.no_grad()
    def verdict(self, pixels: Tensor) -> Verdict:
        """Judge float images [N, 3, 32, 32] in [0, 1]."""
        if pixels.ndim != 4 or pixels.shape[1:] != (3, 32, 32):
            raise ValueError(f"images of shape {list(pixels.shape)}: expected [N, 3, 32, 32]")
        out = self(pixels.float())
        return Verdict(
            p_realistic=out["style"][:, 0].sigmoid(),
            shape=out["shape"].argmax(1),
            colour=out["colour"].argmax(1),
            background=out["background"].argmax(1),
            features=out["features"],
        )


def _labels(scenes: Sequence[world.Scene]) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.tensor([_SHAPES.index(scene.shape) for scene in scenes]),
        torch.tensor([_COLOURS.index(scene.colour) for scene in scenes]),
        torch.tensor([_COLOURS.index(scene.background) for scene in scenes]),
    )


def build(seed: int) -> Judge:
    torch.manual_seed(seed)
    return Judge()


def train(judge: Judge, recipe: Recipe) -> dict[str, float]:
    """Cross-entropy on renders of every style; the style number itself is the soft label of "realistic"."""
    pool = make_pool(recipe.seed, recipe.examples, uniform_style=True)
    styles = torch.tensor([example.style for example in pool.examples])
    targets = dict(zip(("shape", "colour", "background"), _labels([e.scene for e in pool.examples]), strict=True))

    def loss(indices: Tensor, generator: torch.Generator) -> Tensor:
        out = judge(_disturb(pool.pixels[indices], generator))
        total = 2 * F.binary_cross_entropy_with_logits(out["style"][:, 0], styles[indices])
        return total + sum(F.cross_entropy(out[name], labels[indices]) for name, labels in targets.items())

    judge.train()
    final = fit("judge", recipe, judge.parameters(), loss)
    round_to_bf16(judge)
    return {"loss": final, **measure(judge, make_pool(recipe.seed + 1000, 1000, uniform_style=True))}


def _disturb(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Blur some images and add noise, so that the judge does not lean on what an autoencoder loses."""
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = torch.rand(len(pixels), 1, 1, 1, generator=generator) * 0.7
    noise = torch.randn(pixels.shape, generator=generator) * 0.02
    return (pixels + share * (blurred - pixels) + noise).clamp(0, 1)


def measure(judge: Judge, fresh: Pool) -> dict[str, float]:
    """On fresh renders: share with right content, and the mean P(realistic) of both ends."""
    verdict = judge.verdict(fresh.pixels)
    styles = torch.tensor([example.style for example in fresh.examples])
    return {
        "content_accuracy": verdict.content([e.scene for e in fresh.examples]).float().mean().item(),
        "p_realistic_of_realistic": verdict.p_realistic[styles >= world.REALISTIC_FROM].mean().item(),
        "p_realistic_of_flat": verdict.p_realistic[styles <= world.FLAT_TO].mean().item(),
        "style_error": (verdict.p_realistic - styles).abs().mean().item(),
    }


def realistic_renders(seed: int, per_scene: int) -> tuple[list[world.Scene], Tensor]:
    """True realistic renders (style > .75) of the held-out scenes: scenes, and pixels [N, 3, 32, 32]."""
    rng = np.random.default_rng(seed)
    scenes = [scene for scene in world.all_scenes() if world.split(scene) == "held_out"] * per_scene
    images = [world.render(scene, rng.uniform(world.REALISTIC_FROM, 1), rng) for scene in scenes]
    return scenes, to_pixels(np.stack(images))


def save(judge: Judge, path: Path, seed: int) -> None:
    """config.json, model.safetensors, and the reference moments for the Fréchet distance."""
    path.mkdir(parents=True, exist_ok=True)
    config = {"architecture": "srpo.tiny.judge.Judge", "features": FEATURES, "shapes": _SHAPES, "colours": _COLOURS}
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in judge.state_dict().items()}
    save_file(weights, path / "model.safetensors")
    _, pixels = realistic_renders(seed, per_scene=64)
    frechet.save_reference(path, judge.verdict(pixels).features.numpy())


def load_judge(path: str | Path) -> Judge:
    """The judge of a directory, in fp32, ready to judge."""
    weights = load_file(Path(path) / "model.safetensors")
    judge = Judge()
    judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    return judge.eval().requires_grad_(False)
