"""Training steps of models with random weights and of texts without a model behind them: the trainer's own parts."""

import contextlib
import dataclasses
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from srpo.core.backbones.conditioning import DTYPES, Conditioning
from srpo.core.backbones.flux import Flux
from srpo.core.contracts.prompts import Prompt
from srpo.core.execution.device import find_device
from srpo.core.objective import draws
from srpo.core.rewards.dual_encoder import ImageTower
from srpo.core.rewards.preprocessing import Preprocessing
from srpo.tiny import world
from srpo.train import sharding, step
from srpo.train.config import Config
from srpo.train.cost import Models
from srpo.train.gradients import GradientSums, clip_gradient
from srpo.train.memory import Folders, Kept

FLUX1 = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}
FLUX1_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 16,
    "out_channels": 3,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
}
VIT_H = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 224,
    "projection_dim": 1024,
}


def tiny(part: str) -> dict[str, Any]:
    """Settings of a part of the embedded model."""
    file = Path(world.__file__).parent / "weights" / part / "config.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    return {key: value for key, value in found.get("vision_config", found).items() if not key.startswith("_")}


MODELS = {
    "tiny": Models(tiny("flux/transformer"), tiny("flux/vae"), tiny("reward"), text_tokens=16),
    "flux1": Models(FLUX1, FLUX1_VAE, VIT_H),
    # FLUX.1 with few and narrow layers: that the way of the full size works can be tried without a GPU.
    "flux1-small": Models(
        FLUX1
        | {"num_layers": 2, "num_single_layers": 3}
        | {"attention_head_dim": 16, "num_attention_heads": 2, "axes_dims_rope": (4, 6, 6)}
        | {"joint_attention_dim": 32, "pooled_projection_dim": 16},
        FLUX1_VAE | {"block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4},
        VIT_H | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
        text_tokens=32,
    ),
}


def described(folder: Path, models: Models) -> Folders:
    """Folders with the models' settings and the shapes of their tensors, without a weight: enough for the preflight."""
    with torch.device("meta"):
        parts: dict[str, tuple[Any, Any]] = {
            "transformer": (FluxTransformer2DModel(**models.transformer), models.transformer),
            "vae": (AutoencoderKL(**models.vae), models.vae),
            "reward": (CLIPVisionModelWithProjection(CLIPVisionConfig(**models.tower)), models.tower),
        }
    for name, (model, settings) in parts.items():
        (folder / name).mkdir(exist_ok=True)
        written = {"vision_config": settings} if name == "reward" else settings
        (folder / name / "config.json").write_text(json.dumps(written), encoding="utf-8")
        header = {
            key: {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [0, 0]}
            for key, value in model.state_dict().items()
        }
        encoded = json.dumps(header).encode()
        (folder / name / "model.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded)
    return Folders(folder, [folder / "reward"], folder / "reward")


def random_weight(config: Config, name: str, shape: torch.Size, stored: dict[str, Tensor]) -> Tensor:
    """In place of a stored weight: small random matrices, neutral scales and shifts."""
    if len(shape) > 1:
        return torch.randn(shape, device=find_device(config.device)) * 0.02  # 12 billion of them: not one by one
    return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)


@contextlib.contextmanager
def random_weights() -> Iterator[None]:
    """Within, a transformer is filled with random numbers and no file is read."""
    before = sharding.initial, sharding.read_weights
    sharding.initial, sharding.read_weights = random_weight, lambda folder: {}
    try:
        yield
    finally:
        sharding.initial, sharding.read_weights = before


def random_tower(settings: dict[str, Any], device: torch.device, dtype: torch.dtype) -> ImageTower:
    """A CLIP's image tower."""
    with device, default_dtype(dtype):
        model = CLIPVisionModelWithProjection(CLIPVisionConfig(**settings)).requires_grad_(False).eval()
    with device:
        mean, deviation = torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.25)
    return ImageTower(model, Preprocessing(settings["image_size"], mean, deviation))


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Within, what is made is of ``dtype``."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Steps:
    """A training run on random weights: ``steps(number)`` is one whole step of it, on the first of the ranks.

    Args:
        config: the run's settings.
        models: what is trained, and on what.
        folder: an empty one, for the models' settings.
        device: where all of it is.
        kept: the activations that are kept.
        fake: a mode in which all but the transformer's structure is made.
    """

    def __init__(
        self, config: Config, models: Models, folder: Path, device: torch.device, kept: Kept, fake: Any = None
    ) -> None:
        described(folder, models)
        self.config = config
        self.transformer = sharding.sharded_transformer(config, Flux, folder / "transformer", device)
        with fake or contextlib.nullcontext():
            self._surround(models, device, kept)

    def _surround(self, models: Models, device: torch.device, kept: Kept) -> None:
        config, dtype = self.config, DTYPES[self.config.compute_dtype]
        sharding.recompute_blocks(self.transformer, kept.blocks)
        with device, default_dtype(dtype):
            vae = AutoencoderKL(**models.vae)
        self.flux = Flux(self.transformer, vae, dtype)
        if not kept.decoder:
            self.flux.recompute_decoder()
        self.tower = random_tower(models.tower, device, DTYPES[config.reward_dtype])
        self.held_out = random_tower(models.tower, device, torch.float32)  # no step needs it; the memory holds it
        self.texts: Any = RandomTexts.of(models, config.batch_size)
        self.trained = sharding.trained_parameters(self.transformer)
        self.optimizer, self.gradients = sharding.make_optimizer(config, self.transformer), GradientSums(self.trained)

    def __call__(self, number: int) -> dict[str, float]:
        """Step ``number``: what it says of itself."""
        config, reward = self.config, step.Reward("reward", self.tower, 1.0)
        rows = list(range(config.batch_size // config.processes))
        sums = step.gradient_step(config, self.flux, [reward], self.texts, number, rows, 1 / config.batch_size)
        self.gradients.give()
        clip_gradient(self.trained, config.clip_norm)
        with step.Stopwatch(next(self.transformer.parameters()).device)("optimizer") as watch:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            sharding.drop_gathered(self.transformer)
        return sums | {"seconds_optimizer": watch.total["optimizer"]}

    def tensors(self) -> Iterator[Tensor]:
        """All that stays from step to step."""
        for module in (self.transformer, self.flux.vae, self.tower.model, self.held_out.model):
            yield from (*module.parameters(), *module.buffers())
        for state in self.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


class _Reader:
    def prefetch(self, prompt_ids: list[str]) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class _Words:
    positive_words: tuple[str, ...] = ("Real",)
    negative_words: tuple[str, ...] = ("Flat",)


@dataclasses.dataclass(frozen=True)
class RandomTexts:
    """In place of the artifacts that a training run reads: the same random embedding for every prompt."""

    prompts: list[Prompt]
    models: Models
    embeddings: _Reader = dataclasses.field(default_factory=_Reader)
    rewards: dict[str, _Words] = dataclasses.field(default_factory=lambda: {"reward": _Words()})

    @classmethod
    def of(cls, models: Models, prompts: int) -> "RandomTexts":
        """For so many prompts."""
        return cls([Prompt(f"p{n}", "a cat", "", "train") for n in range(prompts)], models)

    def conditioning(self, prompt_ids: list[str], device: torch.device, dtype: torch.dtype) -> Conditioning:
        """Rows of the models' shapes."""
        settings, tokens = self.models.transformer, self.models.text_tokens
        states = draws.noise((tokens, settings["joint_attention_dim"]), 0, "states").to(device, dtype)
        pooled = draws.noise((settings["pooled_projection_dim"],), 0, "pooled").to(device, dtype)
        count = len(prompt_ids)
        return Conditioning(states.expand(count, -1, -1), pooled.expand(count, -1))

    def word_features(self, role: str, prompt_ids: list[str], words: list[str], device: torch.device) -> Tensor:
        """Unit features, another one for each word."""
        rows = [draws.noise((self.models.tower["projection_dim"],), 0, "text", word) for word in words]
        return torch.nn.functional.normalize(torch.stack(rows), dim=-1).to(device)
