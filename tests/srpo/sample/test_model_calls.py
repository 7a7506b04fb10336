"""What sampling asks of the model: embeddings that were read ahead, the schedule and the guidance of its settings."""

import numpy as np
from sampling import pixels_of, rows_of, sample

from srpo.core.contracts.tensors import EmbeddingsReader


def test_each_block_announces_the_next(tiny_run, unchanged, tmp_path, monkeypatch):
    asked, announced = [], []
    read, prefetch = EmbeddingsReader.read, EmbeddingsReader.prefetch
    monkeypatch.setattr(EmbeddingsReader, "read", lambda self, ids: asked.append(list(ids)) or read(self, ids))
    monkeypatch.setattr(
        EmbeddingsReader, "prefetch", lambda self, ids: announced.append(list(ids)) or prefetch(self, ids)
    )
    sample(tiny_run, unchanged, tmp_path, max_prompts=5, noises=2, block_size=4)
    asked = [ids for ids in asked if ids != [""]]
    assert [len(ids) for ids in asked] == [4, 4, 2] * 2
    assert announced == asked[1:3] + asked[4:6]


def test_schedule_and_true_guidance_reach_the_model(tiny_run, unchanged, tmp_path):
    """The tiny model comes with a static shift of 3."""

    def images(name, **config):
        folder = sample(tiny_run, unchanged, tmp_path / name, max_prompts=1, noises=1, **config)
        return np.stack([pixels_of(row) for _, row in sorted(rows_of(folder).items())])

    static = images("static", shift=3.0)
    assert np.array_equal(images("model", schedule="model", shift=1.0), static)
    assert not np.array_equal(images("linear", shift=1.0), static)
    assert not np.array_equal(images("guided", shift=3.0, true_guidance=2.0), static)
