"""Leases: one holder, and a dead one is outlived, whatever its clock said."""

import json
import signal
import subprocess
import sys
import threading

import pytest

from srpo.core.execution.alive import identity, is_gone
from srpo.core.storage.lease import Lease, LeaseLostError, lease


@pytest.fixture
def path(tmp_path):
    return tmp_path / "leases" / "model"


def dead(path, content=None):
    """What a killed process leaves: a file that nobody rewrites."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if content is not None else Lease(path).content())


def test_a_lease_is_gone_when_it_is_given_back(path):
    with lease(path) as held:
        held.check()
        assert path.is_file()
    assert list(path.parent.iterdir()) == []
    with pytest.raises(ZeroDivisionError), lease(path):
        1 / 0  # noqa: B018
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("content", [None, b"", b"\xff not of ours"])
def test_a_dead_holder_is_outlived(path, content):
    dead(path, content)
    heard = []
    with lease(path, heard.append, lifetime=0.2) as held:
        held.check()
        assert json.loads(path.read_bytes())["token"] == held.token
    assert heard, "nothing was said of the holder"
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_holder_of_this_machine_that_has_ended_is_known_at_once(path, end):
    """Nobody waits here: the lifetime is a day."""
    hold = f"""
from pathlib import Path
import time
from srpo.core.execution.stage import end_in_order
from srpo.core.storage.lease import lease
end_in_order()
with lease(Path({str(path)!r}), lifetime=86400):
    print("held", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert not is_gone(json.loads(path.read_bytes())["process"])
        process.send_signal(end)
        process.wait()
    assert path.exists() == (end == signal.SIGKILL), "after SIGTERM it is given back"
    with lease(path, lifetime=86400) as held:
        held.check()


def test_who_cannot_be_known_is_not_taken_for_dead():
    own = identity()
    assert own
    assert not is_gone(own)
    assert is_gone(own | {"started": "0"}), "the same id, used again"
    assert is_gone(own | {"pid": 2**22 + 1})
    for other in ({"boot": "another"}, {"ids": "pid:[1]"}, {"pid": "x"}):  # another machine, another container, damage
        assert not is_gone(own | other)
    assert not is_gone({})
    assert not is_gone("text")


def test_the_living_are_waited_for(path):
    """Of many at once each has it alone."""
    inside, most, entered = 0, 0, 0

    def work():
        nonlocal inside, most, entered
        with lease(path, lifetime=5):
            inside += 1
            most = max(most, inside)
            entered += 1
            held.wait(0.02)
            inside -= 1

    held = threading.Event()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert (entered, most) == (4, 1)


def test_of_many_who_bury_the_dead_one_has_the_lease(path):
    dead(path)
    inside, most, entered = 0, 0, 0

    def work():
        nonlocal inside, most, entered
        with lease(path, lifetime=2.0):
            inside += 1
            most = max(most, inside)
            entered += 1
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert (entered, most) == (4, 1)


def test_a_beat_moves_the_content_and_a_waiter_sees_life(path):
    held = Lease(path)
    dead(path, held.content())
    before = path.read_bytes()
    held.beat()
    assert path.read_bytes() != before
    assert len(path.read_bytes()) == len(before)
    held.check()


@pytest.mark.parametrize("by", [None, b'{"token": "another"}'])
def test_who_lost_the_lease_knows_it_and_leaves_the_other_s_alone(path, by):
    with lease(path, lifetime=60) as held:
        path.unlink()
        if by is not None:
            path.write_bytes(by)
        held.beat()
        with pytest.raises(LeaseLostError, match="taken over"):
            held.check()
    assert (path.read_bytes() if by is not None else path.exists() or None) == by


def test_a_file_system_without_hard_links_serves_too(path, monkeypatch):
    def refuse(*names):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("srpo.core.storage.lease.os.link", refuse)
    with lease(path) as held:
        assert json.loads(path.read_bytes())["token"] == held.token
    assert list(path.parent.iterdir()) == []
