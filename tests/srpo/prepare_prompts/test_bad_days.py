"""Large files, cut files, full disks and kills: memory stays, errors say what, nothing half-made appears."""

import json
import signal
import subprocess
import sys
import textwrap

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from preparing import ANIMALS, prepare

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.schemas import PROMPTS, write_rows
from srpo.core.execution.stage import execute
from srpo.prepare_prompts import formats, rows
from srpo.prepare_prompts import run as stage

LONG = "a very long prompt " * 280_000  # 5 MB


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "\n".join([*ANIMALS, LONG])),
        ("a.json", json.dumps([*ANIMALS, LONG])),
        ("a.jsonl", "".join(json.dumps({"prompt": text}) + "\n" for text in [*ANIMALS, LONG])),
        ("a.csv", "prompt\n" + "\n".join([*ANIMALS, f'"{LONG}"'])),
    ],
)
def test_a_line_of_five_megabytes_is_refused_and_its_start_kept(tmp_path, file, name, content):
    kept, rejected, _, report = prepare(tmp_path / "out", file(name, content))
    assert len(kept) == len(ANIMALS)
    assert [row["reason"] for row in rejected] == ["too long"]
    assert len(rejected[0]["prompt"]) == rows.SHOWN + 1
    assert rejected[0]["detail"] == f"{len(LONG.strip())} characters"
    assert len(report) < 50_000


def test_a_file_without_line_ends_does_not_fill_the_memory(tmp_path, file, monkeypatch):
    monkeypatch.setattr(formats, "LONGEST", 1 << 20)
    for name, content in (("a.txt", LONG), ("a.jsonl", json.dumps(LONG)), ("a.csv", f'prompt\n"{LONG}"')):
        with pytest.raises(InputError, match="is longer than 1 MB: it must be text in lines"):
            prepare(tmp_path / name.replace(".", "-"), file(name, content))


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_parquet_that_is_cut_is_named(tmp_path, file, share):
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.table({"prompt": [f"{n} boats" for n in range(5000)]}), whole, row_group_size=500)
    data = whole.read_bytes()
    with pytest.raises(InputError, match=r"cut\.parquet cannot be read as Parquet"):
        prepare(tmp_path / "out", file("cut.parquet", data[: int(len(data) * share)]))


def test_a_parquet_with_a_damaged_page_is_named(tmp_path, file):
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.table({"prompt": [f"{n} boats" for n in range(5000)]}), whole, compression="zstd")
    data = bytearray(whole.read_bytes())
    data[200:900] = bytes(700)
    with pytest.raises(InputError, match=r"bad\.parquet cannot be read as Parquet"):
        prepare(tmp_path / "out", file("bad.parquet", bytes(data)))


def test_markup_and_writing_from_the_right_stay_text(tmp_path, file):
    arabic, override = "ثعلب أحمر <b>في</b> الثلج", "evil \u202egnp.exe\u202c name"
    kept, _, _, report = prepare(tmp_path / "out", file("a.txt", "\n".join([arabic, override, *ANIMALS])))
    assert {arabic, "evil gnp.exe name"} < {row["prompt"] for row in kept}
    assert "<b>" not in report
    assert "\u202e" not in report
    assert '<li dir="auto">' in report


def test_numbered_sources_that_disagree_can_have_ids_of_their_texts(tmp_path, file):
    one, two = (
        file(name, "".join(json.dumps({"id": n, "prompt": f"{text} {name}"}) + "\n" for n, text in enumerate(ANIMALS)))
        for name in ("one.jsonl", "two.jsonl")
    )
    said = r"two.jsonl:1 has the id '0' of one.jsonl:1, but another text.*keep_ids"
    with pytest.raises(InputError, match=said):
        prepare(tmp_path / "a", two, one)
    kept, *_ = prepare(tmp_path / "b", one, two, keep_ids=False)
    assert len(kept) == 2 * len(ANIMALS)


def test_a_table_is_written_in_row_groups_and_read_by_its_version(tmp_path, file, monkeypatch):
    monkeypatch.setattr("srpo.core.contracts.schemas.ROWS_PER_GROUP", 100)
    prepare(tmp_path / "out", file("a.txt", "\n".join(f"{n} boats" for n in range(950))))
    with pq.ParquetFile(tmp_path / "out/prompts/prompts.parquet") as table:
        groups = [table.metadata.row_group(n).num_rows for n in range(table.num_row_groups)]
        assert table.schema_arrow.metadata[b"srpo.schema_version"] == b"1"
        assert table.schema_arrow.remove_metadata() == PROMPTS.remove_metadata()
    assert groups == [100] * 9 + [50]
    with pytest.raises(pa.ArrowInvalid):
        write_rows(tmp_path / "b.parquet", [("id", None, "", "train", "a:1")], PROMPTS)


SCRIPT = """
import os, resource, signal, sys
from pathlib import Path
from srpo.core.execution import progress
from srpo.core.execution.stage import execute_or_exit
from srpo.prepare_prompts.run import STAGE
{body}
execute_or_exit(STAGE, {{"sources": [sys.argv[1]], "near_duplicates": 0.8}}, sys.argv[2], {{}}, {{}})
"""
KILL = """
def killed(self, step, of, **values):
    if "{moment}" in values: os.kill(os.getpid(), signal.SIGKILL)
progress.Progress.__call__ = killed
"""
FULL = "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))"  # no file grows beyond this


def start(body, *arguments):
    code = textwrap.dedent(SCRIPT.format(body=body))
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture
def many(file):
    return file("many.txt", "\n".join(f"{n} boats on a {n % 97} mile river, {n % 89}" for n in range(3000)))


@pytest.mark.parametrize("moment", ["prompts", "doing"])
def test_a_kill_leaves_nothing_and_the_next_try_gives_the_same(tmp_path, many, moment):
    done = start(KILL.format(moment=moment), many, tmp_path / "work")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not list((tmp_path / "work").rglob("manifest.json"))
    assert not list((tmp_path / "work/state").rglob("*.*"))
    settings = {"sources": [str(many)], "near_duplicates": 0.8}
    results = [execute(stage.STAGE, settings, tmp_path / name, {}, {}) for name in ("work", "other")]
    one, other = ((result / "prompts/prompts.parquet").read_bytes() for result in results)
    assert one == other


def test_a_full_disk_ends_with_a_word_and_without_a_result(tmp_path, many):
    done = start(FULL, many, tmp_path / "work")
    assert done.returncode == 1
    assert "srpo: prepare_prompts: " in done.stdout.splitlines()[-1]
    assert not list((tmp_path / "work").rglob("*.parquet"))
