"""Samples of two made-up models that differ in everything that a file could give away, and their rating page."""

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, PngImagePlugin

from srpo.core.contracts.schemas import SAMPLES, write_table
from srpo.core.execution.progress import Progress
from srpo.core.execution.stage import Context
from srpo.core.ratings.study import Study, read_study
from srpo.rating_page.config import Config
from srpo.rating_page.run import STAGE, Inputs, Outputs

WORDS = ("circle", "square", "cat", "dog", "river", "tower", "chair", "lamp", "forest", "robot", "apple", "boat")


@dataclass
class Scene:
    """Samples and what the stage makes of them."""

    root: Path
    prompts: int = 8
    noises: int = 2
    size: int = 32
    widths: int = 1  # so many different ones, from ``size`` on
    models: tuple[str, ...] = ("base", "tuned")
    split: str = "held_out"
    prompt: str = "a {word} beside number {number}"
    rows: list[dict[str, Any]] = field(default_factory=list)

    def write(self) -> Path:
        """One shard: base images are flat and compress well, tuned ones are noise."""
        folder = self.root / "samples"
        (folder / "images").mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(0)
        self.rows = []
        for number in range(self.prompts):
            for noise in range(self.noises):
                for model in self.models:
                    shape = (self.size, self.size + number % self.widths, 3)
                    pixels = np.full(shape, generator.integers(0, 256, 3), np.uint8)
                    if model != "base":
                        pixels = generator.integers(0, 256, pixels.shape, dtype=np.uint8)
                    name = f"images/{number:03}-{noise}-{model}.png"
                    info = PngImagePlugin.PngInfo()
                    info.add_text("srpo", json.dumps({"model": model}))
                    Image.fromarray(pixels).save(folder / name, pnginfo=info)
                    text = self.prompt.format(word=WORDS[number % len(WORDS)], number=number)
                    row = {"prompt_id": f"{number:016x}", "prompt": text, "category": ("photo", "anime")[number % 2]}
                    row |= {"split": self.split, "model": model, "noise_index": noise, "image": name}
                    self.rows.append(row | {"scores": [("reward.score", 0.5)], "features": None})
        write_table(folder / "samples.parquet", pa.Table.from_pylist(self.rows, schema=SAMPLES), SAMPLES)
        return folder

    def make(self, *folders: Path, into: str = "out", **config: Any) -> Path:
        """Run the stage; returns the folder with ``page/``, ``key/`` and ``report.html``."""
        shards = folders or (self.write(),)
        out = self.root / into
        for name in ("page", "key"):
            (out / name).mkdir(parents=True)
        outputs = Outputs(out / "page", out / "key", out / "report.html")
        STAGE.run(Config(**config), Inputs(shards), outputs, Context(self.root, self.root, Progress("rating_page")))
        return out

    def study(self, out: Path) -> Study:
        """The key."""
        return read_study(out / "key")


def data_of(page: Path) -> dict[str, Any]:
    """What the page holds for its script."""
    text = page.read_text(encoding="utf-8")
    return json.loads(text.partition('id="data">')[2].partition("</script>")[0])


def pictures_of(out: Path) -> dict[str, bytes]:
    """The image files of a page by their opaque names."""
    if (out / "page/images").is_dir():
        return {path.stem: path.read_bytes() for path in sorted((out / "page/images").iterdir())}
    return {name: base64.b64decode(text) for name, text in data_of(out / "page/index.html")["images"].items()}
