"""Whether a process of this very machine is still there: by its id and by when it started, as ids are used again."""

import os
import sys
from pathlib import Path
from typing import Any


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
