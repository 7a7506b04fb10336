"""Tables of tensors: what is written comes back, a row group at a time, and another file is refused."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.tensors import (
    ROWS_PER_GROUP,
    EmbeddingsInfo,
    EmbeddingsReader,
    EmbeddingsWriter,
    TextFeaturesWriter,
    read_text_features,
)

INFO = EmbeddingsInfo(dtype="bfloat16", prompt_embeds_shape=(4, 3), pooled_shape=(5,), encoder="abc")
IDS = [f"p{number:02d}" for number in range(20)]


def states(prompt_id):
    return f"states of {prompt_id}".encode()


def pooled(prompt_id):
    return f"pooled of {prompt_id}".encode()


@pytest.fixture
def embeddings(tmp_path):
    path = tmp_path / "embeddings.parquet"
    with EmbeddingsWriter(path, INFO) as writer:
        for start in range(0, len(IDS), ROWS_PER_GROUP):
            group = IDS[start : start + ROWS_PER_GROUP]
            writer.write(group, [states(one) for one in group], [pooled(one) for one in group])
    return path


def test_embeddings_come_back_in_any_order(embeddings):
    reader = EmbeddingsReader(embeddings)
    assert reader.info == INFO
    for prompt_id in [*reversed(IDS), *IDS[::3]]:
        assert prompt_id in reader
        assert reader.read([prompt_id]) == [(states(prompt_id), pooled(prompt_id))]
    assert reader.read(IDS[::-1]) == [(states(one), pooled(one)) for one in IDS[::-1]]
    assert "p99" not in reader


@pytest.fixture
def groups_read(monkeypatch):
    """The row groups that are read, by the number of the first prompt in them."""
    found, plain = [], pq.ParquetFile.read_row_group

    def read_row_group(file, group, *rest, **options):
        table = plain(file, group, *rest, **options)
        found.append(table["prompt_id"][0].as_py())
        return table

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", read_row_group)
    return found


def test_a_reader_holds_one_row_group(embeddings, groups_read):
    """A FLUX prompt is 4 MB: the whole table does not fit into the memory of a pod."""
    with pq.ParquetFile(embeddings) as file:
        assert [file.metadata.row_group(group).num_rows for group in range(3)] == [8, 8, 4]
    reader = EmbeddingsReader(embeddings)
    for prompt_id in IDS:
        reader.read([prompt_id])
        assert reader.held[2].num_rows <= ROWS_PER_GROUP
    assert groups_read == ["p00", "p08", "p16"], "neighbours come from one read"


def test_what_was_prefetched_is_not_read_again(embeddings, groups_read):
    """And a request between (the guard's) neither disturbs it nor is disturbed."""
    reader = EmbeddingsReader(embeddings)
    reader.prefetch(["p01", "p17"])
    reader.prefetch(["p01", "p17"])
    assert reader.read(["p09"]) == [(states("p09"), pooled("p09"))]
    coming = reader.coming["p01", "p17"]
    assert coming.result(timeout=60) == [(states(one), pooled(one)) for one in ("p01", "p17")]
    before = len(groups_read)
    assert reader.read(["p01", "p17"]) is coming.result()
    assert len(groups_read) == before
    assert not reader.coming, "nothing is held that nobody asked for"
    reader.prefetch(["p02"])
    reader.prefetch(["p99"])
    assert len(reader.coming) == 1
    with pytest.raises(InputError, match=r"'p99'.*encode_prompts"):
        reader.read(["p99"])
    assert reader.read(["p02"]) == [(states("p02"), pooled("p02"))]


def test_a_folder_of_parts_is_read_as_one_file(embeddings, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(InputError, match=r"no part-\*\.parquet"):
        EmbeddingsReader(folder)
    embeddings.rename(folder / "part-00000.parquet")
    with EmbeddingsWriter(folder / "part-00001.parquet", INFO) as writer:
        writer.write(["q00"], [states("q00")], [pooled("q00")])
    reader = EmbeddingsReader(folder)
    assert list(reader.places) == [*IDS, "q00"]
    assert reader.read(["q00", "p00"]) == [(states(one), pooled(one)) for one in ("q00", "p00")]
    with EmbeddingsWriter(folder / "part-00002.parquet", dataclasses.replace(INFO, encoder="other")) as writer:
        writer.write(["r00"], [b""], [b""])
    with pytest.raises(InputError, match="several encoders"):
        EmbeddingsReader(folder)


def test_another_table_is_no_embeddings(embeddings, tmp_path):
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(embeddings.read_bytes()[:-100])
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"prompt_id": ["a"]}), other)
    for path, said in ((cut, "cannot be read"), (other, "'embeddings'"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(InputError, match=said):
            EmbeddingsReader(path)


@pytest.fixture
def features(tmp_path):
    path = tmp_path / "text_features.parquet"
    words = {role: {"positive": ["good"], "negative": ["bad", "worse"]} for role in ("reward", "reward_2")}
    with TextFeaturesWriter(path, words) as writer:
        for role in ("reward", "reward_2"):
            for number, prompt_id in enumerate(IDS):
                keys = [(prompt_id, word) for word in ("", "good", "bad", "worse")]
                writer.write(role, keys, np.array([[len(role), number, len(word)] for _, word in keys], np.float32))
    return path


def test_features_are_found_by_reward_prompt_and_word(features):
    for role in ("reward", "reward_2"):
        texts = read_text_features(features, role)
        assert (texts.positive_words, texts.negative_words) == (("good",), ("bad", "worse"))
        assert texts("p03", "worse").tolist() == [len(role), 3, 5]
        assert texts("p19").tolist() == [len(role), 19, 0]


@pytest.mark.parametrize(("prompt_id", "word"), [("p99", ""), ("p03", "best")])
def test_a_feature_that_was_not_computed_is_named(features, prompt_id, word):
    with pytest.raises(InputError, match=f"{prompt_id!r} with the word {word!r}"):
        read_text_features(features, "reward")(prompt_id, word)


def test_embeddings_are_no_features(embeddings):
    with pytest.raises(InputError, match=r"srpo\.schema"):
        read_text_features(embeddings, "reward")
