"""The export of a model of real size in a process that may have 1 GiB of memory, as its pod may.

``python benchmarks/large_release.py --gigabytes 24 --output benchmarks/results/large_release.json`` makes a
transformer of FLUX.1-dev's width with as many blocks as fit, and an adapter, and runs the stage itself: proof tensor
by tensor, single file, its check, publication into a folder. The limit is on what the process may allocate
(RLIMIT_DATA), and more fails. The model's files are sparse, zeros but for the beginning of
each tensor; what is written is whole. Disk: twice the model.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "srpo" / "export"))

from test_export import Run

from srpo.core.storage.files import list_files, write_json
from srpo.core.storage.tensor_files import Spec, header_of

GIB = 1 << 30
SHARD = 10 * 1000**3
RANK = 32
ADAPTED = ("to_q", "to_k", "to_v", "to_out.0")
WEIGHTS = "diffusion_pytorch_model"


def flux_specs(double: int, single: int) -> tuple[dict, list[Spec]]:
    """Configuration and tensors of a FLUX transformer with that many blocks."""
    import torch
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        model = FluxTransformer2DModel(num_layers=double, num_single_layers=single, guidance_embeds=True)
    specs = [Spec(name, "BF16", tuple(tensor.shape)) for name, tensor in model.state_dict().items()]
    return json.loads(model.to_json_string()), specs


def write_sparse(path: Path, specs: list[Spec], seed: int = 0) -> None:
    """A file of these tensors: up to half a megabyte of numbers at the beginning of each, and holes."""
    rng = np.random.default_rng(seed)
    header, offsets = header_of(specs)
    with path.open("wb") as file:
        file.write(header)
        for spec, offset in zip(specs, offsets, strict=True):
            count = min(1 << 18, spec.size // 2)
            file.seek(offset)
            file.write(rng.normal(0, 0.02, count).astype(ml_dtypes.bfloat16).tobytes())
        file.truncate(offsets[-1] + specs[-1].size)


def write_model(folder: Path, config: dict, specs: list[Spec]) -> None:
    """A transformer in shards with an index, as diffusers writes it."""
    shards: list[list[Spec]] = [[]]
    for spec in specs:
        if sum(one.size for one in shards[-1]) + spec.size > SHARD:
            shards.append([])
        shards[-1].append(spec)
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config)
    names = {}
    for number, shard in enumerate(shards, 1):
        name = f"{WEIGHTS}-{number:05d}-of-{len(shards):05d}.safetensors"
        write_sparse(folder / name, shard, number)
        names |= {spec.name: name for spec in shard}
    write_json(folder / f"{WEIGHTS}.safetensors.index.json", {"metadata": {}, "weight_map": names})


def prepare(folder: Path, gigabytes: float) -> tuple[Run, int]:
    """The artifacts of a run on such a model, whose adapter changes nothing; and the model's bytes."""
    whole = flux_specs(19, 38)[1]
    share = gigabytes * 1000**3 / sum(spec.size for spec in whole)
    config, specs = flux_specs(max(1, round(19 * share)), max(1, round(38 * share)))
    run = Run(folder)
    for place in (run.base / "transformer", run.weights):
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
    write_model(run.weights, config, specs)
    run.base.joinpath("transformer").mkdir()
    for file in run.weights.iterdir():  # an adapter of zeros: the tuned weights are the base's
        os.link(file, run.base / "transformer" / file.name)
    modules = [spec for spec in specs if spec.name.removesuffix(".weight").endswith(ADAPTED) and len(spec.shape) == 2]
    adapter = []
    for spec in modules:
        name = f"transformer.{spec.name.removesuffix('.weight')}"
        adapter.append(Spec(f"{name}.lora_A.weight", "BF16", (RANK, spec.shape[1])))
        adapter.append(Spec(f"{name}.lora_B.weight", "BF16", (spec.shape[0], RANK)))
    (run.weights / "lora").mkdir()
    header, offsets = header_of(adapter)
    with (run.weights / "lora" / "pytorch_lora_weights.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(offsets[-1] + adapter[-1].size)
    run.checkpoint["files"] = list_files(run.weights)
    return run, sum(spec.size for spec in specs)


def export(folder: Path, formats: list[str]) -> None:
    """In the limited process: the stage over what :func:`prepare` left; prints peak memory and time as JSON."""
    from srpo.core.execution.progress import Progress
    from srpo.core.execution.stage import Context
    from srpo.export.config import Config
    from srpo.export.run import Inputs, Outputs, run

    inputs = json.loads((folder / "inputs.json").read_text())
    given = {
        name: tuple(map(Path, value)) if isinstance(value, list) else Path(value) for name, value in inputs.items()
    }
    release = folder / "release"
    release.mkdir()
    start = time.perf_counter()
    context = Context(folder / "workspace", folder / "workspace" / "state" / "export", Progress("export"))
    config = Config(destination=str(folder / "out"), formats=tuple(formats))
    run(config, Inputs(**given), Outputs(release=release, report=folder / "report.html"), context)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": round(time.perf_counter() - start, 1), "peak_bytes": peak}))


def measure(folder: Path, gigabytes: float, formats: list[str], limit: int = GIB) -> dict:
    """Export a model of that size below ``folder`` in a process that may allocate ``limit`` bytes."""
    run, size = prepare(folder, gigabytes)
    inputs = {
        name: [str(one) for one in path] if isinstance(path, list) else str(path) for name, path in run.write().items()
    }
    write_json(folder / "inputs.json", inputs)
    code = f"""
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import large_release
resource.setrlimit(resource.RLIMIT_DATA, ({limit}, {limit}))
large_release.export(Path(sys.argv[2]), sys.argv[3:])
"""
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(folder), *formats]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    result = json.loads(done.stdout.splitlines()[-1])
    return {"model_bytes": size, "formats": formats, "limit_bytes": limit} | result


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=24, help="size of the transformer; 24 is FLUX.1-dev's")
    parser.add_argument("--formats", nargs="+", default=["diffusers", "lora", "original-fp8"], help="of the release")
    parser.add_argument("--folder", help="where to work (default: the system's place for temporary files)")
    parser.add_argument("--output", type=Path, help="file to write the result to, as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        result = measure(Path(folder), args.gigabytes, args.formats)
    print(json.dumps(result))
    if args.output:
        write_json(args.output, result)


if __name__ == "__main__":
    main()
