"""A proxy between a client and an HTTP server that does to requests what networks do to them."""

import contextlib
import dataclasses
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable

KINDS = ("cut", "deaf", "slow", "500", "503", "truncated")
ERROR = (
    "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
)
CODES = {"500": ("500 Internal Server Error", "InternalError"), "503": ("503 Service Unavailable", "SlowDown")}


@dataclasses.dataclass
class Request:
    """A request that passes: its number since the last :meth:`Proxy.reset`, and its first line."""

    number: int
    line: str


class Proxy:
    """Forwards to ``target``; ``fault`` says for each request which of KINDS befalls it, or None.

    - ``cut``: the connection is closed before the server hears of the request
    - ``deaf``: the server does as told, and its answer is lost
    - ``slow``: the request is held for ``seconds`` before it goes on
    - ``500``, ``503``: answered so, without asking the server
    - ``truncated``: the server gets half of a body, or else the client gets half of the answer
    """

    def __init__(self, target: tuple[str, int], seconds: float = 2.5) -> None:
        self.target, self.seconds = target, seconds
        self.fault: Callable[[Request], str | None] = lambda request: None
        self.requests: list[str] = []
        self.lock = threading.Lock()
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                with contextlib.suppress(OSError):  # one of the two sides has gone
                    proxy.pass_on(self.request)

        class Threads(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 64

        self.server = Threads(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def reset(self, fault: Callable[[Request], str | None] = lambda request: None) -> None:
        """Count from one again, with another ``fault``."""
        with self.lock:
            self.requests, self.fault = [], fault

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def pass_on(self, client: socket.socket) -> None:
        """One request of a connection, and its answer."""
        data = b""
        while b"\r\n\r\n" not in data:
            if not (block := client.recv(1 << 16)):
                return
            data += block
        head, _, body = data.partition(b"\r\n\r\n")
        if re.search(rb"\r\nexpect: *100", head, re.IGNORECASE):
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        wanted = int(length[1]) if length else 0
        while len(body) < wanted:
            if not (block := client.recv(1 << 16)):
                return
            body += block
        with self.lock:
            line = head.split(b"\r\n")[0].decode("latin-1").rpartition(" ")[0]
            self.requests.append(line)
            kind = self.fault(Request(len(self.requests), line))
        if kind == "cut":
            return
        if kind in CODES:
            status, code = CODES[kind]
            text = "" if line.startswith("HEAD") else f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>"
            client.sendall(ERROR.format(status=status, length=len(text), body=text).encode())
            return
        if kind == "slow":
            time.sleep(self.seconds)
        # One connection a request: the answer ends where the connection does.
        head = re.sub(rb"\r\n(connection|expect):[^\r]*", b"", head, flags=re.IGNORECASE) + b"\r\nConnection: close"
        with socket.create_connection(self.target) as server:
            if kind == "truncated" and body:
                server.sendall(head + b"\r\n\r\n" + body[: len(body) // 2])
                return
            server.sendall(head + b"\r\n\r\n" + body)
            answer = b""
            while block := server.recv(1 << 16):
                answer += block
        if kind != "deaf":
            client.sendall(answer[: len(answer) // 2] if kind == "truncated" else answer)
