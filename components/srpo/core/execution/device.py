"""Which device a stage computes on, and with how many threads."""

import os

import torch

from srpo.core.contracts.errors import InputError


def find_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU; raises :class:`InputError` for ``cuda`` where there is none.

    On the CPU a process computes with one thread unless ``OMP_NUM_THREADS`` says otherwise: small models get slower
    with more, and several processes share the machine.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "device is 'cuda', but this machine has no usable CUDA device: it must be 'auto' or 'cpu' here"
        )
    if name == "cpu" or not torch.cuda.is_available():
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)  # nccl and the caching allocator work on the current device
    return device
