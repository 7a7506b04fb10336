"""Compute the rewards' text features once: every prompt that the run will meet, with every control word and without."""

import dataclasses
from pathlib import Path

from srpo.cache_rewards.config import Config
from srpo.core.contracts.order import prompt_order
from srpo.core.contracts.prompts import of_split, prompts_met, read_prompts
from srpo.core.contracts.tensors import write_text_features
from srpo.core.execution.device import find_device
from srpo.core.execution.quiet import quiet
from srpo.core.execution.stage import Context, Stage
from srpo.core.objective.relative_reward import with_word
from srpo.core.reports.page import page, table
from srpo.core.rewards.dual_encoder import TextTower
from srpo.core.storage.models import read_models, required, reward_roles


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
    """For both rewards: encode "<word>. <prompt>" for all pairs, one text tower at a time."""
    quiet()
    models = read_models(inputs.models, context.workspace)
    table = read_prompts(inputs.prompts)
    prompts = prompts_met(table, prompt_order(config.train_prompts, len(of_split(table, "train")), config.seed))
    device = find_device("auto")
    rows = []
    words: dict[str, dict[str, list[str]]] = {}
    for role in [*reward_roles(models), "held_out"]:
        entry = required(models, role)
        own = role == "held_out"  # words belong to a reward: those of the run are for what is trained on
        positive = list(entry.positive_words if own else config.positive_words or entry.positive_words)
        negative = list(entry.negative_words if own else config.negative_words or entry.negative_words)
        words[role] = {"positive": positive, "negative": negative}
        pairs = [(prompt, word) for prompt in prompts for word in ["", *positive, *negative]]
        tower = TextTower.load(entry.folder, device)
        for start in range(0, len(pairs), config.batch_size):
            batch = pairs[start : start + config.batch_size]
            features = tower([with_word(word, prompt.prompt) for prompt, word in batch]).cpu().numpy()
            rows += [(role, prompt.prompt_id, word, row) for (prompt, word), row in zip(batch, features, strict=True)]
            context.progress(start + len(batch), len(pairs), reward=entry.name)
    write_text_features(outputs.text_features / "text_features.parquet", rows, words)
    outputs.report.write_text(report(words, len(prompts)), encoding="utf-8")


def report(words: dict[str, dict[str, list[str]]], prompts: int) -> str:
    """A small page: the control words of each reward and how many texts were encoded."""
    rows = [
        (
            role,
            ", ".join(sides["positive"]),
            ", ".join(sides["negative"]),
            prompts * (1 + sum(map(len, sides.values()))),
        )
        for role, sides in words.items()
    ]
    return page(
        f"Text features of {prompts} prompts", table(("reward", "positive words", "negative words", "texts"), rows)
    )


STAGE = Stage(name="cache_rewards", config=Config, inputs=Inputs, outputs=Outputs, run=run)
