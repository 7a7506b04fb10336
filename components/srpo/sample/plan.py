"""The images of a run as a fixed list of blocks, and which of them a shard makes.

A block is one batch, always of the same images: another batch size can change an image's last bits, so blocks depend
on the prompts and the settings, never on the number of shards. The plan is written beside the images of every shard.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.prompts import Prompt
from srpo.core.storage.files import digest_of, write_json
from srpo.sample.config import Config

JUDGED = ("rating", "held_out")  # the splits that are never trained on, in the order of the plan


@dataclasses.dataclass(frozen=True)
class Item:
    """One image to make: a prompt and the number of its noise."""

    prompt: Prompt
    noise_index: int


@dataclasses.dataclass(frozen=True)
class Block:
    """What is sampled as one batch."""

    number: int
    items: tuple[Item, ...]

    @property
    def prompts(self) -> list[Prompt]:
        """The prompt of each image."""
        return [item.prompt for item in self.items]


def judged_prompts(config: Config, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts that are sampled, over all shards: the first ``max_prompts`` of each split that is judged.

    Raises:
        InputError: there is none.
    """
    judged: list[Prompt] = []
    for split in JUDGED:
        judged += [prompt for prompt in prompts if prompt.split == split][: config.max_prompts]
    if not judged:
        raise InputError(f"the prompt table has no prompt in the splits {' and '.join(JUDGED)}: there must be one")
    return judged


def blocks_of(config: Config, prompts: Sequence[Prompt]) -> list[Block]:
    """All blocks of the run."""
    items = [Item(prompt, index) for prompt in judged_prompts(config, prompts) for index in range(config.noises)]
    starts = range(0, len(items), config.block_size)
    return [Block(number, tuple(items[start : start + config.block_size])) for number, start in enumerate(starts)]


def of_shard(config: Config, blocks: Sequence[Block]) -> Sequence[Block]:
    """The blocks of this shard: every ``shards``-th one, from number ``shard`` on."""
    return blocks[config.shard :: config.shards]


def write_plan(path: Path, config: Config, blocks: Sequence[Block], models: dict[str, Any]) -> None:
    """Write ``plan.json``: every block of the run, and the numbers of this shard's own.

    ``digest`` is the same for all shards of a run, and no other: ``models`` (name to what was sampled) and the settings
    count, the number of shards does not.
    """
    plan = {
        "schema": "srpo.sample_plan/1",
        "models": models,
        "settings": {
            name: value
            for name, value in dataclasses.asdict(config).items()
            if name not in ("shard", "shards", "device", "compare")
        },
        "blocks": [[[item.prompt.prompt_id, item.noise_index] for item in block.items] for block in blocks],
    }
    own = [block.number for block in of_shard(config, blocks)]
    write_json(path, plan | {"digest": digest_of(plan), "shard": config.shard, "shards": config.shards, "own": own})
