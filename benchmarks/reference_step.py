"""Ours against the method done the plain way: the same weights, prompts, noise and words, and the same gradient.

    python benchmarks/reference_step.py --output benchmarks/results/reference_step.json

The plain way takes one sample at a time in float32, encodes the prompt and both texts of the reward inside the step,
and rolls out once for every gradient step. Both do whole steps of the published method on the tiny model, in turn, of
the published 32 image-steps, on all cores (``--threads 1`` for one). An image-step is one prompt's rollout and gradient
step; with n injections the plain way rolls out n times for what ours does with one rollout. The least seconds of the
steps count: what else the machine does only adds, though two threads on a busy machine wait for each other, so let it
be idle. About three minutes on two cores.
"""

import argparse
import itertools
import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tiny_world import CPU, TinyWorld, machine, settings
from torch import Tensor

from srpo.core.backbones.flux import Flux
from srpo.core.backbones.load import load_text_encoder
from srpo.core.contracts.order import prompt_order
from srpo.core.objective import draws
from srpo.core.objective.schedule import discount, sampler_sigmas
from srpo.core.rewards.dual_encoder import ImageTower, TextTower
from srpo.train.config import Config
from srpo.train.estimates import interval
from srpo.train.step import gradient_step, step_noise

IMAGES = 32  # image-steps a step, as published
SAME = 1e-4  # what the gradients may differ by, as a share of the largest entry


class Plain:
    """The method with nothing cached, batched or shared."""

    def __init__(self, world: TinyWorld, flux: Flux) -> None:
        self.world, self.flux = world, flux
        self.encoder = load_text_encoder(world.base, CPU, torch.float32)
        folder = world.models["reward"].folder
        self.image, self.text = ImageTower.load(folder, CPU), TextTower.load(folder, CPU)

    def step(self, config: Config, step: int) -> None:
        """Accumulate the gradient of step number ``step`` (from 0) of the published method."""
        prompts = self.world.texts.prompts
        order = prompt_order((step + 1) * config.batch_size, len(prompts), config.seed)[-config.batch_size :]
        lists = self.world.texts.rewards["reward"]
        words = draws.word_pair(lists.positive_words, lists.negative_words, config.seed, step)
        for sample, place in enumerate(order):
            for injection in range(config.injections):
                for loss in self.losses(config, prompts[place].prompt, words, step, sample, injection):
                    (loss / (2 * config.injections * config.batch_size)).backward()

    def losses(
        self, config: Config, prompt: str, words: tuple[str, str], step: int, sample: int, injection: int
    ) -> Any:
        """The losses of both branches for one prompt, from a rollout of their own."""
        flux, size = self.flux, config.resolution
        given = self.encoder([prompt])

        def v(x: Tensor, sigma: float, guidance: float) -> Tensor:
            return flux.velocity(x, torch.tensor([sigma], dtype=torch.float32), given, guidance, size, size)

        noise = step_noise(config, flux, step, [sample])
        x0, sigmas = noise, sampler_sigmas(config.rollout_steps, config.shift).tolist()
        with torch.no_grad():
            for now, after in itertools.pairwise(sigmas):
                x0 = x0 + (after - now) * v(x0, now, config.rollout_guidance)
        wanted, other = (self.text([f"{word}. {prompt}"])[0] for word in words)
        ends = interval(config, step, injection, sample)
        high, low = map(float, ends)
        for start, end, (c1, c2), k_ends in (
            (high, low, (wanted, other), config.k_denoise),
            (low, high, (other, wanted), config.k_inversion),
        ):
            x = (1 - start) * x0 + start * noise
            x0_hat = (x + (end - start) * v(x, start, config.guidance) - end * noise) / (1 - end)
            feature = self.image(flux.decode(x0_hat, size, size))[0]
            k = float(discount(ends[1], config.sigma_low, config.sigma_high, *k_ends))
            yield torch.relu(config.margin - ((1 + k) * (feature @ c1) - feature @ c2))


def gradient(flux: Flux) -> Tensor:
    """All gradients of the transformer, flat, which it then has no more."""
    flat = torch.cat([p.grad.flatten() for p in flux.transformer.parameters() if p.grad is not None])
    flux.transformer.zero_grad(set_to_none=True)
    return flat


def compare(world: TinyWorld, injections: int, steps: int) -> dict[str, float]:
    """Image-steps a second of both, over ``steps`` steps taken in turn, and how far their gradients are apart."""
    config = settings(batch_size=IMAGES // injections, micro_batch_size=IMAGES, injections=injections)
    flux = world.flux()
    plain, rows = Plain(world, flux), list(range(config.batch_size))
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    apart = 0.0
    for step in range(steps):
        found = {}
        for name in seconds:
            started = time.perf_counter()
            if name == "ours":
                gradient_step(config, flux, [world.reward], world.texts, step, rows, 1 / config.batch_size)
            else:
                plain.step(config, step)
            seconds[name].append(time.perf_counter() - started)
            found[name] = gradient(flux)
        scale = float(found["plain"].abs().max())
        apart = max(apart, float((found["ours"] - found["plain"]).abs().max()) / scale)
    images, ours, slow = config.batch_size * injections, min(seconds["ours"]), min(seconds["plain"])
    return {
        "injections": injections,
        "image_steps": images,
        "steps": steps,
        "plain_per_second": images / slow,
        "ours_per_second": images / ours,
        "gradients_apart": apart,
    }


def main() -> None:
    """Measure, print a table, write the JSON; an error when the gradients are not the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--steps", type=int, default=5, help="steps of 32 image-steps")
    parser.add_argument("--injections", type=int, nargs="+", default=[1, 2, 4, 8], help="divisors of 32")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch, for both")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        world = TinyWorld(Path(folder), 0, arguments.steps * IMAGES)
        torch.set_num_threads(arguments.threads)
        rows = [compare(world, injections, arguments.steps) for injections in arguments.injections]
    best = max(row["plain_per_second"] for row in rows)  # the plain way does the same for any number of injections
    rows = [row | {"ratio": row["ours_per_second"] / best} for row in rows]
    print("| injections | plain, image-steps/s | ours | ratio | gradients apart |\n|---|---|---|---|---|")
    for row in rows:
        plain, ours = row["plain_per_second"], row["ours_per_second"]
        apart = row["gradients_apart"]
        print(f"| {row['injections']} | {plain:.2f} | {ours:.2f} | {row['ratio']:.1f} | {apart:.0e} |")
    if max(row["gradients_apart"] for row in rows) > SAME:
        raise SystemExit(f"the gradients differ by more than {SAME}: this compares two methods, not two speeds")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(
        json.dumps({"machine": machine(), "threads": arguments.threads, "seed": 0, "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
