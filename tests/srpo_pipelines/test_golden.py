"""The packages as they were last looked at: a change of what a cluster runs shows in the diff of `golden/`.

Made anew by `make golden`.
"""

import difflib
from pathlib import Path

import pytest

from srpo_pipelines.cli import main

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    assert main(["compile", "--output", str(folder)]) == 0
    return folder


def test_the_packages_are_those(compiled):
    assert {path.name for path in compiled.glob("*.yaml")} == {path.name for path in GOLDEN.glob("*.yaml")}


@pytest.mark.parametrize("name", ["align.yaml", "promote.yaml"])
def test_a_package_has_not_changed_unseen(compiled, name):
    before, after = ((folder / name).read_text().splitlines() for folder in (GOLDEN, compiled))
    changes = list(difflib.unified_diff(before, after, f"golden/{name}", f"compiled {name}", lineterm="", n=2))
    assert not changes, "\n".join(["look at the change, then `make golden` and commit it", *changes[:60]])
