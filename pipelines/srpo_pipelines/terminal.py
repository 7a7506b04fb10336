"""What `srpo run` shows while stages run: a line when one starts or ends, and how far it is."""

import sys
import time
from typing import Any

from tqdm import tqdm

PAUSE = 0.2  # seconds between plain progress lines: some steps are files of a few bytes


class Terminal:
    """One self-rewriting bar on a terminal; one plain line a step elsewhere."""

    def __init__(self, stages: list[str], shards: int) -> None:
        self.stages = stages
        self.shards = shards
        self.live = sys.stdout.isatty() and sys.stderr.isatty()
        self.printed = 0.0  # when the last plain progress line was
        self.bar: tqdm[Any] | None = None
        self.bar_of: str | None = None
        self.order: list[str] = []  # stages as they came; the runner decides which of two independent ones is first
        self.running: list[str] = []
        self.ended: list[str] = []
        self.steps: dict[str, dict[str, tuple[int, int]]] = {}  # stage, then shard: (step, of)

    def started(self, stage: str) -> None:
        """A process of ``stage`` was started."""
        if stage in self.stages:
            if stage not in self.running:
                self._line(f"{self._label(stage)} ...")
            self.running.append(stage)

    def finished(self, stage: str, seconds: float, reused: bool) -> None:
        """A process of ``stage`` has its result."""
        if stage in self.running:
            self.running.remove(stage)
        self.ended.append(stage)
        if self.bar_of == stage and stage not in self.running:
            self._close()
        part = f" {self.ended.count(stage)} of {self.shards}" if stage == "sample" and self.shards > 1 else ""
        self._line(f"{self._label(stage)}{part}: {'reused' if reused else 'done'}, {seconds:.1f} s")

    def progress(self, report: dict[str, Any]) -> None:
        """One progress line of a stage: ``stage``, ``step``, ``of`` and other numbers; shards are added up."""
        values = dict(report)
        stage, step, of = str(values.pop("stage")), int(values.pop("step")), int(values.pop("of"))
        if stage not in self.running:  # its record was read before its last line of output
            return
        shards = self.steps.setdefault(stage, {})
        shards[str(values.pop("shard", 0))] = (step, of)
        step, of = (sum(column) for column in zip(*shards.values(), strict=True))
        shown = "  ".join(f"{name} {value}" for name, value in values.items())
        if not self.live:
            now = time.monotonic()
            if step < of and now - self.printed < PAUSE:
                return
            self.printed = now
            self._line(f"      {stage} {step}/{of}  {shown}".rstrip())
            return
        if self.bar is None or self.bar_of != stage:
            self._close()
            self.bar, self.bar_of = tqdm(total=of, desc=f"      {stage}", leave=False, file=sys.stderr), stage
        self.bar.total = of
        self.bar.n = step
        self.bar.set_postfix_str(shown)

    def say(self, text: str) -> None:
        """A line of a stage that a person should see."""
        self._line(f"      {text}")

    def close(self) -> None:
        """Leave the terminal clean."""
        self._close()

    def _label(self, stage: str) -> str:
        if stage not in self.order:
            self.order.append(stage)
        return f"[{self.order.index(stage) + 1}/{len(self.stages)}] {stage}"

    def _line(self, text: str) -> None:
        if self.bar is None:
            print(text, flush=True)
        else:
            tqdm.write(text, file=sys.stdout)

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = self.bar_of = None
