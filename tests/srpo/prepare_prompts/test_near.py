"""Near duplicates: what goes is near to what stays before it, and what is near is found."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preparing import prepare

from srpo.prepare_prompts.near import (
    BANDS,
    bands_of,
    near_duplicates,
    neighbours,
    shingles,
    signatures_of,
    similarity,
    values_per_band,
)

WORDS = [f"w{n}" for n in range(300)]


def alike(first, second):
    return similarity(frozenset(shingles(first)), frozenset(shingles(second)))


def drop(texts, threshold, folder):
    rows = list(enumerate(texts, 1))
    batches = [rows[start : start + 7] for start in range(0, len(rows), 7)]
    return dict(near_duplicates(batches, len(rows), dict(rows).__getitem__, threshold, folder))


def crowd(seed, families, members):
    """Families of prompts, each member a few words away from its family's first."""
    rng = random.Random(seed)
    texts = []
    for _ in range(families):
        first = rng.choices(WORDS, k=rng.randint(8, 25))
        texts.append(" ".join(first))
        for _ in range(rng.randrange(members)):
            words = list(first)
            for _ in range(rng.randint(0, 3)):
                words[rng.randrange(len(words))] = rng.choice(WORDS)
            texts.append(" ".join(words))
    rng.shuffle(texts)
    return texts


def test_case_and_punctuation_do_not_count_and_one_word_in_a_few_does(tmp_path, file):
    prompts = [
        "an oil painting of a red fox beside a frozen river at dawn, soft light, highly detailed",
        "a photo of a cat",
        "An Oil-Painting of a RED fox, beside a frozen river at dawn: soft light -- highly detailed!",
        "an oil painting of a red fox beside a frozen river at dawn, soft light, highly detailed, 8k",
        "a photo of a dog",
        "猫が窓辺で眠っている、水彩画、柔らかい光",
        "猫が窓辺で眠っている、水彩画、柔らかい光。",
        "🦊🦊",
        "🦉",
    ]
    rows, rejected, metrics, _ = prepare(tmp_path / "out", file("a.txt", "\n".join(prompts)), near_duplicates=0.8)
    assert [(row["line"], row["reason"], row["detail"]) for row in rejected] == [
        (3, "near duplicate", "a.txt:1"), (4, "near duplicate", "a.txt:1"), (7, "near duplicate", "a.txt:6"),
    ]  # fmt: skip
    assert len(rows) == metrics["kept"] == 6
    assert prepare(tmp_path / "off", file("a.txt", "\n".join(prompts)))[1] == []


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.6, 0.7, 0.8, 0.9]))
def test_what_goes_is_near_to_one_that_stays_before_it(tmp_path_factory, seed, threshold):
    texts = crowd(seed, 12, 8)
    gone = drop(texts, threshold, tmp_path_factory.getbasetemp())
    for n, kept in gone.items():
        assert kept < n
        assert kept not in gone
        assert alike(texts[n - 1], texts[kept - 1]) >= threshold


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.9])
def test_nearly_all_pairs_are_found(tmp_path, threshold):
    """Against every pair compared: of those that stay, at most 1 in 100 is near to another that stays."""
    texts = crowd(1, 250, 4)
    gone = drop(texts, threshold, tmp_path)
    sets = [frozenset(shingles(text)) for n, text in enumerate(texts, 1) if n not in gone]
    missed = sum(any(similarity(one, other) >= threshold for other in sets[:place]) for place, one in enumerate(sets))
    assert len(gone) > 50
    assert missed <= 0.01 * len(texts)


def test_a_large_crowd_of_equal_prompts_leaves_one(tmp_path):
    texts = [f"the very same prompt about a red fox beside a river number {n}" for n in range(500)]
    gone = drop(texts, 0.7, tmp_path)
    assert set(gone.values()) == {1}
    assert len(gone) == 499


def test_neighbours_have_an_equal_band_and_much_of_the_sketch():
    bands = np.array([[5, 6, 5, 7, 5], [1, 2, 3, 2, 4]], np.uint64)
    sketches = np.array([[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 9, 4], [1, 2, 3, 9], [8, 2, 9, 9]], np.uint8)
    numbers = np.array([10, 11, 12, 13, 14], np.uint32)
    assert list(neighbours(bands, sketches, numbers, 0.0)) == [(12, [10]), (13, [11]), (14, [10, 12])]
    assert list(neighbours(bands, sketches, numbers, 0.5)) == [(12, [10]), (13, [11]), (14, [12])]
    assert list(neighbours(bands[:, :0], sketches[:0], numbers[:0], 0.5)) == []


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 0.99])
def test_a_pair_at_the_threshold_is_missed_once_in_a_hundred(threshold):
    values = values_per_band(threshold)
    assert (1 - threshold**values) ** BANDS <= 0.01
    assert values == 10 or (1 - threshold ** (values + 1)) ** BANDS > 0.01


def test_signatures_are_the_texts_own_and_as_alike_as_the_texts():
    texts = ["a red fox beside a river at dawn", "a red fox beside a river at dusk", "two owls"]
    together = signatures_of(texts, 0.8)
    assert (together[1] == signatures_of(texts[1:2], 0.8)[0]).all()
    assert (together[0] == together[1]).mean() == pytest.approx(alike(*texts[:2]), abs=0.15)
    hashes = bands_of(together)
    assert hashes.shape == (BANDS, 3)
    assert ((hashes[:, 0] == hashes[:, 1]) == (together[0] == together[1]).all(1)).all()
