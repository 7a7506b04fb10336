"""Releases and channels on a local folder: whole or not at all, never through a name that leads elsewhere."""

import json

import pytest

from srpo.core.contracts.errors import InputError
from srpo.core.storage import releases
from srpo.core.storage.releases import Item, check_sizes, inside, move_channel, publish, read_channel, read_manifest


@pytest.fixture
def items(tmp_path):
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"w" * 3_000_000)
    return [Item.of_file("model/weights.bin", weights), Item.of_text("README.md", "hello é\n")]


def test_manifest_names_every_file_and_comes_last(tmp_path, items, monkeypatch):
    written = []
    write = releases._write
    monkeypatch.setattr(releases, "_write", lambda item, path: (written.append(item.path), write(item, path)))
    monkeypatch.setattr(
        releases, "write_json", lambda path, value: (written.append(path.name), path.write_text(json.dumps(value)))
    )
    folder = publish(tmp_path / "out", "a-1", items, {"seed": 3})
    assert written == ["README.md", "model/weights.bin", "manifest.json"]
    manifest = read_manifest(folder)
    assert (manifest["id"], manifest["seed"]) == ("a-1", 3)
    assert manifest["files"] == [item.entry() for item in sorted(items, key=lambda item: item.path)]
    assert (folder / "model/weights.bin").read_bytes() == b"w" * 3_000_000


def test_progress_counts_bytes(tmp_path, items):
    heard = []
    publish(tmp_path, "a-1", items, {}, lambda done, of: heard.append((done, of)))
    assert heard == [(8 + 1, 3_000_009), (3_000_009, 3_000_009)]


def test_wrong_bytes_leave_nothing(tmp_path, items):
    (tmp_path / "weights.bin").write_bytes(b"w" * 2_999_999 + b"x")
    with pytest.raises(InputError, match=r"weights\.bin has the SHA-256"):
        publish(tmp_path / "out", "a-1", items, {})
    assert list((tmp_path / "out" / "releases").iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "", "a\\..\\b", "a\0b", None, 3, "link/passwd"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(InputError, match="it must be a path below"):
        inside(tmp_path, name, "manifest.json")


def test_a_damaged_release_is_not_taken_for_a_whole_one(tmp_path, items):
    folder = publish(tmp_path, "a-1", items, {})
    (folder / "README.md").write_text("cut")
    with pytest.raises(InputError, match=r"README\.md is missing or cut"):
        publish(tmp_path, "a-1", items, {})
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match="is not a whole release"):
        check_sizes(folder)


def test_channel_moves_with_history_and_only_to_whole_releases(tmp_path, items):
    assert read_channel(tmp_path, "candidate") is None
    for name in ("a-1", "a-2"):
        publish(tmp_path, name, items, {})
        assert move_channel(tmp_path, "candidate", name)
    before = (tmp_path / "channels/candidate.json").stat().st_mtime_ns
    assert not move_channel(tmp_path, "candidate", "a-2")
    assert (tmp_path / "channels/candidate.json").stat().st_mtime_ns == before
    pointer = read_channel(tmp_path, "candidate")
    assert pointer["release"] == "a-2"
    assert [move["release"] for move in pointer["history"]] == ["a-1", "a-2"]
    with pytest.raises(InputError, match="not a whole release"):
        move_channel(tmp_path, "candidate", "a-3")
    assert read_channel(tmp_path, "candidate") == pointer


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": "srpo.channel/1"}', '{"schema": "srpo.channel/1", "release": "../x"}']
)
def test_a_damaged_channel_is_named(tmp_path, text):
    (tmp_path / "channels").mkdir()
    (tmp_path / "channels/candidate.json").write_text(text)
    with pytest.raises(InputError, match=r"candidate\.json is damaged"):
        read_channel(tmp_path, "candidate")


@pytest.mark.parametrize("name", ["../a", "", ".hidden", "a/b"])
def test_names_of_releases_and_channels_are_checked(tmp_path, items, name):
    with pytest.raises(InputError, match="a name must be"):
        publish(tmp_path, name, items, {})
    with pytest.raises(InputError, match="a name must be"):
        read_channel(tmp_path, name)
