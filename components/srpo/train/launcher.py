"""No rank outlives the torchrun that started it. Imports next to nothing: a launcher may be killed at once."""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h
VARIABLE = "SRPO_LAUNCHER"  # the process id of torchrun, where this project starts it


def ranks_command(processes: int, shutdown_timeout: int, job: Path) -> list[str]:
    """The command that starts ``processes`` ranks for the job file; it tells them the process id of their launcher."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    torchrun += ["--shutdown-timeout", str(shutdown_timeout), "-m", "srpo.train", "--job", str(job)]
    return ["sh", "-c", f'export {VARIABLE}=$$; exec "$@"', "sh", *torchrun]


def end_with_launcher() -> None:
    """Ask Linux to kill this process when the one that started it dies.

    torchrun puts its ranks into sessions of their own. Were it killed, they would train on, and write to the folder
    that the next try reads.
    """
    if sys.platform == "linux":
        launcher = int(os.environ.get(VARIABLE) or os.getppid())
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:  # it died before this was asked
            os.kill(os.getpid(), signal.SIGKILL)
