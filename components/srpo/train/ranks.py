"""torchrun, with an exit code that tells a rank that was killed from one that failed: 128 and the signal, or 1."""

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun


def main() -> None:
    """Run torchrun with the arguments of this process."""
    try:
        torchrun()
    except ChildFailedError as error:
        # The ranks that had ended when torchrun first looked; it ends the others itself, and their codes mean nothing.
        signals = [-failure.exitcode for failure in error.failures.values() if failure.exitcode < 0]
        print(error, flush=True)
        raise SystemExit(128 + signals[0] if signals else 1) from None


if __name__ == "__main__":
    main()
