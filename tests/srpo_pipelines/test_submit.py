"""`srpo submit` with the real client, against a server on this machine that plays the API of Kubeflow Pipelines."""

import http.server
import json
import os
import shlex
import socket
import threading
import urllib.parse

import ir
import pytest
from click.testing import CliRunner
from google.protobuf import json_format
from kfp.cli.cli import cli
from kfp.client import Client
from kfp.pipeline_spec import pipeline_spec_pb2

from srpo_pipelines import kubeflow
from srpo_pipelines.cli import main
from srpo_pipelines.commands.submit import epilog

ROOT = "/apis/v2beta1/"
TOKEN = "planted-token-4711"
STARTED = {"run_id": "run-1", "state": "PENDING", "created_at": "2026-01-01T00:00:00Z"}


class Api(http.server.ThreadingHTTPServer):
    """What was asked, and what is answered; ``answers`` replace the usual ones, each used once but for the last."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []  # (method, path, query, headers, body)
        self.experiments = []
        self.states = ["SUCCEEDED"]
        self.answers = {}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def posted(self, what):
        """The one body that was posted to ``what``."""
        (body,) = [body for method, path, _, _, body in self.requests if (method, path) == ("POST", what)]
        return body

    def answer(self, method, path, query, body):
        """(status, content) as the real API gives them."""
        planned = self.answers.get((method, path))
        if planned:
            return planned.pop(0) if len(planned) > 1 else planned[0]
        if path == "healthz":
            return 200, {"multi_user": False}
        if path == "experiments" and method == "GET":
            name = json.loads(query["filter"][0])["predicates"][0]["stringValue"]
            return 200, {"experiments": [one for one in self.experiments if one["display_name"] == name]}
        if path == "experiments":
            self.experiments.append(body | {"experiment_id": f"experiment-{len(self.experiments)}"})
            return 200, self.experiments[-1]
        if path == "runs":
            return 200, body | STARTED
        if path == "runs/run-1":
            state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            return 200, STARTED | {"state": state, "error": {"code": 2, "message": f"train gave up\n{TOKEN}"}}
        return 404, {"message": f"no {path}"}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        path, query = url.path.removeprefix(ROOT), urllib.parse.parse_qs(url.query)
        self.server.requests.append((self.command, path, query, dict(self.headers), body))
        status, content = self.server.answer(self.command, path, query, body)
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(content, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """Nothing of the person who runs the tests: no variables, no stored login; and no waiting."""
    for name in [name for name in os.environ if name.startswith("KF_PIPELINES_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    monkeypatch.setattr(kubeflow, "POLL", 0.01)
    monkeypatch.setattr(kubeflow, "MISSES", 4)


@pytest.fixture
def server():
    with Api() as api:
        thread = threading.Thread(target=api.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield api
        api.shutdown()
        thread.join()


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
    assert main(["compile", "--recipe", "qwen-image", "--output", str(tmp_path)]) == 0
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


def test_the_command_of_kfp_that_help_names_makes_the_same_run(capsys, server, tmp_path):
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
