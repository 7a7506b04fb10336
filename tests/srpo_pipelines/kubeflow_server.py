"""A server on this machine that plays the API of Kubeflow Pipelines, for tests with the real client."""

import http.server
import json
import urllib.parse

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
        self.schedules = []
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
        if path == "recurringruns" and method == "GET":
            return 200, self.schedule_page(query)
        if path == "recurringruns":
            made = {"recurring_run_id": f"schedule-{len(self.schedules) + 1}", "status": "ENABLED"}
            self.schedules.append(body | made)
            return 200, self.schedules[-1]
        if path.startswith("recurringruns/"):
            return self.schedule_action(method, *path.removeprefix("recurringruns/").partition(":")[::2])
        return 404, {"message": f"no {path}"}

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
