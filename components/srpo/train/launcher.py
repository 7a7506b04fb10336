"""No rank outlives the torchrun that started it. Imports next to nothing: a launcher may be killed at once."""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h
TORCHRUN = "srpo.train.ranks"  # torchrun itself, with an exit code that says more
VARIABLE = "SRPO_LAUNCHER"  # the process id of torchrun, where this project starts it
TERMINATED = 143  # what a shell reports for SIGTERM
SHUTDOWN = 3600  # seconds that torchrun leaves the ranks to save after SIGTERM; its own 30 may not do for a big model
RESULT, ERROR = "result.json", "error.txt"  # what the ranks leave in the state folder
HEARTBEAT = "heartbeat"  # what the launcher of several nodes leaves there, another content every few seconds


class RanksError(RuntimeError):
    """A rank ended otherwise than well; why, it left in the state folder where it could."""


class RanksKilled(RanksError):  # noqa: N818
    """A rank was killed by a signal, and could leave no word: its peers know only that it is gone."""


def ranks_command(processes: int, shutdown_timeout: int, job: Path) -> list[str]:
    """The command that starts ``processes`` ranks for the job file; it tells them the process id of their launcher."""
    torchrun = [sys.executable, "-m", TORCHRUN, "--standalone", *_ranks(processes, shutdown_timeout, job)]
    return ["sh", "-c", f'export {VARIABLE}=$$; exec "$@"', "sh", *torchrun]


def node_command(processes: int, shutdown_timeout: int, job: Path) -> list[str]:
    """The command of one of several pods, ``processes`` ranks in each.

    Where the ranks meet is in torchrun's own variables (``PET_NNODES``, ``PET_NODE_RANK``, ``PET_MASTER_ADDR`` and
    ``PET_MASTER_PORT``), which Kubeflow's Trainer sets. A rank needs no process id there: torchrun is the pod's first
    process, and all end with it.
    """
    return ["python", "-m", TORCHRUN, *_ranks(processes, shutdown_timeout, job)]


def _ranks(processes: int, shutdown_timeout: int, job: Path) -> list[str]:
    options = ["--nproc-per-node", str(processes), "--shutdown-timeout", str(shutdown_timeout)]
    return [*options, "-m", "srpo.train", "--job", str(job)]


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
