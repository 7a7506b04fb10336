"""A cluster that is played on this machine, in which the tests run."""

import threading

import pytest
import trainer_server

from srpo.train import nodes, trainjob


@pytest.fixture
def cluster(monkeypatch):
    with trainer_server.Cluster() as server:
        seen = nodes.Cluster(server.configuration, "team", "launcher")
        monkeypatch.setattr(nodes, "this_cluster", lambda: seen)
        monkeypatch.setattr(trainjob, "POLL", 0.01)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
