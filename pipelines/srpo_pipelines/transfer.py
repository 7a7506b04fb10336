"""The bar that long transfers show on a terminal; elsewhere they are silent until their end."""

import contextlib
from collections.abc import Callable, Iterator

from tqdm import tqdm


@contextlib.contextmanager
def bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A function that hears ``(bytes done, of)``."""
    with tqdm(desc=label, unit="B", unit_scale=True, disable=None, leave=False) as shown:

        def progress(done: int, of: int) -> None:
            shown.total = of
            shown.update(done - shown.n)

        yield progress
