"""A server on the loopback that plays the hub: the routes that the real client asks, and faults in their place.

Large files are answered by a redirect to a second server (another origin, as a CDN is).
"""

import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse
from collections import deque

import numpy as np
from safetensors.numpy import save

LARGE = 2048  # bytes from which a file is "in LFS"
PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please log in</body></html>"


class FakeHub:
    """``repos``: ``{"org/name": {"file": bytes}}``, each at ``commits["org/name"]``; ``gated`` ones want ``token``.

    ``faults["file"]`` is a queue of what happens instead of an answer: ``(status, headers)``, ``("cut", bytes)``,
    ``("hang", event)``, ``"page"`` or ``"other"`` (as many bytes, but others).
    """

    def __init__(self):
        self.repos: dict[str, dict[str, bytes]] = {}
        self.commits: dict[str, str] = {}
        self.gated: set[str] = set()
        self.token = "hf_secret_of_the_test"
        self.faults: dict[str, deque] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []  # "GET hub", path, headers
        self.hub = self._serve("hub")
        self.cdn = self._serve("cdn")

    def add(self, repo, files, commit="c" * 40):
        self.repos[repo], self.commits[repo] = dict(files), commit

    def fault(self, name, *faults):
        self.faults.setdefault(name, deque()).extend(faults)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.hub.server_address[1]}"

    def got(self, name, server=""):
        """The headers of each GET of a file, in order; of small files from the hub, of large ones from the CDN."""
        large = any(len(files.get(name, b"")) >= LARGE for files in self.repos.values())
        wanted = server or ("cdn" if large else "hub")
        return [
            headers for what, path, headers in self.requests if what == f"GET {wanted}" and path.endswith(f"/{name}")
        ]

    def close(self):
        for server in (self.hub, self.cdn):
            server.shutdown()
            server.server_close()

    def _serve(self, kind):
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                path = urllib.parse.unquote(self.path.partition("?")[0])
                fake.requests.append((f"GET {kind}", path, {k.lower(): v for k, v in self.headers.items()}))
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    fake.answer(self, kind, path)

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def answer(self, handler, kind, path):
        if path.startswith("/api/models/"):
            repo, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            name = "listing"
        else:
            repo, _, rest = path.strip("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
        queue = self.faults.get(name)
        fault = None
        if queue and not (kind == "hub" and name != "listing" and len(self.repos[repo].get(name, b"")) >= LARGE):
            fault = queue.popleft()
        if isinstance(fault, tuple) and isinstance(fault[0], int):
            return send(handler, fault[0], b"{}", fault[1])
        if fault == "page":
            return send(handler, 200, PAGE, {"Content-Type": "text/html"})
        if repo not in self.repos:
            return send(handler, 404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if kind == "hub" and repo in self.gated and handler.headers.get("Authorization") != f"Bearer {self.token}":
            return send(handler, 401, b"{}", {"X-Error-Code": "GatedRepo"})
        if revision not in ("main", self.commits[repo]):
            return send(handler, 404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if name == "listing":
            return send(handler, 200, self.listing(repo), {"Content-Type": "application/json"})
        data = self.repos[repo].get(name)
        if data is None:
            return send(handler, 404, b"{}", {"X-Error-Code": "EntryNotFound"})
        if kind == "hub" and len(data) >= LARGE:
            target = (
                f"http://127.0.0.1:{self.cdn.server_address[1]}/{repo}/resolve/{revision}/{urllib.parse.quote(name)}"
            )
            return send(handler, 302, b"", {"Location": target})
        return self.send_file(handler, data, fault)

    def listing(self, repo):
        siblings = []
        for name, data in self.repos[repo].items():
            entry = {"rfilename": name, "size": len(data)}
            entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            if len(data) >= LARGE:
                digest = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        return json.dumps({"id": repo, "sha": self.commits[repo], "siblings": siblings}).encode()

    def send_file(self, handler, data, fault):
        start, status, headers = 0, 200, {"Accept-Ranges": "bytes"}
        wanted = handler.headers.get("Range")
        if wanted:
            start, status = int(wanted.removeprefix("bytes=").split("-")[0]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        if fault == "other":
            body = bytes(byte ^ 1 for byte in body)
        handler.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            handler.send_header(key, value)
        handler.end_headers()
        if isinstance(fault, tuple):
            what, how = fault
            handler.wfile.write(body[: len(body) // 2])
            handler.wfile.flush()
            if what == "hang":  # until the test lets go
                how.wait(60)
            handler.close_connection = True
            handler.connection.close()
            return
        handler.wfile.write(body)


def send(handler, status, body, headers):
    handler.send_response(status)
    for key, value in {**headers, "Content-Length": str(len(body))}.items():
        handler.send_header(key, value)
    handler.end_headers()
    handler.wfile.write(body)


def reward_files(seed=0, size=20_000):
    """A model of small files and two large ones, and of what must not be kept."""
    numbers = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    return {
        "config.json": b'{"model_type": "clip"}',
        "preprocessor_config.json": b'{"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}',
        "model.safetensors": save({"weight": numbers}),
        "part/more.safetensors": save({"weight": numbers[:4000].copy()}),
        "pytorch_model.bin": b"a pickle" * 1000,
        ".gitattributes": b"*.bin filter=lfs",
    }
