"""A shard goes on where it was killed, block by block, and holds one block at a time."""

import gc
import json
import os
import signal
import subprocess
import sys
import weakref

import pyarrow.parquet as pq
import pytest
from sampling import SMALL, rows_of, sample

from srpo.sample import blocks as blocks_module
from srpo.sample import run as stage


@pytest.fixture
def sampled(monkeypatch):
    """The numbers of the blocks that are really sampled."""
    made = []

    real = stage.sample_block

    def counted(config, backbone, reader, block, *following):
        made.append(block.number)
        return real(config, backbone, reader, block, *following)

    monkeypatch.setattr(stage, "sample_block", counted)
    return made


KILLED = """
import json, os, signal, sys
from pathlib import Path
from srpo.core.execution.progress import Progress
from srpo.core.execution.stage import Context
from srpo.sample import blocks
from srpo.sample.config import Config
from srpo.sample.run import Inputs, Outputs, run

given = json.loads(sys.argv[1])
calls = []

def killed(path, value, real=blocks.write_json):
    calls.append(path)
    if len(calls) == 4:  # the block's images and rows are written, its record and its name are not
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, value)

blocks.write_json = killed
inputs = Inputs(**{name: Path(path) for name, path in given["inputs"].items()})
outputs = Outputs(Path(given["folder"]) / "lost", Path(given["folder"]) / "lost.html")
outputs.samples.mkdir()
context = Context(Path(given["workspace"]), Path(given["state"]), Progress("sample"))
run(Config(**given["config"]), inputs, outputs, context)
"""


def test_after_a_sigkill_finished_blocks_are_not_sampled_again(tiny_run, changed, whole, tmp_path, sampled):
    """Killed while it wrote its fourth block of six; what comes out is what an undisturbed run makes."""
    names = ("models", "prompts", "embeddings", "text_features")
    given = {
        "inputs": {name: str(tiny_run.artifacts[name]) for name in names} | {"checkpoint": str(changed)},
        "folder": str(tmp_path),
        "workspace": str(tiny_run.workspace),
        "state": str(tmp_path / "again" / "state"),
        "config": SMALL,
    }
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(given)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = sample(tiny_run, changed, tmp_path / "again")
    assert sampled == [0, 1, 2], "three blocks of the base were done, none of the tuned model"
    assert rows_of(folder) == rows_of(whole)
    assert (folder / "samples.parquet").read_bytes() == (whole / "samples.parquet").read_bytes()


def test_only_what_is_missing_or_damaged_is_made_again(tiny_run, changed, whole, tmp_path, sampled):
    sample(tiny_run, changed, tmp_path / "0")
    assert sampled == [0, 1, 2, 0, 1, 2]
    state = tmp_path / "0" / "state"
    image = next(blocks_module.block_folder(state, "base", 1).glob("images/*"))
    image.unlink()  # the artifact's own file is a link to the same bytes: the damaged copy must not reach it
    image.write_bytes(b"cut")
    (blocks_module.block_folder(state, "tuned", 2) / "block.json").unlink()
    del sampled[:]
    (tmp_path / "0" / "samples").rename(tmp_path / "first")
    folder = sample(tiny_run, changed, tmp_path / "0")
    assert sampled == [1, 2]
    assert rows_of(folder) == rows_of(whole)
    del sampled[:]
    (tmp_path / "0" / "samples").rename(tmp_path / "second")
    assert rows_of(sample(tiny_run, changed, tmp_path / "0")) == rows_of(whole)
    assert sampled == []


def test_memory_holds_one_block_of_images_and_one_part_of_the_index(tiny_run, changed, tmp_path, monkeypatch):
    alive, most = weakref.WeakSet(), []

    class Batch:
        """Something that a weak reference can follow, tied to the array's life."""

    def watched(pixels, real=stage.to_images):
        images = real(pixels)
        tag = Batch()
        alive.add(tag)
        weakref.finalize(images, lambda kept: None, tag)
        gc.collect()
        most.append(len(alive))
        return images

    monkeypatch.setattr(stage, "to_images", watched)
    monkeypatch.setattr(blocks_module, "ROWS_PER_GROUP", 4)
    folder = sample(tiny_run, changed, tmp_path / "0", block_size=2, steps=1)
    assert len(most) == 10
    assert max(most) <= 2, "the block that was made, and the one before it until its name is taken"
    with pq.ParquetFile(folder / "samples.parquet") as index:
        sizes = [index.metadata.row_group(group).num_rows for group in range(index.num_row_groups)]
    assert sizes == [4, 4, 4, 4, 4]
