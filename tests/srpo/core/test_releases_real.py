"""Releases in a real S3 server: faults at every request, rivals, refusals, and what a server keeps over a kill."""

import contextlib
import datetime
import hashlib
import itertools
import threading
import types

import botocore.auth
import botocore.endpoint
import botocore.exceptions
import fault_proxy
import pytest

from srpo.core.contracts.errors import InputError
from srpo.core.storage import s3, upload
from srpo.core.storage.consumers import fetch, verify
from srpo.core.storage.releases import Item, move_channel, publish, read_channel
from srpo.core.storage.s3 import StorageError
from srpo.core.storage.stores import open_store
from srpo.core.storage.upload import left_overs

pytestmark = pytest.mark.real
KINDS = fault_proxy.KINDS


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(range(256)) * 1000)  # 256 kB: four parts
    return path


@pytest.fixture
def proxy(s3_server):
    proxy = fault_proxy.Proxy(("127.0.0.1", s3_server.ports["proxy"]))
    yield proxy
    proxy.close()


@pytest.fixture
def bucket(s3_server, proxy, monkeypatch):
    """A bucket behind the proxy, with small parts and no waiting between attempts."""
    for name, value in s3_server.environment(proxy.endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(upload, "PART", 1 << 16)
    monkeypatch.setattr(s3, "RANGE", 1 << 16)
    for module in (botocore.endpoint, s3):
        still = types.SimpleNamespace(**{**vars(module.time), "sleep": lambda seconds: None})
        monkeypatch.setattr(module, "time", still)
    return s3_server.bucket()


def items(weights, text="hello"):
    return [Item.of_file("model/the weights ü.bin", weights), Item.of_text("README.md", text)]


def export(destination, release, weights, **manifest):
    """What the stage asks of S3."""
    publish(destination, release, items(weights, release), manifest)
    move_channel(destination, "latest", release)


def test_a_release_is_published_fetched_and_verified(bucket, weights, tmp_path):
    destination = f"s3://{bucket}/with a space/ü"
    export(destination, "a-1", weights)
    export(destination, "a-2", weights)
    assert fetch(destination, tmp_path / "got")[0].manifest["id"] == "a-2"
    assert (tmp_path / "got/model/the weights ü.bin").read_bytes() == weights.read_bytes()
    assert verify(destination) == []
    assert [move["release"] for move in read_channel(destination, "latest")["history"]] == ["a-1", "a-2"]
    assert left_overs(f"s3://{bucket}") == []


def test_a_manifest_that_was_replaced_behind_its_channel_is_not_fetched(bucket, weights, tmp_path):
    destination = f"s3://{bucket}/replaced"
    export(destination, "a-1", weights)
    export(f"s3://{bucket}/another", "a-1", weights, seed=1)
    manifest = open_store(f"s3://{bucket}/another").read("releases/a-1/manifest.json")
    open_store(destination).write("releases/a-1/manifest.json", manifest)
    with pytest.raises(InputError, match="is not what the channel was moved to"):
        fetch(f"{destination}@latest", tmp_path / "got")


def test_the_same_release_again_sends_nothing(bucket, proxy, weights):
    export(f"s3://{bucket}/x", "a-1", weights)
    proxy.reset()
    export(f"s3://{bucket}/x", "a-1", weights)
    assert {line.split()[0] for line in proxy.requests} <= {"GET", "HEAD"}


@pytest.mark.parametrize("kind", KINDS)
def test_when_the_first_attempt_of_every_request_fails_the_export_still_ends(bucket, proxy, weights, monkeypatch, kind):
    seen = set()

    def first_attempt(request):
        # Parts come in any order, so a request is known by its line; an upload's id differs after a lost answer.
        known = request.line in seen
        seen.add(request.line)
        return None if known else kind

    monkeypatch.setenv("SRPO_S3_TIMEOUT", "2" if kind == "slow" else "30")
    destination = f"s3://{bucket}/{kind}"
    proxy.reset(first_attempt)
    export(destination, "a-1", weights)
    proxy.reset()
    assert verify(destination) == []
    assert kind == "slow" or left_overs(destination) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_at_any_request_leaves_a_whole_release_and_a_second_try_finishes(
    bucket, proxy, weights, monkeypatch, kind
):
    """Each request in turn is the one that fails, and it is not repeated: the export fails there, or can do without."""
    destination, old, failed = f"s3://{bucket}/{kind}", "r-0", 0
    export(destination, old, weights)
    for number in itertools.count(1):
        new = f"r-{number}"
        proxy.reset(lambda request, number=number: kind if request.number == number else None)
        with monkeypatch.context() as patch:
            patch.setenv("AWS_MAX_ATTEMPTS", "1")
            patch.setenv("SRPO_S3_TIMEOUT", "2" if kind == "slow" else "30")
            try:
                export(destination, new, weights)
            except StorageError:
                failed += 1
        reached = len(proxy.requests) >= number
        proxy.reset()
        pointed = read_channel(destination, "latest")["release"]
        assert pointed in (old, new)
        assert verify(f"{destination}@{pointed}") == []
        if pointed == old:
            export(destination, new, weights)
            assert verify(f"{destination}@latest") == []
        assert read_channel(destination, "latest")["release"] == new
        # A request that was held may begin an upload after all is over; the next export aborts it when it is a day old.
        assert kind == "slow" or left_overs(destination) == []
        if not reached:
            break
        old = new
    assert number > 12
    assert failed > 8


def test_a_killed_upload_goes_on_without_sending_finished_parts_again(bucket, proxy, weights):
    """The process dies after two of four parts; the server has kept them, and only the others are sent."""
    destination = f"s3://{bucket}/killed"
    parts, more = [], threading.Event()

    def third_part(request):
        if "partNumber" in request.line:
            parts.append(request.line)
            if len(parts) > 2:
                more.set()
                return "cut"
        return None

    proxy.reset(third_part)
    with pytest.raises(StorageError):
        publish(destination, "a-1", items(weights), {})
    assert more.is_set()
    assert len(left_overs(destination)) == 1
    proxy.reset()
    publish(destination, "a-1", items(weights), {})
    again = [line for line in proxy.requests if "partNumber" in line]
    assert len(again) == 2
    assert not any("POST" in line and line.endswith("?uploads") for line in proxy.requests)
    assert verify(f"{destination}@a-1") == []
    assert left_overs(destination) == []


def test_parts_of_other_bytes_are_not_taken_for_finished(bucket, weights):
    """The open upload of a killed run of other content: its parts are sent again."""
    uri = f"s3://{bucket}/x.bin"
    begun = s3.client().create_multipart_upload(Bucket=bucket, Key="x.bin")["UploadId"]
    s3.client().upload_part(Bucket=bucket, Key="x.bin", UploadId=begun, PartNumber=1, Body=b"z" * (1 << 16))
    data = weights.read_bytes()
    with contextlib.suppress(StorageError):
        upload.upload(uri, weights, len(data), hashlib.sha256(data).hexdigest())
    assert s3.read_bytes(uri) == data


def test_the_server_refuses_damaged_parts_and_bodies(bucket, weights):
    """What is damaged after its checksum was taken never becomes a part or an object."""
    data = weights.read_bytes()
    with pytest.raises(botocore.exceptions.ClientError, match="BadDigest"):
        upload._put(f"s3://{bucket}/small", data, hashlib.sha256(data[:-1] + b"x").hexdigest())
    assert s3.read_bytes(f"s3://{bucket}/small") is None
    begun = s3.client().create_multipart_upload(Bucket=bucket, Key="x", ChecksumAlgorithm="CRC32")["UploadId"]
    part = {"Bucket": bucket, "Key": "x", "UploadId": begun, "PartNumber": 1}
    with pytest.raises(botocore.exceptions.ClientError, match="BadDigest"):
        s3.client().upload_part(**part, Body=data, ChecksumCRC32="AAAAAA==")


def test_two_exporters_at_once_lose_nothing(bucket, weights):
    """Of one release and of two: every release is whole, the channel means one of them, no move is lost."""
    destination = f"s3://{bucket}/rivals"
    for names in (("same", "same"), ("b-1", "b-2")):
        errors = []

        def run(name, errors=errors):
            try:
                export(destination, name, weights)
            except Exception as problem:
                errors.append(problem)

        rivals = [threading.Thread(target=run, args=(name,)) for name in names]
        for rival in rivals:
            rival.start()
        for rival in rivals:
            rival.join()
        assert [error for error in errors if not isinstance(error, StorageError)] == []
        for name in names:
            export(destination, name, weights)
            assert verify(f"{destination}@{name}") == []
        assert left_overs(destination) == []
    pointer = read_channel(destination, "latest")
    assert pointer["release"] in ("b-1", "b-2")
    assert {move["release"] for move in pointer["history"]} == {"same", "b-1", "b-2"}


def test_left_overs_of_dead_runs_are_aborted_once_they_are_old(bucket, weights, monkeypatch):
    destination = f"s3://{bucket}/old"
    s3.client().create_multipart_upload(Bucket=bucket, Key="old/releases/dead/model/weights.bin")
    store = open_store(destination)
    export(destination, "a-1", weights)
    assert store.abandoned() == []
    monkeypatch.setattr("srpo.core.storage.stores.ABANDONED", -60.0)
    assert store.abandoned() == [f"s3://{bucket}/old/releases/dead/model/weights.bin"]
    export(destination, "a-2", weights)
    assert left_overs(destination) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong-secret"}, "refuses the credentials"),
        ({"AWS_ACCESS_KEY_ID": "test:nobody"}, "refuses the credentials|access denied"),
        ({"AWS_ACCESS_KEY_ID": "test:reader", "AWS_SECRET_ACCESS_KEY": "reading"}, "access denied"),
    ],
)
def test_who_may_not_write_is_told_so_and_changes_nothing(bucket, weights, monkeypatch, change, words):
    destination = f"s3://{bucket}/x"
    export(destination, "a-1", weights)
    s3.client().put_bucket_acl(Bucket=bucket, GrantRead="id=test:reader", GrantFullControl="id=test:tester")
    with monkeypatch.context() as patch:
        for name, value in change.items():
            patch.setenv(name, value)
        with pytest.raises(InputError, match=words) as raised:
            export(destination, "a-2", weights)
    assert "wrong-secret" not in str(raised.value)
    assert read_channel(destination, "latest")["release"] == "a-1"
    assert verify(destination) == []


def test_a_missing_bucket_is_named(bucket, weights):
    with pytest.raises(InputError, match="there is no bucket 'b-none'"):
        export("s3://b-none/x", "a-1", weights)


def test_a_clock_that_is_wrong_is_named(bucket, weights, monkeypatch):
    now = botocore.auth.get_current_datetime
    monkeypatch.setattr(
        botocore.auth, "get_current_datetime", lambda *args, **kw: now(*args, **kw) - datetime.timedelta(hours=1)
    )
    with pytest.raises(InputError, match="clock differs"):
        export(f"s3://{bucket}/x", "a-1", weights)
