"""Samples: the same images for any number of shards, those of diffusers' own pipeline, and scores that fit them."""

import base64
import io
import json
import re
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from PIL import Image
from sampling import checkpoint, pixels_of, rows_of, sample
from tiny_runs import TinyRun

from srpo.core.backbones.conditioning import read_conditioning
from srpo.core.backbones.flux import Flux
from srpo.core.contracts.prompts import Prompt
from srpo.core.contracts.schemas import SAMPLES, read_table
from srpo.core.contracts.tensors import EmbeddingsReader
from srpo.core.execution.code import versions
from srpo.core.objective import draws
from srpo.core.objective.direct_align import euler_rollout
from srpo.core.objective.schedule import sampler_sigmas
from srpo.core.storage.models import read_models
from srpo.sample.run import to_images
from srpo.sample.scorers import Scorers, scene_of
from srpo.sample.sheet import figure


@pytest.mark.parametrize("shards", [2, 7])
def test_any_number_of_shards_gives_the_same_images_and_scores(tiny_run, changed, whole, tmp_path, shards):
    """Bit for bit, in any order; the last four of seven shards have nothing to do, for there are three blocks."""
    order = reversed(range(shards))
    parts = [sample(tiny_run, changed, tmp_path / str(n), shard=n, shards=shards) for n in order]
    assert rows_of(*parts) == rows_of(whole)
    assert len(rows_of(whole)) == 5 * 2 * 2


def test_an_unchanged_model_gives_identical_images(tiny_run, unchanged, tmp_path):
    """Base and tuned start from the same noise: only the weights can tell them apart."""
    rows = rows_of(sample(tiny_run, unchanged, tmp_path / "0"))
    images = set()
    for (prompt_id, noise, model), row in rows.items():
        if model == "base":
            tuned = rows[prompt_id, noise, "tuned"]
            assert np.array_equal(pixels_of(row), pixels_of(tuned))
            assert row["scores"] == tuned["scores"]
            assert row["features"] == tuned["features"]
            images.add(pixels_of(row).tobytes())
    assert len(images) == 10, "another prompt or noise is another image"


def test_a_changed_model_gives_other_images(whole):
    rows = rows_of(whole)
    for prompt_id, noise, _ in rows:
        base, tuned = (pixels_of(rows[prompt_id, noise, model]) for model in ("base", "tuned"))
        assert np.abs(base - tuned).max() > 8


def test_another_seed_gives_other_noise(tiny_run, unchanged, whole, tmp_path):
    other = rows_of(sample(tiny_run, unchanged, tmp_path / "0", seed=1, max_prompts=2))
    for key, row in other.items():
        if key[2] == "base":
            assert not np.array_equal(pixels_of(row), pixels_of(rows_of(whole)[key]))


@pytest.mark.parametrize("name", ["base", "tuned"])
def test_images_are_those_of_the_pipeline(tiny_run, changed, whole, name):
    """diffusers' FluxPipeline, with its own scheduler, from the same noise and embeddings."""
    base = read_models(tiny_run.artifacts["models"], tiny_run.workspace)["base"].folder
    pipeline = FluxPipeline.from_pretrained(base, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    if name == "tuned":
        weights = json.loads((changed / "checkpoint.json").read_text())["weights"]
        pipeline.transformer = FluxTransformer2DModel.from_pretrained(tiny_run.workspace / weights)
    reader = EmbeddingsReader(tiny_run.artifacts["embeddings"] / "embeddings.parquet")
    flux = Flux(pipeline.transformer, pipeline.vae)
    side = 32 // flux.vae_scale
    rows = {key: row for key, row in rows_of(whole).items() if key[2] == name}
    for (prompt_id, noise_index, _), row in list(rows.items())[::4]:
        condition = read_conditioning(reader, [prompt_id])
        shape = (1, pipeline.vae.config.latent_channels, side, side)
        made = pipeline(
            prompt_embeds=condition.prompt_embeds,
            pooled_prompt_embeds=condition.pooled,
            latents=flux.pack(draws.noise(shape, 0, "sample", prompt_id, noise_index)),
            num_inference_steps=4,
            guidance_scale=3.5,
            height=32,
            width=32,
        ).images[0]
        assert np.abs(np.asarray(made).astype(int) - pixels_of(row)).max() <= 1


def test_an_image_says_how_to_make_it_again(tiny_run, changed, whole):
    base = read_models(tiny_run.artifacts["models"], tiny_run.workspace)["base"].digest
    files = json.loads((changed / "checkpoint.json").read_text())["files"]
    for (prompt_id, noise, model), row in rows_of(whole).items():
        with Image.open(io.BytesIO(row["file"])) as image:
            found = json.loads(image.text["srpo"])
        assert found == {
            "prompt": row["prompt"],
            "prompt_id": prompt_id,
            "noise_index": noise,
            "model": model,
            "base": base,
            "weights": files if model == "tuned" else None,
            "seed": 0,
            "steps": 4,
            "guidance": 3.5,
            "true_guidance": 1.0,
            "schedule": "static",
            "shift": 3.0,
            "resolution": 32,
            "compute_dtype": "float32",
            "noise_seed": draws.generator(0, "sample", prompt_id, noise).initial_seed(),
            "batch": found["batch"],
            "device": "cpu",
            "versions": versions(),
        }


@pytest.mark.parametrize("name", ["base", "tuned"])
def test_the_recipe_alone_makes_the_image_again(tiny_run, changed, whole, name):
    """Bit for bit: seed, weights and the size of the batch are in the file; what else was in the batch is no matter."""
    rows = [row for (_, _, model), row in sorted(rows_of(whole).items()) if model == name]
    sizes = set()
    for row in rows[:: len(rows) - 1]:  # of a whole block, and of the smaller one at the end
        with Image.open(io.BytesIO(row["file"])) as image:
            facts = json.loads(image.text["srpo"])
        base = next(
            m.folder
            for m in read_models(tiny_run.artifacts["models"], tiny_run.workspace).values()
            if m and m.digest == facts["base"]
        )
        weights = json.loads((changed / "checkpoint.json").read_text())["weights"] if facts["weights"] else None
        flux = Flux.load(base, torch.device("cpu"), torch.float32, weights and tiny_run.workspace / weights)
        size, batch = facts["resolution"], facts["batch"]["size"]
        sizes.add(batch)
        shape = (1, flux.latent_channels, size // flux.vae_scale, size // flux.vae_scale)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(facts["noise_seed"]))
        reader = EmbeddingsReader(tiny_run.artifacts["embeddings"] / "embeddings.parquet")
        condition = read_conditioning(reader, [facts["prompt_id"]] * batch)
        with torch.no_grad():
            x0 = euler_rollout(
                lambda x, sigma: flux.velocity(x, sigma, condition, facts["guidance"], size, size),  # noqa: B023
                flux.pack(noise.repeat(batch, 1, 1, 1)),
                sampler_sigmas(facts["steps"], facts["shift"]),
            )
            made = to_images(flux.decode(x0, size, size))[facts["batch"]["place"]]
        assert np.array_equal(made, pixels_of(row))
    assert sizes == {4, 2}


def test_scores_are_those_of_the_saved_image(tiny_run, whole):
    """One by one, from the file, under the image's own prompt."""
    models = read_models(tiny_run.artifacts["models"], tiny_run.workspace)
    scorers = Scorers.load(models, tiny_run.artifacts["text_features"], torch.device("cpu"))
    names = {"reward.score", "reward.srp", "held_out.score", "held_out.srp", "p_realistic", "content"}
    for row in rows_of(whole).values():
        prompt = Prompt(**{name: row[name] for name in ("prompt_id", "prompt", "category", "split")})
        pixels = torch.from_numpy(pixels_of(row)).permute(2, 0, 1)[None].float() / 255
        scores, features = scorers(pixels, [prompt])
        assert set(row["scores"]) == names | {"saturation", "contrast", "sharpness"}
        assert {name: float(value[0]) for name, value in scores.items()} == pytest.approx(row["scores"], abs=1e-4)
        assert features[0].tolist() == pytest.approx(row["features"], abs=1e-3)
        assert row["scores"]["content"] in (0, 1)
        assert row["split"] != "train"


OWN = ["<script>alert('x')</script> & a cat", "a bird in a tree", "a lake at dawn", "an old man reading"]


@pytest.fixture(scope="module")
def own(tiny_run, tmp_path_factory):
    """A run on prompts of the user's beside captions of the tiny world."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.txt").write_text("\n".join([*OWN, *(f"a house, number {n}" for n in range(12))]))
    run = TinyRun(folder)
    shutil.copytree(tiny_run.workspace / "models", run.workspace / "models")
    run.artifacts = {"models": tiny_run.artifacts["models"]}
    config = {"sources": ["tiny", str(folder / "own.txt")], "held_out_fraction": 0.6, "held_out_prompts": 12}
    run.artifacts |= run.stage("prepare_prompts", config, (), ("prompts",))
    drawn = {"train_prompts": 1}
    run.artifacts |= run.stage("cache_rewards", drawn, ("models", "prompts"), ("text_features",))
    run.artifacts |= run.stage("encode_prompts", drawn | {"dtype": "float32"}, ("models", "prompts"), ("embeddings",))
    return run


def test_content_is_judged_for_captions_of_the_world_only(own, tmp_path):
    """All images of a run have the same scores, so that the shards of a mixed list can be compared."""
    weights = checkpoint(own, "unchanged", 0.0)
    folders = [
        sample(own, weights, tmp_path / str(n), shard=n, shards=2, noises=1, max_prompts=12, steps=1) for n in range(2)
    ]
    rows = rows_of(*folders).values()
    assert {scene_of(row["prompt"]) is None for row in rows} == {True, False}
    assert {frozenset(row["scores"]) for row in rows} == {frozenset(next(iter(rows))["scores"])}
    for row in rows:
        assert "content" not in row["scores"]
        assert 0 <= row["scores"]["p_realistic"] <= 1
        assert len(row["features"]) == 32


def test_images_of_another_size_are_judged_too(tiny_run, unchanged, tmp_path):
    rows = rows_of(sample(tiny_run, unchanged, tmp_path / "0", resolution=48, max_prompts=1, steps=1))
    for row in rows.values():
        assert pixels_of(row).shape == (48, 48, 3)
        assert "p_realistic" in row["scores"]


def test_the_contact_sheet_shows_base_beside_tuned(whole):
    text = (whole.parent / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    figures = re.findall(r"<figure>(.*?)</figure>", text, re.DOTALL)
    rows = rows_of(whole)
    assert len(figures) == 5
    first = next(row for key, row in rows.items() if key[1] == 0 and key[2] == "base")
    assert first["prompt"] in figures[0]
    shown = re.findall(r'src="data:image/png;base64,([^"]+)" width="128" alt="(\w+)"', figures[0])
    assert [name for _, name in shown] == ["base", "tuned"]
    for data, name in shown:
        seen = pixels_of({"file": base64.b64decode(data)})
        assert np.array_equal(seen, pixels_of(rows[first["prompt_id"], 0, name]))


def test_the_contact_sheet_escapes_prompts():
    shown = figure(OWN[0], {"base": "data:,", "tuned": "data:,"}, ["base", "tuned"])
    assert "<script" not in shown
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; a cat" in shown


def test_rows_are_in_a_fixed_order(whole):
    keys = [
        (row["model"], row["prompt_id"], row["noise_index"])
        for row in read_table(whole / "samples.parquet", SAMPLES).to_pylist()
    ]
    assert all(first < second for first, second in pairwise(keys))
