"""The recipe `flux1-dev-hpsv2` for one step on full-shaped models: from prompts to a release that diffusers loads.

No network, no GPU: what a first run on real weights would trip over (names, shapes, formats, files in shards) it trips
over here.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from full_shape import write_models
from PIL import Image

TOKENS = 128  # of 512, for the time it takes
ONE_STEP = [
    "steps=1",
    "batch_size=1",
    "gpus=0",
    "sample_shards=1",
    "resolution=64",
    "fetch_base.offline=true",
    "prepare_prompts.held_out_fraction=0.4",
    "prepare_prompts.train_prompts=2",
    "prepare_prompts.held_out_prompts=2",
    f"encode_prompts.max_sequence_length={TOKENS}",
    "train.rollout_steps=2",
    "train.keep_checkpoints=1",
    "train.guard_prompts=1",
    "train.guard_steps=1",
    "sample.resolution=64",
    "sample.steps=2",
    "evaluate.resamples=200",
]
PROMPTS = [
    f"{kind} of {what} {where}"
    for kind in ("a photo", "an old painting")
    for what in ("a cat", "a red house", "the mountain", "a city at night")
    for where in ("in the morning", "on a lake", "with a dog")
]

GENERATE = """
import sys, torch
from diffusers import FluxPipeline
pipeline = FluxPipeline.from_pretrained(sys.argv[1], torch_dtype=torch.bfloat16)
image = pipeline(
    "a photo of a cat on a lake", height=64, width=96, num_inference_steps=1, max_sequence_length=64,
    generator=torch.Generator().manual_seed(0),
).images[0]
image.save(sys.argv[2])
"""


def python(*arguments):
    """Run this interpreter, hubs out of reach."""
    unreachable = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1500,
        env=os.environ | unreachable,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.real
def test_the_recipe_goes_from_prompts_to_a_release_that_diffusers_loads(tmp_path):
    catalogue = write_models(tmp_path / "models")
    prompts = tmp_path / "hpdv2.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    output = tmp_path / "run"
    given = [*ONE_STEP, f"prompts={prompts}", f"fetch_base.catalogue={catalogue}"]
    sets = [argument for one in given for argument in ("--set", one)]
    python("-m", "srpo_pipelines.cli", "run", "--recipe", "flux1-dev-hpsv2", "--output", str(output), *sets)

    summary = json.loads((output / "summary.json").read_text())
    release = Path(summary["release"])
    manifest = json.loads((release / "manifest.json").read_text())
    assert "flux-1-dev-non-commercial-license" in json.dumps(manifest)
    steps = [json.loads(line) for line in next(output.rglob("history.jsonl")).read_text().splitlines()]
    assert [row["step"] for row in steps] == [0, 1]
    assert 0 < steps[1]["grad_norm"] < float("inf")

    image = tmp_path / "image.png"
    python("-I", "-c", GENERATE, str(release / "model"), str(image))
    with Image.open(image) as opened:
        assert opened.size == (96, 64)
        assert len(opened.getcolors(64 * 96) or []) > 100, "a picture, not one colour"
    shutil.rmtree(tmp_path)  # 5 GB, which pytest would keep
