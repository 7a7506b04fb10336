"""Killed before any step that changes the disk, the next fetch ends with the same model and asks for nothing twice."""

import os
import shutil
from pathlib import Path

import pytest

from srpo.core.storage import model_cache
from srpo.fetch_base.catalogue import Entry
from srpo.fetch_base.fetch import Place, fetch, look_up

WEIGHTS = "model.safetensors"
ENTRY = Entry(name="org/reward", source="hf://org/reward", licence="MIT")
STEPS = ((Path, "rename"), (os, "replace"), (shutil, "rmtree"), (model_cache, "receive"), (os, "link"))


class Killed(BaseException):
    pass


def get(place):
    found = look_up(ENTRY, place)
    return place.cache / fetch(found, place).folder


def killed_at(step, place, monkeypatch):
    """Fetch, ended before the step of that number; False when there are fewer."""
    count = 0

    def counted(function):
        def call(*given, **more):
            nonlocal count
            count += 1
            if count == step:
                raise Killed
            return function(*given, **more)

        return call

    with monkeypatch.context() as patch:
        for owner, name in STEPS:
            patch.setattr(owner, name, counted(getattr(owner, name)))
        try:
            get(place)
        except Killed:
            return True
    return False


def damage(folder):
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)


@pytest.mark.parametrize("damaged", [False, True], ids=["new", "damaged"])
def test_a_fetch_may_be_killed_anywhere(hub, tmp_path, monkeypatch, damaged):
    step, expected = 0, get(Place(tmp_path / "whole")).name
    while True:
        step += 1
        place = Place(tmp_path / str(step))
        if damaged:
            damage(get(place))
        before = len(hub.got(WEIGHTS))
        killed = killed_at(step, place, monkeypatch)
        folders = [path for path in place.cache.iterdir() if len(path.name) == 64]
        if not damaged:
            assert all(not model_cache.verify(place.cache)[folder.name] for folder in folders), "a half model appeared"
        assert get(place).name == expected
        assert model_cache.verify(place.cache) == {expected: []}
        assert len(hub.got(WEIGHTS)) == before + 1, f"fetched twice, killed before step {step}"
        assert not list((place.cache / "partial").glob("*"))
        if not killed:
            break
    assert step > 8
