"""Several processes at one cache: killed in the middle, side by side, and on a full disk."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from fake_hub import reward_files

from srpo.core.storage import lease as leases
from srpo.core.storage import model_cache
from srpo.fetch_base.catalogue import find
from srpo.fetch_base.fetch import Place, fetch, look_up

pytestmark = pytest.mark.real
WEIGHTS = "model.safetensors"
CATALOGUE = "rewards:\n  mine: {source: hf://org/reward, licence: MIT, gated: true}\n"


@pytest.fixture
def catalogue(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(CATALOGUE)
    return path


def start(hub, cache, catalogue, *arguments):
    """`srpo models fetch mine`, in a process of its own."""
    command = [sys.executable, "-m", "srpo_pipelines.cli", "models", "fetch", "mine", "--catalogue", str(catalogue)]
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    return subprocess.Popen(
        [*command, "--cache", str(cache), *arguments],
        env=environment | {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(process, reached):
    """Until ``reached()``, or until the process has ended, which the test then finds out."""
    while process.poll() is None and not reached():
        time.sleep(0.02)


def test_after_a_kill_the_next_one_finishes_from_where_it_was(hub, tmp_path, catalogue, monkeypatch):
    """Killed with half of a file there and the lease held."""
    hub.gated.add("org/reward")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.add("org/reward", reward_files(size=6_000_000))  # 24 MB: the client hands 10 MB on at a time
    release, cache = threading.Event(), tmp_path / "cache"
    hub.fault(WEIGHTS, ("hang", release))
    process = start(hub, cache, catalogue)
    wait_until(process, lambda: any(path.stat().st_size for path in cache.glob(f"partial/*/{WEIGHTS}")))
    process.send_signal(signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    release.set()
    assert process.returncode == -signal.SIGKILL, out + err
    assert list(cache.glob("leases/*")), "the killed one held no lease"
    assert not any(len(path.name) == 64 for path in cache.iterdir()), "a half model appeared"

    monkeypatch.setattr(leases, "LIFETIME", 0.5)  # how long a dead holder is waited for
    place = Place(cache)
    found = look_up(find("rewards", "mine", str(catalogue)), place)
    folder = cache / fetch(found, place).folder
    assert (folder / WEIGHTS).read_bytes() == hub.repos["org/reward"][WEIGHTS]
    assert int(hub.got(WEIGHTS)[-1]["range"].removeprefix("bytes=").rstrip("-")) > 0
    assert not list(cache.glob("leases/*"))
    assert not list(cache.glob("partial/*"))


def test_two_at_once_fetch_once(hub, tmp_path, catalogue):
    hub.gated.add("org/reward")
    release = threading.Event()
    hub.fault(WEIGHTS, ("hang", release))  # so that the second comes while the first is at work
    first = start(hub, tmp_path / "cache", catalogue)
    wait_until(first, lambda: hub.got(WEIGHTS))
    second = start(hub, tmp_path / "cache", catalogue)
    line = second.stderr.readline()  # said once it waits
    release.set()
    results = [process.communicate(timeout=120) for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), results
    assert "is fetching it; waiting" in line
    assert results[0][0].splitlines()[-1] == results[1][0].splitlines()[-1]
    for name in ("config.json", "preprocessor_config.json", "part/more.safetensors"):
        assert len(hub.got(name)) == 1, name
    assert len(hub.got(WEIGHTS)) == 2  # the one that was cut, and again
    assert hub.token not in "".join(text for result in results for text in result)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_leaves_no_half_file_and_room_is_enough_to_go_on(hub, small_disk, tmp_path, monkeypatch):
    """The room was there when it was looked at, and another writer took it."""
    monkeypatch.setattr(model_cache, "check_space", lambda *given: None)
    catalogue = tmp_path / "own.yaml"
    catalogue.write_text(CATALOGUE)
    place = Place(small_disk)
    found = look_up(find("rewards", "mine", str(catalogue)), place)
    with pytest.raises(OSError, match=r"no space left for model\.safetensors of 80080 bytes") as error:
        fetch(found, place)
    assert error.value.errno == errno.ENOSPC
    assert not list(small_disk.glob(f"partial/*/{WEIGHTS}"))
    assert not any(len(path.name) == 64 for path in small_disk.iterdir())
    assert not list(small_disk.glob("leases/*"))
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    folder = small_disk / fetch(found, place).folder
    assert (folder / WEIGHTS).read_bytes() == hub.repos["org/reward"][WEIGHTS]


def test_a_full_disk_is_said_by_the_command(hub, small_disk, tmp_path, catalogue):
    process = start(hub, small_disk, catalogue)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2, out + err
    assert "'mine' needs 96.2 KB: make room" in err
