"""Real ranks under torchrun: what must not depend on their number, on a kill, or on the way weights are stored."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_runs import TRAIN

from srpo.core.contracts.errors import InputError
from srpo.core.storage.models import read_models
from srpo.train.launcher import ranks_command
from srpo.train.preflight import check_embeddings

IN = ("models", "prompts", "embeddings", "text_features")


def train(tiny_run, name, **config):
    """Run the stage; returns its checkpoint folder."""
    outputs = ("checkpoint", "report", "metrics")
    return tiny_run.stage("train", TRAIN | config, IN, outputs, tiny_run.folder / name)["checkpoint"]


def weights_folder(tiny_run, checkpoint):
    return tiny_run.workspace / json.loads((checkpoint / "checkpoint.json").read_text())["weights"]


def weights(tiny_run, checkpoint):
    return load_file(next(weights_folder(tiny_run, checkpoint).glob("*.safetensors")))


def history(checkpoint):
    """The records without what depends on the clock."""
    rows = [json.loads(line) for line in (checkpoint / "history.jsonl").read_text().splitlines()]
    clock = ("seconds", "images_per_second", "memory")
    return [{k: v for k, v in row.items() if not k.startswith(clock)} for row in rows]


# Ships the last step whatever the guard thinks, so that weights can be compared.
ALWAYS = {"guard_every": 2, "guard_tolerance": 2.0, "guard_drift": 1e9, "guard_patience": 99}


@pytest.fixture(scope="module")
def one_rank(tiny_run):
    return train(tiny_run, "one", **ALWAYS, micro_batch_size=2)


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.real)])
def test_several_ranks_equal_one_that_accumulates(tiny_run, one_rank, ranks):
    one = one_rank if ranks == 2 else train(tiny_run, "six", **ALWAYS, batch_size=6, micro_batch_size=2)
    several = train(tiny_run, f"ranks-{ranks}", **ALWAYS, processes=ranks, batch_size=4 if ranks == 2 else 6)
    for first, second in zip(history(one), history(several), strict=True):
        assert first.keys() == second.keys()
        assert all(second[name] == pytest.approx(first[name], rel=1e-5, abs=1e-5) for name in first)
    first, second = weights(tiny_run, one), weights(tiny_run, several)
    base = load_file(next((tiny_run.workspace / model_path(tiny_run)).joinpath("transformer").glob("*.safetensors")))
    assert any(not torch.equal(first[name], base[name]) for name in base)
    # bfloat16 keeps 8 bits: one rounding step at most lies between weights that agree to 1e-5
    assert all(torch.allclose(first[n].float(), second[n].float(), rtol=2**-7, atol=1e-5) for n in base)


def model_path(tiny_run):
    return json.loads((tiny_run.artifacts["models"] / "models.json").read_text())["base"]["path"]


def test_learning_rate_zero_ships_the_base_bit_for_bit(tiny_run):
    checkpoint = train(tiny_run, "zero", learning_rate=0.0, steps=1, **ALWAYS)
    base = load_file(next((tiny_run.workspace / model_path(tiny_run)).joinpath("transformer").glob("*.safetensors")))
    found = weights(tiny_run, checkpoint)
    assert found.keys() == base.keys()
    assert all(torch.equal(found[name], base[name]) for name in base)


def launch(state: Path, config: dict, job: dict) -> "subprocess.Popen[bytes]":
    """The ranks as the stage starts them, in a session of their own."""
    state.mkdir(parents=True, exist_ok=True)
    (state / "job.json").write_text(json.dumps(job | {"config": config, "state": str(state)}))
    return subprocess.Popen(
        ranks_command(config.get("processes", 1), 60, state / "job.json"),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def ranks_of(state: Path) -> list[int]:
    """Ids of the running processes that train in ``state``."""
    found = []
    for process in Path("/proc").iterdir():  # not a glob: it fails where one ends meanwhile
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0") if process.name.isdigit() else []
            if b"srpo.train" in words and str(state / "job.json").encode() in words:
                found.append(int(process.name))
    return found


def lines(state: Path) -> int:
    file = state / "history.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def wait_for(condition, seconds=120):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "timed out"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def job(tiny_run):
    from srpo.core.storage.models import read_models
    from srpo.train.config import Config
    from srpo.train.run import Inputs, job_of

    inputs = Inputs(**{name: tiny_run.artifacts[name] for name in IN})
    models = read_models(inputs.models, tiny_run.workspace)
    return job_of(Config(), inputs, models, Path("unused"), tiny_run.workspace)


EVERY = {"checkpoint_every": 1}
BY_TIME = {"checkpoint_every": 99, "checkpoint_minutes": 1e-6}
NEVER = {"checkpoint_every": 99}


@pytest.mark.parametrize(
    ("signal_", "saving"),
    [
        (signal.SIGKILL, EVERY),
        pytest.param(signal.SIGKILL, BY_TIME, marks=pytest.mark.real),
        pytest.param(signal.SIGTERM, NEVER, marks=pytest.mark.real),
    ],
    ids=["killed", "killed-by-time", "terminated"],
)
def test_an_interrupted_run_ends_like_one_that_was_not(tiny_run, one_rank, job, tmp_path, signal_, saving):
    config = TRAIN | ALWAYS | {"micro_batch_size": 2} | saving
    process = launch(tmp_path, config, job)
    wait_for(lambda: lines(tmp_path) >= 2)  # the base's reading and one step
    os.killpg(process.pid, signal_)
    assert process.wait(timeout=120) != 0
    wait_for(lambda: not ranks_of(tmp_path))  # no rank outlives its launcher
    if signal_ == signal.SIGTERM:  # what was finished is saved, although no checkpoint was due
        records = json.loads(next(tmp_path.glob("step-*/facts.json")).read_text())["records"]
        assert records[-1]["step"] >= 1
    resumed = launch(tmp_path, config, job)
    assert resumed.wait(timeout=120) == 0
    expected = weights_folder(tiny_run, one_rank)
    found = tmp_path / "weights-000002"
    assert {p.name: p.read_bytes() for p in found.iterdir()} == {p.name: p.read_bytes() for p in expected.iterdir()}


@pytest.mark.real
def test_a_rank_that_is_killed_is_started_again_by_its_task(tiny_run, capfd):
    """As the kernel kills for memory. Its peers see a broken connection, which is no reason to end the task."""
    folder = tiny_run.workspace / "state/train"
    before = set(folder.glob("*"))

    def kill():
        wait_for(lambda: own() and lines(own()[0]) >= 2)  # the base's reading and a step
        (rank, *_) = [one for one in ranks_of(own()[0]) if not is_torchrun(one)]
        os.kill(rank, signal.SIGKILL)

    def own():
        return [state for state in folder.glob("*") if state not in before]

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        checkpoint = train(tiny_run, "killed", **ALWAYS, processes=2, weight_decay=0.125)
    finally:
        killer.join()
    assert [record["step"] for record in history(checkpoint)] == [0, 1, 2]
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("srpo: train: a rank was")]
    assert "killed by SIGKILL, as the kernel does when memory is short: goes on from what is finished (try 1 of" in line


def is_torchrun(pid):
    return b"--nproc-per-node" in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.real
def test_a_checkpoint_of_one_rank_resumes_on_two(tiny_run, one_rank, job, tmp_path):
    config = TRAIN | ALWAYS | {"micro_batch_size": 2}
    process = launch(tmp_path, config, job)
    wait_for(lambda: (tmp_path / "step-000001" / "facts.json").exists())
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    wait_for(lambda: not ranks_of(tmp_path))
    assert launch(tmp_path, config | {"processes": 2}, job).wait(timeout=120) == 0
    expected, found = weights(tiny_run, one_rank), load_file(next((tmp_path / "weights-000002").glob("*.safetensors")))
    assert all(torch.allclose(found[n].float(), expected[n].float(), rtol=2**-7, atol=1e-5) for n in expected)


@pytest.mark.real
def test_the_trainer_alone_on_a_workstation(tiny_run, one_rank, tmp_path):
    """`torchrun -m srpo.train --config` trains as the stage does, and refuses what it does not know."""
    settings = {
        "config": TRAIN | ALWAYS | {"micro_batch_size": 2, "trackers": ["tensorboard"]},
        "workspace": str(tiny_run.workspace),
        "output": str(tmp_path / "out"),
        "inputs": {name: str(tiny_run.artifacts[name]) for name in IN},
    }

    def run(values):
        (tmp_path / "train.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(values))))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
        command += ["-m", "srpo.train", "--config", str(tmp_path / "train.yaml")]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})

    refused = run(settings | {"config": {"learning_rat": 1}})
    assert refused.returncode != 0
    assert "srpo: train: train has no setting 'learning_rat': did you mean 'learning_rate'?" in refused.stdout
    done = run(settings)
    assert done.returncode == 0, done.stdout + done.stderr
    checkpoint = json.loads((tmp_path / "out" / "checkpoint" / "checkpoint.json").read_text())
    own = load_file(next((tmp_path / "out" / checkpoint["weights"]).glob("*.safetensors")))
    expected = weights(tiny_run, one_rank)
    assert all(torch.equal(own[name], expected[name]) for name in expected)
    assert list((tmp_path / "out" / "state").rglob("events.out.tfevents*"))
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"stage": "train"')]
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_lora_merged_is_lora_applied_and_the_average_is_what_ships(tiny_run):
    """The shipped weights are base plus adapter; with a moving average they differ from the last step's own."""
    from diffusers import FluxTransformer2DModel

    options = ALWAYS | {"lora_rank": 4, "lora_alpha": 8.0, "learning_rate": 1e-2}
    checkpoint = train(tiny_run, "lora", **options)
    folder = weights_folder(tiny_run, checkpoint)
    base = tiny_run.workspace / model_path(tiny_run) / "transformer"
    merged = FluxTransformer2DModel.from_pretrained(folder, torch_dtype=torch.float32)
    applied = FluxTransformer2DModel.from_pretrained(base, torch_dtype=torch.float32)
    applied.load_lora_adapter(load_file(folder / "lora" / "pytorch_lora_weights.safetensors"), prefix="transformer")
    generator = torch.Generator().manual_seed(0)
    config = merged.config
    inputs = {
        "hidden_states": torch.randn(1, 16, config.in_channels, generator=generator),
        "timestep": torch.tensor([0.7]),
        "guidance": torch.tensor([3.5]),
        "encoder_hidden_states": torch.randn(1, 16, config.joint_attention_dim, generator=generator),
        "pooled_projections": torch.randn(1, config.pooled_projection_dim, generator=generator),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(16, 3),
        "return_dict": False,
    }
    with torch.no_grad():
        plain = FluxTransformer2DModel.from_pretrained(base, torch_dtype=torch.float32)(**inputs)[0]
        difference = (applied(**inputs)[0] - merged(**inputs)[0]).abs().max()
        effect = (applied(**inputs)[0] - plain).abs().max()
    assert effect > 0
    assert difference < 0.1 * effect + 0.02  # the merged weights are rounded to bfloat16

    averaged = weights(tiny_run, train(tiny_run, "ema", **options, ema_decay=0.9))
    own = weights(tiny_run, checkpoint)
    assert any(not torch.equal(averaged[name], own[name]) for name in own)


def test_bfloat16_compute_with_a_frozen_base_keeps_a_float32_adapter(tiny_run):
    """Two dtypes in one sharded model, checkpointed activations, two ranks: what a LoRA run on GPUs does."""
    options = {"compute_dtype": "bfloat16", "lora_rank": 4, "gradient_checkpointing": "always", "processes": 2}
    checkpoint = train(tiny_run, "bfloat16", **ALWAYS | options)
    adapter = load_file(weights_folder(tiny_run, checkpoint) / "lora" / "pytorch_lora_weights.safetensors")
    assert {value.dtype for value in adapter.values()} == {torch.float32}
    assert any(value.abs().max() > 0 for name, value in adapter.items() if "lora_B" in name)
    assert all(0 < row["grad_norm"] < 100 for row in history(checkpoint)[1:])


def test_steps_that_are_not_finite_are_skipped_and_end_the_run_with_the_cause(tiny_run):
    with pytest.raises(
        RuntimeError, match=r"FloatingPointError: 2 steps had a loss or a gradient that is not finite.*step"
    ):
        # The hinge hides it from the gradient: relu's is 0 where the loss is not a number.
        train(tiny_run, "nan", **ALWAYS, nonfinite_limit=2, learning_rate=1e30, steps=6)


@pytest.mark.real
def test_bfloat16_weights_are_trained_and_averaged(tiny_run):
    """No float32 master: what ships is the average, and it has moved by about what float32 masters move."""
    options = {"compute_dtype": "bfloat16", "learning_rate": 1e-3, "ema_decay": 0.5, "guard_every": 1}
    base = load_file(next((tiny_run.workspace / model_path(tiny_run)).joinpath("transformer").glob("*.safetensors")))
    moved = []
    for precision in ("fp32_master", "bf16_stochastic"):
        checkpoint = train(tiny_run, precision, **ALWAYS | options | {"precision": precision})
        found = weights(tiny_run, checkpoint)
        moved.append(torch.cat([(found[name].float() - base[name].float()).flatten() for name in base]))
    assert float(moved[1].norm() / moved[0].norm()) == pytest.approx(1, abs=0.2)
    assert float(torch.cosine_similarity(*moved, dim=0)) > 0.8


def test_preflight_refuses_what_would_fail_later(tiny_run):
    with pytest.raises(InputError, match=r"resolution is 30.*multiple of 8"):
        train(tiny_run, "size", resolution=30)
    with pytest.raises(InputError, match="lack the prompt"):
        train(tiny_run, "prompts", steps=500)
    base = dataclasses.replace(read_models(tiny_run.artifacts["models"], tiny_run.workspace)["base"], digest="0" * 64)
    with pytest.raises(InputError, match="was not made by the encoders of 'tiny'"):
        check_embeddings(tiny_run.artifacts["embeddings"], base, [])
