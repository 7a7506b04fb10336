"""What would fail later is found before any weight is loaded: from settings, schemas and the headers of files."""

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from srpo.core.backbones.pipelines import check_guidance, latent_unit
from srpo.core.backbones.targets import check_targets
from srpo.core.contracts.errors import InputError, require
from srpo.core.contracts.order import prompt_order
from srpo.core.contracts.prompts import of_split, read_prompts
from srpo.core.contracts.tensors import EmbeddingsReader, read_text_features
from srpo.core.rewards.folders import DUAL_ENCODERS, check_reward_folder
from srpo.core.storage.files import readable_size
from srpo.core.storage.models import ModelEntry, required, reward_roles
from srpo.train.config import Config
from srpo.train.memory import adapter_count, parameter_count


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the earlier stages made."""

    models: Path
    prompts: Path
    embeddings: Path
    text_features: Path

    def tables(self) -> tuple[Path, Path, Path]:
        """All but the models, which lie in the workspace anyway."""
        return self.prompts, self.embeddings, self.text_features


def preflight(config: Config, inputs: Inputs, models: dict[str, ModelEntry | None], state: Path) -> None:
    """Check everything that can be checked without a rank; the ranks check their number and memory.

    Raises:
        InputError: more ranks than GPUs, a tracker that is not installed, an image size the model cannot take,
            embeddings of another encoder or width or without a prompt that will be drawn, text features of another
            width or without words, a real image that is missing, or too little disk space for checkpoints.
    """
    check_devices(config)
    check_trackers(config)
    base = required(models, "base")
    unit = latent_unit(base.folder)
    if config.resolution % unit:
        raise InputError(f"train.resolution is {config.resolution}: it must be a multiple of {unit} for this model")
    check_guidance(base.folder, config.true_guidance)
    if config.lora_rank:
        check_targets(config.lora_targets, base.folder / "transformer")
    drawn = drawn_prompts(config, inputs.prompts)
    check_embeddings(inputs.embeddings, base, drawn)
    for role in (*reward_roles(models), "held_out"):
        check_features(config, inputs.text_features, role, required(models, role), drawn)
    if config.offline_images:
        for prompt_id in drawn:
            image = Path(config.offline_images) / f"{prompt_id}.png"
            if not image.is_file():
                folder = config.offline_images
                raise InputError(f"offline_images {folder!r} has no {image.name}: it must hold one a prompt")
    check_disk(config, base.folder / "transformer", state)


def check_devices(config: Config) -> None:
    """Refuse more ranks than there are GPUs, where GPUs are used. The process that starts several nodes holds none."""
    gpus = 0 if config.device == "cpu" else torch.cuda.device_count()
    if gpus and config.nodes == 1:
        require(config.processes <= gpus, "train.processes", config.processes, f"at most {gpus}, the GPUs there are")


def check_trackers(config: Config) -> None:
    """Refuse a tracker that the installed accelerate is too old to know, or whose package is not installed."""
    if config.trackers:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        for name in config.trackers:
            require(name in LOGGER_TYPE_TO_CLASS, "train.trackers", name, f"among {', '.join(LOGGER_TYPE_TO_CLASS)}")
            if importlib.util.find_spec(name) is None:
                raise InputError(
                    f"train.trackers names {name!r}, which is not installed: pip install {name}, or leave it out"
                )


def drawn_prompts(config: Config, prompts: Path) -> list[str]:
    """Ids of the prompts that the steps or the guard of this run will draw."""
    training = of_split(read_prompts(prompts), "train")
    count = max(config.steps * config.batch_size, min(config.guard_prompts, len(training)))
    places = dict.fromkeys(prompt_order(count, len(training), config.seed))
    return [training[place].prompt_id for place in places]


def check_embeddings(folder: Path, base: ModelEntry, drawn: list[str]) -> None:
    """Refuse embeddings of another encoder, of another width than the transformer takes, or without a drawn prompt."""
    reader = EmbeddingsReader(folder / "embeddings.parquet")
    if reader.info.encoder != base.digest:
        raise InputError(f"{folder} was not made by the encoders of {base.name!r}: run encode_prompts again")
    transformer = _settings(base.folder / "transformer")
    found = {"joint_attention_dim": reader.info.prompt_embeds_shape[-1]}
    if "pooled_projection_dim" in transformer:
        found["pooled_projection_dim"] = reader.info.pooled_shape[-1]
    for name, width in found.items():
        if transformer.get(name, width) != width:
            raise InputError(f"{folder} has embeddings of width {width}: {base.name!r} has {name} {transformer[name]}")
    for prompt_id in drawn:
        if prompt_id not in reader:
            raise InputError(
                f"the embeddings lack the prompt {prompt_id!r}, one of {len(drawn)} which this run draws, and hold "
                f"{len(reader.places)}: encode_prompts must have the same seed and at least {len(drawn)} train_prompts"
            )


def check_features(config: Config, folder: Path, role: str, reward: ModelEntry, drawn: list[str]) -> None:
    """Refuse a reward that cannot be trained on as the run asks, and text features that are not this reward's.

    Control words need text features; those must have the reward's width, and be there for every prompt drawn.
    """
    features = read_text_features(folder / "text_features.parquet", role)
    dual = check_reward_folder(reward.folder) in DUAL_ENCODERS
    if role != "held_out" and config.reward_form != "plain" and not config.image_pairs:
        if not dual:
            raise InputError(
                f"{role} {reward.name!r} has no text features, so control words mean nothing to it: "
                "it needs train.image_pairs above 0 (an image-only reward) or train.reward_form 'plain'"
            )
        if not (features.positive_words and features.negative_words):
            raise InputError(f"{role} has no control words: name positive_words and negative_words for cache_rewards")
    settings = _settings(reward.folder)
    width = settings.get("projection_dim") or settings.get("vision_config", {}).get("hidden_size")
    for prompt_id in drawn if dual else ():
        found = len(features(prompt_id))
        if width and found != width:
            raise InputError(
                f"{folder} has features of width {found} for {role}: {reward.name!r} has {width}, "
                "so run cache_rewards with this reward"
            )


def check_disk(config: Config, transformer: Path, state: Path) -> None:
    """Refuse a volume without room for two sets of weights and one more checkpoint than are kept."""
    parameters = parameter_count(transformer)
    trained = adapter_count(config, transformer) if config.lora_rank else parameters
    numbers = (4.1 if config.precision == "bf16_stochastic" else 12) + (4 if config.ema_decay else 0)
    need = int(2 * 2 * parameters + trained * numbers * (config.keep_checkpoints + 1))
    state.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(state).free
    if need > free:
        raise InputError(
            f"the workspace has {readable_size(free)} free: checkpoints need about {readable_size(need)}; "
            "use a larger volume or a smaller keep_checkpoints"
        )


def _settings(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
