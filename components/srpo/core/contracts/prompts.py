"""Prompts as a run meets them: which are drawn for training, in which order, and which are judged."""

import dataclasses
from pathlib import Path

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.schemas import PROMPTS, read_table


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt:
    """One row of the prompt table."""

    prompt_id: str
    prompt: str
    category: str
    split: str


def read_prompts(artifact: Path) -> list[Prompt]:
    """All prompts of a ``prompts`` artifact, sorted by id."""
    table = read_table(artifact / "prompts.parquet", PROMPTS)
    prompts = map(Prompt, *(table[field.name].to_pylist() for field in dataclasses.fields(Prompt)))
    return sorted(prompts, key=lambda prompt: prompt.prompt_id)


def of_split(prompts: list[Prompt], split: str) -> list[Prompt]:
    """The prompts of a split; raises :class:`InputError` when there is none."""
    found = [prompt for prompt in prompts if prompt.split == split]
    if not found:
        raise InputError(f"the prompt table has no prompt in the split {split!r}: a run needs at least one")
    return found


def prompts_met(prompts: list[Prompt], drawn: list[int]) -> list[Prompt]:
    """The prompts that a run meets: those of the training split at the places ``drawn``, and all others."""
    train = of_split(prompts, "train")
    met = {train[place].prompt_id for place in drawn}
    return [prompt for prompt in prompts if prompt.split != "train" or prompt.prompt_id in met]
