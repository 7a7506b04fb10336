"""prepare_prompts: every format gives one table, nothing disappears in silence, bad input is named."""

import csv
import hashlib
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from preparing import ANIMALS, prepare

from srpo.core.contracts.errors import InputError
from srpo.core.execution.stage import execute
from srpo.prepare_prompts import run as stage
from srpo.prepare_prompts.config import Config

ROOT = Path(__file__).resolve().parents[3]
EXCERPTS = ROOT / "tests" / "data" / "prompts"
FULL = Path(os.environ.get("SRPO_PROMPT_SETS", ROOT.parent / "shared" / "data" / "prompts"))
GENEVAL = {"color_attr", "position", "two_object", "colors", "counting", "single_object"}


def as_txt(path, texts):
    path.write_text("\n".join(texts) + "\n")


def as_json(path, texts):
    path.write_text(json.dumps(texts))


def as_objects(path, texts):
    path.write_text(json.dumps([{"prompt": text, "n": 1} for text in texts], indent=1))


def as_jsonl(path, texts):
    path.write_text("".join(json.dumps({"caption": text}) + "\n" for text in texts))


def as_csv(path, texts):
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([["n", "Text"], *([i, text] for i, text in enumerate(texts))])


def as_semicolons(path, texts):
    path.write_text("n;prompt\n" + "".join(f"1;{text}\n" for text in texts))


def as_parquet(path, texts):
    pq.write_table(pa.table({"text": texts, "other": [1] * len(texts)}), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.txt", as_txt),
        ("a.json", as_json),
        ("b.json", as_objects),
        ("c.json", as_jsonl),
        ("a.jsonl", as_jsonl),
        ("a.csv", as_csv),
        ("b.csv", as_semicolons),
        ("a.tsv", as_csv),
        ("A.PARQUET", as_parquet),
    ],
)
def test_every_format_gives_the_same_table(tmp_path, name, write):
    path = tmp_path / name
    write(path, ANIMALS)
    rows, rejected, metrics, _ = prepare(tmp_path / "out", path)
    expected = {hashlib.sha256(text.encode()).hexdigest()[:16]: text for text in ANIMALS}
    assert {row["prompt_id"]: row["prompt"] for row in rows} == expected
    assert [row["prompt_id"] for row in rows] == sorted(expected)
    assert {row["source"].split(":")[0] for row in rows} == {name}
    assert not rejected
    assert metrics["kept"] == metrics["read"] == len(ANIMALS)


@pytest.mark.parametrize(
    ("name", "kept", "duplicates", "ids", "categories"),
    [
        ("pickapic.txt", 20, 0, False, {""}),
        (
            "geneval.jsonl",
            20,
            0,
            False,
            GENEVAL,
        ),
        ("imagereward.json", 20, 0, True, {""}),
        ("pickapic-train.txt", 25409, 17, False, {""}),
        (
            "geneval-test.jsonl",
            553,
            1659,
            False,
            GENEVAL,
        ),
        ("imagereward-benchmark.json", 100, 0, True, {""}),
    ],
)
def test_real_prompt_sets(tmp_path, name, kept, duplicates, ids, categories):
    path = EXCERPTS / name if (EXCERPTS / name).exists() else FULL / name
    if not path.exists():
        pytest.skip(f"{path} is absent; SRPO_PROMPT_SETS names the folder of the full prompt sets")
    rows, rejected, metrics, _ = prepare(tmp_path, path, held_out_fraction=0.2)
    assert len(rows) == kept
    assert metrics.get("rejected_duplicate", 0) == duplicates
    assert len(rows) + len(rejected) == metrics["read"]
    assert {row["category"] for row in rows} <= categories
    assert all(row["prompt"] for row in rows)
    if ids:
        source = {entry["id"]: " ".join(entry["prompt"].split()) for entry in json.loads(path.read_text())}
        assert {row["prompt_id"]: row["prompt"] for row in rows} == source


def test_tiny_world_keeps_its_own_ids_and_splits(tmp_path):
    from srpo.tiny import world

    rows, _, metrics, _ = prepare(tmp_path, "tiny", held_out_fraction=0.9)
    own = {row.id: (row.prompt, row.category, row.split) for row in world.prompts()}
    assert {row["prompt_id"]: (row["prompt"], row["category"], row["split"]) for row in rows} == own
    assert metrics["held_out"] == sum(split == "held_out" for _, _, split in own.values())


def test_cleaning_and_every_refusal_is_on_record(tmp_path, file):
    rough = ["  a \t red\u00a0 fox ", "cafe\u0301", "\ufeffan owl", "a red fox", "", " \t", "bell\x07", "x", "y" * 31]
    path = file("rough.txt", "\n".join([*rough, *ANIMALS[1:]]) + "\n")
    rows, rejected, metrics, report = prepare(tmp_path / "out", path, min_characters=2, max_characters=30)
    assert {row["prompt"] for row in rows} == {"a red fox", "café", "an owl", *ANIMALS[1:]}
    assert [(row["line"], row["reason"]) for row in rejected] == [
        (4, "duplicate"),
        (5, "empty"),
        (6, "empty"),
        (7, "control character"),
        (8, "too short"),
        (9, "too long"),
    ]
    assert rejected[4]["prompt"] == "x"
    assert rejected[0]["source"] == "rough.txt"
    assert (
        metrics["rejected"],
        metrics["rejected_empty"],
        sum(n for key, n in metrics.items() if key.startswith("changed_")),
    ) == (6, 2, 3)
    assert "rough.txt:7" in report


def test_half_a_surrogate_pair_is_refused_not_a_crash(tmp_path, file):
    path = file("a.json", json.dumps([*ANIMALS, "\ud83d cat"]))
    _, rejected, _, _ = prepare(tmp_path / "out", path)
    assert [(row["prompt"], row["reason"]) for row in rejected] == [("\\ud83d cat", "control character")]


def test_joined_emoji_survive(tmp_path, file):
    rows, _, _, _ = prepare(tmp_path / "out", file("a.txt", "\n".join([*ANIMALS, "a 👩‍🚀 on the moon"])))
    assert "a 👩‍🚀 on the moon" in {row["prompt"] for row in rows}


def test_line_separators_inside_a_prompt_do_not_cut_it(tmp_path, file):
    rows, _, _, _ = prepare(tmp_path / "out", file("a.txt", "\r\n".join([*ANIMALS, "one\u2028two\x0cthree"])))
    assert "one two three" in {row["prompt"] for row in rows}
    assert len(rows) == len(ANIMALS) + 1


def test_added_prompts_move_none_to_the_other_side(tmp_path, file):
    few = [f"a drawing of {n} boats" for n in range(100)]
    more = [f"a photo of {n} cranes" for n in range(300)]
    before, *_ = prepare(tmp_path / "few", file("few.txt", "\n".join(few)), held_out_fraction=0.3)
    after, *_ = prepare(
        tmp_path / "all", file("all.txt", "\n".join(more[:150] + few + more[150:])), held_out_fraction=0.3
    )
    splits = {row["prompt"]: row["split"] for row in after}
    assert all(splits[row["prompt"]] == row["split"] for row in before)
    assert 0.2 < sum(split == "held_out" for split in splits.values()) / len(splits) < 0.4


def test_caps_take_by_hash_and_record_the_rest(tmp_path, file):
    path = file("a.txt", "\n".join(f"{n} boats" for n in range(200)))
    everything, *_ = prepare(tmp_path / "all", path)
    rows, rejected, metrics, _ = prepare(tmp_path / "capped", path, train_prompts=7, held_out_prompts=3)
    assert (metrics["train"], metrics["held_out"]) == (7, 3)
    assert {row["reason"] for row in rejected} == {"over train_prompts", "over held_out_prompts"}
    assert len(rows) + len(rejected) == 200
    splits = {row["prompt"]: row["split"] for row in everything}
    assert all(splits[row["prompt"]] == row["split"] for row in rows)


def test_sources_are_joined_and_equal_file_names_stay_apart(tmp_path, file):
    first, second = file("x/a.txt", "\n".join(ANIMALS)), file("y/a.txt", "a whale\na red fox\n")
    rows, rejected, _, _ = prepare(tmp_path / "out", first, second)
    assert {row["source"] for row in rows if row["prompt"] == "a whale"} == {f"{second}:1"}
    assert [(row["source"], row["line"], row["reason"]) for row in rejected] == [(str(second), 2, "duplicate")]


def test_same_input_same_bytes(tmp_path):
    for name in ("one", "two"):
        prepare(tmp_path / name, EXCERPTS / "pickapic.txt", EXCERPTS / "geneval.jsonl", "tiny")
    for name in ("prompts/prompts.parquet", "prompts/rejected.parquet", "report.html", "metrics.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_prompts_are_escaped_in_the_report(tmp_path, file):
    bad = "<script>alert(1)</script>"
    rows = [{"prompt": f"{bad} {n}", "category": bad} for n in range(8)] + [{"prompt": f"{bad}\0", "tag": bad}]
    *_, report = prepare(tmp_path / "out", file("a.json", json.dumps(rows)))
    assert "<script" not in report
    assert "&lt;script&gt;" in report
    assert "://" not in report


def test_an_edited_file_makes_a_new_result(tmp_path, file):
    path = file("a.txt", "\n".join(ANIMALS))

    def key():
        return execute(stage.STAGE, {"sources": [str(path)], "held_out_fraction": 0.5}, tmp_path / "work", {}, {})

    first = key()
    assert key() == first
    path.write_text("\n".join([*ANIMALS[:-1], "a hart"]))
    assert key() != first


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "missing.txt' does not exist"),
        ("empty.txt", "", "is empty"),
        ("blank.txt", "\n \n\t\n", r"leave no prompts \(3 empty\)"),
        ("empty.json", "[]", "is empty"),
        ("nothing.json", " ", "is empty"),
        ("empty.csv", "prompt\n", "is empty"),
        ("a.docx", "a cat", "suffix '.docx'"),
        ("a", "a cat", "suffix ''"),
        ("latin.txt", b"a cat\na caf\xe9\n", "line 2 is not UTF-8"),
        ("utf16.txt", "a cat".encode("utf-16"), "line 1 is not UTF-8"),
        ("json.txt", '["a", "b"]', r"name must end in .json"),
        ("lines.txt", '{"prompt": "a"}\n{"prompt": "b"}\n', r"name must end in .json"),
        ("parquet.csv", b"PAR1abc", r"name must end in .parquet"),
        ("shape.json", '{"prompts": ["a"]}', "one JSON object with 'prompts'"),
        ("number.json", "[1, 2]", "entry 1 is number"),
        ("nested.json", '[["a"]]', "entry 1 is list"),
        ("deep.json", "[" * 100_000, "is not JSON"),
        ("cut.json", '[{"prompt": "a"}, {"prom', "is not JSON"),
        (
            "keys.json",
            '[{"prompt": "a"}, {"image": "b"}]',
            "entry 2 has no column prompt or text or caption: it has 'image'",
        ),
        ("value.json", '[{"prompt": ["a"]}]', r"has the prompt \"\['a'\]"),
        ("cut.jsonl", '{"prompt": "a"}\n{"prompt": \n', "line 2 is not JSON"),
        ("nocolumn.csv", "name,size\na,1\n", "no column prompt or text or caption: it has 'name', 'size'"),
        ("nocolumn2.csv", "name,size\n", "no column prompt or text or caption: it has 'name', 'size'"),
        ("comma.csv", "prompt,category\na cat, asleep,photo\n", "line 2 has 3 fields"),
        ("quote.csv", 'prompt,n\n"a cat\n', "cannot be read as CSV"),
        ("damaged.parquet", b"PAR1 and nothing more", "cannot be read as Parquet"),
        ("path.json", '[{"id": "../x", "prompt": "a"}]', r"id '\.\./x'"),
        ("ids.json", '[{"id": 1, "prompt": "a"}, {"id": 1, "prompt": "b"}]', "ids.json:2 has the id '1' of ids.json:1"),
    ],
)
def test_bad_input_is_named(tmp_path, file, name, content, message):
    path = tmp_path / name if content is None else file(name, content)
    with pytest.raises(InputError, match=message):
        prepare(tmp_path / "out", path)


def test_parquet_without_the_column_lists_what_there_is(tmp_path):
    pq.write_table(pa.table({"image": ["a"], "words": ["b"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"it has 'image', 'words'; set prepare_prompts\.column"):
        prepare(tmp_path / "out", tmp_path / "a.parquet")


def test_a_named_column_is_taken(tmp_path, file):
    path = file("a.csv", "prompt,words\n" + "".join(f"no,{text}\n" for text in ANIMALS))
    rows, *_ = prepare(tmp_path / "out", path, column="words")
    assert {row["prompt"] for row in rows} == set(ANIMALS)
    with pytest.raises(InputError, match="no column 'absent'"):
        prepare(tmp_path / "other", path, column="absent")


def test_one_id_with_one_text_twice_is_a_duplicate(tmp_path, file):
    rows = [{"id": n, "prompt": text} for n, text in enumerate(ANIMALS)]
    kept, rejected, _, _ = prepare(tmp_path / "out", file("a.json", json.dumps([*rows, rows[0]])))
    assert len(kept) == len(ANIMALS)
    assert [row["reason"] for row in rejected] == ["duplicate"]


def test_both_splits_must_have_prompts(tmp_path, file):
    path = file("a.txt", "\n".join(ANIMALS))
    with pytest.raises(InputError, match="none of the 8 prompts is held_out with held_out_fraction 1e-09"):
        prepare(tmp_path / "none", path, held_out_fraction=1e-9)
    with pytest.raises(InputError, match="none of the 8 prompts is train"):
        prepare(tmp_path / "all", path, held_out_fraction=1 - 1e-9)


@pytest.mark.parametrize(
    "settings",
    [
        {"sources": ()},
        {"sources": ("tiny", "tiny")},
        {"min_characters": 0},
        {"max_characters": 0},
        {"held_out_fraction": 0.0},
        {"held_out_fraction": 1.0},
        {"train_prompts": 0},
        {"held_out_prompts": -1},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        Config(**settings)
