"""Text embeddings: how fast prompts are encoded, and how fast the file is written and read at FLUX's size.

    python benchmarks/encode.py --output benchmarks/results/encode.json
    python benchmarks/encode.py --model /models/FLUX.1-dev --processes 8 --output encode.json

The encoders are those of a model folder (the tiny model if none is given). The file is measured without a model: rows
of 4.2 MB as FLUX.1-dev's, written in parts, read back in the order of the draws as training does, against a bare write
and read of the same bytes in the same folder. Reads come from the page cache.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from tiny_world import machine

from srpo.core.backbones.pipelines import text_shapes, text_tokens
from srpo.core.contracts.tensors import ROWS_PER_GROUP, EmbeddingsInfo, EmbeddingsReader, EmbeddingsWriter
from srpo.encode_prompts.parts import PART_ROWS, Job, encode
from srpo.tiny import world

TINY = Path(world.__file__).parent / "weights" / "flux"
FLUX = EmbeddingsInfo(dtype="bfloat16", prompt_embeds_shape=(512, 4096), pooled_shape=(768,), encoder="none")
MB = 1e6


def encoding(model: Path, prompts: int, processes: int, folder: Path) -> dict[str, float]:
    """Prompts a second over all processes, the loading of the encoders included."""
    info = EmbeddingsInfo("bfloat16", *text_shapes(model, text_tokens(model)), encoder="none")
    scenes = world.all_scenes()
    texts = [(f"p{number:06d}", world.caption(scenes[number % len(scenes)], 0, None)) for number in range(prompts)]
    job = Job(model, info, texts, folder / "parts")
    started = time.perf_counter()
    encode(job, processes, lambda step, of: None)
    seconds = time.perf_counter() - started
    return {
        "prompts": prompts,
        "processes": processes,
        "seconds": round(seconds, 3),
        "prompts_per_second": round(prompts / seconds, 2),
        "mb_per_second": round(prompts * info.row_bytes / seconds / MB, 2),
    }


def file(rows: int, batch: int, folder: Path) -> dict[str, float]:
    """MB/s of writing and reading ``rows`` rows of FLUX's size, and of the bare bytes; the reader's share of memory."""
    total, row = rows * FLUX.row_bytes / MB, os.urandom(FLUX.row_bytes)
    states, pooled = row[: 512 * 4096 * 2], row[512 * 4096 * 2 :]
    ids = [f"p{number:06d}" for number in range(rows)]

    def rate(work) -> float:
        started = time.perf_counter()
        work()
        return round(total / (time.perf_counter() - started), 1)

    def write_bare() -> None:
        with (folder / "bare").open("wb") as opened:
            for _ in range(rows):
                opened.write(row)

    def write() -> None:
        parts = folder / "embeddings.parquet"
        parts.mkdir()
        for number, start in enumerate(range(0, rows, PART_ROWS)):
            with EmbeddingsWriter(parts / f"part-{number:05d}.parquet", FLUX) as writer:
                for first in range(start, min(start + PART_ROWS, rows), ROWS_PER_GROUP):
                    some = ids[first : first + ROWS_PER_GROUP]
                    writer.write(some, [states] * len(some), [pooled] * len(some))

    def read_bare() -> None:
        with (folder / "bare").open("rb") as opened:
            while opened.read(FLUX.row_bytes):
                pass

    def read() -> None:
        reader = EmbeddingsReader(folder / "embeddings.parquet")
        for start in range(0, rows, batch):
            found = reader.read(ids[start : start + batch])
            reader.prefetch(ids[start + batch : start + 2 * batch])
            assert found[0] == (states, pooled)

    found = {"rows": rows, "mb": round(total, 1), "write_bare": rate(write_bare), "write": rate(write)}
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = peak()
    found |= {"read_bare": rate(read_bare), "read": rate(read)}
    grown = peak() - before
    return found | {"batch": batch, "reader_mb": round(grown, 1), "one_group_mb": round(8 * FLUX.row_bytes / MB, 1)}


def peak(now: bool = False) -> float:
    """The most memory that this process has held, or what it holds ``now``, in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:" if now else "VmHWM:")[2].split()[0]) * 1024 / MB


def main() -> None:
    """Measure both, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--model", type=Path, default=TINY, help="pipeline folder whose encoders are measured")
    parser.add_argument("--prompts", type=int, default=1024)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--rows", type=int, default=256, help="rows of FLUX's size in the file: 4.2 MB each")
    parser.add_argument("--batch", type=int, default=4, help="prompts that are asked for at a time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # The file first: the reader's memory is read from the process's peak.
        kept = file(arguments.rows, arguments.batch, Path(folder))
        encoded = encoding(arguments.model, arguments.prompts, arguments.processes, Path(folder))
    print("| | |\n|---|---|")
    for name, value in (encoded | {f"file: {key}": value for key, value in kept.items()}).items():
        print(f"| {name} | {value} |")
    result = {"machine": machine(), "model": arguments.model.name, "encoding": encoded, "file (MB/s)": kept}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
