"""A release of the tiny model, made by the stages, in its users' hands: diffusers draws its images again."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, FluxPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from single_files import narrow_loader
from tiny_runs import TRAIN

from srpo.core.backbones.flux import Flux
from srpo.core.backbones.flux_layout import layout
from srpo.core.contracts.errors import InputError
from srpo.core.storage.models import read_models
from srpo.core.storage.tensor_files import TensorFolder
from srpo.export.card import call_arguments, model_card
from srpo.export.contents import pipeline_of as pipeline_class
from srpo.export.proof import check_adapter, check_transformer

FORMATS = ("diffusers", "lora", "original-bf16", "original-fp8")
# Alpha over rank is not 1, and the change is well above what rounding to bfloat16 makes.
LORA = {"lora_rank": 4, "lora_alpha": 8.0, "learning_rate": 3e-2}
ALWAYS = {"guard_every": 2, "guard_tolerance": 2.0, "guard_drift": 1e9, "guard_patience": 99}  # the last step ships
SAMPLE = {"steps": 4, "noises": 1, "max_prompts": 6, "compute_dtype": "float32", "resolution": 32, "device": "cpu"}


@pytest.fixture(scope="module")
def release(tiny_run, tmp_path_factory):
    """The folder of the release: LoRA, in all formats."""
    folder = tmp_path_factory.mktemp("release")
    given = ("models", "prompts", "embeddings", "text_features")

    def stage(name, config, inputs, output, **more):
        return tiny_run.stage(name, config, inputs, (output,), folder / name, **more)[output]

    checkpoint = stage("train", TRAIN | ALWAYS | LORA, given, "checkpoint")
    samples = [stage("sample", SAMPLE, given, "samples", checkpoint=checkpoint)]
    config = {"resamples": 200, "frechet_resamples": 100}
    judged = stage("evaluate", config, ("models",), "evaluation", samples=samples, checkpoint=checkpoint)
    config = {"destination": str(folder / "out"), "formats": FORMATS}
    more = {"checkpoint": checkpoint, "evaluation": judged, "samples": samples}
    made = stage("export", config, ("models", "prompts"), "release", **more)
    return Path(json.loads((made / "release.json").read_text())["path"])


@pytest.fixture(scope="module")
def base(tiny_run):
    return read_models(tiny_run.artifacts["models"], tiny_run.workspace)["base"].folder


def pipeline_of(folder):
    pipeline = FluxPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def latents_of(pipeline, facts):
    """The noise that the recipe ``facts`` names, as the pipeline takes it."""
    side = facts["resolution"] // pipeline.vae_scale_factor
    shape = (1, pipeline.vae.config.latent_channels, side, side)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(facts["noise_seed"]))
    return pipeline._pack_latents(noise, *shape)


def drawn(pipeline, facts):
    """The image that the recipe ``facts`` asks for, by the pipeline's own code from the prompt on."""
    image = pipeline(
        facts["prompt"],
        latents=latents_of(pipeline, facts),
        num_inference_steps=facts["steps"],
        guidance_scale=facts["guidance"],
        max_sequence_length=pipeline.tokenizer_2.model_max_length,
        height=facts["resolution"],
        width=facts["resolution"],
    ).images[0]
    return np.asarray(image).astype(int)


def released(path):
    """An image of the release, and the recipe that it carries."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int), json.loads(image.text["srpo"])


def away(one, other):
    return np.abs(one - other).mean()


def test_the_pipeline_of_a_release_draws_the_images_of_the_release(release):
    pipeline = pipeline_of(release / "model")
    after = sorted((release / "samples").glob("*-after.png"))
    assert after
    for path in after:
        image, facts = released(path)
        assert np.abs(drawn(pipeline, facts) - image).max() <= 1


def snippets(card):
    """The card's pieces of code, by what they load."""
    found = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    kinds = ("lora", "single_file", "model")
    return {next(kind for kind in kinds if f"/{kind}" in lines): lines for lines in found}


def drawn_by(lines, facts, noise):
    """The image of a piece of code as it stands, but for the prompt, the noise and its precision."""
    for old, new in (('"a prompt"', "PROMPT, latents=LATENTS"), ("torch.bfloat16", "torch.float32")):
        assert old in lines
        lines = lines.replace(old, new)
    given = {"PROMPT": facts["prompt"], "LATENTS": noise}
    exec(compile(lines, "README.md", "exec"), given)
    return np.asarray(given["image"]).astype(int)


@pytest.mark.parametrize("kind", ["model", "lora", "single_file"])
def test_each_piece_of_the_model_card_stands_alone_and_draws_them(release, base, kind, tmp_path, monkeypatch):
    narrow_loader(monkeypatch, 128)
    lines = snippets((release / "README.md").read_text())[kind]
    image, facts = released(release / "samples/01-after.png")
    before, _ = released(release / "samples/01-before.png")
    noise = latents_of(pipeline_of(release / "model"), facts)
    for name, folder in ((release.name, release), ("tiny", base)):  # the names that the card gives
        (tmp_path / name).symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    found = drawn_by(lines, facts, noise)
    if kind == "lora":  # the tuned weights are rounded to bfloat16, a sum of base and adapter is not
        assert away(found, image) < 0.1 * away(before, image)
    else:
        assert np.abs(found - image).max() <= 1


def test_of_a_base_with_another_scheduler_the_cards_lines_draw_as_the_sampler(release, base, tmp_path, monkeypatch):
    """A base with Heun's: the stage `sample` takes Euler steps from its settings, and so do the lines."""
    heun = tmp_path / "heun"
    shutil.copytree(base, heun)
    index = json.loads((heun / "model_index.json").read_text())
    scheduler = FlowMatchHeunDiscreteScheduler(shift=2.0)
    scheduler.save_pretrained(heun / "scheduler")
    index["scheduler"] = ["diffusers", "FlowMatchHeunDiscreteScheduler"]
    (heun / "model_index.json").write_text(json.dumps(index))
    assert pipeline_class(heun)[2] == "FlowMatchHeunDiscreteScheduler"

    _, facts = released(release / "samples/01-after.png")
    backbone = Flux.load(heun, torch.device("cpu"), torch.float32)
    sigmas = backbone.sigmas(facts["steps"], None, facts["resolution"], facts["resolution"])
    arguments = {"num_inference_steps": facts["steps"], "height": 32, "width": 32, "max_sequence_length": 16}
    licences = {
        role: {"name": "heun", "licence": "mit", "commercial_use": True, "source": ""} for role in ("base", "reward")
    }
    evaluation = {"before": {}, "after": {}, "delta": {}, "verdict": "", "gates": []}
    files, made = ["lora/pytorch_lora_weights.safetensors"], {"sample": {"config": {"schedule": "model"}}}
    card = model_card("r", licences, [], None, evaluation, made, [], "", files, arguments, pipeline_class(heun)[2])
    (tmp_path / "r").mkdir()
    (tmp_path / "r/lora").symlink_to(release / "lora")
    monkeypatch.chdir(tmp_path)
    used = []
    monkeypatch.setattr(FlowMatchEulerDiscreteScheduler, "step", watched(FlowMatchEulerDiscreteScheduler.step, used))
    drawn_by(snippets(card)["lora"], facts, latents_of(pipeline_of(base), facts))
    assert torch.allclose(used[0].sigmas.double(), sigmas, atol=1e-6)


def watched(step, used):
    """``step`` of a scheduler, which is noted in ``used``."""

    def noted(self, *inputs, **settings):
        used.append(self)
        return step(self, *inputs, **settings)

    return noted


def test_our_adapter_is_as_silent_as_diffusers_own(release, base, tmp_path, caplog):
    """diffusers says that a text encoder's layers are missing, of each file without any, the one that it writes too."""
    ours = load_file(release / "lora/pytorch_lora_weights.safetensors")
    FluxPipeline.save_lora_weights(tmp_path, {name.removeprefix("transformer."): ours[name] for name in ours})
    said = []
    for folder in (release / "lora", tmp_path):
        pipeline = pipeline_of(base)
        caplog.clear()
        with caplog.at_level("WARNING"):
            pipeline.load_lora_weights(folder)
        said.append([record.getMessage() for record in caplog.records])
    assert said[0] == said[1]
    assert all("No LoRA keys associated to CLIPTextModel" in message for message in said[0])


@pytest.mark.parametrize(
    ("pipeline", "sampling", "tokens", "expected"),
    [
        ("FluxPipeline", {"guidance": 3.5}, 256, {"guidance_scale": 3.5, "max_sequence_length": 256}),
        (
            "FluxPipeline",
            {"guidance": 1.0, "true_guidance": 4.0},
            None,
            {"guidance_scale": 1.0, "true_cfg_scale": 4.0, "negative_prompt": "''"},
        ),
        ("QwenImagePipeline", {"guidance": 4.0}, None, {"true_cfg_scale": 4.0, "negative_prompt": "' '"}),
        ("QwenImagePipeline", {"guidance": 1.0, "steps": 20}, None, {"num_inference_steps": 20}),
    ],
)
def test_the_card_calls_each_pipeline_as_it_was_judged(pipeline, sampling, tokens, expected):
    assert call_arguments(pipeline, sampling, tokens) == expected


def test_the_adapter_over_the_base_draws_them_as_well(release, base):
    """As every consumer loads it, with nothing said of its scale. (The tuned weights are rounded to bfloat16.)"""
    pipeline = pipeline_of(base)
    pipeline.load_lora_weights(release / "lora")
    for path in sorted((release / "samples").glob("*-after.png")):
        image, facts = released(path)
        before, _ = released(path.with_name(path.name.replace("after", "before")))
        assert away(before, image) > 4, "the training changed nothing that could be compared"
        assert away(drawn(pipeline, facts), image) < 0.1 * away(before, image)


def test_the_single_file_holds_the_tuned_transformer(release):
    """Its names and bits; what diffusers' own loader makes of such a file is tested as wide as FLUX (test_original)."""
    made = TensorFolder([release / "single_file/flux-bf16.safetensors"])
    tuned = TensorFolder(sorted((release / "model/transformer").glob("*.safetensors")))
    for target in layout(2, 2, guidance=True):
        expected = np.concatenate([tuned.read(name) for name in target.sources])
        if target.swapped:
            expected = np.concatenate(np.split(expected, 2)[::-1])
        assert np.array_equal(made.read(target.name).view(np.uint16), expected.view(np.uint16)), target.name
    assert (release / "single_file/flux-fp8-scaled.safetensors").is_file()


@pytest.fixture
def parts(release, base, tmp_path):
    """Copies that a test may damage: ``(base files, tuned file, adapter)``."""
    tuned = shutil.copy(
        release / "model/transformer/diffusion_pytorch_model.safetensors", tmp_path / "tuned.safetensors"
    )
    adapter = shutil.copy(release / "lora/pytorch_lora_weights.safetensors", tmp_path / "adapter.safetensors")
    return sorted((base / "transformer").glob("*.safetensors")), Path(tuned), Path(adapter)


def change(path, name, by):
    """Put ``by`` of a tensor in its place; None removes it."""
    tensors = load_file(path)
    value = by(tensors.pop(name))
    save_file(tensors | ({} if value is None else {name: value}), path)


QUERY = "transformer_blocks.0.attn.to_q"


@pytest.mark.parametrize(
    ("damaged", "name", "by", "words"),
    [
        ("adapter", f"transformer.{QUERY}.lora_B.weight", lambda b: b / 2, f"'{QUERY}.weight': base and adapter make"),
        ("adapter", f"transformer.{QUERY}.lora_A.weight", lambda a: a.flip(1), f"'{QUERY}.weight': base and adapter"),
        ("adapter", f"transformer.{QUERY}.lora_B.weight", lambda b: None, "do not fit at .* an A and a B"),
        ("adapter", f"transformer.{QUERY}.lora_B.weight", lambda b: b[:-1].contiguous(), "it must fit"),
        ("tuned", "proj_out.weight", lambda w: w * 2, r"'proj_out\.weight': base and adapter make another"),
        ("tuned", f"{QUERY}.weight", lambda w: w.roll(1, 0), f"'{QUERY}.weight': base and adapter make another"),
    ],
)
def test_an_adapter_that_is_not_the_tuned_models_is_refused(parts, damaged, name, by, words):
    base, tuned, adapter = parts
    check_adapter(base, [tuned], adapter, "float32")
    change({"tuned": tuned, "adapter": adapter}[damaged], name, by)
    with pytest.raises(InputError, match=words):
        check_adapter(base, [tuned], adapter, "float32")


@pytest.mark.parametrize(
    ("name", "by", "words"),
    [
        ("proj_out.bias", lambda w: None, r"lacks 'proj_out\.bias'"),
        ("proj_out.bias", lambda w: w.float(), r"'proj_out\.bias' is F32 .*: it must be BF16"),
        ("proj_out.bias", lambda w: w[:-1].contiguous(), "it must be BF16"),
        ("proj_out.bias", lambda w: w / 0, "every weight must be finite"),
    ],
)
def test_a_transformer_that_no_reader_could_use_is_refused(parts, name, by, words):
    base, tuned, _ = parts
    check_transformer(base, [tuned])
    change(tuned, name, by)
    with pytest.raises(InputError, match=words):
        check_transformer(base, [tuned])


def test_an_index_that_names_another_shard_is_refused(parts, tmp_path):
    base, tuned, _ = parts
    index = tmp_path / "model.safetensors.index.json"
    named = dict.fromkeys(load_file(tuned), "tuned.safetensors")
    index.write_text(json.dumps({"weight_map": named}))
    check_transformer(base, [tuned], index)
    index.write_text(json.dumps({"weight_map": named | {"proj_out.bias": "other.safetensors"}}))
    with pytest.raises(InputError, match=r"puts 'proj_out\.bias' into 'other\.safetensors'"):
        check_transformer(base, [tuned], index)
    index.write_text("[]")
    with pytest.raises(InputError, match="cannot be read as an index"):
        check_transformer(base, [tuned], index)
