"""S3: a small face over boto3 for what stages need of it.

Endpoint, region, credentials (static keys, profiles, web identity), certificates and checksums are boto3's own
configuration: its environment variables (``AWS_ENDPOINT_URL_S3``, ``AWS_PROFILE``, ``AWS_CA_BUNDLE``, ...) and files.
What boto3 reads from no variable has one here: ``SRPO_S3_ADDRESSING_STYLE`` (path, virtual or auto),
``SRPO_S3_TIMEOUT`` (seconds without an answer), and ``SRPO_S3_SSE`` with ``SRPO_S3_SSE_KMS_KEY_ID`` for the encryption
of what is written.

What another try cannot mend (no such bucket, wrong credentials) is :class:`InputError`; what it can is
:class:`StorageError`, raised after the retries. No message repeats a credential.
"""

import contextlib
import functools
import hashlib
import io
import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import boto3
import botocore.exceptions
from botocore.config import Config

from srpo.core.contracts.errors import InputError, require
from srpo.core.storage.files import BLOCK
from srpo.core.storage.locations import split_uri as split_uri
from srpo.core.storage.s3_answers import refuse_half_answers

RANGE = 16 << 20  # bytes of one request for a part of an object
PARALLEL = 8  # requests at once; so at most PARALLEL + 1 ranges are in memory
ATTEMPTS = 6  # of one request: by botocore until the answer begins, by this module until its body has ended
MISSING = {"404", "NoSuchKey", "NotFound"}
DENIED = {"403", "AccessDenied", "AllAccessDisabled", "AccountProblem"}
CREDENTIALS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
# Errors that a body can end by after its answer began well.
BROKEN = (botocore.exceptions.HTTPClientError, botocore.exceptions.IncompleteReadError, OSError)


class StorageError(OSError):
    """The store failed in a way that another try may not: timeouts, resets, server errors, after all retries."""


class Object(NamedTuple):
    """An object as listings give it; ``etag`` without quotes."""

    key: str
    size: int
    etag: str


def client() -> Any:
    """A boto3 S3 client as the environment describes it; one a configuration, safe to share among threads.

    Raises:
        InputError: the environment names a profile, an endpoint or a style that cannot be.
    """
    return _client(tuple(sorted(item for item in os.environ.items() if item[0].startswith(("AWS_", "SRPO_S3_")))))


@functools.lru_cache(maxsize=8)
def _client(environment: tuple[tuple[str, str], ...]) -> Any:
    given = dict(environment)
    style = given.get("SRPO_S3_ADDRESSING_STYLE", "")
    require(style in ("", "auto", "path", "virtual"), "SRPO_S3_ADDRESSING_STYLE", style, "path, virtual or auto")
    retries = {} if "AWS_MAX_ATTEMPTS" in given else {"retries": {"total_max_attempts": ATTEMPTS}}
    try:
        config = Config(
            connect_timeout=float(given.get("SRPO_S3_TIMEOUT", 10)),
            read_timeout=float(given.get("SRPO_S3_TIMEOUT", 60)),
            max_pool_connections=2 * PARALLEL,
            **retries,
            **({"s3": {"addressing_style": style}} if style else {}),
        )
        made = boto3.session.Session().client("s3", config=config)
    except (botocore.exceptions.BotoCoreError, ValueError) as error:
        raise InputError(f"the configuration of S3 in AWS_* variables or files cannot be used: {error}") from None
    refuse_half_answers(made)
    return made


def encryption() -> dict[str, str]:
    """What requests that write carry beside the data, where the environment asks for an encryption."""
    names = {"ServerSideEncryption": "SRPO_S3_SSE", "SSEKMSKeyId": "SRPO_S3_SSE_KMS_KEY_ID"}
    return {argument: os.environ[name] for argument, name in names.items() if os.environ.get(name)}


def list_objects(uri: str) -> Iterator[Object]:
    """The objects below ``uri`` as a folder (``s3://bucket/a`` does not give ``ab``), by key; keys are whole.

    Raises:
        InputError: there is no such bucket, or no right to list it.
    """
    for entry in listing(uri):
        yield Object(entry["Key"], entry["Size"], entry["ETag"].strip('"'))


def list_folders(uri: str) -> list[str]:
    """The names of the folders directly below ``uri``."""
    start = len(_prefix(uri))
    return [entry["Prefix"][start:].rstrip("/") for entry in listing(uri, "CommonPrefixes", Delimiter="/")]


def listing(uri: str, what: str = "Contents", **more: Any) -> Iterator[dict[str, Any]]:
    """S3's own entries of a listing, without the empty objects by which consoles mark folders."""
    with errors_of(uri):
        pages = (
            client().get_paginator("list_objects_v2").paginate(Bucket=split_uri(uri)[0], Prefix=_prefix(uri), **more)
        )
        for page in pages:
            yield from (
                entry for entry in page.get(what, []) if entry.get("Size") or not entry.get("Key", "").endswith("/")
            )


def _prefix(uri: str) -> str:
    key = split_uri(uri)[1].rstrip("/")
    return f"{key}/" if key else ""


def delete(uris: list[str]) -> None:
    """Delete objects; those that are not there are fine."""
    for uri in uris:
        bucket, key = split_uri(uri)
        with errors_of(uri):
            client().delete_object(Bucket=bucket, Key=key)


def read_bytes(uri: str) -> bytes | None:
    """A small object, or None where there is none."""
    bucket, key = split_uri(uri)
    with errors_of(uri):
        try:
            return _read(lambda: client().get_object(Bucket=bucket, Key=key))
        except botocore.exceptions.ClientError as error:
            if code_of(error) not in MISSING:
                raise
            return None


def write_bytes(uri: str, data: bytes, **more: Any) -> None:
    """Write a small object; the server verifies a checksum of it. It appears whole or not at all."""
    bucket, key = split_uri(uri)
    with errors_of(uri):
        client().put_object(Bucket=bucket, Key=key, Body=data, **encryption(), **more)


def head(uri: str) -> Object | None:
    """Size and ETag of an object, or None where there is none."""
    bucket, key = split_uri(uri)
    with errors_of(uri):
        try:
            found = client().head_object(Bucket=bucket, Key=key)
        except botocore.exceptions.ClientError as error:
            if code_of(error) not in MISSING:
                raise
            return None
        return Object(key, found["ContentLength"], found["ETag"].strip('"'))


def existing(uri: str) -> Object:
    """:func:`head` of an object that must be there; raises InputError where there is none."""
    found = head(uri)
    if found is None:
        raise InputError(f"{uri} does not exist: it must be an object that can be read")
    return found


def open_stream(uri: str) -> BinaryIO:
    """An object as a file to read: constant memory, seekable (a seek is a new request), resumed where it breaks.

    Raises:
        InputError: there is no such object, or no right to read it.
    """
    return io.BufferedReader(_Stream(uri, existing(uri)), BLOCK)


def chunks(uri: str, found: Object | None = None, start: int = 0) -> Iterator[bytes]:
    """The bytes of an object from ``start`` on, in order, by ranges that come in parallel.

    Raises:
        InputError, StorageError: as :func:`download`.
    """
    bucket, key = split_uri(uri)
    found = found or existing(uri)
    size, etag = found.size, found.etag
    with errors_of(uri), ThreadPoolExecutor(PARALLEL) as pool:
        yield from in_order(
            pool, lambda at: _range(bucket, key, etag, at, min(at + RANGE, size)), range(start, size, RANGE)
        )


def download(
    uri: str,
    path: Path,
    progress: Callable[[int], None] = lambda count: None,
    sha256: str | None = None,
) -> str:
    """Make ``path`` hold the object, whole or not at all; returns the hex SHA-256 of what was received.

    Ranges come in parallel and are written in order to a hidden file beside ``path``, from which a later call goes on
    after a kill. ``progress`` hears counts of bytes as they become safe, what an earlier call left included. No other
    process may download to the same path meanwhile.

    Raises:
        InputError: there is no such object, no right to read it, or it is not the one of ``sha256``.
        StorageError: the store kept failing.
    """
    found = existing(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name holds the object's identity: what another version of the object left is not continued.
    mark = hashlib.sha256(f"{uri} {found.etag} {found.size}".encode()).hexdigest()[:12]
    partial = path.with_name(f".{mark}.download")
    digest = hashlib.sha256()
    with partial.open("a+b") as file:
        file.seek(0)
        while block := file.read(BLOCK):
            digest.update(block)
            progress(len(block))
        for data in chunks(uri, found, file.tell()):
            file.write(data)
            file.flush()
            digest.update(data)
            progress(len(data))
    if sha256 is not None and digest.hexdigest() != sha256:
        partial.unlink()
        raise InputError(f"{uri} has the SHA-256 {digest.hexdigest()}: it must be {sha256}")
    os.replace(partial, path)
    return digest.hexdigest()


def in_order(pool: ThreadPoolExecutor, function: Callable[[Any], Any], values: Any) -> Iterator[Any]:
    """``map`` in parallel and in order, with at most :data:`PARALLEL` results waiting: memory stays constant."""
    waiting: list[Any] = []
    try:
        for value in values:
            waiting.append(pool.submit(function, value))
            if len(waiting) >= PARALLEL:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
    finally:
        for future in waiting:
            future.cancel()


def pause(attempt: int) -> None:
    """Wait before the next attempt: longer each time, and by chance, so that parallel requests spread out."""
    time.sleep(random.uniform(0, min(20.0, 0.25 * 2**attempt)))


def code_of(error: BaseException) -> str:
    """S3's code of an error ("NoSuchKey"), or "" where the server sent none."""
    return str(_answer(error).get("Error", {}).get("Code", ""))


def _answer(error: BaseException) -> dict[str, Any]:
    return getattr(error, "response", None) or {}


@contextlib.contextmanager
def errors_of(uri: str) -> Iterator[None]:
    """Turn boto3's errors about ``uri`` into :class:`InputError` or :class:`StorageError`."""
    try:
        yield
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise _translated(error, uri) from None


def _translated(error: Exception, uri: str) -> Exception:
    code, bucket = code_of(error), split_uri(uri)[0]
    if code == "NoSuchBucket":
        return InputError(f"{uri}: there is no bucket {bucket!r}: it must be one that exists (check the endpoint too)")
    if code in CREDENTIALS:
        return InputError(f"{uri}: the server refuses the credentials ({code}): they must be valid for this endpoint")
    if code == "RequestTimeTooSkewed":
        return InputError(f"{uri}: this machine's clock differs from the server's ({code}): set it right")
    if code in DENIED:
        return InputError(f"{uri}: access denied ({_operation(error)}): the credentials must have the right to do that")
    if code in MISSING:
        return InputError(f"{uri} does not exist")
    if code in ("412", "PreconditionFailed"):
        return StorageError(f"{uri} was replaced while it was used: try again")
    if code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "301"):
        return InputError(f"{uri}: the bucket is in another region ({code}): set AWS_REGION to its own")
    missing = botocore.exceptions.NoCredentialsError, botocore.exceptions.PartialCredentialsError
    if isinstance(error, missing):
        return InputError(
            f"{uri}: there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role"
        )
    if isinstance(error, botocore.exceptions.ParamValidationError):
        return InputError(f"{uri} is no S3 URI that can be used: {error}")
    status = _answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode", "")
    told = f"{_operation(error)} answered {status} {code}".strip() if code else f"{type(error).__name__}: {error}"
    return StorageError(f"{uri}: the store failed ({told}); nothing is lost: try again")


def _operation(error: Exception) -> str:
    return str(getattr(error, "operation_name", "request"))


def _get(bucket: str, key: str, etag: str, start: int, stop: int) -> Any:
    """The answer with the bytes from ``start`` to before ``stop`` of one version of an object."""
    return client().get_object(Bucket=bucket, Key=key, IfMatch=f'"{etag}"', Range=f"bytes={start}-{stop - 1}")


def _range(bucket: str, key: str, etag: str, start: int, stop: int) -> bytes:
    data = _read(lambda: _get(bucket, key, etag, start, stop)) if start < stop else b""
    if len(data) != stop - start:
        raise StorageError(f"s3://{bucket}/{key}: {len(data)} bytes came instead of {stop - start}")
    return data


def _read(request: Callable[[], Any]) -> bytes:
    """The body of an answer; botocore repeats a request only until its answer begins, this until the body has ended."""
    for attempt in range(ATTEMPTS):
        answer = request()
        try:
            with contextlib.closing(answer["Body"]) as body:
                return bytes(body.read())
        except BROKEN:
            if attempt == ATTEMPTS - 1:
                raise
        pause(attempt)
    raise AssertionError("unreachable")


class _Stream(io.RawIOBase):
    """The unbuffered file under :func:`open_stream`."""

    def __init__(self, uri: str, found: Object) -> None:
        self.uri, self.found = uri, found
        self.bucket = split_uri(uri)[0]
        self.position = 0
        self.body: Any = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.found.size}[whence]
        if base + offset != self.position:
            self._drop()
            self.position = base + offset
        return self.position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(0, self.found.size - self.position))
        attempt = 0
        with errors_of(self.uri):
            while wanted:
                if self.body is None:
                    found = self.found
                    self.body = _get(self.bucket, found.key, found.etag, self.position, found.size)["Body"]
                try:
                    data = self.body.read(wanted)
                    if not data:
                        raise StorageError(f"{self.uri}: the connection ended at byte {self.position}")
                    buffer[: len(data)] = data
                    self.position += len(data)
                    return len(data)
                except BROKEN:
                    self._drop()
                    attempt += 1
                    if attempt == ATTEMPTS:
                        raise
                pause(attempt)
        return 0

    def close(self) -> None:
        self._drop()
        super().close()

    def _drop(self) -> None:
        if self.body is not None:
            self.body.close()
        self.body = None
