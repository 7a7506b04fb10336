"""A server on this machine that plays the API of Kubeflow Pipelines, for tests with the real client.

It refuses what the real one refuses: fields of a package that its version does not know, parameters of another type,
cron expressions beyond its library's grammar; and packages whose pods Kubernetes would not take.
"""

import http.server
import json
import urllib.parse

import kubeflow_pods
import kubeflow_specs
from kubeflow_cron import refused_cron

ROOT = "/apis/v2beta1/"
TOKEN = "planted-token-4711"
STARTED = {"run_id": "run-1", "state": "PENDING", "created_at": "2026-01-01T00:00:00Z"}


# What a value of a parameter must be (validatePipelineJobInputs).
TYPES = {
    "STRING": str,
    "NUMBER_INTEGER": (int, float),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": bool,
    "LIST": list,
    "STRUCT": dict,
}


class Api(http.server.ThreadingHTTPServer):
    """What was asked, and what is answered; ``answers`` replace the usual ones, each used once but for the last."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []  # (method, path, query, headers, body)
        self.experiments = []
        self.states = ["SUCCEEDED"]
        self.schedules = []
        self.answers = {}
        self.version = "2.17.0"
        self.specs = kubeflow_specs.installed()

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
            # As the UI's server answers, which stands before the API; the API itself says tag_name (main.go).
            return 200, {"multi_user": False, "apiServerMultiUser": False, "apiServerTagName": self.version}
        if path == "experiments" and method == "GET":
            name = json.loads(query["filter"][0])["predicates"][0]["stringValue"]
            return 200, {"experiments": [one for one in self.experiments if one["display_name"] == name]}
        if path == "experiments":
            self.experiments.append(body | {"experiment_id": f"experiment-{len(self.experiments)}"})
            return 200, self.experiments[-1]
        if path in ("runs", "recurringruns") and method == "POST" and (said := self.refused(body)):
            return 400, {"error": said, "code": 3, "message": said}
        if path == "runs":
            return 200, body | STARTED
        if path == "runs/run-1":
            state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            return 200, STARTED | {"state": state, "error": {"code": 2, "message": f"train gave up\n{TOKEN}"}}
        if path == "recurringruns" and method == "GET":
            return 200, self.schedule_page(query)
        if path == "recurringruns":
            made = {"recurring_run_id": f"schedule-{len(self.schedules) + 1}", "status": "ENABLED"}
            self.schedules.append(body | made)
            return 200, self.schedules[-1]
        if path.startswith("recurringruns/"):
            return self.schedule_action(method, *path.removeprefix("recurringruns/").partition(":")[::2])
        return 404, {"message": f"no {path}"}

    def refused(self, body):
        """Why a run or a schedule is not taken, or None."""
        package = body["pipeline_spec"]
        spec, platform = package["pipeline_spec"], package["platform_spec"]
        if said := self.specs.refused(spec, platform) or kubeflow_pods.refused(spec, platform):
            return said
        known = spec["root"]["inputDefinitions"]["parameters"]
        for name, value in body["runtime_config"]["parameters"].items():
            if name not in known:
                return f"parameter {name} is not one of the pipeline's"
            if not isinstance(value, TYPES[known[name]["parameterType"]]):
                return f"input parameter {name} requires type {known[name]['parameterType']}"
        cron = body.get("trigger", {}).get("cron_schedule", {}).get("cron")
        return (
            refused_cron(cron) and f"Schedule cron is not a valid cron format: {refused_cron(cron)}" if cron else None
        )

    def schedule_page(self, query):
        """One schedule a page, whatever size was asked for."""
        number = int(query.get("page_token", ["0"])[0] or 0)
        more = {"next_page_token": str(number + 1)} if number + 1 < len(self.schedules) else {}
        return {"recurringRuns": self.schedules[number : number + 1]} | more

    def schedule_action(self, method, identity, action):
        """Delete it, or set its state."""
        found = [one for one in self.schedules if one["recurring_run_id"] == identity]
        if not found:
            return 404, {"message": f"no schedule {identity}"}
        if method == "DELETE":
            self.schedules.remove(found[0])
        else:
            found[0]["status"] = {"disable": "DISABLED", "enable": "ENABLED"}[action]
        return 200, {}


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

    do_POST = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_):
        pass
