"""Releases and channels, in a folder and in S3 alike: whole or not at all, and never through unsafe names."""

import pytest

from srpo.core.contracts.errors import InputError
from srpo.core.storage.releases import (
    Item,
    check_names,
    check_sizes,
    inside,
    move_channel,
    parse_manifest,
    publish,
    read_channel,
    read_record,
    read_release,
)
from srpo.core.storage.stores import open_store

BIG = b"w" * 5_300_000


@pytest.fixture
def items(tmp_path):
    weights = tmp_path / "weights.bin"
    weights.write_bytes(BIG)
    return [Item.of_file("model/weights ü.bin", weights), Item.of_text("README.md", "hello é\n")]


def content(destination):
    """Every file of the destination with its bytes; the times of change for a folder."""
    store = open_store(destination)
    return {name: (store.read(name), entry.modified) for name, entry in store.files("").items()}


def test_the_manifest_names_every_file_and_comes_last(destination, items, monkeypatch):
    store, written = open_store(destination), []
    for method in ("put", "write"):
        original = getattr(type(store), method)

        def record(self, name, *rest, original=original):
            written.append(name.rpartition("a-1/")[2])
            original(self, name, *rest)

        monkeypatch.setattr(type(store), method, record)
    assert publish(destination, "a-1", items, {"seed": 3}) == store.where("releases/a-1")
    assert written == ["README.md", "model/weights ü.bin", "manifest.json"]
    manifest = read_release(destination, "a-1")
    assert (manifest["id"], manifest["seed"]) == ("a-1", 3)
    assert manifest["files"] == [item.entry() for item in sorted(items, key=lambda item: item.path)]
    assert store.read("releases/a-1/model/weights ü.bin") == BIG
    assert set(store.files("releases/a-1")) == {"README.md", "model/weights ü.bin", "manifest.json"}


def test_progress_counts_bytes(destination, items):
    heard = []
    publish(destination, "a-1", items, {}, lambda done, of: heard.append((done, of)))
    assert heard[0] == (8 + 1, len(BIG) + 9)
    assert heard[-1] == (len(BIG) + 9, len(BIG) + 9)


def test_the_same_release_again_writes_nothing(destination, items):
    publish(destination, "a-1", items, {})
    before = content(destination)
    publish(destination, "a-1", items, {})
    assert content(destination) == before


@pytest.mark.parametrize("changed", ["weights.bin", "small.txt"])
def test_wrong_bytes_leave_no_release(destination, items, tmp_path, changed):
    (tmp_path / "small.txt").write_text("small")
    items.append(Item.of_file("small.txt", tmp_path / "small.txt"))
    data = bytearray((tmp_path / changed).read_bytes())
    data[-1] ^= 1
    (tmp_path / changed).write_bytes(data)
    with pytest.raises(InputError, match=rf"{changed} has the SHA-256"):
        publish(destination, "a-1", items, {})
    with pytest.raises(InputError, match=r"not a whole release \(there is none\)"):
        read_release(destination, "a-1")
    assert changed not in str(open_store(destination).files("releases/a-1"))


def test_what_a_dead_run_left_is_replaced(destination, items, tmp_path):
    """The killed try had other files: none of them is in the release."""

    def killed(done, of):
        raise KeyboardInterrupt

    strange = Item.of_text("AAA.txt", "a file of an earlier version")
    with pytest.raises(KeyboardInterrupt):
        publish(destination, "a-1", [*items, strange], {}, killed)
    publish(destination, "a-1", items, {})
    assert set(open_store(destination).files("releases/a-1")) == {"README.md", "model/weights ü.bin", "manifest.json"}
    assert open_store(destination).abandoned() == []


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "", "a\\..\\b", "a\0b", None, 3, "link/passwd"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(InputError, match="it must be a path below"):
        inside(tmp_path, name, "manifest.json")


@pytest.mark.parametrize(
    "names",
    [["../x"], ["/x"], ["a//b"], ["./a"], ["a", "a"], ["manifest.json"], ["a", "a/b"], [None], [""], ["a\\b"]],
)
def test_a_manifest_of_unsafe_names_is_refused(names):
    with pytest.raises(InputError, match=r"manifest\.json names"):
        check_names({"files": [{"path": name} for name in names]}, "manifest.json")


def test_a_damaged_manifest_is_refused(destination, items):
    publish(destination, "a-1", items, {"seed": 3})
    store, name = open_store(destination), "releases/a-1/manifest.json"
    good = store.read(name)
    with pytest.raises(InputError, match="is damaged: it must have the digest"):
        parse_manifest(good.replace(b'"seed": 3', b'"seed": 4'), name)
    for data in (b"", b"{", b"[]", b"null", b'{"schema": "other/1"}'):
        with pytest.raises(InputError, match=r"not a whole release|of another schema"):
            parse_manifest(data, name)


def test_a_damaged_release_is_not_taken_for_a_whole_one(destination, items):
    publish(destination, "a-1", items, {})
    store = open_store(destination)
    store.write("releases/a-1/README.md", b"cut")
    with pytest.raises(InputError, match=r"README\.md is missing or cut"):
        publish(destination, "a-1", items, {})
    store.remove(["releases/a-1/manifest.json"])
    with pytest.raises(InputError, match="is not a whole release"):
        check_sizes(destination, "a-1")


def test_a_folder_without_its_manifest_is_in_the_way_and_it_is_said(tmp_path, items):
    publish(tmp_path, "a-1", items, {})
    (tmp_path / "releases/a-1/manifest.json").unlink()
    with pytest.raises(InputError, match=r"releases/a-1 is in the way, and no whole release: remove it"):
        publish(tmp_path, "a-1", items, {})


def test_a_channel_moves_with_history_and_only_to_whole_releases(destination, items):
    assert read_channel(destination, "candidate") is None
    for name in ("a-1", "a-2"):
        publish(destination, name, items, {"seed": name})
        assert move_channel(destination, "candidate", name)
    before = content(destination)
    assert not move_channel(destination, "candidate", "a-2")
    assert content(destination) == before
    pointer = read_channel(destination, "candidate")
    assert pointer["release"] == "a-2"
    assert pointer["digest"] == read_release(destination, "a-2")["digest"]
    assert [(move["release"], move["before"]) for move in pointer["history"]] == [("a-1", None), ("a-2", "a-1")]
    with pytest.raises(InputError, match="not a whole release"):
        move_channel(destination, "candidate", "a-3")
    assert read_channel(destination, "candidate") == pointer


def test_a_promotion_is_a_record_that_the_channel_points_to(destination, items):
    publish(destination, "a-1", items, {})
    record = {"who": "Ada", "ratings": {"wins": 7}, "gates": []}
    assert move_channel(destination, "latest", "a-1", record)
    assert not move_channel(destination, "latest", "a-1", record)
    pointer = read_channel(destination, "latest")
    stored = read_record(destination, pointer["record"])
    facts = {"schema": "srpo.promotion/1", "channel": "latest", "release": "a-1", "time": pointer["time"]}
    assert stored == record | facts
    assert pointer["history"][-1]["record"] == pointer["record"]
    assert move_channel(destination, "latest", "a-1", record | {"who": "Grace"})
    assert len(read_channel(destination, "latest")["history"]) == 2


def test_a_kill_between_record_and_pointer_leaves_the_channel_where_it_was(destination, items, monkeypatch):
    for name in ("a-1", "a-2"):
        publish(destination, name, items, {"seed": name})
    move_channel(destination, "latest", "a-1")
    store = type(open_store(destination))
    write = store.write

    def killed(self, name, data):
        if name == "channels/latest.json":
            raise KeyboardInterrupt
        write(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            move_channel(destination, "latest", "a-2")
    assert read_channel(destination, "latest")["release"] == "a-1"
    move_channel(destination, "latest", "a-2")
    assert read_channel(destination, "latest")["release"] == "a-2"


def test_a_damaged_channel_is_named(destination):
    known = b'{"schema": "srpo.channel/1"'
    for text in (
        b"",
        b"{",
        b"[]",
        known + b"}",
        known + b', "release": "../x", "digest": "d"}',
        known + b', "release": "a"}',
    ):
        open_store(destination).write("channels/candidate.json", text)
        with pytest.raises(InputError, match=r"candidate\.json is damaged"):
            read_channel(destination, "candidate")


@pytest.mark.parametrize("name", ["../a", "", ".hidden", "a/b"])
def test_names_of_releases_and_channels_are_checked(tmp_path, items, name):
    with pytest.raises(InputError, match="a name must be"):
        publish(tmp_path, name, items, {})
    with pytest.raises(InputError, match="a name must be"):
        read_channel(tmp_path, name)
