"""Files that are written while training goes on: a thread of each rank does what was handed over, in that order."""

import contextlib
import copy
import datetime
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from srpo.core.storage.files import readable_size
from srpo.train.adamw8bit import local
from srpo.train.config import Config
from srpo.train.memory import Folders, Kept, host_bytes, memory_parts, parameter_count

PATIENCE = datetime.timedelta(hours=12)  # a slow volume is no error; a rank that died is seen by its connection


class Writer:
    """Does jobs one after the other on a thread of this rank. All ranks hand over the same ones in the same order.

    A job may use collectives of :attr:`group`, on which nothing else runs. After a job that failed on one of the ranks
    none is begun on any, and :meth:`wait` raises on all. Where ``background`` is false a job is done as it is handed
    over, by the thread that hands it over.
    """

    def __init__(self, device: torch.device) -> None:
        self.background = True
        self.group = dist.new_group(backend="gloo", timeout=PATIENCE)
        self._mesh = DeviceMesh.from_group(self.group, "cpu")
        # A new thread's current GPU is the first, and torch asks for a stream of it even to write the host's tensors.
        start = (torch.cuda.set_device, (device,)) if device.type == "cuda" else ()
        self._thread = ThreadPoolExecutor(1, "writer", *start)
        self._newest: Future[None] | None = None
        self._of_kind: dict[str, Future[None]] = {}

    def staged(self, value: Any) -> Any:
        """What a job may write of ``value``, a tree of dicts, lists and tensors that training changes in place.

        In the background that is a copy in host memory, else ``value`` itself.
        """
        return _copied(value, self._mesh) if self.background else value

    def hand_over(self, kind: str, job: Callable[[], None]) -> None:
        """Have ``job`` done after all that was handed over before. Call ``wait(kind)`` before its copy is made."""
        if not self.background:
            self._do(job)
            return
        before = self._newest
        if before is not None and before.done():
            before.result()  # raises what stopped it

        def after() -> None:
            if before is not None:
                before.result()  # what stopped it stops all that follows
            self._do(job)

        self._newest = self._of_kind[kind] = self._thread.submit(after)

    def wait(self, kind: str = "") -> None:
        """Wait until the last job of ``kind`` (of any) is done, so that no second copy of its kind stands in memory.

        Raises:
            Exception: what stopped a job on this rank, or a RuntimeError with what stopped it on another.
        """
        job = self._of_kind.get(kind) if kind else self._newest
        if job is not None:
            job.result()

    def close(self) -> None:
        """End the thread, after what it was given."""
        self._thread.shutdown()

    def _do(self, job: Callable[[], None]) -> None:
        """The job on this rank, then the ranks tell each other how theirs went."""
        failure = None
        try:
            job()
        except Exception as error:
            failure = error
        said: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(said, failure and f"{type(failure).__name__}: {failure}", self.group)
        if failure is not None:
            raise failure
        for rank, words in enumerate(said):
            if words is not None:
                raise RuntimeError(f"rank {rank} could not write: {words}")


@contextlib.contextmanager
def writing(device: torch.device) -> Iterator[Writer]:
    """A :class:`Writer` of each rank; what was handed over is done before this ends, however it ends."""
    writer = Writer(device)
    try:
        yield writer
        writer.wait()
    except BaseException as error:
        try:
            writer.wait()
        except Exception as other:
            if other is not error:
                error.add_note(f"What was being written was not finished: {type(other).__name__}: {other}")
        raise
    finally:
        writer.close()


def _copied(value: Any, mesh: DeviceMesh) -> Any:
    if isinstance(value, dict):
        return {name: _copied(one, mesh) for name, one in value.items()}
    if isinstance(value, list):
        return [_copied(one, mesh) for one in value]
    if isinstance(value, DTensor):
        rows = local(value).to("cpu", copy=True)
        shape, stride = value.shape, value.stride()
        return DTensor.from_local(rows, mesh, value.placements, run_check=False, shape=shape, stride=stride)
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    return copy.deepcopy(value)


def room_for_copies(config: Config, folders: Folders, ranks: int, kept: Kept, device: torch.device) -> bool:
    """Whether this host and all others have memory for copies of what is saved; ask before weights are loaded.

    A copy is each rank's shards, and on the first rank the whole weights in bfloat16. On a CPU they come on top of what
    training holds itself, with the activations that are ``kept``.
    """
    parts, here = memory_parts(config, folders, ranks, kept), int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    shards = sum(parts[name] for name in ("trained weights", "moments", "moving average"))
    need = here * shards + 2 * parameter_count(folders.base / "transformer")
    if device.type == "cpu":
        need += here * sum(parts.values())
    free = host_bytes()
    fits = torch.tensor(int(need <= free), device=device)
    dist.all_reduce(fits, dist.ReduceOp.MIN)
    if not fits.item() and dist.get_rank() == 0:
        print(
            "srpo: train: training will stand still while checkpoints are written: with copies to go on from, it would "
            f"need {readable_size(need)} of host memory, {readable_size(free)} are free",
            flush=True,
        )
    return bool(fits.item())
