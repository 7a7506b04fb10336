"""Where releases are tried without a server: a local folder, and S3 as moto plays it."""

import moto
import pytest

from srpo.core.storage import upload
from srpo.core.storage.s3 import client


@pytest.fixture
def s3(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(upload, "PART", 5 << 20)  # the least that S3 takes
    with moto.mock_aws():
        client().create_bucket(Bucket="releases")
        yield client()


@pytest.fixture(params=["folder", "s3"])
def destination(request, tmp_path):
    """Where to publish, with a space and an umlaut in its name."""
    if request.param == "s3":
        request.getfixturevalue("s3")
        return "s3://releases/a prefix ü"
    return tmp_path / "out ü"
