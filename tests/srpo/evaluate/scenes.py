"""Synthetic shards with a known effect, small enough to evaluate in a second."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from safetensors.numpy import save_file

from srpo.core.contracts.schemas import SAMPLES, write_table
from srpo.core.execution.progress import Progress
from srpo.core.execution.stage import Context
from srpo.evaluate.config import Config
from srpo.evaluate.run import STAGE, Inputs, Outputs

FEATURES = 8


@dataclass
class Scene:
    """Inputs of the stage; ``shift`` says by how much each score differs after training."""

    root: Path
    shift: dict[str, float] = field(default_factory=dict)
    prompts: int = 12
    noises: int = 3
    shards: int = 2
    size: int = 32
    judge: bool = True
    prompt: str = "a red circle above a blue square"
    gates: tuple[str, ...] = Config.gates

    def rows(self) -> list[dict[str, Any]]:
        generator = np.random.default_rng(7)
        rows = []
        for prompt in range(self.prompts):
            of_prompt = generator.normal(0, 0.1)
            for noise in range(self.noises):
                base = {
                    "reward.score": 0.3 + of_prompt + generator.normal(0, 0.02),
                    "reward.srp": -0.1 + of_prompt + generator.normal(0, 0.02),
                    "held_out.score": 0.25 + of_prompt + generator.normal(0, 0.02),
                    "saturation": 0.4 + generator.normal(0, 0.02),
                }
                features = generator.normal(0.4, 1, FEATURES)
                if self.judge:
                    base |= {"p_realistic": generator.uniform(0.1, 0.5), "content": float(generator.random() < 0.8)}
                wobble = {name: generator.normal(0, 0.03) for name in base}
                pixels = generator.integers(0, 256, (self.size, self.size, 3), dtype=np.uint8)
                for model in ("base", "tuned"):
                    change = {n: s + wobble[n] for n, s in self.shift.items() if n in base} if model == "tuned" else {}
                    moved = self.shift.get("frechet", 0.0) if model == "tuned" else 0.0
                    rows.append(
                        {
                            "prompt_id": f"{prompt:016x}",
                            "prompt": f"{self.prompt} {prompt}",
                            "category": ("photo", "anime")[prompt % 2],
                            "split": "held_out",
                            "model": model,
                            "noise_index": noise,
                            "image": f"images/{prompt:03}-{noise}-{model}.png",
                            "scores": {name: value + change.get(name, 0.0) for name, value in base.items()},
                            "features": list(features + moved) if self.judge else None,
                            "pixels": pixels,
                        }
                    )
        return rows

    def write(self, rows: list[dict[str, Any]] | None = None) -> list[Path]:
        """Write all inputs; returns the folders of the shards. Prompts go to shards in turn."""
        rows = self.rows() if rows is None else rows
        folders = []
        for shard in range(self.shards):
            folder = self.root / f"samples-{shard}"
            (folder / "images").mkdir(parents=True, exist_ok=True)
            mine = [row for row in rows if int(row["prompt_id"], 16) % self.shards == shard]
            for row in mine:
                Image.fromarray(row["pixels"]).save(folder / row["image"])
            table = pa.Table.from_pylist(
                [
                    {name: list(row[name].items()) if name == "scores" else row[name] for name in SAMPLES.names}
                    for row in mine
                ],
                schema=SAMPLES,
            )
            write_table(folder / "samples.parquet", table, SAMPLES)
            folders.append(folder)
        for name in ("checkpoint", "models", "judge"):
            (self.root / name).mkdir(exist_ok=True)
        (self.root / "checkpoint" / "checkpoint.json").write_text(json.dumps({"schema": "x", "step": 20}))
        history = [{"step": step, "loss": 1 / (step + 1), "held_out": None if step % 5 else 0.3} for step in range(21)]
        text = "".join(json.dumps(entry) + "\n" for entry in history)
        (self.root / "checkpoint" / "history.jsonl").write_text(text)
        part = {"name": "tiny", "path": "judge", "digest": "0" * 64, "licence": "Apache-2.0"}
        models = {"base": part, "reward": part, "held_out": part, "judge": part if self.judge else None}
        (self.root / "models" / "models.json").write_text(json.dumps(models))
        reference = {"mean": np.zeros(FEATURES, np.float32), "cov": np.eye(FEATURES, dtype=np.float32)}
        save_file(reference, self.root / "judge" / "reference.safetensors")
        return folders

    def evaluate(self, folders: list[Path] | None = None, into: str = "out", **config: Any) -> Path:
        """Run the stage; returns the folder with ``evaluation/``, ``report.html`` and ``metrics.json``."""
        folders = self.write() if folders is None else folders
        out = self.root / into
        (out / "evaluation").mkdir(parents=True)
        STAGE.run(
            Config(**({"gates": self.gates, "resamples": 500, "frechet_resamples": 100} | config)),
            Inputs(tuple(folders), self.root / "checkpoint", self.root / "models"),
            Outputs(out / "evaluation", out / "report.html", out / "metrics.json", out / "summary.md"),
            Context(self.root, self.root / "state", Progress("evaluate")),
        )
        return out

    def result(self, folders: list[Path] | None = None, into: str = "out", **config: Any) -> dict[str, Any]:
        """The content of evaluation.json."""
        return json.loads(
            (self.evaluate(folders, into, **config) / "evaluation" / "evaluation.json").read_text(encoding="utf-8")
        )
