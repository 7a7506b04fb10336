"""Progress of long work: a bar on a terminal, one JSON line a step in a pod's log."""

import json
import sys
from typing import Any

from tqdm import tqdm


class Progress:
    """Reports how far a stage is.

    On a terminal it draws one bar; elsewhere it prints one JSON line a call, with ``stage``, ``step``, ``of`` and
    whatever numbers the caller adds. ``srpo run`` reads those lines and shows them.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.bar: tqdm[Any] | None = None

    def __call__(self, step: int, of: int, **values: Any) -> None:
        """Say that ``step`` of ``of`` is done; ``values`` are shown beside it."""
        shown = {name: round(value, 5) if isinstance(value, float) else value for name, value in values.items()}
        if not sys.stderr.isatty():
            print(json.dumps({"stage": self.stage, "step": step, "of": of, **shown}), flush=True)
            return
        if self.bar is None or self.bar.total != of:
            self.bar = tqdm(total=of, desc=self.stage, leave=True)
        self.bar.update(step - self.bar.n)
        self.bar.set_postfix(shown)
        if step >= of:
            self.bar.close()
            self.bar = None
