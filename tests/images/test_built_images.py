"""The images, built for real from the Dockerfile, and the compiled package's own commands run inside them."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from containers import BASE, Engine, executor_input

pytestmark = pytest.mark.real

SMALL = [
    *("steps=1", "batch_size=2", "sample_shards=1", "train.processes=1", "train.rollout_steps=2"),
    *("train.guard_prompts=1", "train.guard_steps=2", "sample.steps=2", "sample.max_prompts=2", "sample.noises=1"),
    *("evaluate.resamples=200", "evaluate.frechet_resamples=100", "prepare_prompts.train_prompts=8"),
]


@pytest.fixture(scope="module")
def engine():
    engine = Engine(Path(tempfile.mkdtemp(prefix="srpo-")))  # podman takes 50 characters at most
    try:
        engine.make_base()
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def cpu(engine):
    return engine.build("cpu")


@pytest.fixture(scope="module")
def gpu(engine):
    """On a CPU build of torch: pip's own configuration names an index that has one, or PyTorch's does."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    local = re.search(r"file://[^\s'\\]+", listed.stdout)
    return engine.build("gpu", local[0] if local else "https://download.pytorch.org/whl/cpu")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run of the whole pipeline on this machine, which any user may read and write: (folder, package)."""
    folder = tmp_path_factory.mktemp("finished")
    sets = [part for one in SMALL for part in ("--set", one)]
    command = [sys.executable, "-m", "srpo_pipelines.cli", "run", "--recipe", "demo", "--output", str(folder), *sets]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for place in (folder, *folder.parents[:3]):  # the user of the images must get there
        place.chmod(place.stat().st_mode | 0o055)
    return folder


def artifact_paths(run: Path, source: dict) -> list[Path]:
    """Where the local runner left an artifact; those of the sampling loop are one an iteration."""
    (output,) = (run / "kfp").iterdir()
    producer, key = (source["taskOutputArtifact"][name] for name in ("producerTask", "outputArtifactKey"))
    if producer.startswith("for-loop"):
        task, _, key = key.removeprefix("pipelinechannel--").partition("-")
        return sorted(output.glob(f"{producer}-iteration-*/{task}/{key}"))
    return [output / producer / key]


def run_task(engine, image: str, run: Path, spec: dict, name: str, shared: Path, given: dict) -> dict:
    """Run a task's compiled command in ``image`` on the inputs that it had in ``run``; returns what it gives on."""
    task = spec["root"]["dag"]["tasks"][name]
    component = spec["components"][task["componentRef"]["name"]]
    container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
    (output,) = (run / "kfp").iterdir()
    parameters = {}
    for key, source in task["inputs"].get("parameters", {}).items():
        if "componentInputParameter" in source:
            parameters[key] = given[source["componentInputParameter"]]
        elif "taskOutputParameter" in source:
            producer, made = (source["taskOutputParameter"][part] for part in ("producerTask", "outputParameterKey"))
            left = json.loads((output / producer / "executor_output.json").read_text())["parameterValues"][made]
            parameters[key] = left | {"destination": given["destination"]} if "destination" in left else left
        else:
            parameters[key] = source["runtimeValue"]["constant"]
    known = component.get("inputDefinitions", {}).get("parameters", {})
    inputs = {key: artifact_paths(run, source) for key, source in task["inputs"].get("artifacts", {}).items()}
    outputs = {
        key: definition["artifactType"]["schemaTitle"]
        for key, definition in component.get("outputDefinitions", {}).get("artifacts", {}).items()
    }
    folder = shared / name
    folder.mkdir()
    folder.chmod(0o777)
    handed = executor_input({key: parameters[key] for key in known if key in parameters}, inputs, outputs, folder)
    arguments = [handed if argument == "{{$}}" else argument for argument in container["args"]]
    engine.run(image, *container["command"], *arguments, shared=run)
    for key in outputs:
        assert (folder / key).exists(), f"{name} left no {key}"
    return json.loads((folder / "executor_output.json").read_text()).get("parameterValues", {})


@pytest.fixture
def bench(finished):
    """A fresh workspace for the container, with models, weights and images of the run but no other result."""
    shared = finished / "container"
    shutil.rmtree(shared, ignore_errors=True)
    shutil.copytree(finished / "workspace", shared / "workspace", ignore=shutil.ignore_patterns("stages"))
    shutil.copytree(finished / "workspace/stages/sample", shared / "workspace/stages/sample")  # no artifact has images
    for place in [shared, *shared.rglob("*")]:
        place.chmod(0o777 if place.is_dir() else 0o666)
    spec, _ = yaml.safe_load_all((finished / "align.yaml").read_text())
    defaults = spec["root"]["inputDefinitions"]["parameters"]
    given = {name: definition.get("defaultValue", {}) for name, definition in defaults.items()}
    given |= {"workspace": str(shared / "workspace"), "destination": str(shared / "workspace/artifacts")}
    return shared, spec, given


def tasks_of(spec: dict, image: str) -> list[str]:
    """The tasks of the pipeline itself that run in ``image``."""
    found = []
    for name, task in spec["root"]["dag"]["tasks"].items():
        label = spec["components"][task["componentRef"]["name"]].get("executorLabel")
        if label and image in spec["deploymentSpec"]["executors"][label]["container"]["image"]:
            found.append(name)
    return found


def test_every_cpu_component_runs_in_its_image_read_only_and_without_a_network(engine, cpu, finished, bench):
    shared, spec, given = bench
    names = tasks_of(spec, "srpo-cpu")
    assert {"configure", "prepare-prompts", "evaluate", "export"} <= set(names)
    for name in names:
        made = run_task(engine, cpu, finished, spec, name, shared, given)
        if name == "configure":
            assert made["train"]["steps"] == given["steps"]
    (released,) = (Path(given["destination"]) / "releases").glob("*/manifest.json")
    assert json.loads(released.read_text())["files"]


def test_the_cpu_image_has_no_torch_and_its_user_no_rights(engine, cpu):
    code = "import importlib.util, os; print(importlib.util.find_spec('torch'), os.getuid())"
    assert engine.run(cpu, "python3", "-c", code).split() == ["None", "10001"]


def test_gpu_components_run_in_their_image_on_a_cpu_build_of_torch(engine, gpu, finished, bench):
    shared, spec, given = bench
    for name in ("cache-rewards", "encode-prompts", "train"):
        run_task(engine, gpu, finished, spec, name, shared, given)
    compile_something = "import torch; print(torch.compile(lambda x: x.sin() + 1)(torch.zeros(3)).tolist())"
    assert "[1.0, 1.0, 1.0]" in engine.run(gpu, "python3", "-c", compile_something)


def test_the_gpu_image_can_start_several_nodes(engine, gpu):
    """Kubeflow's client comes with packages of its own, which must agree with the stages'."""
    code = (
        "from pathlib import Path\n"
        "from kubernetes.client import Configuration\n"
        "from srpo.train.trainjob import TrainJob\n"
        "print(TrainJob(Configuration(), 'team', 'job', Path('/tmp')).trainer.backend.namespace)"
    )
    assert engine.run(gpu, "python3", "-c", code).split() == ["team"]


def test_no_process_of_a_pod_outlives_its_first_one(engine, tmp_path):
    """Kubeflow's launcher is the first: what left its group and ignores SIGTERM ends with it too, unsaved.

    So only checkpoints that were made before count there (docs/training.md).
    """
    saving = f"trap '' TERM; echo begun > {tmp_path}/begun; sleep 2; echo saved > {tmp_path}/saved"
    tmp_path.chmod(0o777)
    engine.run(BASE, "sh", "-c", f'setsid sh -c "{saving}" & sleep 1; exit 0', shared=tmp_path)
    time.sleep(3)
    assert (tmp_path / "begun").exists()
    assert not (tmp_path / "saved").exists()
