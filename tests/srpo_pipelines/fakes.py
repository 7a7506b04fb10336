"""A copy of the project whose stages do next to nothing, so that the whole pipeline runs in seconds."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUTPUTS = {  # stage: (inputs, outputs), as the pipeline wires them; "?" marks an input that need not be given
    "fetch_base": ("", "models report"),
    "prepare_prompts": ("models?", "prompts report metrics"),
    "cache_rewards": ("models prompts", "text_features report"),
    "encode_prompts": ("models prompts", "embeddings report"),
    "train": ("models prompts embeddings text_features", "checkpoint report metrics"),
    "sample": ("models prompts embeddings text_features checkpoint", "samples report"),
    "evaluate": ("samples checkpoint models", "evaluation report metrics summary"),
    "rating_page": ("samples", "page key report"),
    "collect_ratings": ("", "ratings report metrics summary"),
    "decide": ("ratings", "decision report metrics summary"),
    "export": ("models checkpoint evaluation samples prompts rating_page?", "release report"),
}
FAKE = '''"""A stage that only says who it is."""

import dataclasses
import json
import time
from pathlib import Path

from srpo.core.contracts.errors import InputError
from srpo.core.execution.stage import Stage
from srpo.{name}.config import Config

Inputs = dataclasses.make_dataclass("Inputs", {inputs}, frozen=True)
Outputs = dataclasses.make_dataclass("Outputs", {outputs}, frozen=True)
EVALUATION = {{
    "before": {{"srp": 0.1, "held_out": 0.2, "p_realistic": 0.3, "content": 0.95, "frechet": 40.0}},
    "after": {{"srp": 0.2, "held_out": 0.3, "p_realistic": 0.7, "content": 0.94, "frechet": 15.0}},
    "delta": {{"p_realistic": {{"mean": 0.4, "low": 0.3, "high": 0.5}}}},
    "verdict": "better",
    "gates": [{{"condition": "content stays", "value": 0.94, "passed": True}}],
    "passed": True,
}}
RELEASE = {{"id": "r1", "candidate": True}}


def run(config, inputs, outputs, context):
    for path in dataclasses.asdict(inputs).values():
        for folder in path if isinstance(path, tuple) else [path] * bool(path):
            assert (folder / "manifest.json").is_file()
    context.progress(1, 2, loss=0.5)
    # here
    for name, path in dataclasses.asdict(outputs).items():
        if name == "summary":
            path.write_text("**better**")
        elif name == "report":
            path.write_text("<!doctype html>{name}")
        elif name == "metrics":
            path.write_text(json.dumps({{"number": 1.5}}))
        else:
            file, content = "content.json", {{"stage": "{name}", "shard": getattr(config, "shard", 0)}}
            if name == "evaluation":
                file, content = "evaluation.json", EVALUATION
            if name == "release":
                file, content = "release.json", RELEASE | {{"uri": str(Path(config.destination) / "releases" / "r1")}}
            (path / file).write_text(json.dumps(content))
    context.progress(2, 2, loss=0.25)


def fingerprint(config):
    return [Path(one).read_text() for one in getattr(config, "sources", ()) if Path(one).is_file()]


STAGE = Stage(name="{name}", config=Config, inputs=Inputs, outputs=Outputs, run=run, fingerprint=fingerprint)
'''


class Project:
    """The copy, and how to run its `srpo`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        package = folder / "package"
        keep = shutil.ignore_patterns("__pycache__", "tiny", "backbones", "rewards", "objective")
        shutil.copytree(ROOT / "components/srpo/core", package / "srpo/core", ignore=keep)
        shutil.copytree(ROOT / "components/srpo/configure", package / "srpo/configure", ignore=keep)
        shutil.copytree(ROOT / "pipelines/srpo_pipelines", package / "srpo_pipelines", ignore=keep)
        shutil.copy(ROOT / "components/srpo/__init__.py", package / "srpo")
        for name, (inputs, outputs) in OUTPUTS.items():
            stage = package / "srpo" / name
            shutil.copytree(ROOT / "components/srpo" / name, stage, ignore=keep)
            fields = [(one[:-1], "object", None) if one.endswith("?") else one for one in inputs.split()]
            text = FAKE.format(name=name, inputs=fields, outputs=outputs.split())
            (stage / "run.py").write_text(text)
        self.output = folder / "out"

    def edit(self, stage: str, line: str) -> None:
        """Put ``line`` into the body of a stage's run."""
        path = self.folder / "package/srpo" / stage / "run.py"
        path.write_text(path.read_text().replace("    # here\n", f"    # here\n    {line}\n"))

    def start(self, *arguments: str, **options) -> "subprocess.Popen[str]":
        """`srpo` with ``arguments``; its two streams come as one, as a person sees them."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("COV_")}
        return subprocess.Popen(
            [sys.executable, "-m", "srpo_pipelines.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env=environment | {"PYTHONPATH": str(self.folder / "package")},
            **options,
        )

    def srpo(self, *arguments: str) -> tuple[int, str]:
        """Exit code and all that was shown."""
        process = self.start(*arguments)
        try:
            shown, _ = process.communicate(timeout=180)
        finally:
            process.terminate()  # nothing, unless the time was up: then it ends its stages too
        return process.returncode, shown

    def run(self, *arguments: str) -> tuple[int, str]:
        """`srpo run` into the usual folder."""
        return self.srpo("run", "--output", str(self.output), *arguments)
