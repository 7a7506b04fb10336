"""A lease on a shared volume: one holder at a time, and no dead one for ever. Needs nothing of the file system but
`link` and `rename`, so it works on NFS and across machines whose clocks differ.

The holder rewrites a counter in its file while it works. Whoever waits reads the file (opening it makes NFS ask the
server) and takes the lease over once the content has stood still for a lifetime by the waiter's own clock. A holder of
this machine that has ended is known at once.

A lease saves double work; it is not what keeps data whole. A holder that was stopped for longer than a lifetime may
come back to find another one at work, so what is published under a lease must be verified and appear by one rename.
"""

import contextlib
import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from srpo.core.execution.alive import identity, is_gone

LIFETIME = 60.0  # seconds without a sign of life after which a holder counts as dead
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class LeaseLostError(OSError):
    """The lease was taken over: this process did not show a sign of life in time."""


class Lease:
    """A lease that is held; ``check`` before anything that only its holder should do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.token = uuid.uuid4().hex
        self.beats = 0
        self.process = identity()
        self.lost = False
        self._ended = threading.Event()

    def check(self) -> None:
        """Raise :class:`LeaseLostError` when another process holds it now."""
        if self.lost:
            raise LeaseLostError(f"the lease {self.path} was taken over: this process was silent for too long")

    def content(self) -> bytes:
        """What the file holds: who it is, and a counter that moves while they work; always of one length."""
        holder = f"{socket.gethostname()}, process {os.getpid()}"
        content = {"token": self.token, "beats": f"{self.beats:012d}", "holder": holder, "process": self.process}
        return json.dumps(content).encode()

    def beat(self) -> None:
        """Show a sign of life."""
        try:
            with self.path.open("r+b") as file:
                if token_of(file.read()) != self.token:
                    self.lost = True
                    return
                self.beats += 1
                file.seek(0)
                file.write(self.content())
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError:
            self.lost = True
        except OSError:
            pass  # a volume that is away for a moment: the next beat may come through

    def keep_alive(self, every: float) -> None:
        """Beat until the lease is given back or lost: the body of a thread."""
        while not self._ended.wait(every) and not self.lost:
            self.beat()

    def give_back(self) -> None:
        """End it, unless it is another's by now."""
        self._ended.set()
        with contextlib.suppress(OSError):
            if token_of(read(self.path) or b"") == self.token:
                self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def lease(
    path: Path, waiting: Callable[[str], None] = lambda holder: None, lifetime: float | None = None
) -> Iterator[Lease]:
    """Hold the lease at ``path``; waits for another holder until it ends or shows no sign of life for ``lifetime`` s.

    ``waiting`` hears who holds it, again and again.
    """
    lifetime = LIFETIME if lifetime is None else lifetime
    path.parent.mkdir(parents=True, exist_ok=True)
    held = Lease(path)
    _acquire(held, waiting, lifetime)
    thread = threading.Thread(target=held.keep_alive, args=(lifetime / 6,), daemon=True)
    thread.start()
    try:
        yield held
    finally:
        held.give_back()
        thread.join()


def _acquire(held: Lease, waiting: Callable[[str], None], lifetime: float) -> None:
    last, since = b"", time.monotonic()
    while not _create(held):
        seen = read(held.path)
        if seen is None:
            continue
        if seen != last:
            last, since = seen, time.monotonic()
        if is_gone(_field(seen, "process")) or time.monotonic() - since > lifetime:
            _bury(held, seen)
            last = b""
            continue
        waiting(holder_of(seen))
        time.sleep(min(1.0, lifetime / 10))


def _create(held: Lease) -> bool:
    """Make the file, with its content from the first moment, unless there is one."""
    own = held.path.with_name(f".{held.path.name}.{held.token}")
    try:
        own.write_bytes(held.content())
        os.link(own, held.path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        try:
            with held.path.open("xb") as file:
                file.write(held.content())
        except FileExistsError:
            return False
    finally:
        own.unlink(missing_ok=True)
    return True


def _bury(held: Lease, dead: bytes) -> None:
    """Take the file of a dead holder away; of several waiters one succeeds."""
    grave = held.path.with_name(f".{held.path.name}.{held.token}.dead")
    try:
        held.path.rename(grave)
    except FileNotFoundError:
        return
    if token_of(read(grave) or b"") != token_of(dead):  # another waiter was faster: this is its new lease
        with contextlib.suppress(OSError):
            os.link(grave, held.path)
    grave.unlink(missing_ok=True)


def read(path: Path) -> bytes | None:
    """The content of a lease, or None when there is none."""
    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return None
        raise


def token_of(content: bytes) -> str:
    """Whose lease ``content`` is; "" where it cannot be read."""
    return str(_field(content, "token") or "")


def holder_of(content: bytes) -> str:
    """The holder in a reader's words."""
    return str(_field(content, "holder") or "an unknown process")


def _field(content: bytes, name: str) -> Any:
    try:
        return json.loads(content)[name]
    except (ValueError, KeyError, TypeError):
        return None
