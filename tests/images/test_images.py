"""The images: what the Dockerfile promises, and that the locked lists and the wheel are what it takes them for."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "images/Dockerfile").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    """(INSTRUCTION, argument) pairs of the Dockerfile: comments dropped, continued lines joined."""
    lines = [line for line in DOCKERFILE.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Stage name -> (what it starts from, its instructions)."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    current: list[tuple[str, str]] = []
    for word, argument in instructions():
        if word == "FROM":
            parent, _, name = argument.partition(" AS ")
            current = []
            found[name] = (parent, current)
        else:
            current.append((word, argument))
    return found


def test_every_stage_starts_from_the_one_base_or_from_another_stage():
    names = list(stages())
    for position, (name, (parent, _)) in enumerate(stages().items()):
        assert parent == "${BASE_IMAGE}" if name == "base" else parent in names[:position]
    assert "latest" not in DOCKERFILE
    (base,) = [argument for word, argument in instructions() if word == "ARG" and argument.startswith("BASE_IMAGE=")]
    assert re.fullmatch(r"BASE_IMAGE=python:3\.11-slim@sha256:[0-9a-f]{64}", base)


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_each_image_is_labelled_and_ends_as_an_unprivileged_user(target):
    _, steps = stages()[target]
    assert [argument for word, argument in steps if word == "USER"] == ["10001:10001"]
    assert steps[-1][0] == "USER"
    labels = " ".join(argument for word, argument in steps if word == "LABEL")
    assert ("ENV", "SRPO_GIT_COMMIT=${REVISION}") in steps  # what a release names as its commit
    assert {"title", "description", "licenses", "version", "revision"} <= set(re.findall(r"image\.(\w+)=", labels))
    assert not {word for word, _ in steps} & {"ENTRYPOINT", "CMD", "ADD"}


def test_caches_are_below_one_writable_folder_and_no_hub_is_asked_at_run_time():
    _, steps = stages()["base"]
    settings = dict(pair.split("=", 1) for word, argument in steps if word == "ENV" for pair in argument.split())
    for name in ("HOME", "HF_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME"):
        assert settings[name].startswith("/cache")
    assert settings["HF_HUB_OFFLINE"] == "1"
    assert settings["PYTHONUNBUFFERED"] == "1"


def test_the_locked_lists_follow_from_the_constraints():
    done = subprocess.run(
        [sys.executable, ROOT / "images/lock.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_the_gpu_image_has_torch():
    cpu, gpu = ((ROOT / f"images/requirements-{name}.txt").read_text(encoding="utf-8") for name in ("cpu", "gpu"))
    assert re.search(r"^(transformers|diffusers)==", gpu, re.M)
    assert not re.search(r"^(torch|transformers|diffusers)==", cpu, re.M)


def test_every_package_is_an_exact_version_with_hashes_and_pip_is_told_to_want_them():
    lists = sorted((ROOT / "images").glob("requirements-*.txt"))
    assert len(lists) == 5
    for path in lists:
        for entry in path.read_text(encoding="utf-8").replace("\\\n", "").splitlines():
            exact = re.fullmatch(r"[\w.-]+==[\w.]+( +--hash=sha256:[0-9a-f]{64})+", entry.strip())
            assert exact or entry.startswith("#"), f"{path.name}: {entry}"
    runs = " ".join(argument for word, argument in instructions() if word == "RUN")
    for install in re.findall(r"pip install [^;&]*--requirement [^;&]*", runs):
        assert "--require-hashes" in install, install


def test_kfp_runs_a_component_without_any_of_its_dependencies(tmp_path):
    """The images install kfp with --no-deps: its executor must need nothing but kfp itself and the standard library."""
    (tmp_path / "component.py").write_text(
        "import kfp\nfrom kfp import dsl\nfrom kfp.dsl import *\n"
        "def greet(name: str, said: dsl.Output[dsl.Artifact], metrics: dsl.Output[dsl.Metrics]):\n"
        "    metrics.log_metric('letters', len(name))\n"
        "    open(said.path, 'w').write('hello ' + name)\n"
    )
    artifacts = {
        name: {"artifacts": [{"name": name, "type": {"schemaTitle": kind}, "uri": str(tmp_path / name)}]}
        for name, kind in (("said", "system.Artifact"), ("metrics", "system.Metrics"))
    }
    executor_input = {
        "inputs": {"parameterValues": {"name": "world"}},
        "outputs": {"artifacts": artifacts, "outputFile": str(tmp_path / "output.json")},
    }
    guarded = (
        "import runpy, sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] not in {*sys.stdlib_module_names, 'kfp', 'component'}:\n"
        "            raise ModuleNotFoundError(f'{name} is not in the image', name=name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "runpy.run_module('kfp.dsl.executor_main', run_name='__main__', alter_sys=True)\n"
    )
    arguments = ["--component_module_path", tmp_path / "component.py", "--function_to_execute", "greet"]
    done = subprocess.run(
        [sys.executable, "-c", guarded, *arguments, "--executor_input", json.dumps(executor_input)],
        env={"_KFP_RUNTIME": "true", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "said").read_text() == "hello world"
    assert json.loads((tmp_path / "output.json").read_text())["artifacts"]["metrics"]["artifacts"][0]["metadata"] == {
        "letters": 5
    }


def test_the_wheel_has_every_file_of_the_packages(tmp_path):
    """Weights, templates and tables are data files: an image that lacks one fails only when its stage runs."""
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    done = subprocess.run([*build, "--wheel-dir", tmp_path, ROOT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("srpo-*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "components", "pipelines"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    wanted = {path.split("/", 1)[1] for path in tracked if (ROOT / path).is_file() and not path.startswith(".")}
    assert wanted
    assert wanted <= packed, f"left out of the wheel: {sorted(wanted - packed)}"
    assert not [name for name in packed if name.endswith(".pyc")]
