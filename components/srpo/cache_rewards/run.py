"""Compute the rewards' text features once: every prompt that the run will meet, with every control word and without."""

import dataclasses
from pathlib import Path

from srpo.cache_rewards.config import Config
from srpo.core.contracts.order import prompt_order
from srpo.core.contracts.prompts import of_split, prompts_met, read_prompts
from srpo.core.contracts.tensors import TextFeaturesWriter
from srpo.core.execution.device import find_device
from srpo.core.execution.quiet import quiet
from srpo.core.execution.stage import Context, Stage
from srpo.core.objective.relative_reward import with_word
from srpo.core.reports.page import page, table
from srpo.core.rewards.dual_encoder import TextTower
from srpo.core.rewards.folders import DUAL_ENCODERS, IMAGE_ONLY, check_reward_folder
from srpo.core.storage.models import ModelEntry, read_models, required, reward_roles


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Models of the run and the prompt table."""

    models: Path
    prompts: Path


@dataclasses.dataclass(frozen=True)
class Outputs:
    """``text_features``: a folder with text_features.parquet."""

    text_features: Path
    report: Path


def run(config: Config, inputs: Inputs, outputs: Outputs, context: Context) -> None:
    """For each reward with text features: encode "<word>. <prompt>" for all pairs, one text tower at a time."""
    quiet()
    models = read_models(inputs.models, context.workspace)
    table = read_prompts(inputs.prompts)
    prompts = prompts_met(table, prompt_order(config.train_prompts, len(of_split(table, "train")), config.seed))
    roles = {role: required(models, role) for role in [*reward_roles(models), "held_out"]}
    kinds = {role: check_reward_folder(entry.folder) for role, entry in roles.items()}
    words = {role: control_words(config, role, entry, kinds[role]) for role, entry in roles.items()}
    with TextFeaturesWriter(outputs.text_features / "text_features.parquet", words) as writer:
        for role, entry in roles.items():
            if kinds[role] in DUAL_ENCODERS:
                tower = TextTower.load(entry.folder, find_device("auto"))
                sides = words[role]
                texts = ["", *sides["positive"], *sides["negative"]]
                pairs = [(prompt, word) for prompt in prompts for word in texts]
                for start in range(0, len(pairs), config.batch_size):
                    batch = pairs[start : start + config.batch_size]
                    features = tower([with_word(word, prompt.prompt) for prompt, word in batch])
                    writer.write(role, [(prompt.prompt_id, word) for prompt, word in batch], features.cpu().numpy())
                    context.progress(start + len(batch), len(pairs), reward=entry.name)
    encoded = {role: len(prompts) if kind in DUAL_ENCODERS else 0 for role, kind in kinds.items()}
    outputs.report.write_text(report(words, encoded), encoding="utf-8")


def control_words(config: Config, role: str, entry: ModelEntry, kind: str) -> dict[str, list[str]]:
    """The words of a reward by side. They belong to a reward: those of the run are for what is trained on."""
    if kind in IMAGE_ONLY:
        return {"positive": [], "negative": []}
    own = role == "held_out"
    return {
        "positive": list(entry.positive_words if own else config.positive_words or entry.positive_words),
        "negative": list(entry.negative_words if own else config.negative_words or entry.negative_words),
    }


def report(words: dict[str, dict[str, list[str]]], prompts: dict[str, int]) -> str:
    """A small page: the control words of each reward and how many texts were encoded (``prompts`` by reward)."""
    rows = [
        (
            role,
            ", ".join(sides["positive"]),
            ", ".join(sides["negative"]),
            prompts[role] * (1 + sum(map(len, sides.values()))) or "none: it has no text features",
        )
        for role, sides in words.items()
    ]
    return page(
        f"Text features of {max(prompts.values())} prompts",
        table(("reward", "positive words", "negative words", "texts"), rows),
    )


STAGE = Stage(name="cache_rewards", config=Config, inputs=Inputs, outputs=Outputs, run=run)
