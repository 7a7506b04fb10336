"""`srpo submit` with the real client, against a server on this machine that plays the API of Kubeflow Pipelines."""

import json
import shlex
import socket

import ir
import pytest
from click.testing import CliRunner
from google.protobuf import json_format
from kfp.cli.cli import cli
from kfp.pipeline_spec import pipeline_spec_pb2
from kubeflow_server import TOKEN

from srpo_pipelines.cli import main
from srpo_pipelines.commands.submit import epilog

pytestmark = pytest.mark.usefixtures("alone")


def submit(capsys, server, *arguments):
    """Exit code, standard output and standard error."""
    code = main(["submit", "--host", server if isinstance(server, str) else server.url, *arguments])
    shown = capsys.readouterr()
    assert TOKEN not in shown.out + shown.err
    return code, shown.out, shown.err


def failed(capsys, server, *arguments):
    """The one line on standard error of a submission that failed with exit code 1."""
    code, _, error = submit(capsys, server, *arguments)
    assert code == 1, error
    assert error.startswith("srpo: ")
    assert error.count("\n") == 1, error
    return error


def test_the_run_that_was_asked_for_is_created(capsys, server):
    code, shown, error = submit(
        capsys,
        server,
        *("--recipe", "flux1-dev-hpsv2", "--set", "steps=40", "--set", "learning_rate=1e-6", "--set", "prompts=1"),
        *("--set", "train.margin=1", "--set", "node_selector={pool: big}", "--set", "tolerations=[{key: gpu}]"),
        *("--experiment", "first", "--run-name", "mine", "--service-account", "srpo-runner"),
        *("--pipeline-root", "s3://bucket/root"),
    )
    assert (code, error) == (0, "")
    assert shown == f"run run-1\n{server.url}/#/runs/details/run-1\n"
    run = server.posted("runs")
    assert (run["display_name"], run["service_account"]) == ("mine", "srpo-runner")
    assert run["experiment_id"] == server.experiments[0]["experiment_id"]
    assert server.experiments[0]["display_name"] == "first"
    assert run["runtime_config"]["pipeline_root"] == "s3://bucket/root"
    given = run["runtime_config"]["parameters"]
    expected = {
        "model": "black-forest-labs/FLUX.1-dev",
        "steps": 40,
        "learning_rate": 1e-6,
        "prompts": "1",
        "gpus": 8,
        "node_selector": {"pool": "big"},
        "tolerations": [{"key": "gpu"}],
        "workspace": "/workspace",
    }
    for name, value in expected.items():
        assert given[name] == value, name
        assert type(given[name]) is type(value), name
    assert given["overrides"]["train"]["margin"] == 1
    assert given["overrides"]["prepare_prompts"]["held_out_prompts"] == 3200


def test_the_package_is_the_one_that_compile_writes(capsys, server, tmp_path):
    assert submit(capsys, server, "--recipe", "qwen-image", "--set", "seed=7")[0] == 0
    assert main(["compile", "--server", "2.17", "--recipe", "qwen-image", "--output", str(tmp_path)]) == 0
    sent = server.posted("runs")["pipeline_spec"]
    spec, platform = ir.load(tmp_path / "align.yaml")
    messages = {"pipeline_spec": pipeline_spec_pb2.PipelineSpec, "platform_spec": pipeline_spec_pb2.PlatformSpec}
    for (key, message), written in zip(messages.items(), (spec, platform), strict=True):
        assert json_format.ParseDict(sent[key], message()) == json_format.ParseDict(written, message()), key
    assert "enableCache" not in json.dumps(sent)


def test_an_experiment_that_exists_is_used_in_its_namespace(capsys, server):
    server.experiments.append({"display_name": "first", "experiment_id": "known"})
    assert submit(capsys, server, "--experiment", "first", "--namespace", "team")[0] == 0
    assert server.posted("runs")["experiment_id"] == "known"
    assert server.posted("runs")["display_name"].startswith("align demo 2")
    (asked,) = [query for method, path, query, _, _ in server.requests if (method, path) == ("GET", "experiments")]
    assert asked["namespace"] == ["team"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "learning_rte=0"], "did you mean 'learning_rate'?"),
        (["--set", "train.margin=[]"], "train.margin is []"),
        (["--set", "steps=0"], "steps is 0"),
        (["--set", "tolerations=[{day: 2026-01-01}]"], "tolerations is"),
        (["--set", "tolerations=[{weight: .inf}]"], "tolerations is"),
        (["--recipe", "dmeo"], "did you mean 'demo'?"),
    ],
)
def test_bad_input_is_refused_with_no_request_at_all(capsys, server, arguments, said):
    code, shown, error = submit(capsys, server, *arguments)
    assert (code, shown, error.count("\n")) == (2, "", 1)
    assert said in error
    assert server.requests == []


@pytest.mark.parametrize(
    "host", ["kubeflow", "ftp://host", "http://", "http://host:port", "http://h/?a=1", "http://a b"]
)
def test_a_host_that_is_no_address_is_refused(capsys, host):
    code, _, error = submit(capsys, host)
    assert code == 2
    assert error.startswith("srpo: --host is ")


def test_a_password_in_the_host_is_refused_and_not_shown(capsys):
    code, _, error = submit(capsys, f"https://me:{TOKEN}@host")
    assert code == 2
    assert "KF_PIPELINES_TOKEN" in error


@pytest.mark.parametrize(
    "where", [("GET", "healthz"), ("GET", "experiments"), ("POST", "experiments"), ("POST", "runs")]
)
def test_an_error_of_the_api_is_one_line(capsys, server, monkeypatch, where):
    monkeypatch.setenv("KF_PIPELINES_TOKEN", TOKEN)
    server.answers[where] = [(500, {"error": "x", "code": 13, "message": f"the database\n is gone\x1b[2J {TOKEN}"})]
    error = failed(capsys, server)
    assert error == f"srpo: {server.url} refused: 500 Internal Server Error: the database is gone [2J ***\n"
    assert len([one for one in server.requests if one[:2] == where]) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_says_where_a_token_is_read_from(capsys, server, status):
    server.answers["GET", "healthz"] = [(status, "<html>log in</html>")]
    error = failed(capsys, server)
    assert f"refused: {status} " in error
    assert "KF_PIPELINES_TOKEN" in error
    assert "<html>" not in error


def test_a_login_page_is_not_taken_for_the_api(capsys, server):
    for where in [("GET", "healthz"), ("GET", "experiments"), ("POST", "experiments"), ("POST", "runs")]:
        server.answers[where] = [(200, "<html>log in</html>")]
    assert "does not seem to be the API" in failed(capsys, server)


def test_a_refused_connection_is_one_line(capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        assert failed(capsys, url) == f"srpo: {url} cannot be reached: Connection refused\n"


def test_a_token_is_sent_and_never_shown(capsys, server, monkeypatch, tmp_path):
    monkeypatch.setenv("KF_PIPELINES_TOKEN", f"{TOKEN}\n")
    assert submit(capsys, server, "--wait")[0] == 0
    assert {headers.get("authorization") for *_, headers, _ in server.requests} == {f"Bearer {TOKEN}"}

    server.requests.clear()
    monkeypatch.delenv("KF_PIPELINES_TOKEN")
    (tmp_path / "token").write_text(f"{TOKEN}2\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    assert submit(capsys, server)[0] == 0
    assert {headers.get("authorization") for *_, headers, _ in server.requests} == {f"Bearer {TOKEN}2"}


def test_a_token_that_cannot_be_one_is_refused_and_not_shown(capsys, server, monkeypatch, tmp_path):
    monkeypatch.setenv("KF_PIPELINES_TOKEN", f"Bearer {TOKEN}")
    assert "KF_PIPELINES_TOKEN holds" in submit(capsys, server)[2]
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "gone"))
    code, _, error = submit(capsys, server)
    assert code == 2
    assert "KF_PIPELINES_SA_TOKEN_PATH is" in error
    assert server.requests == []


def test_waiting_shows_each_state_once_and_outlives_a_broken_answer(capsys, server):
    server.states = ["PENDING", "RUNNING", "RUNNING", "SUCCEEDED"]
    usual = server.answer

    def answer(method, path, query, body):
        looks = [one for one in server.requests if one[1] == "runs/run-1"]
        return (503, {"message": "later"}) if len(looks) in (2, 3) else usual(method, path, query, body)

    server.answer = answer
    code, shown, error = submit(capsys, server, "--wait")
    assert (code, error) == (0, "")
    assert shown.splitlines()[2:] == ["pending", "running", "succeeded"]


@pytest.mark.parametrize("state", ["FAILED", "CANCELED"])
def test_waiting_for_a_run_that_fails_exits_with_1(capsys, server, monkeypatch, state):
    monkeypatch.setenv("KF_PIPELINES_TOKEN", TOKEN)
    server.states = ["RUNNING", state]
    assert failed(capsys, server, "--wait") == f"srpo: the run ended as {state.lower()}: train gave up ***\n"


@pytest.mark.parametrize(("status", "looks"), [(503, 4), (404, 1)])
def test_waiting_ends_when_nothing_is_heard(capsys, server, status, looks):
    server.answers["GET", "runs/run-1"] = [(status, {"message": "nothing"})]
    error = failed(capsys, server, "--wait")
    assert f"refused: {status} " in error
    assert "the run itself goes on" in error
    assert len([one for one in server.requests if one[1] == "runs/run-1"]) == looks


@pytest.mark.parametrize(("tag", "lifetime"), [("2.15.2", False), ("2.17.0", True), ("", False)])
def test_the_package_is_one_that_the_server_knows(capsys, server, tag, lifetime):
    server.version = tag
    assert submit(capsys, server)[0] == 0
    kubernetes = server.posted("runs")["pipeline_spec"]["platform_spec"]["platforms"]["kubernetes"]
    assert ("pipelineConfig" in kubernetes) == lifetime


def test_the_api_itself_says_its_version_by_another_name_than_the_ui(capsys, server):
    server.answers["GET", "healthz"] = [(200, {"multi_user": False, "tag_name": "2.14.6"})]
    assert "is Kubeflow Pipelines 2.14.6" in submit(capsys, server)[2]


def test_a_server_that_is_too_old_is_refused_before_anything_is_made(capsys, server):
    server.version = "2.5.0"
    code, _, error = submit(capsys, server)
    assert code == 2
    assert "is Kubeflow Pipelines 2.5.0: it must be one of 2.15" in error
    assert not [one for one in server.requests if one[0] == "POST"]
    assert submit(capsys, server, "--server", "2.15")[0] == 0  # whoever knows better


def test_the_command_of_kfp_that_help_names_makes_the_same_run(capsys, server, tmp_path):
    server.version = "2.15.0"  # for which a package is compiled where nothing is said
    assert submit(capsys, server, "--set", "steps=40", "--set", "train.margin=0.5")[0] == 0
    run = server.posted("runs")
    server.requests.clear()

    (line,) = [line for line in epilog().splitlines() if line.startswith("  kfp ")]
    assert main(["compile", "--recipe", "demo", "--output", str(tmp_path)]) == 0
    words = {"URL": server.url, "build/align.yaml": str(tmp_path / "align.yaml")}
    arguments = [words.get(word, word) for word in shlex.split(line)[1:]]
    result = CliRunner().invoke(cli, arguments, obj={}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    other = server.posted("runs")
    assert other["pipeline_spec"] == run["pipeline_spec"]
    assert other["display_name"] == "NAME"
    given = other["runtime_config"]["parameters"]
    assert given == {"steps": 40, "overrides": {"train": {"margin": 0.5}}}
    assert type(given["steps"]) is int
