"""Folders of a model as they are found: with shards, stale files and variants beside the weights that are meant."""

import json
import shutil

from safetensors.torch import load_file, save_file

from srpo.fetch_base.catalogue import find

BASE = find("base", "tiny").folder
CASES = ["single", "shards", "shards and a stale file", "a variant beside", "shards of a variant beside"]


def odd_folder(part, stem, case, place):
    """A copy of a part of the base with what else lies around: everything that is not meant holds other numbers."""
    shutil.copytree(BASE / part, place)
    single = place / f"{stem}.safetensors"
    tensors = load_file(single)
    stale = {name: value + 1 for name, value in tensors.items()}
    if case == "single":
        return
    if case == "a variant beside":
        save_file(stale, place / f"{stem}.fp16.safetensors", {"format": "pt"})
        return
    names = sorted(tensors)
    halves = {1: names[::2], 2: names[1::2]}
    index = {"metadata": {}, "weight_map": {}}
    for number, own in halves.items():
        file = f"{stem}-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in own}, place / file, {"format": "pt"})
        index["weight_map"] |= dict.fromkeys(own, file)
        if case == "shards of a variant beside":
            save_file({name: stale[name] for name in own}, place / file.replace("-0000", ".fp16-0000", 1))
    (place / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    single.unlink()
    if case == "shards and a stale file":
        save_file(stale, single, {"format": "pt"})
