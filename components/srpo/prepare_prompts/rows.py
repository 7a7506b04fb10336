"""All rows of a run, on disk: what is refused among them, which are drawn, and both in order.

A private SQLite database, so that a million prompts need no memory. Its file has no name any more once it is open:
nothing is left of it however the process ends.
"""

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from srpo.core.contracts.errors import InputError
from srpo.prepare_prompts.cleaning import Refusal, place
from srpo.prepare_prompts.near import near_duplicates

BATCH = 4096  # texts that are compared at a time
CACHE = 64 << 10  # KiB of pages in memory
SHOWN = 4000  # characters of a refused prompt that are kept; its source has the rest
# A row by its number `n`: in order of file name and line. `place` says its split.
SCHEMA = """
CREATE TABLE files (file INTEGER PRIMARY KEY, name TEXT, source TEXT, weight REAL);
CREATE TABLE rows (
    n INTEGER PRIMARY KEY, file INTEGER, line INTEGER, id TEXT, prompt TEXT, category TEXT, split TEXT,
    digest BLOB, place REAL, tokens INTEGER, pooled_tokens INTEGER, reason TEXT, detail TEXT
);
"""


class Judged(NamedTuple):
    """A row as it goes in; ``refused`` is None where nothing speaks against it yet."""

    file: int  # the place of its file in the list of files
    line: int
    prompt: str
    id: str | None
    category: str
    split: str = ""
    place: float = 0.0
    tokens: int | None = None  # of the encoder with a state a token
    pooled_tokens: int | None = None  # of the one that gives a single feature, where the model has one
    refused: Refusal | None = None


class Rows:
    """The rows; use it as a context, and add them file by file in order of the files' names.

    Args:
        folder: for the database, on a disk with room for all prompts.
        files: their names in the results, the sources that named them, and those sources' weights.
    """

    def __init__(self, folder: Path, files: Sequence[tuple[str, str, float | None]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "rows.sqlite"
        path.unlink(missing_ok=True)
        os.environ["SQLITE_TMPDIR"] = str(folder)  # where it sorts; a pod's own /tmp may be small or read-only
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE; "
            f"PRAGMA cache_size = -{CACHE}; {SCHEMA}"
        )
        path.unlink()
        self.db.executemany("INSERT INTO files VALUES (?, ?, ?, ?)", ((n, *file) for n, file in enumerate(files)))
        self.db.create_function("draw", 1, lambda text: place(text, "draw"), deterministic=True)
        self.own_ids = False

    def __enter__(self) -> "Rows":
        return self

    def __exit__(self, *_: object) -> None:
        self.db.close()

    def query(self, query: str, *values: Any) -> sqlite3.Cursor:
        """The rows of a query in SQL; what it does not read of them is never in memory."""
        return self.db.execute(query, values)

    def add(self, rows: Iterable[Judged]) -> None:
        """Put rows behind those that are there."""
        marks = ", ".join(["?"] * 12)
        self.db.execute("BEGIN")
        self.db.executemany(f"INSERT INTO rows VALUES (NULL, {marks})", map(self._values, rows))
        self.db.execute("COMMIT")

    def _values(self, row: Judged) -> tuple[Any, ...]:
        text = row.prompt
        if row.refused is not None:
            # Half a surrogate pair has no UTF-8: it is written as \udxxx. Only refused rows have one.
            text = text[:SHOWN].encode("utf-8", "backslashreplace").decode() + "…" * (len(text) > SHOWN)
        digest = hashlib.sha256(text.encode()).digest()[:16]
        self.own_ids |= row.id is not None
        own = digest[:8].hex() if row.id is None else row.id
        tokens = (row.tokens, row.pooled_tokens)
        reason, detail = row.refused or (None, "")
        return (row.file, row.line, own, text, row.category, row.split, digest, row.place, *tokens, reason, detail)

    def check_ids(self) -> None:
        """Raise :class:`InputError` when one id stands for two texts."""
        if not self.own_ids:  # else they are made from the texts
            return
        found = self.query(
            "SELECT id, MIN(n) FROM rows WHERE reason IS NULL GROUP BY id HAVING MIN(digest) != MAX(digest) "
            "ORDER BY 2 LIMIT 1"
        ).fetchone()
        if found is None:
            return
        places = self.query(
            "SELECT name || ':' || line, MIN(n) FROM rows JOIN files USING (file) WHERE reason IS NULL AND id = ? "
            "GROUP BY digest ORDER BY 2",
            found[0],
        )
        first, second = (where for where, _ in places.fetchmany(2))
        raise InputError(
            f"{second} has the id {found[0]!r} of {first}, but another text: an id must stand for one prompt "
            "(with keep_ids false, ids are made from the texts)"
        )

    def refuse_duplicates(self) -> None:
        """Of equal texts the first stays."""
        self._refuse_copies(
            "duplicate",
            "SELECT n, first FROM (SELECT n, MIN(n) OVER (PARTITION BY digest) AS first FROM rows "
            "WHERE reason IS NULL) WHERE n != first",
        )

    def refuse_near(self, threshold: float, folder: Path) -> None:
        """Refuse what is at least ``threshold`` similar to a kept prompt before it; see :mod:`near`."""
        count = self.query("SELECT COUNT(*) FROM rows WHERE reason IS NULL").fetchone()[0]
        kept = self.query("SELECT n, prompt FROM rows WHERE reason IS NULL ORDER BY n")
        batches = iter(lambda: kept.fetchmany(BATCH), [])

        def text_of(n: int) -> str:
            return str(self.query("SELECT prompt FROM rows WHERE n = ?", n).fetchone()[0])

        self.db.execute("CREATE TEMP TABLE near (n INTEGER PRIMARY KEY, first INTEGER)")
        self.db.execute("BEGIN")
        pairs = near_duplicates(batches, count, text_of, threshold, folder)
        self.db.executemany("INSERT INTO near VALUES (?, ?)", pairs)
        self.db.execute("COMMIT")
        self._refuse_copies("near duplicate", "SELECT n, first FROM near")

    def _refuse_copies(self, reason: str, copies: str) -> None:
        self.query(
            f"UPDATE rows SET reason = ?, detail = name || ':' || other.line FROM ({copies}) AS copy "
            "JOIN rows AS other ON other.n = copy.first JOIN files USING (file) WHERE rows.n = copy.n",
            reason,
        )

    def draw_by_weight(self) -> None:
        """Keep of each source so many that their numbers are in the proportion of the weights, and as many as that
        allows; which ones, a hash of the text says. A source without a weight has 1; none at all keeps everything.

        Raises:
            InputError: a source has no prompt left.
        """
        if not self.query("SELECT COUNT(weight) FROM files").fetchone()[0]:
            return
        counts = self.query(
            "SELECT source, COALESCE(weight, 1), COUNT(n) FROM files "
            "LEFT JOIN rows ON rows.file = files.file AND reason IS NULL GROUP BY source ORDER BY source"
        ).fetchall()
        for source, _, count in counts:
            if not count:
                raise InputError(f"prompt source {source!r} leaves no prompt: one with a weight must have some")
        scale = min(count / weight for _, weight, count in counts)
        for source, weight, _ in counts:
            most = max(1, int(scale * weight + 1e-6))
            self._refuse_over("over weight", "source = ?", (source,), "draw(prompt)", "source", most)

    def cap(self, split: str, most: int | None, name: str, by: str = "split") -> None:
        """Keep the first ``most`` prompts of a split by hash (of each category, if ``by`` says so), if there are more;
        any sample of them is a fair one. ``name`` is the setting's."""
        if most is not None:
            self._refuse_over(f"over {name}", "split = ?", (split,), "place", by, most)

    def _refuse_over(self, reason: str, which: str, values: tuple[str, ...], order: str, by: str, most: int) -> None:
        self.query(
            "UPDATE rows SET reason = ? WHERE n IN (SELECT n FROM (SELECT n, ROW_NUMBER() OVER "
            f"(PARTITION BY {by} ORDER BY {order}, prompt) AS nth FROM rows JOIN files USING (file) "
            f"WHERE reason IS NULL AND {which}) WHERE nth > ?)",
            reason,
            *values,
            most,
        )

    def kept(self) -> Iterator[tuple[Any, ...]]:
        """``(id, prompt, category, split, source)`` of the prompts that stay, by id."""
        return self.query(
            "SELECT id, prompt, category, split, name || ':' || line FROM rows JOIN files USING (file) "
            "WHERE reason IS NULL ORDER BY id"
        )

    def refused(self) -> Iterator[tuple[Any, ...]]:
        """``(source, line, prompt, reason, detail)`` of the others, in order of file name and line."""
        return self.query(
            "SELECT name, line, prompt, reason, detail FROM rows JOIN files USING (file) "
            "WHERE reason IS NOT NULL ORDER BY n"
        )
