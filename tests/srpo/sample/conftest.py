"""Checkpoints of the tiny model to sample from, and one whole run."""

import pytest
from sampling import checkpoint, sample


@pytest.fixture(scope="session")
def unchanged(tiny_run):
    return checkpoint(tiny_run, "unchanged", 0.0)


@pytest.fixture(scope="session")
def changed(tiny_run):
    return checkpoint(tiny_run, "changed", 0.1)


@pytest.fixture(scope="session")
def whole(tiny_run, changed, tmp_path_factory):
    """One shard of everything."""
    return sample(tiny_run, changed, tmp_path_factory.mktemp("whole") / "0")
