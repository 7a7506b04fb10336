"""`srpo promote` through KFP's local runner, with the package that a cluster runs."""

import pytest
from test_promote import Scene, better, unsure

from srpo.core.storage.releases import read_channel, read_record
from srpo_pipelines.cli import main

pytestmark = pytest.mark.real


def test_people_decide(tmp_path, capsys):
    """Undecided raters leave the channel where it is, and that is no failure; agreeing ones move it."""
    scene = Scene(tmp_path)
    command = ["promote", "--output", str(tmp_path / "run"), "--destination", str(scene.destination)]
    command += ["--study", str(tmp_path / "key")]
    assert main([*command, "--ratings", *scene.rate(unsure)]) == 0
    shown = capsys.readouterr().out
    assert "FAILED  ratings.overall.net_win.delta.low > 0 (found -" in shown
    assert "r1: not promoted; latest points to nothing" in shown
    assert scene.latest is None

    assert main([*command, "--ratings", *scene.rate(better), "--who", "Grace"]) == 0
    shown = capsys.readouterr().out
    assert "FAILED" not in shown
    assert "r1: promoted; latest points to r1" in shown
    assert "people: 3 raters, 12 prompts" in shown
    assert scene.latest == "r1"
    record = read_record(scene.destination, read_channel(scene.destination, "latest")["record"])
    assert record["who"] == "Grace"

    (tmp_path / "cut.json").write_text("{")
    assert main([*command, "--ratings", str(tmp_path / "cut.json")]) == 2
    assert "cut.json is cut or no JSON" in capsys.readouterr().err
