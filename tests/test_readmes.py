"""The stages' READMEs say what the code says."""

import dataclasses
import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from srpo.configure.parameters import STAGES

SCRIPT = Path(__file__).resolve().parents[1] / "docs/stage_readmes.py"
SPEC = importlib.util.spec_from_file_location("stage_readmes", SCRIPT)
stage_readmes = sys.modules["stage_readmes"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(stage_readmes)


@pytest.mark.parametrize("stage", stage_readmes.NAMES)
def test_a_readme_is_up_to_date(stage):
    path = stage_readmes.PACKAGE / stage / "README.md"
    assert path.is_file(), f"{path} is missing: run `make readmes`"
    assert path.read_text(encoding="utf-8") == stage_readmes.readme(stage), f"{path} is stale: run `make readmes`"


@pytest.mark.parametrize("stage", STAGES)
def test_every_setting_is_there_once(stage):
    text = stage_readmes.section(stage)
    for field in dataclasses.fields(STAGES[stage]):
        assert text.count(f"\n| `{field.name}` |") == 1


def test_comments_go_to_what_they_stand_beside_above_or_at_the_head_of(tmp_path, monkeypatch):
    source = (
        "import dataclasses\n"
        "@dataclasses.dataclass(frozen=True, kw_only=True)\n"
        "class Config:\n"
        "    alone: int\n"
        "    # Right above:\n"
        "    # of two lines.\n"
        "    above: str = '<a|b>'\n"
        "    beside: float | None = None  # in [0, 1]\n"
        "    ratio: float = 27 / 28\n"
        "\n"
        "    # The head of a group.\n"
        "    first: tuple[str, ...] = (  # of many\n"
        "        'x',\n"
        "    )\n"
    )
    (tmp_path / "odd_settings.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    found = stage_readmes.settings_of(importlib.import_module("odd_settings").Config)
    assert [dataclasses.astuple(setting) for setting in found] == [
        ("alone", "a whole number", "must be given", "", ""),
        ("above", "text", '`"<a\\|b>"`', "Right above: of two lines.", ""),
        ("beside", "a number or null", "`null`", "in [0, 1]", ""),
        ("ratio", "a number", "`27 / 28`", "", ""),
        ("first", "a list, each entry text", '`["x"]`', "of many", "The head of a group."),
    ]


def test_a_stale_readme_is_told_and_made_again_around_the_prose(tmp_path, monkeypatch, capsys):
    package = tmp_path / "components" / "srpo"
    for stage in stage_readmes.NAMES:
        (package / stage).mkdir(parents=True)
        shutil.copy(stage_readmes.PACKAGE / stage / "README.md", package / stage)
    good = (package / "sample/README.md").read_text()
    monkeypatch.setattr(stage_readmes, "PACKAGE", package)

    def main(*arguments):
        monkeypatch.setattr(sys, "argv", ["stage_readmes.py", *arguments])
        with pytest.raises(SystemExit) as end:
            stage_readmes.main()
        return end.value.code, capsys.readouterr().out

    assert main("--check") == (0, "all READMEs are up to date\n")
    (package / "sample/README.md").write_text(good.replace("| `500` |", "| `400` |").replace("# sample", "# mine"))
    (package / "train/README.md").unlink()
    code, said = main("--check")
    assert code == 1
    assert "sample/README.md" in said
    assert "train/README.md" in said
    assert main()[0] == 0
    assert (package / "sample/README.md").read_text() == good.replace("# sample", "# mine")
    assert "| `learning_rate` |" in (package / "train/README.md").read_text()
    assert main("--check")[0] == 0
