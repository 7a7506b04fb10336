"""`srpo run --recipe demo` with the real stages, through KFP's local runner: the demo, cut down to a minute."""

import html
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from planted import PLANTED, assert_no_secret, written_below

from srpo.configure.parameters import STAGES, stage_configs
from srpo.core.storage.releases import move_channel
from srpo_pipelines.settings import parameters

SMALL = [
    "steps=2",
    "batch_size=4",
    "sample_shards=2",
    "train.processes=1",
    "train.micro_batch_size=4",
    "train.rollout_steps=4",
    "train.guard_prompts=2",
    "train.guard_steps=4",
    "train.guard_tolerance=1",  # two prompts are too few to tell: what was trained ships
    "sample.steps=4",
    "sample.max_prompts=8",  # with 6, no sign-flip test of two could reject
    "sample.noises=1",
    "sample.block_size=3",
    "evaluate.resamples=200",
    "evaluate.frechet_resamples=100",
    "prepare_prompts.train_prompts=16",
]
# What an evaluation rests on, and itself.
EVALUATED = {"prepare_prompts", "fetch_base", "cache_rewards", "encode_prompts", "train", "sample", "evaluate"}
MEASURES = {"srp", "held_out", "p_realistic", "content", "frechet"}


class Run:
    """What one `srpo run` left and showed."""

    def __init__(self, output: Path, *sets: str) -> None:
        given = [argument for one in (*SMALL, *sets) for argument in ("--set", one)]
        command = [sys.executable, "-m", "srpo_pipelines.cli", "run", "--recipe", "demo", "--output", str(output)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("COV_")}
        done = subprocess.run(
            [*command, *given],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            env=environment | PLANTED | {"OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert done.returncode == 0, done.stdout
        self.output, self.shown = output, done.stdout
        self.summary = json.loads((output / "summary.json").read_text())
        self.release = Path(self.summary["release"])
        self.evaluation = json.loads((self.release / "evaluation.json").read_text())
        channel = output / "channels/candidate.json"
        self.candidate = json.loads(channel.read_text())["release"] if channel.is_file() else None


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run that meets its one gate, which any number does."""
    return Run(tmp_path_factory.mktemp("real") / "run", "learning_rate=3e-4", "evaluate.gates=[content.after >= 0]")


def test_the_rating_page_lies_apart_from_its_key(first):
    page = Path(first.summary["rating_page"])
    assert page == first.output / "rating/index.html"
    assert f"rating:  {page}" in first.shown
    key = json.loads((first.output / "rating-key/key.json").read_text())
    assert key["models"] == ["base", "tuned"]
    assert key["checkpoint"] == json.loads((first.release / "manifest.json").read_text())["stages"]["train"]["key"]
    assert [path.name for path in page.parent.rglob("*")] == ["index.html"]


def test_images_stay_where_they_were_made_and_no_artifact_carries_them(first):
    """A run as published draws some 10 GB: Kubeflow would copy them into each pod that takes the samples."""
    tables = list(first.output.rglob("samples.parquet"))
    drawn = [path for path in first.output.rglob("*.png") if "images" in path.parts]
    assert drawn
    assert all({"stages", "state"} & set(path.parts) for path in drawn), drawn[0]
    assert any("stages" not in table.parts for table in tables), "the tables are handed on"


def test_every_page_says_what_it_may_do_and_the_key_is_its_owners(first):
    pages = list(first.output.rglob("*.html"))
    assert len(pages) > 8
    for page in pages:
        text = html.unescape(page.read_text())
        assert text.count("Content-Security-Policy") == 1, page
        assert "default-src 'none'" in text, page
    assert {path.stat().st_mode & 0o077 for path in first.output.rglob("key.json")} == {0}


def test_the_summary_says_what_came_of_it(first):
    summary = first.summary
    for side in ("before", "after", "delta"):
        assert set(summary[side]) == MEASURES
    for name in MEASURES:
        before, after, delta = (summary[side][name] for side in ("before", "after", "delta"))
        assert isinstance(before, float)
        assert isinstance(after, float)
        assert delta["low"] <= delta["high"]
        assert delta["mean"] == pytest.approx(after - before, abs=1e-6)
    assert summary["delta"]["srp"]["low"] > 0, "training moved nothing"
    assert first.evaluation["effect"] is True
    assert 0 <= summary["before"]["content"] <= 1
    assert 0 <= summary["before"]["p_realistic"] <= 1
    assert summary["seeds"] == {"seed": 0}
    assert set(summary["seconds"]) == set(STAGES)
    assert all(seconds > 0 for seconds in summary["seconds"].values())
    assert summary["reused"] == []
    assert summary["verdict"] == first.evaluation["verdict"]
    assert summary["verdict"] in first.shown
    assert {"python", "kfp", "srpo", "torch"} <= set(summary["versions"])


def test_the_release_is_a_pipeline_that_diffusers_loads(first):
    """Its images are those that were judged: the tuned weights are inside, not the base's."""
    pipeline = FluxPipeline.from_pretrained(first.release / "model", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red circle on a blue background", num_inference_steps=2, height=32, width=32).images[0]
    assert image.size == (32, 32)
    manifest = json.loads((first.release / "manifest.json").read_text())
    (trained,) = (first.output / "workspace/stages/train").glob("*/checkpoint/checkpoint.json")
    tuned = {Path(file["path"]).name: file["sha256"] for file in json.loads(trained.read_text())["files"]}
    shipped = {
        Path(file["path"]).name: file["sha256"]
        for file in manifest["files"]
        if file["path"].startswith("model/transformer/")
    }
    assert tuned.items() <= shipped.items()
    assert any(name.endswith(".safetensors") for name in tuned)
    assert (first.release / "README.md").is_file()


def test_a_run_that_passes_moves_the_channel_and_one_that_does_not_leaves_it(first):
    assert first.summary["candidate"] is bool(first.evaluation["passed"])
    assert first.candidate == (first.release.name if first.evaluation["passed"] else None)


def test_no_secret_of_the_environment_is_in_anything_that_a_run_leaves(first):
    """Artifacts of every stage, manifests, what Kubeflow's runner and the trainer wrote down, the release, the log."""
    written = written_below(first.output)
    assert len(written) > 100
    assert_no_secret(written | {"log": first.shown.encode()})


def test_the_report_needs_nothing_else(first):
    text = (first.output / "report.html").read_text()
    assert text == (first.release / "report.html").read_text()
    resources = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)|url\(([^)]*)\)|@import\s+(\S+)""", text)
    named = [name for found in resources for name in found if name]
    assert named, "the page shows images"
    assert [name for name in named if not name.startswith(("data:", "#"))] == []
    headline = first.summary["verdict"].partition(":")[0]
    assert headline in html.unescape(text)


def test_the_report_says_how_to_run_it_again(first):
    """Its command gives every stage the settings that it had."""
    text = (first.output / "report.html").read_text()
    command, file = (
        html.unescape(re.search(rf'aria-label="{name}">(.*?)</pre>', text, re.DOTALL)[1])
        for name in ("Command", "again.json")
    )
    words = shlex.split(command.replace("$(cat again.json)", file.replace('"', '\\"')))
    again = json.loads(json.dumps(stage_configs(parameters(None, [word for word in words if "=" in word]))))
    manifests = [json.loads(path.read_text()) for path in (first.output / "workspace/stages").glob("*/*/manifest.json")]
    found = {made["stage"]: made["config"] for made in manifests if made["stage"] in EVALUATED}
    assert set(found) == EVALUATED
    for stage, config in found.items():
        own = {name: value for name, value in config.items() if name not in ("shard", "shards")}
        assert {name: again[stage][name] for name in own} == own, stage


def test_the_same_run_again_reuses_every_stage(first):
    again = Run(first.output, "learning_rate=3e-4", "evaluate.gates=[content.after >= 0]")
    assert set(again.summary["reused"]) == set(STAGES)
    assert sum(again.summary["seconds"].values()) < sum(first.summary["seconds"].values())
    for name in ("before", "after", "delta", "verdict", "release", "candidate"):
        assert again.summary[name] == first.summary[name]
    assert again.candidate == first.candidate


@pytest.mark.real
def test_another_number_of_shards_gives_the_same_release(first):
    """Bit by bit: images, report and page hold nothing of who sampled what."""
    files = {path: path.stat().st_mtime_ns for path in first.release.rglob("*")}
    other = Run(first.output, "learning_rate=3e-4", "evaluate.gates=[content.after >= 0]", "sample_shards=3")
    assert "sample" not in other.summary["reused"]
    assert "export" not in other.summary["reused"]
    assert other.release == first.release
    assert {path: path.stat().st_mtime_ns for path in other.release.rglob("*")} == files


@pytest.mark.real
def test_without_a_learning_rate_there_is_no_effect_and_no_candidate(first):
    """The null run, under the gates of the demo; what does not depend on the rate is not done again."""
    move_channel(first.output, "candidate", first.release.name)
    null = Run(first.output, "learning_rate=0")
    assert null.summary["before"] == null.summary["after"]
    assert null.summary["before"] == first.summary["before"]
    assert all(delta["mean"] == 0 for delta in null.summary["delta"].values())
    assert null.evaluation["effect"] is False
    assert "no effect" in null.summary["verdict"].lower()
    assert null.summary["candidate"] is False
    assert "(no candidate)" in null.shown
    assert null.release.is_dir()
    assert null.release != first.release
    assert null.candidate == first.release.name
    assert set(null.summary["reused"]) == {"prepare_prompts", "fetch_base", "cache_rewards", "encode_prompts"}
