"""The command line: bad input is refused before anything starts, and help says what there is."""

import dataclasses
import errno
import os
import subprocess
import sys
import time

import pytest
import yaml
from fakes import Project

from srpo.configure.parameters import STAGES, Parameters, stage_configs
from srpo.core.contracts.config import from_mapping
from srpo.train.run import Workstation
from srpo_pipelines import processes
from srpo_pipelines.cli import COMMANDS, main
from srpo_pipelines.commands.stage import read
from srpo_pipelines.settings import load_recipe, parameters, recipe_names
from srpo_pipelines.watch import progress_of


def refused(capsys, *arguments):
    """What `srpo` said, having refused with exit code 2."""
    assert main(list(arguments)) == 2
    return capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("learning_rte=0", "there is no parameter 'learning_rte': did you mean 'learning_rate'?"),
        ("margin=0.5", "there is no parameter 'margin': did you mean train.margin?"),
        ("train.margn=0.5", "train has no setting 'margn': did you mean 'margin'?"),
        ("trian.margin=0.5", "there is no stage 'trian': did you mean 'train'?"),
        ("steps=-1", "steps is -1"),
        ("steps=many", "steps is 'many': it must be a whole number"),
        ("steps=", "--set steps is '': it must be a whole number"),
        ("train.trackers=", "--set train.trackers is '': it must be a list"),
        ("learning_rate=nan", "learning_rate is nan"),
        ("train.margin=[", "it is not valid YAML"),
        ("train.trackers=[wandd]", "train.trackers[0] is 'wandd': it must be one of 'aim', "),
        ("sample_shards=0", "sample_shards is 0"),
        ("gpu_type=gpu", "gpu_type is 'gpu': it must be a resource of nodes, as nvidia.com/gpu"),
        ("num_nodes=0", "num_nodes is 0"),
        ("num_nodes=2", "num_nodes is 2: it must be 1 on one machine"),
        ("tolerations=7", "tolerations is 7"),
        ("steps", "it must be key=value"),
        ("overrides=[1]", "parameters.overrides is [1]: it must be a mapping"),
        ("overrides={train: 5}", "parameters.overrides.train is 5: it must be a mapping"),
        ("tolerations={pool: big}", "it must be a list"),
        ("resolution=33", "train.resolution is 33: it must be a multiple of 8"),
        ("sample.resolution=1020", "sample.resolution is 1020: it must be a multiple of 8"),
        ('evaluate.gates=["held_uot.delta > 0"]', "no 'held_uot' is measured: did you mean 'held_out'?"),
        ("evaluate.gates=[reward_2_srp.delta > 0]", "but this run measures no 'reward_2_srp': did you mean "),
        ("evaluate.gates=[held_out.hpsv3.delta > 0]", "but this run measures no 'held_out.hpsv3': did you mean "),
        ("prompts=nowhere.txt", "prompt source 'nowhere.txt' does not exist"),
        ("gpus=99", "train.processes is 2 with gpus 99"),
        ("train.margin=null", "--set train.margin is 'null': it must be a number"),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(capsys, tmp_path, given, said):
    assert said in refused(capsys, "run", "--output", str(tmp_path / "out"), "--set", given)
    assert not (tmp_path / "out").exists()


def test_more_gpus_than_there_are_are_refused_before_anything_is_fetched(capsys, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n")
    sets = ("--set", f"prompts={prompts}")
    said = refused(capsys, "run", "--output", str(tmp_path / "out"), "--recipe", "flux1-dev-hpsv2", *sets)
    assert said == "srpo: gpus is 8: it must be at most 1, the GPUs that torch finds here"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["run", "compile"])
def test_output_that_may_not_be_written_is_refused(capsys, tmp_path, monkeypatch, command):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # who runs the tests may be root
    said = refused(capsys, command, "--output", str(tmp_path))
    assert said == f"srpo: --output is {str(tmp_path)!r}: it must be a folder that may be written"


def test_unknown_recipe_names_the_known(capsys, tmp_path):
    said = refused(capsys, "run", "--output", str(tmp_path / "out"), "--recipe", "dmeo")
    assert said == "srpo: there is no recipe 'dmeo': did you mean 'demo'?"


@pytest.mark.parametrize("command", ["run", "compile"])
@pytest.mark.parametrize("below", ["", "deeper"])
def test_output_that_is_a_file_is_refused(capsys, tmp_path, command, below):
    (tmp_path / "file").write_text("mine")
    assert "must be a folder" in refused(capsys, command, "--output", str(tmp_path / "file" / below))
    assert (tmp_path / "file").read_text() == "mine"


def test_values_are_read_as_yaml_and_text_stays_text():
    found = parameters(
        None,
        [
            "learning_rate=3e-5",
            "prompts=1",
            "train.k_denoise=[0.1, 0.2]",
            "overrides={train: {margin: 1}}",
            "train.seed=7",
            'tolerations=[{"key": "gpu", "operator": "Exists"}]',
            "node_selector={pool: big}",
        ],
    )
    assert found.learning_rate == 3e-5
    assert found.prompts == "1"
    assert found.overrides == {"train": {"k_denoise": [0.1, 0.2], "margin": 1, "seed": 7}}
    assert found.tolerations == [{"key": "gpu", "operator": "Exists"}]
    assert found.node_selector == {"pool": "big"}


@pytest.mark.parametrize("recipe", recipe_names())
def test_recipes_hold_together_and_state_only_what_differs(recipe):
    parameters(recipe)
    for name, value in load_recipe(recipe).items():
        if name != "overrides":
            assert getattr(Parameters(), name) != value, name
    for stage, settings in load_recipe(recipe).get("overrides", {}).items():
        for name, value in settings.items():
            default = dataclasses.asdict(STAGES[stage]())[name]
            assert default != value, f"{stage}.{name}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert f"example: srpo {command}" in capsys.readouterr().out


def test_help_documents_every_parameter(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    shown = capsys.readouterr().out
    for field in dataclasses.fields(Parameters):
        assert f"  {field.name} " in shown
        assert field.metadata["description"] in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_nothing_heavy(command):
    code = (
        "import sys, srpo_pipelines.cli as cli\n"
        f"try: cli.main(['{command}', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'kfp', 'numpy', 'pyarrow', 'yaml'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"


def test_stage_lists_its_settings(capsys):
    assert main(["stage", "train", "--settings"]) == 0
    shown = capsys.readouterr().out
    assert f"margin = {STAGES['train']().margin!r}  (" in shown
    assert "\n# The optimiser: AdamW, constant rate, full parameters.\nlearning_rate = 5e-06  (a number)\n" in shown
    assert "\nprocesses = 1  (a whole number)  # ranks: the GPUs of all pods, or processes on a CPU\n" in shown


def test_a_configuration_under_a_recipe_has_the_comments_of_the_code(capsys):
    assert main(["stage", "evaluate", "--recipe", "demo", "--settings"]) == 0
    shown = capsys.readouterr().out
    assert "\n  resamples: 2000  # sign flips of the tests\n" in shown
    assert "all must hold for `passed`.\n  gates:\n  - srp.delta.low > 0\n" in shown
    assert "\n\n  # The page.\n  grid_pairs: 36  # " in shown


@pytest.mark.parametrize("recipe", recipe_names())
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_shows_its_whole_configuration_under_a_recipe(capsys, tmp_path, recipe, stage):
    assert main(["stage", stage, "--recipe", recipe, "--settings"]) == 0
    file = tmp_path / "stage.yaml"
    file.write_text(capsys.readouterr().out + "workspace: ws\n")
    expected = stage_configs(parameters(recipe))[stage]
    found = from_mapping(STAGES[stage], read(file)["config"], stage)
    assert dataclasses.asdict(found) == expected
    assert sorted(read(file)["config"]) == sorted(expected)


def test_the_trainer_alone_takes_what_the_stage_shows(capsys):
    assert main(["stage", "train", "--recipe", "flux1-dev-hpsv2", "--settings"]) == 0
    given = yaml.safe_load(capsys.readouterr().out) | {"workspace": "ws", "output": "out", "inputs": {"models": "m"}}
    job = from_mapping(Workstation, given, "train.yaml")
    assert from_mapping(STAGES["train"], job.config, "train").learning_rate == 5e-6


def test_stage_shows_a_recipe_and_runs_a_file(capsys):
    assert "it goes with --settings" in refused(capsys, "stage", "train", "--recipe", "demo", "--config", "x.yaml")
    assert "did you mean 'demo'?" in refused(capsys, "stage", "train", "--recipe", "dmeo", "--settings")


def test_recipes_are_listed_with_one_whole_sentence(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert "demo                 The embedded run: the tiny model, in minutes on two cores." in lines
    assert all(line.endswith(".") for line in lines)


def test_stage_runs_from_a_file(tmp_path):
    project = Project(tmp_path)
    file = tmp_path / "stage.yaml"
    given = {"workspace": "ws", "config": {}, "outputs": {"prompts": "made/prompts", "report": "made/report.html"}}
    file.write_text(yaml.safe_dump(given))
    code, shown = project.srpo("stage", "prepare_prompts", "--config", str(file))
    assert code == 0, shown
    assert f"result: {tmp_path / 'ws/stages/prepare_prompts'}/" in shown
    assert (tmp_path / "made/prompts/content.json").is_file()
    assert (tmp_path / "made/report.html").is_file()

    file.write_text(yaml.safe_dump(given | {"config": {"colum": 1}}))
    code, shown = project.srpo("stage", "prepare_prompts", "--config", str(file))
    assert code == 2
    last = shown.strip().splitlines()[-1]
    assert last == "srpo: prepare_prompts: prepare_prompts has no setting 'colum': did you mean 'column'?"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("workspace: ws\nconfg: {}", "did you mean 'config'?"),
        ("config: {}", "workspace is None"),
        ("[1]", "it must be a mapping"),
        ("a: [", "cannot be read as YAML"),
        ("workspace: ws\noutputs: {prompt: x}", "did you mean 'prompts'?"),
    ],
)
def test_stage_refuses_a_bad_file(capsys, tmp_path, text, said):
    file = tmp_path / "stage.yaml"
    file.write_text(text)
    shown = refused(capsys, "stage", "prepare_prompts", "--config", str(file))
    assert said in shown
    assert "\n" not in shown


def test_stage_names_all_inputs_that_are_missing(capsys, tmp_path):
    file = tmp_path / "stage.yaml"
    file.write_text("workspace: ws\ninputs: {samples: x}")
    shown = refused(capsys, "stage", "evaluate", "--config", str(file))
    assert "missing: inputs.checkpoint and inputs.models" in shown


def test_stage_refuses_an_unknown_name(capsys):
    assert "did you mean 'train'?" in refused(capsys, "stage", "trian", "--settings")


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"stage": "train"}', '{"stage": "x", "step": 1, "of": 2}', '{"stage": "train", "step": 1, "of": 0}'],
)
def test_only_progress_lines_are_progress(text):
    assert progress_of(text) is None
    assert progress_of('{"stage": "train", "step": 1, "of": 2, "loss": 1.5}') is not None


def test_workers_whose_parent_has_gone_are_ended_too(monkeypatch):
    monkeypatch.setattr(processes, "GRACE", 0.2)
    worker = "print(flush=True); import time; time.sleep(30)"
    process = subprocess.Popen(
        ["sh", "-c", 'setsid "$0" -c "$1" &', sys.executable, worker],
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        env=os.environ | {"MARK": "this one"},
    )
    process.wait()
    process.stdout.readline()  # the worker itself runs: what only starts a program shows no environment for a moment
    assert processes.marked("MARK=this one")
    processes.stop(process, "MARK=this one")
    assert not processes.marked("MARK=this one")


def test_a_process_that_ends_while_all_are_looked_through_is_passed_over(monkeypatch):
    """Of one that has just gone, the kernel says at times that there is no such process, not that there is no file."""
    stat = os.stat

    def just_gone(path, **how):
        if str(path).startswith("/proc/"):
            raise ProcessLookupError(errno.ESRCH, "No such process", str(path))
        return stat(path, **how)

    with subprocess.Popen(["sleep", "30"], env=os.environ | {"MARK": "that one"}) as process:
        try:
            monkeypatch.setattr(os, "stat", just_gone)
            deadline = time.monotonic() + 60
            while not (found := processes.marked("MARK=that one")) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert found == {process.pid}
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("step", "collapsed", "said"),
    [
        (20, False, ["checkpoint: step 20 of 30"]),
        (10, True, ["checkpoint: step 10 of 30; the guard saw a collapse and stopped the run"]),
        (
            0,
            False,
            ["checkpoint: step 0 of 30; no trained step passed the guard with more style, so the untouched base ships"],
        ),
        (None, None, []),
    ],
)
def test_the_summary_says_which_step_ships(step, collapsed, said):
    from srpo_pipelines.summary import chosen

    assert chosen({"step": step, "steps": 30, "collapsed": collapsed}) == said
