"""Clean prompts, refuse bad ones with a reason, and split the rest so that a prompt never changes sides."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from srpo.core.contracts.errors import InputError
from srpo.prepare_prompts.config import Config
from srpo.prepare_prompts.sources import Row

# White space of every kind (tabs, line ends, U+2028) becomes one space; other controls mean damaged text.
CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff]")
# Seen by a tokenizer, not by a reader. The joiners U+200C and U+200D stay: emoji and many scripts need them.
INVISIBLE = re.compile("[\ufeff\u200b\u2060]")


class Prompt(NamedTuple):
    """A prompt that was kept."""

    prompt_id: str
    prompt: str
    category: str
    split: str
    source: str


class Rejected(NamedTuple):
    """A prompt that was not kept, and why."""

    source: str
    line: int
    prompt: str
    reason: str


@dataclass
class Cleaned:
    """What came of the rows: every row is in ``kept`` or in ``rejected``."""

    kept: list[Prompt] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    changed: int = 0  # kept, but not as it was written: spaces, composed letters, invisible characters

    def reasons(self) -> dict[str, int]:
        """How often each reason was given, the commonest first."""
        return dict(Counter(row.reason for row in self.rejected).most_common())


def clean_text(text: str) -> str:
    """NFC, no invisible characters, single spaces, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", INVISIBLE.sub("", text)).split())


def place(text: str) -> float:
    """A number in [0, 1) that belongs to this text alone, evenly spread over texts."""
    return int.from_bytes(hashlib.sha256(b"split:" + text.encode()).digest()[:8], "big") / 2**64


def clean(rows: Iterable[Row], config: Config) -> Cleaned:
    """Clean, refuse and split; the first of several equal texts is kept. ``kept`` is sorted by prompt_id.

    Raises:
        InputError: one id has two texts.
    """
    result = Cleaned()
    texts: set[str] = set()
    owners: dict[str, tuple[str, Row]] = {}
    for row in rows:
        text = clean_text(row.prompt)
        reason = _refusal(row.prompt, text, config)
        if reason is None:
            prompt_id = row.id or hashlib.sha256(text.encode()).hexdigest()[:16]
            known, owner = owners.setdefault(prompt_id, (text, row))
            if known != text:
                raise InputError(
                    f"{row.source}:{row.line} has the id {prompt_id!r} of {owner.source}:{owner.line}, "
                    "but another text: an id must stand for one prompt"
                )
            reason = "duplicate" if text in texts else None
        if reason is not None:
            result.rejected.append(_rejected(row.source, row.line, row.prompt, reason))
            continue
        texts.add(text)
        result.changed += text != row.prompt
        split = row.split or ("held_out" if place(text) < config.held_out_fraction else "train")
        result.kept.append(Prompt(prompt_id, text, row.category, split, f"{row.source}:{row.line}"))
    _cap(result, "train", config.train_prompts)
    _cap(result, "held_out", config.held_out_prompts)
    result.kept.sort()
    return result


def _refusal(raw: str, text: str, config: Config) -> str | None:
    if CONTROL.search(raw):
        return "control character"
    if not text:
        return "empty"
    if len(text) < config.min_characters:
        return "too short"
    return "too long" if len(text) > config.max_characters else None


def _cap(result: Cleaned, split: str, most: int | None) -> None:
    """Keep the ``most`` prompts of a split that come first by hash: any sample of them is a fair one."""
    members = sorted(
        (row for row in result.kept if row.split == split), key=lambda row: (place(row.prompt), row.prompt)
    )
    over = set(members[most:]) if most is not None else set()
    for row in result.kept:
        if row in over:
            source, _, line = row.source.rpartition(":")
            result.rejected.append(_rejected(source, int(line), row.prompt, f"over {split}_prompts"))
    result.kept = [row for row in result.kept if row not in over]


def _rejected(source: str, line: int, prompt: str, reason: str) -> Rejected:
    # Half a surrogate pair, as JSON allows it, has no UTF-8: it is written as \udxxx.
    return Rejected(source, line, prompt.encode("utf-8", "backslashreplace").decode(), reason)
