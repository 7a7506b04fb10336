"""Tables of tensors: what is written comes back, a row group at a time, and another file is refused."""

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
    read_text_features,
    write_text_features,
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
        assert reader.read(prompt_id) == (states(prompt_id), pooled(prompt_id))
    assert "p99" not in reader


def test_a_reader_holds_one_row_group(embeddings, monkeypatch):
    """A FLUX prompt is 4 MB: the whole table does not fit into the memory of a pod."""
    reader = EmbeddingsReader(embeddings)
    assert [reader.file.metadata.row_group(group).num_rows for group in range(3)] == [8, 8, 4]
    read, plain = [], reader.file.read_row_group
    monkeypatch.setattr(reader.file, "read_row_group", lambda group, *rest: read.append(group) or plain(group, *rest))
    for prompt_id in IDS:
        reader.read(prompt_id)
        assert reader.held[1].num_rows <= ROWS_PER_GROUP
    assert read == [0, 1, 2], "neighbours come from one read"


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
    rows = [
        (role, prompt_id, word, np.array([len(role), number, len(word)], np.float32))
        for role in ("reward", "reward_2")
        for number, prompt_id in enumerate(IDS)
        for word in ("", "good", "bad", "worse")
    ]
    write_text_features(path, rows, words)
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
