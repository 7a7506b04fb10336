"""Encode prompts into parts: files of 32 prompts that processes share out and a restart finds again.

Every prompt is encoded alone, so its embeddings are the same bits whatever is encoded beside it, by whichever process.
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from srpo.core.backbones.conditioning import DTYPES, TextEncoder
from srpo.core.backbones.load import load_text_encoder
from srpo.core.contracts.errors import InputError
from srpo.core.contracts.tensors import ROWS_PER_GROUP, EmbeddingsInfo, EmbeddingsReader, EmbeddingsWriter
from srpo.core.execution.again import KilledError, killed_by
from srpo.core.execution.device import find_device
from srpo.core.execution.quiet import quiet
from srpo.core.storage.files import appearing

PART_ROWS = 4 * ROWS_PER_GROUP  # 128 MB of FLUX embeddings: what a kill can cost


@dataclasses.dataclass(frozen=True)
class Job:
    """What every process is told."""

    base: Path  # folder of the base pipeline
    info: EmbeddingsInfo
    texts: list[tuple[str, str]]  # prompt id and text, in the order of the file
    folder: Path  # of the parts; kept between retries

    @property
    def parts(self) -> int:
        """How many files there will be."""
        return -(-len(self.texts) // PART_ROWS)

    def path(self, part: int) -> Path:
        """The file of a part."""
        return self.folder / f"part-{part:05d}.parquet"

    def rows(self, part: int) -> list[tuple[str, str]]:
        """The prompts of a part."""
        return self.texts[part * PART_ROWS : (part + 1) * PART_ROWS]

    def missing(self) -> list[int]:
        """The parts that are not there yet."""
        return [part for part in range(self.parts) if not self.path(part).exists()]


def encode(job: Job, processes: int, progress: Callable[[int, int], Any]) -> None:
    """Make the missing parts, with this process or with ``processes`` others, one a GPU.

    A failure or the end of this process ends the others too. Raises KilledError where a signal ended one of them.
    """

    def report() -> None:
        progress(min((job.parts - len(job.missing())) * PART_ROWS, len(job.texts)), len(job.texts))

    drop_damaged(job)
    missing = job.missing()
    processes = min(processes, len(missing))
    if processes > 1:
        # Shared out here: a process that starts late would count on the parts that the others have made by then.
        shares = [missing[rank::processes] for rank in range(processes)]
        started = start_processes(work, (job, shares), processes, join=False, daemon=True, start_method="spawn")
        try:
            while not started.join(timeout=1):
                report()
        except ProcessExitedException as error:
            if error.exit_code >= 0:
                raise
            raise KilledError(f"a process that encodes was {killed_by(-error.exit_code)}") from None
    elif processes == 1:
        work(0, job, [missing], report)
    if processes != 1:
        report()


def drop_damaged(job: Job) -> None:
    """Remove parts that cannot be read or hold other prompts: they are made again."""
    for part in set(range(job.parts)) - set(job.missing()):
        try:
            whole = list(EmbeddingsReader(job.path(part)).places) == [prompt_id for prompt_id, _ in job.rows(part)]
        except InputError:
            whole = False
        if not whole:
            job.path(part).unlink()


def work(rank: int, job: Job, shares: list[list[int]], report: Callable[[], None] = lambda: None) -> None:
    """Make the parts of the share of ``rank``."""
    if len(shares) > 1:
        os.environ["LOCAL_RANK"] = str(rank)
    quiet()
    tokens = job.info.prompt_embeds_shape[0]
    encoder = load_text_encoder(job.base, find_device("auto"), DTYPES[job.info.dtype], tokens)
    for part in shares[rank]:
        with appearing(job.path(part)) as partial:
            write_part(encoder, job.info, job.rows(part), partial)
        report()


def write_part(encoder: TextEncoder, info: EmbeddingsInfo, texts: list[tuple[str, str]], path: Path) -> None:
    """Encode ``texts``, one by one, into the file ``path``."""
    with EmbeddingsWriter(path, info) as writer:
        for start in range(0, len(texts), ROWS_PER_GROUP):
            group = texts[start : start + ROWS_PER_GROUP]
            rows = [encoder([text]) for _, text in group]
            writer.write(
                [prompt_id for prompt_id, _ in group],
                [raw_bytes(row.prompt_embeds, info.prompt_embeds_shape) for row in rows],
                [raw_bytes(row.pooled, info.pooled_shape) for row in rows],
            )


def raw_bytes(tensor: Tensor, shape: tuple[int, ...]) -> bytes:
    """The tensor's own bytes (numpy knows no bfloat16); it must be ``[1, *shape]``."""
    if tensor.shape != (1, *shape):
        raise RuntimeError(f"the encoder gave {tuple(tensor.shape)}, its configuration names {(1, *shape)}")
    return tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes()
