"""Training reads embeddings ahead: what a micro-batch asks for was announced by the one before it."""

import dataclasses

from tiny_runs import load_step_parts

from srpo.train.step import gradient_step


def test_each_micro_batch_announces_the_next_across_steps(tiny_run, monkeypatch):
    config, flux, rewards, texts = load_step_parts(tiny_run)
    config = dataclasses.replace(config, batch_size=6, micro_batch_size=2, rollout_steps=1)
    asked, announced = [], []
    read, prefetch = texts.embeddings.read, texts.embeddings.prefetch
    monkeypatch.setattr(texts.embeddings, "read", lambda ids: asked.append(list(ids)) or read(ids))
    monkeypatch.setattr(texts.embeddings, "prefetch", lambda ids: announced.append(list(ids)) or prefetch(ids))
    for step in range(2):
        gradient_step(config, flux, rewards, texts, step, [0, 2, 4], 1 / 6)
    assert [len(ids) for ids in asked] == [2, 1, 2, 1]
    assert len({prompt_id for ids in asked for prompt_id in ids}) == 6
    assert announced[:-1] == asked[1:]
