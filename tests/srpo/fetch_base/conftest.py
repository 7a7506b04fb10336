"""A hub on the loopback, and a model there."""

import pytest
from fake_hub import FakeHub, reward_files

from srpo.fetch_base import hub as client


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The fake hub, asked by the real client as by a machine that has no token and may use the network."""
    from huggingface_hub import constants

    fake = FakeHub()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "SRPO_MODEL_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", fake.url)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # another test's stage may have set it for this process
    monkeypatch.setattr(client, "PAUSE", 0.01)
    fake.add("org/reward", reward_files())
    yield fake
    fake.close()
