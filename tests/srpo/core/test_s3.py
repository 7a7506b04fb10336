"""S3 by boto3, against moto: whole objects, resumed reads, and errors in a user's words."""

import hashlib
import io
import re

import botocore.exceptions
import moto
import pytest

from srpo.core.contracts.errors import InputError
from srpo.core.storage import s3
from srpo.core.storage.s3 import StorageError

DATA = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def bucket(monkeypatch):
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "SRPO_S3_ADDRESSING_STYLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(s3.time, "sleep", lambda seconds: None)
    with moto.mock_aws():
        s3.client().create_bucket(Bucket="models")
        yield s3.client()


@pytest.fixture
def small_ranges(monkeypatch):
    monkeypatch.setattr(s3, "RANGE", 100_000)


class Cut(io.RawIOBase):
    """A body that ends by a broken connection after a few bytes."""

    def __init__(self, data, after):
        self.data, self.after = io.BytesIO(data[:after]), after

    def read(self, size=-1):
        if size and size > 0 and (data := self.data.read(size)):
            return data
        raise botocore.exceptions.ResponseStreamingError(error="reset")


@pytest.fixture
def cuts(monkeypatch):
    """Of each request for a body the first is cut after 1000 bytes; returns the ranges that were asked for."""
    asked, get = [], s3._get

    def cut_first(bucket, key, etag, start, stop):
        asked.append((start, stop))
        answer = get(bucket, key, etag, start, stop)
        if asked.count((start, stop)) == 1 and stop - start > 1000:
            answer["Body"] = Cut(answer["Body"].read(), 1000)
        return answer

    monkeypatch.setattr(s3, "_get", cut_first)
    return asked


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://models/a/b.bin", ("models", "a/b.bin")),
        ("s3://models", ("models", "")),
        ("s3://models/ä b?c#d", ("models", "ä b?c#d")),
    ],
)
def test_uris_are_split(uri, parts):
    assert s3.split_uri(uri) == parts


@pytest.mark.parametrize(
    "uri", ["", "models/a", "s3:/models/a", "s3:///a", "gs://models/a", "s3://a b/c", "s3://models/a\0"]
)
def test_what_is_no_uri_is_refused(uri):
    with pytest.raises(InputError, match=r"is no S3 URI: it must be s3://bucket/key"):
        s3.split_uri(uri)


def test_a_folder_is_listed_without_its_neighbours_and_markers(bucket):
    for key in ("flux/a b.bin", "flux/sub/ü.bin", "flux2/c.bin", "flux/"):
        bucket.put_object(Bucket="models", Key=key, Body=b"x" * (not key.endswith("/")))
    expected = [("flux/a b.bin", 1), ("flux/sub/ü.bin", 1)]
    for uri in ("s3://models/flux", "s3://models/flux/"):
        assert [(found.key, found.size) for found in s3.list_objects(uri)] == expected
    assert len(list(s3.list_objects("s3://models"))) == 3


def test_small_objects_are_written_and_read(bucket):
    s3.write_bytes("s3://models/ä b.json", b"{}")
    assert s3.read_bytes("s3://models/ä b.json") == b"{}"
    assert s3.read_bytes("s3://models/none") is None
    s3.write_bytes("s3://models/empty", b"")
    assert s3.read_bytes("s3://models/empty") == b""


def test_a_download_appears_whole_and_is_hashed(bucket, small_ranges, tmp_path):
    bucket.put_object(Bucket="models", Key="a.bin", Body=DATA)
    heard = []
    sha256 = hashlib.sha256(DATA).hexdigest()
    assert s3.download("s3://models/a.bin", tmp_path / "new" / "a.bin", heard.append, sha256) == sha256
    assert (tmp_path / "new" / "a.bin").read_bytes() == DATA
    assert sum(heard) == len(DATA)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.bin"]


def test_broken_bodies_are_asked_for_again(bucket, small_ranges, cuts, tmp_path):
    bucket.put_object(Bucket="models", Key="a.bin", Body=DATA)
    s3.download("s3://models/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert len(cuts) == 2 * -(-len(DATA) // 100_000)


def test_a_killed_download_goes_on_where_it_was(bucket, small_ranges, tmp_path, monkeypatch):
    bucket.put_object(Bucket="models", Key="a.bin", Body=DATA)
    heard = []

    def killed(count):
        heard.append(count)
        if sum(heard) > 500_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        s3.download("s3://models/a.bin", tmp_path / "a.bin", killed)
    assert not (tmp_path / "a.bin").exists()
    asked, get = [], s3._get
    monkeypatch.setattr(s3, "_get", lambda *args: (asked.append(args[3]), get(*args))[1])
    s3.download("s3://models/a.bin", tmp_path / "a.bin", sha256=hashlib.sha256(DATA).hexdigest())
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert min(asked) == 600_000


def test_what_another_version_left_is_not_continued(bucket, tmp_path):
    bucket.put_object(Bucket="models", Key="a.bin", Body=DATA)

    def killed(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        s3.download("s3://models/a.bin", tmp_path / "a.bin", killed)
    bucket.put_object(Bucket="models", Key="a.bin", Body=DATA[::-1])
    s3.download("s3://models/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA[::-1]


def test_other_bytes_than_expected_leave_nothing(bucket, tmp_path):
    bucket.put_object(Bucket="models", Key="a.bin", Body=b"damaged")
    with pytest.raises(InputError, match=r"a\.bin has the SHA-256 .* it must be 0000"):
        s3.download("s3://models/a.bin", tmp_path / "a.bin", sha256="0000")
    assert list(tmp_path.iterdir()) == []


def test_a_stream_reads_seeks_and_survives_breaks(bucket, cuts):
    bucket.put_object(Bucket="models", Key="a.bin", Body=DATA)
    with s3.open_stream("s3://models/a.bin") as file:
        assert file.read(10) == DATA[:10]
        file.seek(-5000, io.SEEK_END)
        assert file.read() == DATA[-5000:]
        file.seek(0)
        assert file.read() == DATA
        assert file.read() == b""
    assert len(cuts) > 4


def test_a_store_that_keeps_failing_is_no_bad_input(bucket, monkeypatch, tmp_path):
    bucket.put_object(Bucket="models", Key="a.bin", Body=DATA)
    monkeypatch.setattr(s3, "_get", lambda *args: {"Body": Cut(b"", 0)})
    for read in (lambda: s3.download("s3://models/a.bin", tmp_path / "a"), s3.open_stream("s3://models/a.bin").read):
        with pytest.raises(StorageError, match=r"s3://models/a\.bin: the store failed .* try again"):
            read()


def test_what_is_not_there_is_named(bucket, tmp_path):
    with pytest.raises(InputError, match=r"s3://models/none does not exist"):
        s3.download("s3://models/none", tmp_path / "none")
    with pytest.raises(InputError, match=r"s3://models/none does not exist"):
        s3.open_stream("s3://models/none")
    with pytest.raises(InputError, match=r"there is no bucket 'nowhere'"):
        list(s3.list_objects("s3://nowhere/x"))


@pytest.mark.parametrize(
    ("code", "status", "kind", "words"),
    [
        ("InvalidAccessKeyId", 403, InputError, "refuses the credentials"),
        ("SignatureDoesNotMatch", 403, InputError, "refuses the credentials"),
        ("AccessDenied", 403, InputError, "access denied"),
        ("RequestTimeTooSkewed", 403, InputError, "clock differs"),
        ("PermanentRedirect", 301, InputError, "another region"),
        ("SlowDown", 503, StorageError, "answered 503 SlowDown"),
        ("PreconditionFailed", 412, StorageError, "was replaced"),
    ],
)
def test_errors_tell_what_to_do_and_no_secret(code, status, kind, words):
    answer = {"Error": {"Code": code, "Message": "key AKIASECRET"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    with pytest.raises(kind, match=rf"s3://models/a.*{words}") as raised, s3.errors_of("s3://models/a"):
        raise botocore.exceptions.ClientError(answer, "PutObject")
    assert "AKIASECRET" not in str(raised.value)


def test_without_credentials_says_which_to_set(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(InputError, match="there are no credentials: set AWS_ACCESS_KEY_ID"):
        list(s3.list_objects("s3://models/x"))


@pytest.mark.parametrize(
    ("style", "url"),
    [("path", r"https://s3\.example/models/a"), ("virtual", r"https://models\.s3\.example/a")],
)
def test_endpoint_and_addressing_come_from_the_environment(bucket, monkeypatch, style, url):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example")
    monkeypatch.setenv("SRPO_S3_ADDRESSING_STYLE", style)
    assert re.match(url, s3.client().generate_presigned_url("get_object", Params={"Bucket": "models", "Key": "a"}))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("SRPO_S3_ADDRESSING_STYLE", "slow", "must be path, virtual or auto"), ("AWS_PROFILE", "none", "cannot be used")],
)
def test_a_configuration_that_cannot_be_is_refused(monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        s3.client()


def test_encryption_is_asked_for_where_the_environment_says(bucket, monkeypatch):
    monkeypatch.setenv("SRPO_S3_SSE", "aws:kms")
    monkeypatch.setenv("SRPO_S3_SSE_KMS_KEY_ID", "key-1")
    s3.write_bytes("s3://models/a", b"x")
    found = bucket.head_object(Bucket="models", Key="a")
    assert (found["ServerSideEncryption"], found["SSEKMSKeyId"]) == ("aws:kms", "key-1")
