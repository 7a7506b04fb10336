"""export to S3: what a reader finds with nothing but boto3, and that no secret is written anywhere."""

import hashlib
import re
from pathlib import Path

import moto
import pytest
from planted import PLANTED, assert_no_secret, written_below
from test_export import Run

from srpo.core.storage.known_hashes import KnownHashes
from srpo.core.storage.releases import move_channel, read_channel
from srpo.core.storage.s3 import client
from srpo.export.run import intact

CONTRACT = Path(__file__).parents[3] / "docs" / "s3-contract.md"


@pytest.fixture
def released(tmp_path, monkeypatch):
    """A run that was exported to s3://models/flux, and its release.json."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with moto.mock_aws():
        for name, value in PLANTED.items():
            monkeypatch.setenv(name, value)
        client().create_bucket(Bucket="models")
        run = Run(tmp_path)
        yield run, run.export("s3://models/flux")[0]


def test_an_export_to_s3_is_found_again_and_is_the_candidate(released, tmp_path):
    run, result = released
    assert result["uri"] == result["path"] == f"s3://models/flux/releases/{result['id']}"
    assert read_channel("s3://models/flux", "candidate")["release"] == result["id"]
    assert run.export("s3://models/flux")[0] == result
    assert intact(tmp_path / "artifacts", tmp_path, KnownHashes({})) == ""
    client().delete_object(Bucket="models", Key=f"flux/releases/{result['id']}/manifest.json")
    gone = intact(tmp_path / "artifacts", tmp_path, KnownHashes({}))
    assert gone == f"the release {result['id']} is gone from s3://models/flux/releases"


def test_the_example_of_the_contract_reads_a_release(released, tmp_path, monkeypatch):
    run, result = released
    move_channel("s3://models/flux", "latest", result["id"])
    (example,) = re.findall(r"```python\n(.*?)```", CONTRACT.read_text(), re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 20
    (tmp_path / "reader").mkdir()
    monkeypatch.chdir(tmp_path / "reader")
    exec(compile(example, str(CONTRACT), "exec"), {})
    weights = tmp_path / "reader" / result["id"] / "model/transformer/diffusion_pytorch_model.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == run.checkpoint["files"][1]["sha256"]


def test_no_secret_is_in_artifacts_objects_or_logs(released, tmp_path, capfd):
    run, _ = released
    run.fail()
    run.export("s3://models/flux")
    written = written_below(tmp_path)
    for entry in client().list_objects_v2(Bucket="models")["Contents"]:
        written[entry["Key"]] = client().get_object(Bucket="models", Key=entry["Key"])["Body"].read()
        written[f"metadata of {entry['Key']}"] = str(client().head_object(Bucket="models", Key=entry["Key"])).encode()
    captured = capfd.readouterr()
    written |= {"stdout": captured.out.encode(), "stderr": captured.err.encode()}
    assert len(written) > 30
    assert_no_secret(written)
