"""What is tidied, what is refused and which split it is: each step by itself, and what always holds."""

import json
import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preparing import ANIMALS, prepare

from srpo.core.contracts.errors import InputError
from srpo.prepare_prompts.cleaning import CONTROL, INVISIBLE, Blocklist, place, refusal, split_of, tidy, words
from srpo.prepare_prompts.config import Config

BOUNDED = settings(max_examples=80, deadline=None)
ROUGH = st.text(alphabet=st.one_of(st.characters(), st.sampled_from("\"'“”„«» \t\n\u200b\ufeff\u202ee\u0301")))


@pytest.mark.parametrize(
    ("raw", "tidied", "step"),
    [
        ("cafe\u0301", "café", "compose_unicode"),
        ("a\u200b \u202efox\u2069", "a fox", "remove_invisible"),
        (" a \t red\u00a0\u2028fox ", "a red fox", "tidy_spaces"),
        ('"a red fox"', "a red fox", "strip_quotes"),
        ("“a red fox”", "a red fox", "strip_quotes"),
        ("'a red fox'", "a red fox", "strip_quotes"),
        ('a red fox"', "a red fox", "strip_quotes"),
        ('"a red fox', "a red fox", "strip_quotes"),
        ('"" a fox ""', '"" a fox ""', None),
        ('a "stop" sign', 'a "stop" sign', None),
        ('"one" and "two"', '"one" and "two"', None),
        ("a dog's dinner", "a dog's dinner", None),
        ("'tis the season", "'tis the season", None),
        ('a TV of 42"', 'a TV of 42"', None),
        ("a 👩‍🚀 on the moon", "a 👩‍🚀 on the moon", None),
        ("ثعلب أحمر <b>في</b> الثلج", "ثعلب أحمر <b>في</b> الثلج", None),
    ],
)
def test_each_step_tidies_and_can_be_switched_off(raw, tidied, step):
    assert tidy(raw, Config())[0] == tidied
    if step is not None:
        assert tidied != tidy(raw, Config(**{step: False}))[0]
        off = dict.fromkeys(("compose_unicode", "remove_invisible", "tidy_spaces", "strip_quotes"), False)
        assert tidy(raw, Config(**off)) == (raw, [])


@BOUNDED
@given(ROUGH)
def test_a_tidied_text_stays_as_it_is_and_is_fit_for_a_table(text):
    config = Config(control_characters="remove")
    tidied, _ = tidy(text, config)
    assert tidy(tidied, config) == (tidied, [])
    assert unicodedata.is_normalized("NFC", tidied)
    assert not INVISIBLE.search(tidied)
    assert not CONTROL.search(tidied)
    assert tidied == " ".join(tidied.split())


@BOUNDED
@given(ROUGH)
def test_what_is_not_refused_is_utf8_in_every_mode(text):
    for mode in ("refuse", "remove", "keep"):
        config = Config(control_characters=mode, tidy_spaces=False, strip_quotes=False)
        tidied, _ = tidy(text, config)
        if refusal(text, tidied, config) is None:
            assert tidied.encode()


def test_every_change_is_counted_and_every_row_is_somewhere(tmp_path, file):
    lines = ['"a red fox"', "a  heron", "cafe\u0301", "an\u200bowl", "bell\x07", *ANIMALS]
    rows, rejected, metrics, report = prepare(tmp_path / "out", file("a.txt", "\n".join(lines)))
    assert {key: n for key, n in metrics.items() if key.startswith("changed")} == {
        "changed_quotes": 1, "changed_spaces": 1, "changed_composed": 1, "changed_invisible": 1,
    }  # fmt: skip
    assert Counter(row["reason"] for row in rejected) == {"duplicate": 2, "control character": 1}
    assert len(rows) + len(rejected) == metrics["read"] == len(lines)
    details = {(row["line"], row["reason"]): row["detail"] for row in rejected}
    assert details == {
        (5, "control character"): "U+0007 at 5", (6, "duplicate"): "a.txt:1", (7, "duplicate"): "a.txt:2",
    }  # fmt: skip
    assert "a.txt:5" in report


def test_control_characters_may_be_removed_or_kept(tmp_path, file):
    path = file("a.json", json.dumps(["bell\x07", "\ud83d cat", *ANIMALS]))
    removed, *_ = prepare(tmp_path / "removed", path, control_characters="remove")
    assert {"bell", "cat"} < {row["prompt"] for row in removed}
    kept, rejected, *_ = prepare(tmp_path / "kept", path, control_characters="keep")
    assert "bell\x07" in {row["prompt"] for row in kept}
    assert [row["prompt"] for row in rejected] == ["\\ud83d cat"]


def test_a_blocklist_holds_whole_words_in_any_case(tmp_path, file):
    blocklist = file("blocked.txt", "# words\nOwl\nin a  river # a phrase\nCafe\u0301\n赤い\n\n")
    prompts = [
        "an OWL!",
        "owls",
        "Howl",
        "otter in a river",
        "in the river",
        "the café",
        "赤い狐",
        "a red fox",
        "a moth",
    ]
    rows, rejected, *_ = prepare(tmp_path / "out", file("a.txt", "\n".join(prompts)), blocklist=str(blocklist))
    assert {row["prompt"] for row in rows} == {"owls", "Howl", "in the river", "a red fox", "a moth"}
    assert [(row["reason"], row["detail"]) for row in rejected] == [
        ("blocked", "owl"), ("blocked", "in a river"), ("blocked", "café"), ("blocked", "赤 い"),
    ]  # fmt: skip


def test_a_blocklist_must_be_there_and_hold_words(tmp_path, file):
    with pytest.raises(InputError, match=r"absent.txt' does not exist"):
        prepare(tmp_path / "a", file("a.txt", "\n".join(ANIMALS)), blocklist=str(tmp_path / "absent.txt"))
    with pytest.raises(InputError, match="holds no word"):
        Blocklist(iter([(1, "# nothing"), (2, "")]), "b.txt")


def test_words_ignore_case_and_punctuation_and_cut_scripts_without_spaces():
    assert words("A red-fox's DEN, 35mm (Straße)") == ["a", "red", "fox", "s", "den", "35mm", "strasse"]
    assert words("赤いfox") == ["赤", "い", "fox"]


def test_other_languages_are_refused_where_it_is_sure(tmp_path, file):
    german = "Ein alter Mann steht bei Sonnenuntergang auf einem hohen Berg und blickt ins Tal"
    japanese = "猫が窓辺で眠っている"
    english = ["a red fox sleeping under a tree in the snow", "an old man who looks at the sea", "a photo of two owls"]
    path = file("a.txt", "\n".join([german, japanese, *english, "a moth", "a lynx", "two toads and a hare"]))
    rows, rejected, *_ = prepare(tmp_path / "out", path, languages=("en",))
    assert {row["prompt"] for row in rows} >= set(english)
    assert [(row["line"], row["reason"], row["detail"][:2]) for row in rejected] == [
        (1, "language", "de"),
        (2, "language", "ja"),
    ]
    rows, rejected, *_ = prepare(tmp_path / "both", path, languages=("en", "de"))
    assert [row["line"] for row in rejected] == [2]
    with pytest.raises(InputError, match="languages is 'english'"):
        prepare(tmp_path / "wrong", path, languages=("english",))


@BOUNDED
@given(st.floats(0, 1, exclude_max=True), st.floats(0.01, 0.4), st.floats(0, 0.5))
def test_neither_fraction_moves_the_other_split(where, held_out, rating):
    split = split_of(where, Config(held_out_fraction=held_out, rating_fraction=rating))
    assert (split == "held_out") == (where < held_out)
    alone = split_of(where, Config(held_out_fraction=0.005, rating_fraction=rating))
    assert (split == "rating") == (alone == "rating")


def test_the_rating_split_holds_the_first_of_each_category(tmp_path, file):
    def prompts(count):
        return [{"prompt": f"{n} {c} boats", "category": c} for c in ("anime", "photo") for n in range(count)]

    settings = {"held_out_fraction": 0.2, "rating_fraction": 0.3, "rating_per_category": 10}
    rows, rejected, _, report = prepare(tmp_path / "a", file("a.json", json.dumps(prompts(100))), **settings)
    rated = [row for row in rows if row["split"] == "rating"]
    assert Counter(row["category"] for row in rated) == {"anime": 10, "photo": 10}
    assert {row["reason"] for row in rejected} == {"over rating_per_category"}
    pool = [row["prompt"] for row in rows + rejected if place(row["prompt"]) >= 0.7]
    first = sorted((text for text in pool if "anime" in text), key=place)[:10]
    assert {row["prompt"] for row in rated if row["category"] == "anime"} == set(first)
    assert "10 of 10" in report

    more, *_ = prepare(tmp_path / "b", file("b.json", json.dumps(prompts(150))), **settings)
    before, after = ({row["prompt"]: row["split"] for row in table} for table in (rows, more))
    assert all(after.get(text, split) == split for text, split in before.items())
    assert all(text in after for text, split in before.items() if split != "rating")


def test_a_rating_split_that_is_asked_for_has_prompts(tmp_path, file):
    with pytest.raises(InputError, match="none of the 8 prompts is rating with rating_fraction 1e-09"):
        prepare(tmp_path / "out", file("a.txt", "\n".join(ANIMALS)), rating_fraction=1e-9)
