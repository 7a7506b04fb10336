"""Links in a folder that came from elsewhere: followed where they stay inside, refused by name where they do not."""

import os
import shutil

import pytest

from srpo.core.contracts.errors import InputError
from srpo.core.storage.files import list_files
from srpo.core.storage.walk import files_below
from srpo.fetch_base.catalogue import find
from srpo.fetch_base.config import Config
from srpo.fetch_base.run import find_sources

BASE = find("base", "tiny").folder


def names(folder, **given):
    return [path.relative_to(folder).as_posix() for path in files_below(folder, **given)]


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "folder"
    (made / "part").mkdir(parents=True)
    (made / "part" / "file.txt").write_text("inside")
    (tmp_path / "secret.txt").write_text("elsewhere")
    return made


def test_links_that_stay_inside_are_followed(folder):
    (folder / "linked").symlink_to(folder / "part")
    (folder / "again.txt").symlink_to("part/file.txt")
    assert names(folder) == ["again.txt", "linked/file.txt", "part/file.txt"]
    assert len({file["sha256"] for file in list_files(folder)}) == 1


def test_a_hub_caches_snapshot_is_its_blobs(tmp_path):
    snapshot, blobs = tmp_path / "models--org--name" / "snapshots" / "abc", tmp_path / "models--org--name" / "blobs"
    (snapshot / "transformer").mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1234").write_text("bytes")
    (snapshot / "transformer" / "config.json").symlink_to("../../../blobs/1234")
    assert names(snapshot) == ["transformer/config.json"]
    (snapshot / "other").symlink_to(tmp_path)
    with pytest.raises(InputError, match="other is a link to"):
        names(snapshot)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda place, outside: place.symlink_to(outside / "secret.txt"), "is a link to"),
        (lambda place, outside: place.symlink_to("../../secret.txt"), "is a link to"),
        (lambda place, outside: place.symlink_to(outside), "is a link to"),
        (lambda place, outside: place.symlink_to(place.name), "in a circle"),
        (lambda place, outside: place.symlink_to("."), "in a circle"),
        (lambda place, outside: place.symlink_to("nothing"), "leads nowhere"),
        (lambda place, outside: place.symlink_to("/dev/zero"), "is a link to"),
        (lambda place, outside: os.mkfifo(place), "is a pipe"),
    ],
    ids=["absolute", "relative", "folder", "itself", "its-folder", "dangling", "device", "pipe"],
)
def test_what_leads_out_or_never_ends_is_refused_by_name(folder, tmp_path, make, said):
    make(folder / "part" / "strange", tmp_path)
    with pytest.raises(InputError, match=said) as error:
        list_files(folder)
    assert str(folder / "part" / "strange") in str(error.value)


def test_hidden_names_are_left_out_where_they_are_not_wanted(folder, tmp_path):
    (folder / ".git").symlink_to(tmp_path)
    assert names(folder, hidden=False) == ["part/file.txt"]


def test_a_part_of_a_model_behind_a_link_is_taken_and_one_that_leads_away_is_named(tmp_path):
    from tiny_runs import TinyRun

    base = shutil.copytree(BASE, tmp_path / "base")
    (base / "transformer").rename(base / "weights")
    (base / "transformer").symlink_to("weights")
    run = TinyRun(tmp_path / "run")
    made = run.stage("fetch_base", {"model": str(base)}, (), ("models", "report"))["models"]
    kept = next((run.workspace / "models").glob("*/model_index.json")).parent
    assert (kept / "transformer" / "diffusion_pytorch_model.safetensors").is_file()
    assert not any(path.is_symlink() for path in kept.rglob("*"))
    assert (made / "models.json").is_file()

    (base / "tokenizer" / "notes.txt").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match=r"tokenizer/notes\.txt is a link to /etc/hostname"):
        run.stage("fetch_base", {"model": str(base)}, (), ("models", "report"))
    assert find_sources(Config(model=str(base)))["base"].folder == base
