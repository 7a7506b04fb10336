"""A training step without its memory: fake tensors have shapes, dtypes and a device, and no numbers.

So the trainer's own step of a model of any size runs on any machine in a minute, and what it would hold at each moment
is known. The kernels are a CPU's: what they keep is what a GPU's keep (attention too keeps no matrix of scores), but a
GPU's workspaces, its context and what fragments of memory waste come on top.
"""

import contextlib
import weakref
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from random_models import Steps
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from srpo.train import sharding, step
from srpo.train.config import Config
from srpo.train.cost import Models
from srpo.train.memory import Kept

CPU, META = torch.device("cpu"), torch.device("meta")
SMALLEST = 512  # bytes: what a GPU's allocator gives are multiples of it


class Numbers(TorchDispatchMode):
    """Some number wherever one is read from a tensor that has none, and False for every comparison."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.ops.aten._local_scalar_dense.default:
            return False if args[0].dtype == torch.bool else 0.5
        leaving = args and isinstance(args[0], Tensor) and args[0].is_meta and kwargs.get("device") == CPU
        if leaving and function is torch.ops.aten._to_copy.default:
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        return function(*args, **kwargs)


class Memory(TorchDispatchMode):
    """Bytes of all storages that are alive, ``now`` and at most (``peak``)."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, int] = {}
        self.now = self.peak = 0

    def __enter__(self) -> "Memory":
        self.resize = resize = torch.UntypedStorage.resize_

        def resized(storage: Any, size: int) -> None:  # how FSDP frees what it gathered
            resize(storage, size)
            if id(storage) in self.known:
                self._set(id(storage), size)

        torch.UntypedStorage.resize_ = resized  # type: ignore[method-assign]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.UntypedStorage.resize_ = self.resize  # type: ignore[method-assign]

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, Tensor):
                self.add(tensor)
        return made

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage from now until it is gone."""
        if isinstance(tensor, DTensor):
            tensor = tensor._local_tensor
        storage = tensor.untyped_storage()
        if id(storage) not in self.known:
            self.known[id(storage)] = 0
            weakref.finalize(storage, self._gone, id(storage))
            self._set(id(storage), storage.nbytes())

    def _set(self, key: int, size: int) -> None:
        size = -(-size // SMALLEST) * SMALLEST
        self.now += size - self.known[key]
        self.known[key] = size
        self.peak = max(self.peak, self.now)

    def _gone(self, key: int) -> None:
        self.now -= self.known.pop(key)


@contextlib.contextmanager
def weightless(config: Config, models: Models, kept: Kept, device: torch.device = CPU) -> Iterator[Steps]:
    """The run of ``config`` as its first rank has it; within, its steps cost nothing.

    With ``META`` as the device (of one rank that needs no shards) a tensor left on the CPU is an error, as on a GPU.
    """
    fake: Any = FakeTensorMode(allow_non_fake_inputs=True) if device == CPU else contextlib.nullcontext()

    def to_empty(model: nn.Module, *, device: torch.device, recurse: bool = True) -> nn.Module:
        with fake:
            return model._apply(lambda tensor: torch.empty_like(tensor, device=device))

    with contextlib.ExitStack() as mended:
        for owner, name, value in (
            (nn.Module, "to_empty", to_empty),
            (sharding, "load_base", lambda *given: None),
            (step, "Stopwatch", step.Stopwatch),
        ):
            mended.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=config.processes)
        mended.callback(dist.destroy_process_group)
        folder = Path(mended.enter_context(TemporaryDirectory()))
        run = Steps(config, models, folder, device, kept, fake)
        with fake, Numbers():
            yield run


def peaks(config: Config, models: Models, kept: Kept) -> dict[str, int]:
    """The most bytes that each phase of a step holds; the step is the second, when moments and sums are there."""
    found: dict[str, int] = {}

    class Meter(step.Stopwatch):
        def __enter__(self) -> "Meter":
            memory.peak = memory.now
            return self

        def __exit__(self, *error: object) -> None:
            found[self.phase] = max(found.get(self.phase, 0), memory.peak)
            self.total[self.phase] = 0.0

    with weightless(config, models, kept) as run, Memory() as memory:
        step.Stopwatch = Meter  # type: ignore[misc]
        for tensor in run.tensors():
            memory.add(tensor)
        for number in range(2):
            found.clear()
            run(number)
    return found
