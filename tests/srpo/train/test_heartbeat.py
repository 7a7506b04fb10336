"""Ranks of several nodes end when nobody waits for them any more."""

import signal

import pytest
import torch.distributed as dist

from srpo.train.interruption import Heartbeat, Interrupted, Interruption


def test_a_heartbeat_stops_when_its_file_does_not_change(tmp_path):
    now, file = [0.0], tmp_path / "heartbeat"
    file.write_text("1")
    heartbeat = Heartbeat(file, patience=100, clock=lambda: now[0])
    assert not heartbeat.stopped()
    now[0] = 90.0
    assert not heartbeat.stopped()
    file.write_text("of another try of the launcher")
    assert not heartbeat.stopped()
    now[0] = 185.0
    assert not heartbeat.stopped()
    now[0] = 195.0
    assert heartbeat.stopped()
    file.unlink()
    assert heartbeat.stopped()


def test_ranks_whose_launcher_is_gone_stop_together(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        now = [0.0]
        interruption = Interruption(Heartbeat(tmp_path / "heartbeat", patience=100, clock=lambda: now[0]))
        interruption.check()
        now[0] = 101.0
        with pytest.raises(Interrupted):
            interruption.check()
    finally:
        dist.destroy_process_group()
        signal.signal(signal.SIGTERM, before)
