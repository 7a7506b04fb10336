"""What is written while training goes on: the weights of that moment, in order, whole, and with its errors heard."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
import writing_ranks
from test_ranks import ALWAYS, job, launch, lines, one_rank, wait_for, weights_folder  # noqa: F401
from tiny_runs import TRAIN

from srpo.core.storage.models import read_models
from srpo.train import background, memory
from srpo.train.config import Config


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def spawn(function, ranks, *arguments):
    torch.multiprocessing.spawn(function, (ranks, free_port(), *arguments), nprocs=ranks)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("ranks", "settings"),
    [
        (1, {"ema_decay": 0.9}),  # plain float32 tensors, which are the model's own
        (1, {"compute_dtype": "bfloat16", "precision": "bf16_stochastic"}),  # weights that need no cast to be shipped
        (1, {"lora_rank": 2}),  # an adapter that needs none
        (2, {"ema_decay": 0.9}),  # shards
    ],
)
def test_what_is_written_is_what_stood_when_it_was_handed_over(tiny_run, tmp_path, ranks, settings):
    base = read_models(tiny_run.artifacts["models"], tiny_run.workspace)["base"].folder / "transformer"
    spawn(writing_ranks.both_ways, ranks, TRAIN | settings, base, tmp_path)
    at_once, later = contents(tmp_path / "at-once"), contents(tmp_path / "background")
    assert at_once.keys() == later.keys()
    assert sum(name.endswith(".distcp") for name in later) == ranks
    different = [name for name in later if later[name] != at_once[name] and name != "step/.metadata"]
    assert different == []
    assert json.loads(later["step/facts.json"]) == {"records": [{"step": 1}]}


def test_what_one_rank_cannot_write_stops_all_with_its_own_words(tmp_path):
    spawn(writing_ranks.one_cannot, 2, tmp_path)
    first, last = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == [[1], "RuntimeError: rank 1 could not write: OSError: [Errno 28] No space left on device"]
    assert last == [[1], "OSError: [Errno 28] No space left on device"]


def start(state, config, job, seconds=0.0, full_at=99):  # noqa: F811
    """One rank whose weights are written ``seconds`` late, and not at all from step ``full_at`` on."""
    state.mkdir()
    (state / "job.json").write_text(json.dumps(job | {"config": config, "state": str(state)}))
    command = [sys.executable, writing_ranks.__file__, str(free_port()), str(state / "job.json")]
    here = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, str(seconds), str(full_at)], stdout=subprocess.DEVNULL, env=os.environ | here)


@pytest.mark.real
@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGTERM])
def test_a_checkpoint_is_there_only_after_the_weights_that_its_records_name(
    tiny_run,
    one_rank,  # noqa: F811
    job,  # noqa: F811
    tmp_path,
    signal_,
):
    config = TRAIN | ALWAYS | {"micro_batch_size": 2, "guard_every": 1}
    state = tmp_path / "run"
    process = start(state, config, job, seconds=3)
    wait_for(lambda: lines(state) >= 2)  # step 1 is over, and its weights are not written, nor its checkpoint
    assert not (state / "weights-000001").exists()
    assert not list(state.glob("step-*"))
    process.send_signal(signal_)
    assert process.wait(timeout=120) == (143 if signal_ == signal.SIGTERM else -signal.SIGKILL)
    found = {path.parent.name for path in state.glob("step-*/facts.json")}
    if signal_ == signal.SIGTERM:  # what was handed over is finished first
        assert found == {"step-000001"}
        assert (state / "weights-000001" / "config.json").exists()
    else:
        assert found == set()
    assert launch(state, config, job).wait(timeout=120) == 0
    expected = weights_folder(tiny_run, one_rank)
    assert contents(state / "weights-000002") == contents(expected)


def test_a_full_disk_ends_the_run_with_its_own_words(job, tmp_path):  # noqa: F811
    config = TRAIN | ALWAYS | {"micro_batch_size": 2, "guard_every": 1, "steps": 4}
    state = tmp_path / "run"
    assert start(state, config, job, full_at=2).wait(timeout=120) == 1
    assert (state / "error.txt").read_text() == "OSError: [Errno 28] No space left on device"
    assert {path.name for path in state.glob("step-*")} == {"step-000001"}, "the last whose weights are there"
    assert not (state / "result.json").exists()


def test_copies_are_made_only_where_the_host_has_room_for_them(tiny_run, monkeypatch, capsys):
    models = read_models(tiny_run.artifacts["models"], tiny_run.workspace)
    folders = memory.Folders(models["base"].folder, [models["reward"].folder], models["held_out"].folder)
    config, kept = Config(**TRAIN | {"ema_decay": 0.9}), memory.Kept(0, decoder=False)
    parts = memory.memory_parts(config, folders, 1, kept)
    numbers = memory.parameter_count(folders.base / "transformer")
    need = sum(parts.values()) + (4 + 8 + 4 + 2) * numbers  # masters, moments, average, and bfloat16 to ship
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        monkeypatch.setattr(background, "host_bytes", lambda: need)
        assert background.room_for_copies(config, folders, 1, kept, writing_ranks.CPU)
        assert capsys.readouterr().out == ""
        monkeypatch.setattr(background, "host_bytes", lambda: need - 1)
        assert not background.room_for_copies(config, folders, 1, kept, writing_ranks.CPU)
        assert "training will stand still while checkpoints are written" in capsys.readouterr().out
    finally:
        dist.destroy_process_group()


def test_a_container_s_limit_counts_and_pages_of_files_make_way(tmp_path):
    assert memory.left_in_cgroup(tmp_path) == 2**63
    for name, text in {
        "memory.max": "max\n",
        "memory.current": "600\n",
        "memory.stat": "anon 100\nfile 450\ninactive_file 400\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert memory.left_in_cgroup(tmp_path) == 2**63
    (tmp_path / "memory.max").write_text("1000\n")
    assert memory.left_in_cgroup(tmp_path) == 800
