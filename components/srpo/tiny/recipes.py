"""How much each part of the tiny world is trained: every number once."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """AdamW with a one-cycle learning rate over a fixed pool of rendered examples."""

    seed: int
    examples: int
    steps: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.01
    clip_norm: float = 1.0


CLIP = Recipe(seed=1, examples=12_000, steps=450, batch=96, learning_rate=1.5e-3)
VAE = Recipe(seed=2, examples=8_000, steps=1800, batch=8, learning_rate=1.5e-3, weight_decay=0.0)
FLOW = Recipe(seed=3, examples=12_000, steps=1400, batch=48, learning_rate=2.5e-3)
HELD_OUT = Recipe(seed=4, examples=12_000, steps=1100, batch=96, learning_rate=1.5e-3)
JUDGE = Recipe(seed=5, examples=12_000, steps=1000, batch=64, learning_rate=3e-3)
