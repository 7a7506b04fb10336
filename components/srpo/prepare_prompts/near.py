"""Near duplicates: MinHash signatures (rensa) choose which pairs are compared, and their exact similarity decides.

The similarity of two prompts is the Jaccard index of their words and pairs of neighbouring words, without case and
punctuation. Prompts are taken in order: one that is near to a kept one before it goes, so the first of its kind stays.

A signature's values are grouped into bands. Two prompts with an equal band are neighbours in that band; a band has so
many values that of pairs just at the threshold 1 in 100 has no equal band, and of more similar ones far fewer. Of the
nearest few neighbours those whose whole signatures are clearly less alike than the threshold are left out; with what
the others stand for, a prompt is compared. So neither a crowd of equal prompts nor one of alike ones costs a square.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from srpo.prepare_prompts.cleaning import words

BANDS = 16
MISSED = 0.01  # of the pairs whose similarity is just the threshold
NEIGHBOURS = 8  # before it, in each band
DOUBT = 0.15  # how far below the threshold two sketches may lie for their texts to be compared: 3.5 standard errors
PAIRS = 50_000  # sketches that are compared at a time
SEED = 1


def shingles(text: str) -> list[str]:
    """Words and pairs of neighbouring words; the text itself where it has no word."""
    found = words(text)
    return [*found, *map(" ".join, pairwise(found))] or [text]


def similarity(first: frozenset[str], second: frozenset[str]) -> float:
    """The Jaccard index of two sets of shingles."""
    return len(first & second) / len(first | second)


def values_per_band(threshold: float) -> int:
    """The most values a band may have: more would miss too many pairs, fewer compare too many."""
    equal = 1 - MISSED ** (1 / BANDS)  # how likely one band must at least be equal
    return max(1, min(10, int(math.log(equal) / math.log(threshold))))


def signatures_of(texts: list[str], threshold: float) -> NDArray[np.uint64]:
    """``[texts, BANDS, values of a band]``: where two texts have equal values, as often as they are similar."""
    values = values_per_band(threshold)
    matrix = RMinHash.digest_matrix_from_token_sets([shingles(text) for text in texts], BANDS * values, SEED)
    flat = np.fromiter(chain.from_iterable(matrix.to_rows()), np.uint64, len(texts) * BANDS * values)
    return flat.reshape(len(texts), BANDS, values)


def bands_of(signatures: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """``[BANDS, texts]``: one hash of each band's values."""
    factors = np.random.default_rng(SEED).integers(1, 2**63, signatures.shape[2], np.uint64) * np.uint64(2)
    return (signatures * (factors + np.uint64(1))).sum(2, dtype=np.uint64).T  # modulo 2 ** 64


def near_duplicates(
    batches: Iterable[list[tuple[int, str]]],
    count: int,
    text_of: Callable[[int], str],
    threshold: float,
    folder: Path,
) -> Iterator[tuple[int, int]]:
    """``(n, n of the kept prompt)`` of every prompt that is at least ``threshold`` similar to a kept one before it.

    Args:
        batches: ``(n, text)`` of all prompts, in order of ``n``, which is below 2 ** 32.
        count: how many they are.
        text_of: the text of a number.
        folder: for about 250 bytes a prompt while this runs.
    """
    numbers = np.empty(count, np.uint32)
    bands: NDArray[np.uint64] = _on_disk(folder, (BANDS, count), np.uint64)
    sketches: NDArray[np.uint8] = _on_disk(folder, (count, BANDS * values_per_band(threshold)), np.uint8)
    start = 0
    for batch in batches:
        stop = start + len(batch)
        signatures = signatures_of([text for _, text in batch], threshold)
        numbers[start:stop] = [n for n, _ in batch]
        bands[:, start:stop] = bands_of(signatures)
        sketches[start:stop] = signatures.reshape(len(batch), -1)  # the lowest byte of each value
        start = stop

    shingled = lru_cache(maxsize=10_000)(lambda n: frozenset(shingles(text_of(n))))
    stands_for: dict[int, int] = {}  # a dropped prompt: the kept one that it is near to
    for n, group in neighbours(bands, sketches, numbers, threshold - DOUBT):
        own = shingled(n)
        for other in sorted({stands_for.get(other, other) for other in group}):
            if similarity(own, shingled(other)) >= threshold:
                stands_for[n] = other
                yield n, other
                break


def neighbours(
    bands: NDArray[np.uint64], sketches: NDArray[np.uint8], numbers: NDArray[np.uint32], least: float
) -> Iterator[tuple[int, list[int]]]:
    """Each prompt with those before it that share a band, the nearest few of each band, and at least the share
    ``least`` of the sketch; without any a prompt is left out."""
    pairs = np.empty(0, np.uint64)  # place of the later one, then of the earlier one
    for band in bands:
        order = np.argsort(band, kind="stable")
        hashes = band[order]
        found = [pairs]
        for distance in range(1, NEIGHBOURS + 1):
            places = np.flatnonzero(hashes[distance:] == hashes[:-distance])
            for equal in np.split(places, range(PAIRS, len(places), PAIRS)):
                later, earlier = order[equal + distance], order[equal]
                alike = (sketches[later] == sketches[earlier]).mean(1) >= least
                found.append((later[alike] << 32 | earlier[alike]).astype(np.uint64))
        pairs = np.unique(np.concatenate(found))
    later, earlier = (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(2**32 - 1)).astype(np.int64)
    starts = np.flatnonzero(np.diff(later, prepend=-1))
    for begin, end in pairwise([*starts.tolist(), len(later)]):
        yield int(numbers[later[begin]]), numbers[earlier[begin:end]].tolist()


def _on_disk(folder: Path, shape: tuple[int, int], kind: type) -> NDArray[Any]:
    """An array in a file without a name: it is gone with the array, however the process ends."""
    path = folder / "array"
    array = np.memmap(path, kind, "w+", shape=(max(1, shape[0]), max(1, shape[1])))
    path.unlink()
    return array[: shape[0], : shape[1]]
