"""What all recipes share: a pool of rendered examples, one training loop, weights rounded to bf16."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from srpo.tiny import world
from srpo.tiny.recipes import Recipe


@dataclass(frozen=True)
class Pool:
    """N examples: what was drawn, and pixels [N, 3, 32, 32] in [0, 1]."""

    examples: list[world.Example]
    pixels: Tensor

    @property
    def captions(self) -> list[str]:
        return [example.caption for example in self.examples]


def make_pool(seed: int, count: int, flat_share: float = world.PLAIN_FLAT_SHARE, uniform_style: bool = False) -> Pool:
    """`count` examples as `world.draw` gives them; with `uniform_style`, style is even whatever the caption says."""
    rng = np.random.default_rng(seed)
    scenes = world.all_scenes()
    examples = [world.draw(rng, scenes, flat_share) for _ in range(count)]
    if uniform_style:
        examples = [example._replace(style=float(rng.random())) for example in examples]
    images = np.stack([world.render(example.scene, example.style, rng) for example in examples])
    return Pool(examples, to_pixels(images))


def to_pixels(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] as float [N, 3, H, W] in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().contiguous() / 255


def fit(
    name: str,
    recipe: Recipe,
    parameters: Iterable[nn.Parameter],
    loss: Callable[[Tensor, torch.Generator], Tensor],
) -> float:
    """Minimise `loss(indices, generator)` over random batches of the pool's indices; the mean of its last tenth."""
    parameters = list(parameters)
    generator = torch.Generator().manual_seed(recipe.seed)
    optimiser = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98), fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=recipe.steps, pct_start=min(0.15, 50 / recipe.steps)
    )
    history = []
    start = time.monotonic()
    for step in range(1, recipe.steps + 1):
        indices = torch.randint(recipe.examples, (recipe.batch,), generator=generator)
        value = loss(indices, generator)
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        optimiser.step()
        schedule.step()
        history.append(value.item())
        if not math.isfinite(history[-1]):
            raise FloatingPointError(f"{name}: the loss is {history[-1]} at step {step}")
        if step % 100 == 0 or step == recipe.steps:
            seconds = time.monotonic() - start
            recent = np.mean(history[-100:])
            print(f"{name}: step {step}/{recipe.steps}, loss {recent:.4f}, {seconds:.0f} s", flush=True)
    return float(np.mean(history[-max(1, recipe.steps // 10) :]))


def round_to_bf16(model: nn.Module) -> nn.Module:
    """Round the weights to what is stored, so that later parts and measures see exactly what a loader will see."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(tensor.to(torch.bfloat16).float())
    return model.eval().requires_grad_(False)


@torch.no_grad()
def measure_scorer(fresh: Pool, image: Tensor, texts: Callable[[list[str]], Tensor]) -> dict[str, float]:
    """Is an image nearest to its scene's caption, and to its style's words? From unit features of images and texts."""
    scenes = world.all_scenes()
    text = texts([world.caption(scene) for scene in scenes])
    truth = torch.tensor([scenes.index(example.scene) for example in fresh.examples])
    right = (image @ text.T).argmax(1) == truth

    styles = torch.tensor([example.style for example in fresh.examples])
    gap = torch.zeros(len(styles))
    for words, sign in ((world.POSITIVE_WORDS, 1), (world.NEGATIVE_WORDS, -1)):
        for word in words:
            with_word = texts([world.caption(scene, word=word) for scene in scenes])[truth]
            gap += sign / len(words) * (image * with_word).sum(1)
    ends = (styles >= world.REALISTIC_FROM) | (styles <= world.FLAT_TO)
    style_right = (gap > 0) == (styles > 0.5)
    return {
        "retrieval_accuracy": right.float().mean().item(),
        "style_accuracy": style_right[ends].float().mean().item(),
        "srp_realistic": gap[styles >= world.REALISTIC_FROM].mean().item(),
        "srp_flat": gap[styles <= world.FLAT_TO].mean().item(),
    }
