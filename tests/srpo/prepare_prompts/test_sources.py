"""Where prompts come from: files, folders, globs and buckets, compressed or not, each with its weight."""

import gzip
import json
from collections import Counter

import boto3
import moto
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from preparing import ANIMALS, prepare

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.sources import split_weight
from srpo.core.execution.stage import execute
from srpo.core.storage import s3
from srpo.prepare_prompts import run as stage
from srpo.prepare_prompts.config import Config

HPD = {name: [f"{name} of {animal}" for animal in ANIMALS] for name in ("anime", "concept-art", "paintings", "photo")}


def zstd(data):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def bucket(monkeypatch):
    """A client and an empty bucket `data`."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "SRPO_S3_ADDRESSING_STYLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(s3.time, "sleep", lambda seconds: None)
    with moto.mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="data")
        yield client


@pytest.mark.parametrize(
    "compress", [gzip.compress, zstd, lambda data: gzip.compress(data[:40]) + gzip.compress(data[40:])]
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv"])
def test_compressed_files_are_read_as_what_they_hold(tmp_path, file, name, compress):
    text = {
        "a.txt": "\n".join(ANIMALS),
        "a.jsonl": "".join(json.dumps({"text": animal}) + "\n" for animal in ANIMALS),
        "a.json": json.dumps(ANIMALS, indent=1),
        "a.csv": "id,prompt\n" + "".join(f"{n},{animal}\n" for n, animal in enumerate(ANIMALS)),
    }[name]
    path = file(name + (".zst" if compress is zstd else ".GZ"), compress(text.encode()))
    rows, *_ = prepare(tmp_path / "out", path)
    assert {row["prompt"] for row in rows} == set(ANIMALS)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_cut_or_wrong_compression_is_named(tmp_path, file, suffix):
    whole = (gzip.compress if suffix == ".gz" else zstd)("\n".join(f"{n} boats" for n in range(9000)).encode())
    with pytest.raises(InputError, match=rf"cut.txt{suffix} cannot be read as (gzip|zstd)"):
        prepare(tmp_path / "cut", file(f"cut.txt{suffix}", whole[: len(whole) // 2]))
    with pytest.raises(InputError, match=rf"plain.txt{suffix} cannot be read as (gzip|zstd)"):
        prepare(tmp_path / "plain", file(f"plain.txt{suffix}", "\n".join(ANIMALS)))


def test_category_files_of_a_folder(tmp_path, file):
    for name, prompts in HPD.items():
        file(f"hpd/{name.replace('-', '_')}.json", json.dumps(prompts))
    file("hpd/README.md", "not prompts")
    file("hpd/.cache/a.txt", "hidden")
    rows, _, metrics, _ = prepare(tmp_path / "out", tmp_path / "hpd")
    assert {row["prompt"]: row["category"] for row in rows} == {
        prompt: name for name, prompts in HPD.items() for prompt in prompts
    }
    assert metrics["categories"] == 4
    assert {row["source"].split(":")[0] for row in rows} == {f"hpd/{name.replace('-', '_')}.json" for name in HPD}


def test_a_row_keeps_the_category_of_its_own(tmp_path, file):
    rows, *_ = prepare(tmp_path / "out", file("anime.jsonl", "".join(
        json.dumps({"prompt": animal} | ({"tag": "birds"} if "heron" in animal else {})) + "\n" for animal in ANIMALS
    )))  # fmt: skip
    assert Counter(row["category"] for row in rows) == {"anime": 7, "birds": 1}


def test_an_empty_category_is_named(tmp_path, file):
    for name in HPD:
        file(f"hpd/{name}.json", json.dumps(HPD[name] if name != "photo" else []))
    with pytest.raises(InputError, match=r"photo.json is empty: it must hold at least one prompt"):
        prepare(tmp_path / "out", tmp_path / "hpd")


def test_a_glob_takes_what_it_names(tmp_path, file):
    file("x/one.txt", "\n".join(ANIMALS))
    file("x/two.txt", "a whale\na crab\n")
    file("x/three.jsonl", '{"prompt": "a mole"}\n')
    rows, *_ = prepare(tmp_path / "a", f"{tmp_path}/x/*.txt")
    assert {row["prompt"] for row in rows} == {*ANIMALS, "a whale", "a crab"}
    rows, *_ = prepare(tmp_path / "b", f"{tmp_path}/**/t*.*", f"{tmp_path}/x/one.txt")
    assert len(rows) == len(ANIMALS) + 3
    for nothing in (f"{tmp_path}/x/*.csv", f"{tmp_path}/x/"):
        for path in (tmp_path / "x").iterdir():
            path.rename(path.with_suffix(".md"))
        with pytest.raises(InputError, match="holds no prompt file"):
            prepare(tmp_path / nothing[-2:], nothing)


def test_the_order_of_sources_does_not_matter(tmp_path, file):
    one = file("one.jsonl", "".join(json.dumps({"id": f"x{n}", "prompt": a}) + "\n" for n, a in enumerate(ANIMALS)))
    two = file("two.txt", "\n".join([*ANIMALS[:4], "a whale", "a whale.", "a crab"]))
    for name, sources in (("a", [one, two]), ("b", [two, one])):
        prepare(tmp_path / name, *sources, near_duplicates=0.9)
    for name in ("prompts/prompts.parquet", "prompts/rejected.parquet", "report.html", "metrics.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_weights_are_proportions_and_draw_by_hash(tmp_path, file):
    one = file("one.txt", "\n".join(f"{n} boats" for n in range(300)))
    two = file("two.txt", "\n".join(f"{n} cranes" for n in range(100)))
    rows, rejected, *_ = prepare(tmp_path / "a", f"{one}=3", f"{two}=2")
    assert Counter(row["source"].split(":")[0] for row in rows) == {"one.txt": 150, "two.txt": 100}
    assert Counter(row["reason"] for row in rejected) == {"over weight": 150}
    assert 0.35 < sum(row["split"] == "held_out" for row in rows) / len(rows) < 0.65
    # Without a weight beside one with: 1. More prompts leave those drawn before in place.
    file("two.txt", "\n".join(f"{n} cranes" for n in range(120)))
    more, *_ = prepare(tmp_path / "b", f"{one}=1.5", two)
    assert Counter(row["source"].split(":")[0] for row in more) == {"one.txt": 180, "two.txt": 120}
    assert {row["prompt"] for row in rows} < {row["prompt"] for row in more}


def test_a_weight_is_a_number_at_the_end():
    assert split_weight("a.txt=2") == ("a.txt", 2.0)
    assert split_weight("a=b.txt") == ("a=b.txt", None)
    assert split_weight("s3://x/a=1/b.txt=.5") == ("s3://x/a=1/b.txt", 0.5)
    for wrong in ("a.txt=0", "a.txt=-1", "a.txt=inf", "a.txt=nan"):
        with pytest.raises(InputError, match="must be above 0"):
            Config(sources=(wrong,))


def test_a_weighted_source_must_have_prompts_left(tmp_path, file):
    one, two = file("one.txt", "\n".join(ANIMALS)), file("two.txt", "a moth\n")
    with pytest.raises(InputError, match=r"two.txt' leaves no prompt"):
        prepare(tmp_path / "out", f"{one}=1", f"{two}=1")


def test_the_table_itself_is_a_source(tmp_path, file):
    first, *_ = prepare(tmp_path / "a", "tiny", file("anime.txt", "\n".join(ANIMALS)), rating_fraction=0.2)
    again, *_ = prepare(tmp_path / "b", tmp_path / "a/prompts/prompts.parquet", held_out_fraction=0.01)
    assert [row | {"source": ""} for row in again] == [row | {"source": ""} for row in first]


def test_buckets_hold_files_folders_and_globs(tmp_path, bucket):
    table = pa.BufferOutputStream()
    pq.write_table(pa.table({"caption": ANIMALS[:2]}), table)
    objects = {
        "sets/hpd/anime.json": json.dumps(ANIMALS[2:4]).encode(),
        "sets/hpd/photo.jsonl.gz": gzip.compress(b"".join(b'{"text": "%s"}\n' % a.encode() for a in ANIMALS[4:])),
        "sets/hpd/notes.md": b"not prompts",
        "sets/hpd/old/a.txt": b"an auk\n",
        "sets/hpd-2/a.txt": b"a bear\n",
        "sets/table.parquet": table.getvalue().to_pybytes(),
    }
    for key, body in objects.items():
        bucket.put_object(Bucket="data", Key=key, Body=body)
    rows, *_ = prepare(tmp_path / "a", "s3://data/sets/hpd", "s3://data/sets/table.parquet")
    assert {row["prompt"] for row in rows} == {*ANIMALS, "an auk"}
    assert {(row["source"], row["category"]) for row in rows if row["prompt"] in ("two owls", "a moth", "an auk")} == {
        ("hpd/anime.json:1", "anime"), ("hpd/photo.jsonl.gz:1", "photo"), ("hpd/old/a.txt:1", ""),
    }  # fmt: skip
    rows, *_ = prepare(tmp_path / "b", "s3://data/sets/hpd/*", "s3://data/sets/hpd-?/a.txt=9", "s3://data/sets/*t")
    assert {row["prompt"] for row in rows} >= {"a bear"}
    assert "an auk" not in {row["prompt"] for row in rows}


def test_what_a_bucket_lacks_is_named(tmp_path, bucket):
    bucket.put_object(Bucket="data", Key="a.docx", Body=b"x")
    for source, said in (
        ("s3://data/none.txt", "holds no prompt file"),
        ("s3://data/a.docx", "has the suffix '.docx'"),
        ("s3://gone/a.txt", "no bucket 'gone'"),
        ("s3://", "is no S3 URI"),
    ):
        with pytest.raises(InputError, match=said):
            execute(stage.STAGE, {"sources": [source]}, tmp_path / "work", {}, {})


def test_a_changed_object_or_blocklist_makes_a_new_result(tmp_path, bucket, file):
    blocklist = file("blocked.txt", "whale\n")
    settings = {"sources": ["s3://data/a.txt"], "held_out_fraction": 0.5, "blocklist": str(blocklist)}

    def key(prompts):
        bucket.put_object(Bucket="data", Key="a.txt", Body="\n".join(prompts).encode())
        return execute(stage.STAGE, settings, tmp_path / "work", {}, {})

    first = key(ANIMALS)
    assert key(ANIMALS) == first
    assert key([*ANIMALS, "a hart"]) != first
    file("blocked.txt", "shark\n")
    assert key(ANIMALS) != first
