"""The repository keeps its promises: what stands where, nothing of one machine in it, CPU stages without torch."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    ".ci", ".dockerignore", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md",
    "constraints.txt", "pyproject.toml", "skaffold.yaml",
}  # fmt: skip
FOLDERS = {"benchmarks", "components", "docs", "images", "manifests", "pipelines", "tests"}
NO_TORCH = [
    "srpo.prepare_prompts.run",
    "srpo.fetch_base.run",
    "srpo.evaluate.run",
    "srpo.rating_page.run",
    "srpo.export.run",
    "srpo.collect_ratings.run",
    "srpo.decide.run",
    "srpo.configure.run",
]


def tracked() -> list[Path]:
    """Every file of the repository, relative to its root."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listing.split("\0") if name and (ROOT / name).is_file()]


def test_the_top_level_is_the_documented_one():
    present = {path.parts[0] for path in tracked()}
    assert present <= FILES | FOLDERS, f"not in the documented layout: {sorted(present - FILES - FOLDERS)}"
    assert present >= FILES | FOLDERS - {"benchmarks"}


def test_no_file_is_longer_than_a_person_reads():
    for path in tracked():
        if path.suffix == ".py":
            lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
            assert lines <= 400, f"{path} has {lines} lines; 400 is the most"


def test_test_files_have_names_of_their_own():
    """pytest imports them by their name alone, and refuses a second one of the same."""
    names = [path.name for path in tracked() if path.parts[0] == "tests" and path.suffix == ".py"]
    assert not {name for name in names if names.count(name) > 1} - {"conftest.py"}


def test_no_file_names_a_machine():
    """Absolute paths of somebody's home or workplace, and private addresses, work on one machine only."""
    machine = re.compile(rb"(?<![\w.$}])/(?:home|root|work|Users)/[\w.-]+|(?<![\w.=])(?:10\.\d+|192\.168)\.\d+\.\d+\b")
    for path in tracked():
        content = (ROOT / path).read_bytes()
        if b"\0" not in content and path != Path("tests/test_repository.py"):
            found = [match.group().decode() for match in machine.finditer(content)]
            assert not found, f"{path} names {found[0]}"


@pytest.mark.parametrize("module", NO_TORCH)
def test_cpu_stages_import_without_torch(module):
    """They run in the small image, which has neither torch nor what is built on it."""
    absent = ["torch", "diffusers", "transformers", "peft", "accelerate", "tensorboard", "sentencepiece", "kfp"]
    code = f"import sys\nsys.modules.update(dict.fromkeys({absent}))\nimport {module}\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_skip_fails_under_ci(tmp_path):
    """`.ci/run` installs what tests need, so a test that skips there has found nothing out."""
    (tmp_path / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text(encoding="utf-8"))
    (tmp_path / "test_one.py").write_text("import pytest\ndef test_one():\n    pytest.skip('no such server')\n")
    (tmp_path / "test_two.py").write_text("import pytest\npytest.skip('no such library', allow_module_level=True)\n")
    command = [sys.executable, "-m", "pytest", "--continue-on-collection-errors", "--rootdir", tmp_path, tmp_path]
    for value, code, reasons in (("0", 0, 0), ("1", 1, 2)):
        done = subprocess.run(
            command, env={"SRPO_CI": value, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False
        )
        assert (done.returncode != 0) == bool(code), done.stdout
        assert done.stdout.count("skipped where nothing may be skipped") >= reasons
