"""Whether a process of this very machine is still there: by its id and by when it started, as ids are used again."""

import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any

DAY = 24 * 3600.0  # seconds


def identity(pid: int | None = None) -> dict[str, Any]:
    """What tells a process from every other one: machine since its start, namespace of ids, id, start; {} if unknown.

    Containers of one machine share its start, and each counts its processes for itself: hence the namespace.
    """
    if sys.platform != "linux":
        return {}
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        number = os.getpid() if pid is None else pid
        return {
            "boot": boot,
            "ids": str(Path("/proc/self/ns/pid").readlink()),
            "pid": number,
            "started": _started(number),
        }
    except OSError:
        return {}


def mark() -> str:
    """A name of this process for what it makes and may leave when it is killed: machine, id, start."""
    own = identity()
    if not own:
        return f"-{os.getpid()}-"
    machine = hashlib.sha256(f"{own['boot']} {own['ids']}".encode()).hexdigest()[:8]
    return f"{machine}-{own['pid']}-{own['started']}"


def is_left(path: Path, marked: str) -> bool:
    """Whether what bears the name ``marked`` in its own was left by a process that has ended.

    One of this machine is looked for; what another machine has made, or nobody in particular, is left after a day.
    """
    machine, _, rest = marked.partition("-")
    pid, _, started = rest.partition("-")
    own = identity()
    if own and pid.isdigit() and machine == mark().partition("-")[0]:
        return is_gone(own | {"pid": int(pid), "started": started})
    try:
        return time.time() - path.lstat().st_mtime > DAY
    except OSError:
        return False


def is_gone(other: Any) -> bool:
    """Whether the process of that identity has ended for certain; False where it cannot be known from here."""
    own = identity()
    if not own or not isinstance(other, dict) or any(other.get(name) != own[name] for name in ("boot", "ids")):
        return False
    try:
        return _started(int(other["pid"])) != other["started"]
    except FileNotFoundError:
        return True
    except (OSError, KeyError, ValueError, TypeError):
        return False


def _started(pid: int) -> str:
    """Ticks since the machine's start; the process's name may hold anything, so it is read from behind it."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return "gone" if fields[0] in "ZX" else fields[19]
