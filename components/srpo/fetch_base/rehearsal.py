"""A dress rehearsal: the base goes the way of the whole run on the meta device, by shapes alone, within seconds.

What cannot work is refused here, by the name of the setting, and not after hours of training. Names, shapes and dtypes
of the weights are held against the classes that will load them, by the libraries' own loaders. Needs torch.
"""

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from srpo.core.backbones.backbone import Backbone
from srpo.core.backbones.conditioning import Conditioning
from srpo.core.backbones.flux_layout import layout_of
from srpo.core.backbones.load import backbone_of, text_encoders_of
from srpo.core.backbones.pipelines import check_guidance, latent_unit, text_shapes, text_tokens
from srpo.core.backbones.schedule import load_scheduler
from srpo.core.backbones.targets import check_targets
from srpo.core.contracts.errors import InputError, require
from srpo.core.storage.tensor_files import specs_of

TRAINED_FROM = ("F32", "BF16", "F16")  # dtypes of a base's matrices, as safetensors calls them
META = torch.device("meta")


def check_parts(folder: Path, base: str) -> None:
    """Every model of the pipeline in ``folder`` has the names, shapes and dtypes that its class asks for.

    A tensor too many is allowed: it is carried over to what is released. ``base`` is the model's name for a reader.

    Raises:
        InputError: a tensor is missing, or has another shape or a dtype that cannot be trained from.
    """
    kind = backbone_of(folder)
    models = {"transformer": kind.transformer_class, "vae": kind.vae_class, **text_encoders_of(folder)}
    for part, model in models.items():
        where = f"{base}/{part}"
        settings = json.loads((folder / part / "config.json").read_text(encoding="utf-8"))
        packed = settings.get("quantization_config")
        if packed:
            raise InputError(f"{where} is quantised ({_method(packed)}): a base must have float32, bfloat16 or float16")
        for spec in specs_of(folder / part):
            if len(spec.shape) > 1 and spec.dtype not in TRAINED_FROM:
                accepted = f"one of {', '.join(TRAINED_FROM)}"
                raise InputError(f"{where}: {spec.name!r} is of dtype {spec.dtype}: it must be {accepted}")
        try:
            with _quietly():
                missing, mismatched = _headers(kind, folder) if part == "transformer" else _loaded(model, folder / part)
        except (RuntimeError, ValueError, OSError, KeyError, TypeError) as error:
            raise InputError(f"{where} cannot be loaded as a {model.__name__}: {_short(error)}") from None
        if missing:
            raise InputError(f"{where} lacks {missing[0]!r}{_more(missing)}: it must be a whole {model.__name__}")
        if mismatched:
            name, here, wanted = mismatched[0]
            raise InputError(f"{where}: {name!r} has the shape {tuple(here)}: it must have {tuple(wanted)}")


Misfits = tuple[list[str], list[tuple[str, Any, Any]]]  # names that are missing; name, shape and right shape of others


def _headers(kind: type[Backbone], folder: Path) -> Misfits:
    """What does not fit in the transformer, by its files' headers: the loader of diffusers would read all bytes."""
    given = {spec.name: spec.shape for spec in specs_of(folder / "transformer")}
    wanted = {name: tuple(v.shape) for name, v in kind.empty_transformer(folder / "transformer").state_dict().items()}
    return sorted(wanted.keys() - given.keys()), [
        (name, given[name], shape) for name, shape in wanted.items() if given.get(name, shape) != shape
    ]


def _loaded(model: Any, folder: Path) -> Misfits:
    """What does not fit by the library's own loader, which may know a tensor under an older name as well."""
    _, found = model.from_pretrained(folder, device_map="meta", output_loading_info=True)
    return sorted(found["missing_keys"]), sorted(found["mismatched_keys"])


def rehearse(folder: Path, settings: Mapping[str, Any], base: str) -> None:
    """Go the way of a training step, of a sample and of every wanted format.

    ``settings`` are the configuration's ``REHEARSED`` by "stage.setting"; what is not named is not gone through.

    Raises:
        InputError: something on that way cannot work; names the setting.
    """
    check_parts(folder, base)
    kind, transformer = backbone_of(folder), folder / "transformer"
    for name in settings.get("export.formats", ()):
        if name.startswith("original"):
            try:
                config = json.loads((transformer / "config.json").read_text(encoding="utf-8"))
                layout_of(config, (spec.name for spec in specs_of(transformer)))
            except InputError as error:
                raise InputError(f"export.formats has {name!r}: {error}; leave {name!r} out") from None
    if settings.get("train.lora_rank"):
        check_targets(settings["train.lora_targets"], transformer)
    tokens = text_tokens(folder, settings.get("encode_prompts.max_sequence_length", 0))
    for stage in ("train", "sample"):
        if f"{stage}.resolution" in settings:
            own = {name.partition(".")[2]: value for name, value in settings.items() if name.partition(".")[0] == stage}
            _walk(kind, folder, stage, own, tokens, base)


def _walk(kind: type[Backbone], folder: Path, stage: str, own: Mapping[str, Any], tokens: int, base: str) -> None:
    """One velocity and one image of ``stage`` with its own settings; in training with the gradient."""
    size, unit = own["resolution"], latent_unit(folder)
    require(size % unit == 0, f"{stage}.resolution", size, f"a multiple of {unit} for this model")
    true_guidance = own.get("true_guidance", 1.0)
    check_guidance(folder, true_guidance)
    states, pooled = text_shapes(folder, tokens)
    try:
        with _quietly():
            model = backbone(kind, folder)
            negative = condition(kind, states, pooled, None)
            prompt = condition(kind, states, pooled, negative)
            model.sigmas(own.get("steps", own.get("rollout_steps", 1)), _shift(own), size, size)
            x = torch.zeros(1, *model.latent_shape(size, size), device=META, requires_grad=stage == "train")
            sigma = torch.full((1,), 0.9)
            velocity = model.velocity(x, sigma, prompt, own.get("guidance", 1.0), size, size, true_guidance)
            pixels = model.decode(x - 0.9 * velocity, size, size)
            if tuple(pixels.shape) != (1, 3, size, size):
                raise InputError(f"{stage}.resolution is {size}, and images come out as {tuple(pixels.shape)[2:]}")
            if stage == "train":
                pixels.mean().backward()
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, NotImplementedError) as error:
        raise InputError(
            f"{base} cannot do a step of {stage} at {stage}.resolution {size} with prompts of {tokens} tokens: "
            f"{_short(error)}"
        ) from None


def backbone(kind: type[Backbone], folder: Path) -> Backbone:
    """Transformer and VAE of ``folder`` without memory."""
    transformer = kind.empty_transformer(folder / "transformer")
    with META:
        vae = kind.vae_class.from_config(kind.vae_class.load_config(folder / "vae"))
    return kind(transformer, vae, torch.float32, load_scheduler(folder))


def condition(
    kind: type[Backbone], states: tuple[int, ...], pooled: tuple[int, ...], negative: Conditioning | None
) -> Conditioning:
    """Embeddings of one prompt without memory; a mask has numbers, since they are looked at."""
    rest = torch.ones(1, *pooled, device="cpu" if kind.pooled_is_mask else META)
    return Conditioning(torch.zeros(1, *states, device=META), rest, negative)


def _shift(own: Mapping[str, Any]) -> float | None:
    return own.get("shift", 3.0) if own.get("schedule", "static") == "static" else None


def _method(packed: Any) -> str:
    return str(packed.get("quant_method", "by an unknown method")) if isinstance(packed, dict) else str(packed)[:80]


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """What the libraries say of a model that is only looked at would mislead."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
        diffusers_logging.set_verbosity_error()
        transformers_logging.set_verbosity_error()
        shown = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()
        try:
            yield
        finally:
            diffusers_logging.set_verbosity(before[0])
            transformers_logging.set_verbosity(before[1])
            if shown:
                transformers_logging.enable_progress_bar()
