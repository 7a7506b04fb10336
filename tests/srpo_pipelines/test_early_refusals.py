"""What cannot end well is refused before anything starts, in one line and with exit code 2."""

import os
from pathlib import Path

import pytest

from srpo.core.contracts.errors import InputError
from srpo.core.ratings import table
from srpo_pipelines.cli import main


def refused(capsys, *arguments):
    """The line on the error stream."""
    with pytest.raises(SystemExit) as end:
        raise SystemExit(main(list(arguments)))
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert len(line) < 1000
    return line


@pytest.mark.parametrize("setting", ["steps=1e30", "steps=1000001", "batch_size=1000000", "resolution=100000"])
def test_numbers_that_nobody_means(capsys, tmp_path, setting):
    line = refused(capsys, "run", "--output", str(tmp_path / "out"), "--set", setting)
    assert setting.partition("=")[0] in line
    assert not (tmp_path / "out").exists()


def test_a_destination_that_is_a_file(capsys, tmp_path):
    (tmp_path / "taken").write_text("")
    line = refused(capsys, "run", "--output", str(tmp_path / "out"), "--set", f"destination={tmp_path / 'taken'}")
    assert f"destination is {str(tmp_path / 'taken')!r}" in line
    assert not (tmp_path / "out" / "workspace").exists()


def test_yaml_that_is_nested_without_end(capsys, tmp_path):
    file = tmp_path / "deep.yaml"
    file.write_text("config: " + "[" * 5000 + "]" * 5000 + "\n")
    assert "nested deeper than 64 levels" in refused(capsys, "stage", "train", "--config", str(file))
    deep = "[" * 5000 + "]" * 5000
    line = refused(capsys, "run", "--output", str(tmp_path / "out"), "--set", f"overrides={deep}"[:9000])
    assert "overrides" in line


@pytest.mark.parametrize("given", ["", "3", "[1, 2]"])
def test_a_stages_file_whose_inputs_are_no_folders(capsys, tmp_path, given):
    file = tmp_path / "stage.yaml"
    places = "outputs: {checkpoint: a, report: b, metrics: c}"
    others = "prompts: p, embeddings: e, text_features: t"
    file.write_text(f"workspace: {tmp_path}\nconfig: {{}}\ninputs: {{models: {given}, {others}}}\n{places}\n")
    assert "inputs.models is" in refused(capsys, "stage", "train", "--config", str(file))


def test_ratings_from_a_pipe_or_a_device(tmp_path):
    os.mkfifo(tmp_path / "ann.json")
    for file in (tmp_path / "ann.json", Path("/dev/zero")):
        with pytest.raises(InputError, match="is a pipe, a device or a socket"):
            table._read(file)
