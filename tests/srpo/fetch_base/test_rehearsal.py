"""What a run cannot do with its base is refused when the base is fetched: a step, a sample and formats, by shapes."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLQwenImage, FluxTransformer2DModel, QwenImageTransformer2DModel
from huggingface_hub import split_torch_state_dict_into_shards
from qwen_models import small_pipeline
from safetensors.torch import load_file, save_file
from tiny_runs import TinyRun
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    T5Config,
    T5EncoderModel,
)

from srpo.configure.parameters import Parameters, stage_configs
from srpo.core.contracts.errors import InputError
from srpo.core.storage.tensor_files import Spec, header_of
from srpo.fetch_base.catalogue import find
from srpo.fetch_base.rehearsal import rehearse

BASE = find("base", "tiny").folder
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen") / "pipeline"
    small_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def base(tmp_path):
    """A copy of the tiny model that a test may break."""
    return shutil.copytree(BASE, tmp_path / "base")


def settings(**overrides):
    """What `configure` hands over, for a run with these settings by stage."""
    return stage_configs(Parameters(overrides=overrides))["fetch_base"]["rehearsal"]


def change(folder, edit):
    """Let ``edit`` change the tensors of a model's file."""
    name = WEIGHTS if (folder / WEIGHTS).exists() else "model.safetensors"
    tensors = load_file(folder / name)
    edit(tensors)
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / name, {"format": "pt"})


def settle(folder, **values):
    """Put values into a ``config.json``."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def fetch(folder, tmp_path):
    """The stage on that base; returns the folder of its cache."""
    run = TinyRun(tmp_path / "run")
    run.stage("fetch_base", {"model": str(folder), "rehearsal": settings()}, (), ("models", "report"))
    return run.workspace / "models"


def test_a_run_of_either_family_rehearses_what_it_will_do(qwen):
    rehearse(BASE, settings(train={"lora_rank": 4}, export={"formats": ["diffusers", "lora", "original-fp8"]}), "tiny")
    rehearse(BASE, settings(train={"schedule": "model", "true_guidance": 2.0}), "tiny")
    rehearse(qwen, settings(sample={"guidance": 4.0}), "qwen")


@pytest.mark.parametrize(
    ("part", "edit", "said"),
    [
        ("transformer", lambda tensors: tensors.pop("proj_out.bias"), "transformer lacks 'proj_out.bias'"),
        ("vae", lambda tensors: tensors.pop("decoder.conv_in.bias"), "vae lacks 'decoder.conv_in.bias'"),
        ("text_encoder_2", lambda tensors: tensors.pop("shared.weight"), "text_encoder_2 lacks"),
        (
            "transformer",
            lambda tensors: tensors.update({"proj_out.bias": torch.zeros(3)}),
            r"transformer.*'?proj_out.bias'?.*\(?3",
        ),
        (
            "transformer",
            lambda tensors: tensors.update({"proj_out.weight": torch.zeros(8, dtype=torch.uint8)[None]}),
            "'proj_out.weight' is of dtype U8: it must be one of F32, BF16, F16",
        ),
        (
            "transformer",
            lambda tensors: tensors["proj_out.bias"].view(-1)[1:2].fill_(float("nan")),
            "transformer/diffusion_pytorch_model.safetensors: 'proj_out.bias' has a number that is infinite or none",
        ),
    ],
    ids=["key", "vae-key", "encoder-key", "shape", "dtype", "nan"],
)
def test_a_broken_base_is_refused_and_leaves_nothing_in_the_cache(base, tmp_path, part, edit, said):
    change(base / part, edit)
    with pytest.raises(InputError, match=said):
        fetch(base, tmp_path)
    cache = tmp_path / "run" / "workspace" / "models"
    assert not [path for path in cache.glob("*") if len(path.name) == 64 and (path / "model_index.json").exists()]


def test_a_missing_shard_is_refused_by_name(base, tmp_path):
    folder = base / "transformer"
    tensors = load_file(folder / WEIGHTS)
    plan = split_torch_state_dict_into_shards(
        tensors, filename_pattern="diffusion_pytorch_model{suffix}.safetensors", max_shard_size=100_000
    )
    for name, keys in list(plan.filename_to_tensors.items())[1:]:
        save_file({key: tensors[key] for key in keys}, folder / name)
    index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    (folder / WEIGHTS).unlink()
    with pytest.raises(InputError, match=f"names the shard '{next(iter(plan.filename_to_tensors))}', which is missing"):
        fetch(base, tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("flux1-dev-Q4_0.gguf", "transformer (no weights; flux1-dev-Q4_0.gguf is not read"),
        (
            "diffusion_pytorch_model.fp16.safetensors",
            "transformer (no weights; diffusion_pytorch_model.fp16.safetensors is another form of them: "
            "they must be diffusion_pytorch_model.safetensors",
        ),
    ],
)
def test_weights_in_another_form_alone_are_named(base, tmp_path, name, said):
    (base / "transformer" / WEIGHTS).rename(base / "transformer" / name)
    with pytest.raises(InputError) as error:
        fetch(base, tmp_path)
    assert said in str(error.value)


def test_a_bitsandbytes_base_is_refused_by_its_method(base, tmp_path):
    settle(base / "transformer", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(InputError, match=r"transformer is quantised \(bitsandbytes\): a base must have float32"):
        fetch(base, tmp_path)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            {"train": {"lora_rank": 2, "lora_targets": ["to_qq"]}},
            "train.lora_targets has 'to_qq', which no matrix.*to_q,",
        ),
        ({"encode_prompts": {"max_sequence_length": 4096}}, "max_sequence_length"),
    ],
)
def test_a_setting_that_the_base_cannot_take_is_named(overrides, said):
    with pytest.raises(InputError, match=said):
        rehearse(BASE, settings(**overrides), "tiny")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"sample": {"true_guidance": 2.0}}, "true_guidance is 2:"),
        (
            {"export": {"formats": ["original-bf16"]}},
            r"export.formats has 'original-bf16'.*QwenImageTransformer2DModel",
        ),
    ],
)
def test_what_the_other_family_has_not_is_refused(qwen, overrides, said):
    with pytest.raises(InputError, match=said):
        rehearse(qwen, settings(**overrides), "qwen")


@pytest.mark.parametrize("stage", ["train", "sample"])
def test_an_image_size_is_held_against_the_models_own_unit(base, stage):
    """A multiple of 8, which `configure` lets pass, and not of this VAE's 16."""
    vae = AutoencoderKL.from_pretrained(base / "vae")
    channels = [vae.config.block_out_channels[0], *vae.config.block_out_channels]
    blocks = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
    config = dict(vae.config) | {"block_out_channels": channels}
    config |= {name: [kind] * len(channels) for name, kind in blocks.items()}
    AutoencoderKL.from_config(config).save_pretrained(base / "vae")
    unit = 2 ** len(channels)
    with pytest.raises(InputError, match=f"{stage}.resolution is {unit + 8}: it must be a multiple of {unit}"):
        rehearse(base, settings(train={"resolution": unit * 2}) | {f"{stage}.resolution": unit + 8}, "base")


def test_an_encoder_of_another_width_is_found_by_the_step_itself(base):
    torch.manual_seed(0)
    small = T5EncoderModel.from_pretrained(base / "text_encoder_2").config.to_dict() | {"d_model": 20}
    T5EncoderModel(T5Config(**small)).save_pretrained(base / "text_encoder_2")
    with pytest.raises(InputError, match=r"base cannot do a step of train at train.resolution 32 with prompts of"):
        rehearse(base, settings(), "base")


def test_a_tensor_too_many_stops_nothing_but_the_original_layout(base):
    change(base / "transformer", lambda tensors: tensors.update({"something.extra": torch.zeros(2)}))
    rehearse(base, settings(), "base")
    with pytest.raises(InputError, match=r"export.formats has 'original-bf16'.*'something.extra'"):
        rehearse(base, settings(export={"formats": ["original-bf16"]}), "base")


def written(folder, model):
    """A model's folder as diffusers and transformers write it; its weights are a hole of the right size on the disk."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        model.to_json_string() if hasattr(model, "to_json_string") else model.config.to_json_string()
    )
    specs = [Spec(name, "BF16", tuple(value.shape)) for name, value in model.state_dict().items()]
    with (folder / (WEIGHTS if hasattr(model, "to_json_string") else "model.safetensors")).open("wb") as file:
        file.write(header_of(specs)[0])
        file.truncate(file.tell() + sum(spec.size for spec in specs))


@pytest.mark.real
def test_a_model_of_qwen_images_size_rehearses_without_its_memory(qwen, tmp_path):
    base = shutil.copytree(qwen, tmp_path / "big", ignore=shutil.ignore_patterns("transformer", "vae", "text_encoder"))
    with torch.device("meta"):
        written(base / "transformer", QwenImageTransformer2DModel())
        written(base / "vae", AutoencoderKLQwenImage())
        text = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152064}
        vision = {"hidden_size": 1280, "out_hidden_size": 3584, "depth": 32}
        config = Qwen2_5_VLConfig(text_config=text, vision_config=vision)
        written(base / "text_encoder", Qwen2_5_VLForConditionalGeneration(config))
    run = settings(train={"resolution": 720, "lora_rank": 16}, sample={"resolution": 1024, "guidance": 4.0})
    rehearse(base, run, "big")


@pytest.mark.real
def test_a_model_of_flux1_devs_size_rehearses_without_its_memory(tmp_path):
    base = shutil.copytree(BASE, tmp_path / "dev", ignore=shutil.ignore_patterns("transformer", "vae", "text_encoder*"))
    with torch.device("meta"):
        written(base / "transformer", FluxTransformer2DModel(guidance_embeds=True))
        channels = [128, 256, 512, 512]
        kinds = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
        latents = {"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159}
        plain = {"use_quant_conv": False, "use_post_quant_conv": False, "layers_per_block": 2}
        written(base / "vae", AutoencoderKL(block_out_channels=channels, **kinds, **latents, **plain))
        heads = {"num_attention_heads": 12, "num_hidden_layers": 12}
        written(base / "text_encoder", CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, **heads)))
        sizes = {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
        written(base / "text_encoder_2", T5EncoderModel(T5Config(feed_forward_proj="gated-gelu", **sizes)))
    formats = ["diffusers", "original-bf16", "original-fp8"]
    run = settings(train={"resolution": 720}, sample={"resolution": 1024}, export={"formats": formats})
    rehearse(base, run, "dev")
    with pytest.raises(InputError, match=r"sample.resolution is 1000: it must be a multiple of 16"):
        rehearse(base, run | {"sample.resolution": 1000}, "dev")
