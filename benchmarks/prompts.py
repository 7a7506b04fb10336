"""How fast prepare_prompts is and what memory it takes, on prompts made from a seeded grammar.

    python benchmarks/prompts.py --output benchmarks/results/prompts.json

Of the prompts 8 % are exact copies of another and 8 % are near copies: other case and punctuation, or one word more,
less or replaced. Each case is a process of its own, the real stage from files to files. About 8 minutes on two cores.
"""

import argparse
import gzip
import json
import os
import platform
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import ByteLevelBPETokenizer, SentencePieceUnigramTokenizer

from srpo.core.execution.progress import Progress
from srpo.core.execution.stage import Context
from srpo.core.storage.files import write_json
from srpo.core.storage.models import ModelEntry, write_models
from srpo.prepare_prompts.config import Config
from srpo.prepare_prompts.run import Inputs, Outputs, run

NEAR = {"near_duplicates": 0.8}
TOKENS = "exact duplicates, tokens"
CASES: dict[str, tuple[float, dict[str, Any]]] = {  # name: share of the prompts, settings
    "exact duplicates": (1.0, {}),
    "exact duplicates, a quarter of the prompts": (0.25, {}),
    "exact and near duplicates": (1.0, NEAR),
    "exact and near duplicates, a quarter of the prompts": (0.25, NEAR),
    "exact duplicates, languages": (0.1, {"languages": ["en"]}),
    TOKENS: (0.1, {}),
}
WORDS = {
    "size": "tiny,huge,ancient,modern,wooden,glass,golden,rusty,misty,frozen,burning,quiet,crowded,elegant",
    "thing": "fox,heron,owl,otter,lynx,castle,lighthouse,bridge,market,robot,sailor,dancer,wizard,violin,teapot,"
    "bicycle,train,garden,forest,river,mountain,desert,island,harbour,city,street,library,kitchen,temple,station,comet",
    "doing": "reading,running,sleeping,dancing,waiting,fishing,painting,flying,hiding,singing,floating,glowing,melting",
    "when": "at dawn,at sunset,at night,in the rain,in the snow,in autumn,under a full moon,in thick fog",
    "style": "oil painting,watercolour,pencil sketch,35mm photo,concept art,anime,pixel art,engraving,collage,fresco",
    "extra": "highly detailed,sharp focus,soft light,volumetric light,muted colours,wide angle,close up,cinematic,8k",
    "syllable": "ba,ro,lin,ka,mer,ti,sol,ven,da,na,gor,el,mi,thu,ra,ol",
}
CHOICES = {name: words.split(",") for name, words in WORDS.items()}


def prompts(count: int, seed: int) -> Iterator[str]:
    """``count`` prompts, the same for the same seed."""
    rng = random.Random(seed)
    recent: list[str] = []
    for _ in range(count):
        kind = rng.random()
        if kind < 0.16 and recent:
            text = recent[rng.randrange(len(recent))]
            yield text if kind < 0.08 else nearly(text, rng)
            continue
        text = fresh(rng)
        if len(recent) < 20_000:
            recent.append(text)
        else:
            recent[rng.randrange(len(recent))] = text
        yield text


def fresh(rng: random.Random) -> str:
    """A prompt of 10 to 30 words."""

    def one(name: str) -> str:
        return rng.choice(CHOICES[name])

    name = " ".join("".join(rng.choices(CHOICES["syllable"], k=rng.randint(2, 4))).capitalize() for _ in range(2))
    scene = f"{one('size')} {one('thing')} {one('doing')} beside a {one('size')} {one('thing')}"
    other = f", a {one('size')} {one('thing')} {one('when')}" if rng.random() < 0.7 else ""
    extras = ", ".join(["", *rng.sample(CHOICES["extra"], rng.randint(0, 4))])
    return f"{one('style')} of a {scene}{other} by {name}{extras}"


def nearly(text: str, rng: random.Random) -> str:
    """A near copy."""
    kind = rng.randrange(4)
    if kind == 0:
        return text.upper().replace(",", " -")
    words = text.split()
    place = rng.randrange(len(words))
    words[place : place + (kind != 1)] = [] if kind == 2 else ["remarkable"]
    return " ".join(words)


def write_sources(folder: Path, count: int, seed: int) -> None:
    """The prompts in three files of different formats."""
    folder.mkdir()
    texts = list(prompts(count, seed))
    parts = [texts[start::3] for start in range(3)]
    paths = [folder / name for name in ("a.txt", "b.jsonl.gz", "c.parquet")]
    paths[0].write_text("\n".join(f" {text}  " for text in parts[0]), encoding="utf-8")
    with gzip.open(paths[1], "wt", compresslevel=1, encoding="utf-8") as file:
        file.writelines(json.dumps({"prompt": text}) + "\n" for text in parts[1])
    pq.write_table(pa.table({"prompt": parts[2]}), paths[2], row_group_size=100_000)


def write_tokenizers(folder: Path, texts: list[str]) -> Path:
    """A `models` artifact whose base has two tokenizers of FLUX's kinds, trained on the prompts: 8000 pieces each."""
    base = folder / "workspace" / "models" / "base"
    unigram, bpe = SentencePieceUnigramTokenizer(), ByteLevelBPETokenizer(lowercase=True)
    unigram.train_from_iterator(
        texts, vocab_size=8000, show_progress=False, special_tokens=["<unk>"], unk_token="<unk>"
    )
    bpe.train_from_iterator(texts, vocab_size=8000, show_progress=False)
    for name, tokenizer, length in (("tokenizer", bpe, 77), ("tokenizer_2", unigram, 512)):
        (base / name).mkdir(parents=True)
        tokenizer.save(str(base / name / "tokenizer.json"))
        write_json(base / name / "tokenizer_config.json", {"model_max_length": length})
    entry = ModelEntry(name="base", path="models/base", digest="", licence="")
    write_models(folder / "models", {"base": entry})
    return folder / "models"


def measure(name: str, sources: Path, folder: Path) -> dict[str, float]:
    """One case in this process: wall and CPU seconds, the peak of memory, and the stage's own numbers."""
    _, settings = CASES[name]
    models = write_tokenizers(folder, [fresh(random.Random(n)) for n in range(5000)]) if name == TOKENS else None
    out = Outputs(folder / "prompts", folder / "report.html", folder / "metrics.json")
    out.prompts.mkdir()
    context = Context(folder / "workspace", folder / "state", Progress("prepare_prompts"))
    config = Config(sources=(str(sources),), **settings)
    started, cpu = time.perf_counter(), time.process_time()
    run(config, Inputs(models), out, context)
    figures = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    figures["peak_megabytes"] = int(peak.split()[1]) / 1024
    return figures | json.loads(out.metrics.read_text(encoding="utf-8"))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    names = ("pyarrow", "numpy", "rensa", "py3langid", "tokenizers")
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    } | {name: metadata.version(name) for name in names}


def main() -> None:
    """Run every case in a process of its own, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", nargs=2, metavar=("CASE", "SOURCES"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        with tempfile.TemporaryDirectory() as folder:
            write_json(given.output, measure(given.case[0], Path(given.case[1]), Path(folder)))
        return
    rows = []
    print("| case | prompts | seconds | CPU seconds | prompts a second | peak MB | kept | copies | near copies |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in CASES:
            file, sources = Path(folder) / "case.json", Path(folder) / f"sources-{CASES[name][0]}"
            if not sources.is_dir():
                write_sources(sources, int(given.prompts * CASES[name][0]), given.seed)
            command = [sys.executable, __file__, "--case", name, str(sources), "--output", str(file)]
            load = os.getloadavg()[0]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            row = {"case": name, "load_before": round(load, 1)} | json.loads(file.read_text(encoding="utf-8"))
            rows.append(row)
            print(
                f"| {name} | {row['read']} | {row['seconds']:.1f} | {row['cpu_seconds']:.1f} "
                f"| {row['read'] / row['seconds']:.0f} | {row['peak_megabytes']:.0f} | {row['kept']} "
                f"| {row['rejected_duplicate']} | {row.get('rejected_near_duplicate', '-')} |",
                flush=True,
            )
    write_json(given.output, {"machine": machine(), "prompts": given.prompts, "seed": given.seed, "cases": rows})


if __name__ == "__main__":
    main()
