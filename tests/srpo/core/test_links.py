"""Links, pipes and devices among releases and prompts: only regular files are read, and none from elsewhere."""

import json
import os

import pytest

from srpo.core.contracts.errors import InputError
from srpo.core.storage.consumers import fetch, verify
from srpo.core.storage.releases import Item, move_channel, publish
from srpo.prepare_prompts.sources import find
from srpo.train.config import Config
from srpo.train.run import fingerprint


@pytest.fixture
def release(tmp_path):
    """A destination that is a folder, with one release, and that release's own folder."""
    publish(tmp_path / "out", "a-1", [Item.of_text("README.md", "text"), Item.of_text("big.txt", "b" * 50)], {})
    move_channel(tmp_path / "out", "latest", "a-1")
    (tmp_path / "secret.txt").write_text("text")  # the very bytes, and yet from elsewhere
    return tmp_path / "out" / "releases" / "a-1"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda place, outside: place.symlink_to(outside / "secret.txt"), "leads to"),
        (lambda place, outside: place.symlink_to("/dev/zero"), "leads to"),
        (lambda place, outside: os.mkfifo(place), "pipe"),
    ],
    ids=["link", "device", "pipe"],
)
def test_what_is_no_file_of_the_release_is_not_fetched(release, tmp_path, make, said):
    (release / "README.md").unlink()
    make(release / "README.md", tmp_path)
    with pytest.raises(InputError, match=r"README\.md"):
        fetch(str(tmp_path / "out"), tmp_path / "got")
    assert not (tmp_path / "got").exists()
    assert verify(str(release))


def test_a_release_behind_a_folder_that_leads_elsewhere_is_not_read(release, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (release / "README.md").rename(tmp_path / "elsewhere" / "README.md")
    (release / "README.md").symlink_to(tmp_path / "elsewhere" / "README.md")
    with pytest.raises(InputError):
        fetch(str(tmp_path / "out"), tmp_path / "got")


def test_a_size_that_the_manifest_does_not_state_is_refused_before_the_file_is_read(release, tmp_path):
    (release / "big.txt").write_text("b" * 51)
    with pytest.raises(InputError, match=r"'big.txt' has 51 bytes: it must have the 50 that the manifest states"):
        fetch(str(tmp_path / "out"), tmp_path / "got")


def test_prompts_are_regular_files_of_their_folder(tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "own.txt").write_text("a cat\n")
    (folder / "again.txt").symlink_to("own.txt")
    assert len(find((str(folder),))) == 2
    (folder / "passwords.txt").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match=r"passwords\.txt is a link to /etc/passwd"):
        find((str(folder),))
    os.mkfifo(tmp_path / "pipe.txt")
    for name in ("pipe.txt", "zeros.txt"):
        if name == "zeros.txt":
            (tmp_path / name).symlink_to("/dev/zero")
        with pytest.raises(InputError, match="is a pipe, a device or a socket"):
            find((str(tmp_path / name),))


def test_offline_images_are_those_of_their_folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "p.png").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match=r"p\.png is a link to"):
        fingerprint(Config(offline_images=str(tmp_path / "images")))
    assert json.dumps(fingerprint(Config())) == "null"
