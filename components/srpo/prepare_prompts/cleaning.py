"""Tidy a prompt, refuse a bad one with a reason, and say by its own text alone which split it belongs to."""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import NamedTuple

from srpo.core.contracts.errors import InputError
from srpo.prepare_prompts.config import Config

# White space of every kind (tabs, line ends, U+2028) becomes one space; other controls mean damaged text.
CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff]")
SURROGATE = re.compile("[\ud800-\udfff]")  # half a pair, as JSON allows it, has no UTF-8
# Seen by a tokenizer, not by a reader: zero width, soft hyphens, marks and overrides of direction. The joiners U+200C
# and U+200D stay: emoji and many scripts need them.
INVISIBLE = re.compile("[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
QUOTES = {'"': '"', "“": "”", "„": "“", "”": "”", "«": "»", "‹": "›", "‘": "’", "'": "'", "`": "`"}
DOUBLE = '"“”„«»'
# A word, or one letter of a script that is written without spaces.
IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\U00020000-\U0003ffff"
WORD = re.compile(f"[{IDEOGRAPH}]|[^\\W{IDEOGRAPH}]+")


class Refusal(NamedTuple):
    """Why a prompt is not kept: a reason that is counted, and what it was in this case."""

    reason: str
    detail: str = ""


def tidy(text: str, config: Config) -> tuple[str, list[str]]:
    """``text`` after the steps that are switched on, and the names of those that changed it.

    What comes out is a fixed point: tidied again, it stays as it is.
    """
    steps: list[tuple[str, bool, Callable[[str], str]]] = [
        ("control_characters", config.control_characters == "remove", lambda text: CONTROL.sub("", text)),
        ("invisible", config.remove_invisible, lambda text: INVISIBLE.sub("", text)),
        ("composed", config.compose_unicode, lambda text: unicodedata.normalize("NFC", text)),
        ("spaces", config.tidy_spaces, lambda text: " ".join(text.split())),
        ("quotes", config.strip_quotes, unquoted),
    ]
    changed = []
    for name, wanted, step in steps:
        if wanted and (after := step(text)) != text:
            text = after
            changed.append(name)
    return text, changed


def unquoted(text: str) -> str:
    """``text`` without quotes around all of it, and without a double quote at an end that has no partner."""
    while text:
        first, last, inner = text[0], text[-1], text[1:-1]
        if len(text) > 1 and QUOTES.get(first) == last and first not in inner and last not in inner:
            text = inner.strip()
        elif sum(map(text.count, DOUBLE)) == 1 and (first in DOUBLE or (last in DOUBLE and not text[-2:-1].isdigit())):
            text = text.strip(DOUBLE).strip()  # not the one of 42", which are inches
        else:
            break
    return text


def refusal(raw: str, text: str, config: Config) -> Refusal | None:
    """Why the prompt ``text``, tidied from ``raw``, is not kept, by what can be seen without any model; else None."""
    if config.control_characters == "refuse" and (found := CONTROL.search(raw)):
        return Refusal("control character", f"U+{ord(found.group()):04X} at {found.start() + 1}")
    if found := SURROGATE.search(text):
        return Refusal("control character", f"U+{ord(found.group()):04X} at {found.start() + 1}")
    if not text or text.isspace():
        return Refusal("empty")
    if len(text) < config.min_characters:
        return Refusal("too short", f"{len(text)} characters")
    return Refusal("too long", f"{len(text)} characters") if len(text) > config.max_characters else None


def place(text: str, purpose: str = "split") -> float:
    """A number in [0, 1) that belongs to this text alone, evenly spread over texts, another for each purpose."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{text}".encode()).digest()[:8], "big") / 2**64


def split_of(where: float, config: Config) -> str:
    """The split of a prompt at the place ``where``: the ends of [0, 1) are held out and for rating, so that neither
    fraction moves the other."""
    if where < config.held_out_fraction:
        return "held_out"
    return "rating" if where >= 1 - config.rating_fraction else "train"


def words(text: str) -> list[str]:
    """The words of ``text`` in small letters, without punctuation."""
    return WORD.findall(text.casefold())


class Blocklist:
    """Words and phrases that no prompt may hold, as whole words in any case."""

    def __init__(self, lines: Iterator[tuple[int, str]], where: str) -> None:
        self.phrases: set[tuple[str, ...]] = set()
        for _, line in lines:
            phrase = tuple(words(unicodedata.normalize("NFC", line.partition("#")[0])))
            if phrase:
                self.phrases.add(phrase)
        if not self.phrases:
            raise InputError(f"blocklist {where!r} holds no word: it must hold words or phrases, one a line")
        self.lengths = sorted({len(phrase) for phrase in self.phrases})
        self.firsts = {phrase[0] for phrase in self.phrases}

    def __call__(self, text: str) -> Refusal | None:
        """The refusal of a prompt that holds one of them."""
        found = words(text)
        for start, word in enumerate(found):
            if word in self.firsts:
                for length in self.lengths:
                    if tuple(found[start : start + length]) in self.phrases:
                        return Refusal("blocked", " ".join(found[start : start + length]))
        return None
