"""Consumers of releases, in a folder and in S3 alike: they get a whole, verified release or nothing."""

import json

import pytest

from srpo.core.contracts.errors import InputError
from srpo.core.storage import consumers, s3
from srpo.core.storage.consumers import fetch, find, list_releases, prune, rollback, split_location, verify
from srpo.core.storage.files import digest_of
from srpo.core.storage.releases import Item, move_channel, publish, read_channel, read_record, read_release
from srpo.core.storage.stores import LocalStore, S3Store, open_store
from srpo_pipelines.cli import main

WEIGHTS = bytes(range(256)) * 8000  # 2 MB


@pytest.fixture
def published(destination, tmp_path, monkeypatch):
    """A destination with three releases; `latest` went from a-1 to a-2, `candidate` is a-3."""
    monkeypatch.setattr(s3, "RANGE", 500_000)
    monkeypatch.setattr(consumers, "RANGE", 500_000)
    weights = tmp_path / "weights.bin"
    weights.write_bytes(WEIGHTS)
    for name in ("a-1", "a-2", "a-3"):
        items = [Item.of_file("model/the weights ü.bin", weights), Item.of_text("README.md", name)]
        manifest = {"base_model": {"name": "flux"}, "candidate": name != "a-2"}
        publish(destination, name, [*items, Item.of_text("empty.txt", "")], manifest)
        move_channel(destination, "latest" if name != "a-3" else "candidate", name)
    return destination


def damage(destination, name, data):
    store = open_store(destination)
    store.remove([name]) if data is None else store.write(name, data)


def hidden(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.parametrize(
    ("which", "release"), [("", "a-2"), ("@latest", "a-2"), ("@candidate", "a-3"), ("@a-1", "a-1")]
)
def test_fetch_gives_the_release_that_was_named(published, tmp_path, which, release):
    heard = []
    found, new = fetch(f"{published}{which}", tmp_path / "got" / "model", lambda done, of: heard.append((done, of)))
    folder = tmp_path / "got" / "model"
    assert (found.manifest["id"], new) == (release, True)
    assert (folder / "model/the weights ü.bin").read_bytes() == WEIGHTS
    assert (folder / "README.md").read_text() == release
    assert (folder / "empty.txt").read_bytes() == b""
    assert json.loads((folder / "manifest.json").read_text()) == read_release(published, release)
    assert heard[-1] == (len(WEIGHTS) + 3, len(WEIGHTS) + 3)
    assert hidden(tmp_path / "got") == []
    assert verify(str(folder)) == []


def test_fetch_again_finds_it_there_and_touches_nothing_else(published, tmp_path):
    fetch(f"{published}", tmp_path / "model")
    assert fetch(f"{published}", tmp_path / "model")[1] is False
    (tmp_path / "mine").mkdir()
    for folder, which in ((tmp_path / "model", "@a-1"), (tmp_path / "mine", "")):
        with pytest.raises(InputError, match="exists and is not this release"):
            fetch(f"{published}{which}", folder)
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_killed_fetch_goes_on_with_what_it_has(published, tmp_path, monkeypatch):
    def killed(done, of):
        if done > len(WEIGHTS) // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(f"{published}", tmp_path / "model", killed)
    assert not (tmp_path / "model").exists()
    asked = []
    for store in (LocalStore, S3Store):
        fetch_one = store.fetch

        def record(self, name, *rest, fetch_one=fetch_one):
            asked.append(name.rpartition("/")[2])
            fetch_one(self, name, *rest)

        monkeypatch.setattr(store, "fetch", record)
    fetch(f"{published}", tmp_path / "model")
    assert "README.md" not in asked
    assert verify(str(tmp_path / "model")) == []
    assert hidden(tmp_path) == []


def test_a_damaged_file_is_never_fetched(published, tmp_path):
    damage(published, "releases/a-2/README.md", b"a-9")
    with pytest.raises(InputError, match=r"README\.md has the SHA-256"):
        fetch(f"{published}", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def published_anew(destination, release):
    """Removed and published again under its id, as a run of another commit would: whole, and another manifest."""
    manifest = read_release(destination, release)
    store = open_store(destination)
    store.remove([f"releases/{release}/manifest.json"])
    changed = {key: value for key, value in manifest.items() if key != "digest"} | {"git_commit": "another"}
    changed |= {"digest": digest_of(changed)}
    store.write(f"releases/{release}/manifest.json", json.dumps(changed).encode())


def test_a_release_that_was_published_anew_is_not_followed_until_the_channel_moves(published, tmp_path, capsys):
    published_anew(published, "a-2")
    for command in (["fetch", f"{published}@latest", str(tmp_path / "model")], ["verify", f"{published}"]):
        assert main(command) == 2
        assert "releases/a-2/manifest.json is not what the channel was moved to" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    assert verify(f"{published}@a-2") == []  # by its id it is a whole release as any other
    assert move_channel(published, "latest", "a-2")
    assert verify(f"{published}@latest") == []
    assert rollback(str(published), "latest", {"who": "Ada"}) == "a-1"


def test_a_manifest_without_its_digest_is_not_what_a_channel_points_to(published):
    manifest = {key: value for key, value in read_release(published, "a-2").items() if key != "digest"}
    damage(published, "releases/a-2/manifest.json", json.dumps(manifest).encode())
    with pytest.raises(InputError, match="its digest is None"):
        find(f"{published}@latest")


def test_a_rollback_passes_over_a_release_that_was_published_anew(published):
    move_channel(published, "latest", "a-3")
    published_anew(published, "a-2")
    assert rollback(str(published), "latest", {"who": "Ada"}) == "a-1"


def test_names_that_lead_elsewhere_are_refused_before_anything_is_written(published, tmp_path):
    manifest = {key: value for key, value in read_release(published, "a-2").items() if key != "digest"}
    (tmp_path / "below").mkdir()
    for name in ("../../evil", "/tmp/evil", "a/../../../evil", "x\\y", "manifest.json"):
        manifest["files"][0]["path"] = name
        damage(published, "releases/a-2/manifest.json", json.dumps(manifest | {"digest": digest_of(manifest)}).encode())
        with pytest.raises(InputError, match=r"manifest\.json names"):
            fetch(f"{published}", tmp_path / "below" / "model")
    assert list((tmp_path / "below").iterdir()) == []


def test_verify_names_what_is_wrong(published):
    assert verify(f"{published}") == []
    assert verify(f"{open_store(published).where('releases/a-1')}") == []
    flipped = WEIGHTS[:-1] + b"x"
    damage(published, "releases/a-2/model/the weights ü.bin", flipped)
    damage(published, "releases/a-2/README.md", None)
    damage(published, "releases/a-2/empty.txt", b"1")
    damage(published, "releases/a-2/more/extra.txt", b"extra")
    problems = verify(f"{published}@latest")
    assert len(problems) == 4
    text = "\n".join(problems)
    for words in ("weights ü.bin' is damaged", "README.md' is missing", "has 1 bytes", "extra.txt' is not in the mani"):
        assert words in text


def test_a_link_is_not_a_file_of_a_release(tmp_path):
    publish(tmp_path / "out", "a-1", [Item.of_text("README.md", "text")], {})
    (tmp_path / "secret").write_text("text")
    (tmp_path / "out/releases/a-1/README.md").unlink()
    (tmp_path / "out/releases/a-1/README.md").symlink_to(tmp_path / "secret")
    assert "README.md" in "\n".join(verify(f"{tmp_path}/out@a-1"))


def test_what_is_not_there_is_named_with_what_is(published):
    with pytest.raises(InputError, match=r"has no 'a-9': it must be a channel \(candidate, latest\) or the id"):
        find(f"{published}@a-9")


@pytest.mark.parametrize("which", ["", "@latest"])
def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path, which):
    with pytest.raises(InputError, match=f"there is no folder '{tmp_path}/nope': it must be a destination"):
        find(f"{tmp_path}/nope{which}")


def test_releases_are_listed_with_their_channels(published):
    damage(published, "releases/a-0/README.md", b"begun")
    listed = list_releases(str(published))
    assert {entry.release: entry.channels for entry in listed} == {
        "a-3": ("candidate",),
        "a-2": ("latest",),
        "a-1": (),
        "a-0": (),
    }
    assert listed[-1].published is None
    assert {entry.release for entry in listed if entry.candidate} == {"a-1", "a-3"}


def test_rollback_goes_back_one_release_each_time_and_forward_moves_still_work(published):
    move_channel(published, "latest", "a-3")
    record = {"who": "Ada", "reason": "hands"}
    assert rollback(str(published), "latest", record) == "a-2"
    assert rollback(str(published), "latest", record | {"reason": "eyes"}) == "a-1"
    with pytest.raises(InputError, match="no release before 'a-1'"):
        rollback(str(published), "latest", record)
    pointer = read_channel(published, "latest")
    assert [(move["release"], move["kind"]) for move in pointer["history"]] == [
        ("a-1", "move"),
        ("a-2", "move"),
        ("a-3", "move"),
        ("a-2", "rollback"),
        ("a-1", "rollback"),
    ]
    assert read_record(published, pointer["record"])["reason"] == "eyes"
    move_channel(published, "latest", "a-3")
    assert rollback(str(published), "latest", record) == "a-1"


def test_prune_says_first_and_never_takes_what_a_channel_means(published):
    plan = prune(str(published), 1, apply=False)
    assert plan.releases == ()  # a-3 is the newest, a-2 is latest, a-1 is where a rollback goes
    move_channel(published, "latest", "a-3")
    assert [entry.release for entry in prune(str(published), 1, apply=False).releases] == ["a-1"]
    assert len(open_store(published).folders("releases")) == 3
    prune(str(published), 1, apply=True)
    assert open_store(published).folders("releases") == ["a-2", "a-3"]
    assert verify(f"{published}@a-2") == []


@pytest.mark.parametrize(
    ("location", "parts"),
    [
        ("s3://b/x@latest", ("s3://b/x", "latest")),
        ("s3://b/x", ("s3://b/x", "")),
        ("/a@b/c", ("/a@b/c", "")),
        ("s3://b/a@b/c@v-1.0", ("s3://b/a@b/c", "v-1.0")),
    ],
)
def test_locations_are_split_at_the_last_at(location, parts):
    assert split_location(location) == parts


def test_the_commands(published, tmp_path, capsys):
    """Through the command line: what it prints and the exit codes."""
    assert main(["fetch", f"{published}@candidate", str(tmp_path / "got")]) == 0
    assert "a-3 from" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "got")]) == 0
    (tmp_path / "got" / "README.md").write_text("a-4")
    assert main(["verify", str(tmp_path / "got")]) == 1
    assert "'README.md' is damaged" in capsys.readouterr().err
    assert main(["verify", f"{published}@nothing"]) == 2
    assert main(["fetch", f"{published}@candidate", str(tmp_path / "got")]) == 2
    assert main(["releases", "list", f"{published}"]) == 0
    assert "a-2" in capsys.readouterr().out
    assert main(["releases", "rollback", f"{published}", "--who", "Ada"]) == 0
    assert capsys.readouterr().out == "latest: a-1\n"
    assert main(["releases", "prune", f"{published}", "--keep", "1"]) == 0
    assert "would remove a-2" in capsys.readouterr().out
    assert main(["releases", "prune", f"{published}", "--keep", "0"]) == 2
    assert main(["releases", "prune", f"{published}", "--keep", "1", "--apply"]) == 0
    assert open_store(published).folders("releases") == ["a-1", "a-3"]
