"""Make the tiny world's weights from nothing.

    python -m srpo.tiny.make --output build/tiny              about 9 minutes on 2 cores
    python -m srpo.tiny.make --output build/tiny --untrained  random weights, a few seconds

Two processes of one thread each: the pipeline's parts one after the other, the judges beside them. Same seeds,
same processor type: same weights.
"""

import argparse
import hashlib
import json
import multiprocessing
import platform
import sys
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPModel
from transformers.utils import logging as transformers_logging

from srpo.tiny import clip, flow, held_out, judge, recipes, vae

Record = dict[str, Any]


def make_reward(output: Path, trained: bool) -> Record:
    """The CLIP reward; its text tower is left for the pipeline."""
    start = time.monotonic()
    model = clip.build(recipes.CLIP.seed)
    measures = clip.train(model, recipes.CLIP) if trained else {}
    clip.save(model, output / "reward")
    return _record(recipes.CLIP, measures, start)


def make_vae(output: Path, trained: bool) -> Record:
    start = time.monotonic()
    model = vae.build(recipes.VAE.seed)
    measures = vae.train(model, recipes.VAE) if trained else {}
    model.bfloat16().save_pretrained(output / "flux" / "vae")
    return _record(recipes.VAE, measures, start)


def make_flow(output: Path, trained: bool) -> Record:
    """The transformer and T5, over the stored VAE and text tower; writes the complete pipeline."""
    start = time.monotonic()
    autoencoder = vae.load(output / "flux" / "vae")
    text_encoder = clip.text_tower(CLIPModel.from_pretrained(output / "reward", dtype=torch.float32))
    model = flow.build(recipes.FLOW.seed)
    measures = flow.train(model, autoencoder, text_encoder, recipes.FLOW) if trained else {}
    flow.pipeline(model, autoencoder, text_encoder).to(torch.bfloat16).save_pretrained(output / "flux")
    return _record(recipes.FLOW, measures, start)


def make_held_out(output: Path, trained: bool) -> Record:
    start = time.monotonic()
    model = held_out.build(recipes.HELD_OUT.seed)
    measures = held_out.train(model, recipes.HELD_OUT) if trained else {}
    held_out.save(model, output / "held_out")
    return _record(recipes.HELD_OUT, measures, start)


def make_judge(output: Path, trained: bool) -> Record:
    start = time.monotonic()
    model = judge.build(recipes.JUDGE.seed).eval()
    measures = judge.train(model, recipes.JUDGE) if trained else {}
    judge.save(model, output / "judge", recipes.JUDGE.seed + 2000)
    return _record(recipes.JUDGE, measures, start)


def _record(recipe: recipes.Recipe, measures: dict[str, float], start: float) -> Record:
    rounded = {name: round(value, 4) for name, value in measures.items()}
    return {"recipe": asdict(recipe), "measures": rounded, "seconds": round(time.monotonic() - start, 1)}


def executor(trained: bool) -> Executor:
    """Two processes of one thread each: more threads a process are slower. Random weights need no help."""
    if not trained:
        return ThreadPoolExecutor(1)
    return ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    torch.set_num_threads(1)
    _quiet()


def _quiet() -> None:
    """Leave our own progress lines alone on the screen."""
    for library in (transformers_logging, diffusers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def make(output: Path, trained: bool = True) -> None:
    """Write flux/, reward/, held_out/, judge/ and manifest.json below output."""
    start = time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    with executor(trained) as pool:
        # Longest chain first; the flow needs the first two, and what judges fills the other process.
        parts = {"vae": pool.submit(make_vae, output, trained), "reward": pool.submit(make_reward, output, trained)}
        parts["held_out"] = pool.submit(make_held_out, output, trained)
        for name in ("vae", "reward"):
            parts[name].result()
        parts["flow"] = pool.submit(make_flow, output, trained)
        parts["judge"] = pool.submit(make_judge, output, trained)
        records = {name: part.result() for name, part in parts.items()}
    seconds = round(time.monotonic() - start, 1)
    write_manifest(output, trained, records, seconds)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(f"{output}: {size / 1e6:.2f} MB in {seconds:.0f} s")


def write_manifest(output: Path, trained: bool, parts: dict[str, Record], seconds: float) -> None:
    """How each part was made, and what every file must be."""
    packages = ("torch", "diffusers", "transformers", "tokenizers", "safetensors", "numpy")
    paths = sorted(path for path in output.rglob("*") if path.is_file() and path.name != "manifest.json")
    manifest = {
        "trained": trained,
        "parts": parts,
        "seconds": seconds,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "files": {path.relative_to(output).as_posix(): _fingerprint(path) for path in paths},
    }
    (output / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def _fingerprint(path: Path) -> Record:
    content = path.read_bytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m srpo.tiny.make",
        description="Make the tiny FLUX pipeline, its rewards and its judge from nothing, from fixed seeds.",
        epilog="example: python -m srpo.tiny.make --output build/tiny",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where to write; made if missing")
    parser.add_argument("--untrained", action="store_true", help="random weights in a few seconds, for tests")
    options = parser.parse_args(arguments)
    if options.output.exists() and not options.output.is_dir():
        parser.error(f"--output {options.output} is a file: expected a directory")
    _quiet()
    make(options.output, trained=not options.untrained)
    return 0


if __name__ == "__main__":
    sys.exit(main())
