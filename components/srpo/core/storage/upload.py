"""Upload to S3: parallel parts, verified by the server, resumed after a kill without sending finished parts again.

Nothing is remembered on this side. An object carries its SHA-256 as metadata, so a finished one is recognised; parts of
an unfinished upload are listed by the server with their checksums, and a part whose bytes are those of the file is not
sent again. So a resumed upload may continue what another process began, here or elsewhere.
"""

import base64
import datetime
import email.utils
import hashlib
import mimetypes
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import botocore.exceptions

from srpo.core.contracts.errors import InputError
from srpo.core.storage.s3 import (
    ATTEMPTS,
    MISSING,
    PARALLEL,
    StorageError,
    client,
    code_of,
    encryption,
    errors_of,
    in_order,
    pause,
    split_uri,
)

PART = 16 << 20  # bytes; at most PARALLEL + 1 parts are in memory
MOST_PARTS = 10_000  # S3's limit
DAMAGED = {"BadDigest", "IncompleteBody", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
GONE = {*MISSING, "NoSuchUpload"}


class Part(NamedTuple):
    """One part of a file that is uploaded: its number from 1 on, and its bytes."""

    number: int
    data: bytes


class LeftOver(NamedTuple):
    """A multipart upload that was begun and neither finished nor aborted; ``age`` in seconds by the server's clock."""

    key: str
    upload: str
    age: float


def upload(
    uri: str,
    source: Path | bytes,
    size: int,
    sha256: str,
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Make ``uri`` hold ``source``, unless it does; ``progress`` hears counts of bytes as they become safe.

    Raises:
        InputError: the source is missing or is not of ``sha256``; the store refuses for good.
        StorageError: the store kept failing; another call goes on from the parts that arrived.
    """
    with errors_of(uri):
        if is_there(uri, size, sha256):
            progress(size)
        elif isinstance(source, bytes) or size <= PART:
            data = source if isinstance(source, bytes) else _read(source, size)
            _expect(hashlib.sha256(data).hexdigest(), sha256, source)
            _put(uri, data, sha256)
            progress(size)
        elif not _upload_parts(uri, source, size, sha256, progress) and not is_there(uri, size, sha256):
            # The upload that this one continued was finished or aborted by another process meanwhile.
            raise StorageError(f"{uri}: its upload was aborted by another process: try again")


def is_there(uri: str, size: int, sha256: str) -> bool:
    """Whether ``uri`` holds an object that was uploaded with this size and hash."""
    bucket, key = split_uri(uri)
    try:
        found = client().head_object(Bucket=bucket, Key=key)
    except botocore.exceptions.ClientError as error:
        if code_of(error) not in MISSING:
            raise
        return False
    return bool(found["ContentLength"] == size and found["Metadata"].get("sha256") == sha256)


def left_overs(uri: str) -> list[LeftOver]:
    """The unfinished multipart uploads of objects below ``uri`` as a folder, oldest first."""
    bucket, key = split_uri(uri)
    with errors_of(uri):
        found = list(_open_uploads(bucket, f"{key.rstrip('/')}/" if key else ""))
    return sorted(found, key=lambda entry: -entry.age)


def abort(uri: str, entries: list[LeftOver]) -> None:
    """Abort uploads in the bucket of ``uri``; one that is gone already is fine."""
    bucket, _ = split_uri(uri)
    for entry in entries:
        with errors_of(f"s3://{bucket}/{entry.key}"):
            try:
                client().abort_multipart_upload(Bucket=bucket, Key=entry.key, UploadId=entry.upload)
            except botocore.exceptions.ClientError as error:
                if code_of(error) not in GONE:
                    raise


def part_size(size: int) -> int:
    """Bytes of each part but the last: the same for a file of the same size, so that a resumed upload fits."""
    return max(PART, -(-size // MOST_PARTS))


def _put(uri: str, data: bytes, sha256: str) -> None:
    bucket, key = split_uri(uri)
    checksum = {"ChecksumSHA256": base64.b64encode(bytes.fromhex(sha256)).decode()} if _checksums() else {}
    _repeated(client().put_object, Bucket=bucket, Key=key, Body=data, **_about(key, sha256), **checksum, **encryption())


def _about(key: str, sha256: str) -> dict[str, Any]:
    """What an object says of itself: its hash, and its kind, so that a browser opens a page instead of saving it."""
    kind = mimetypes.guess_type(key)[0]
    return {"Metadata": {"sha256": sha256}, **({"ContentType": kind} if kind else {})}


def _repeated(request: Callable[..., Any], **arguments: Any) -> Any:
    """A request again where the server says that the bytes were damaged on their way, which botocore gives up on."""
    for attempt in range(ATTEMPTS):
        try:
            return request(**arguments)
        except botocore.exceptions.ClientError as error:
            if code_of(error) not in DAMAGED or attempt == ATTEMPTS - 1:
                raise
        pause(attempt)


def _upload_parts(uri: str, source: Path, size: int, sha256: str, progress: Callable[[int], None]) -> bool:
    """False when the upload was finished or aborted by another process meanwhile."""
    bucket, key = split_uri(uri)
    target = {"Bucket": bucket, "Key": key}
    target["UploadId"], arrived = _begin(bucket, key, sha256)
    algorithm = {"ChecksumAlgorithm": "CRC32"} if _checksums() else {}
    lock = threading.Lock()

    def send(part: Part) -> dict[str, Any]:
        sent = arrived.get(part.number)
        if sent is None or not _holds(sent, part.data):
            sent = _repeated(client().upload_part, **target, PartNumber=part.number, Body=part.data, **algorithm)
        with lock:
            progress(len(part.data))
        checksum = {"ChecksumCRC32": sent["ChecksumCRC32"]} if sent.get("ChecksumCRC32") else {}
        return {"PartNumber": part.number, "ETag": sent["ETag"], **checksum}

    digest = hashlib.sha256()
    try:
        with ThreadPoolExecutor(PARALLEL) as pool:
            parts = list(in_order(pool, send, _parts(source, size, digest)))
        if digest.hexdigest() != sha256:
            abort(uri, [LeftOver(key, target["UploadId"], 0)])
            _expect(digest.hexdigest(), sha256, source)
        client().complete_multipart_upload(**target, MultipartUpload={"Parts": parts})
    except botocore.exceptions.ClientError as error:
        if code_of(error) not in GONE:
            raise
        return False
    return True


def _begin(bucket: str, key: str, sha256: str) -> tuple[str, dict[int, dict[str, Any]]]:
    """The id of an upload to go on with and its parts by number: the newest unfinished one of the key, or a new one."""
    unfinished = [entry for entry in _open_uploads(bucket, key) if entry.key == key]
    for entry in sorted(unfinished, key=lambda entry: entry.age):
        pages = client().get_paginator("list_parts").paginate(Bucket=bucket, Key=key, UploadId=entry.upload)
        try:
            return entry.upload, {part["PartNumber"]: part for page in pages for part in page.get("Parts", [])}
        except botocore.exceptions.ClientError as error:
            if code_of(error) not in GONE:
                raise
    algorithm = {"ChecksumAlgorithm": "CRC32"} if _checksums() else {}
    made = client().create_multipart_upload(Bucket=bucket, Key=key, **_about(key, sha256), **algorithm, **encryption())
    return made["UploadId"], {}


def _open_uploads(bucket: str, prefix: str) -> Iterator[LeftOver]:
    for page in client().get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
        date = page["ResponseMetadata"]["HTTPHeaders"].get("date")
        now = email.utils.parsedate_to_datetime(date) if date else datetime.datetime.now(datetime.UTC)
        for entry in page.get("Uploads", []):
            yield LeftOver(entry["Key"], entry["UploadId"], (now - entry["Initiated"]).total_seconds())


def _parts(source: Path, size: int, digest: Any) -> Iterator[Part]:
    """The parts of a file in order; ``digest`` is fed all of it."""
    with _opened(source, size) as file:
        for number in range(1, -(-size // part_size(size)) + 1):
            data = file.read(part_size(size))
            digest.update(data)
            yield Part(number, data)


def _read(source: Path, size: int) -> bytes:
    with _opened(source, size) as file:
        return bytes(file.read())


def _opened(source: Path, size: int) -> Any:
    try:
        return source.open("rb")
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{source} is missing: it must be a file of {size} bytes") from None


def _holds(sent: dict[str, Any], data: bytes) -> bool:
    """Whether a part that the server lists has these bytes: by its CRC-32, or else by its ETag where that is an MD5."""
    if sent["Size"] != len(data):
        return False
    if sent.get("ChecksumCRC32"):
        return bool(sent["ChecksumCRC32"] == base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode())
    return bool(sent["ETag"].strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest())


def _checksums() -> bool:
    """Whether to send checksums: boto3's own setting, for servers that know none of them."""
    return bool(client().meta.config.request_checksum_calculation != "when_required")


def _expect(found: str, sha256: str, source: Path | bytes) -> None:
    if found != sha256:
        name = "the text" if isinstance(source, bytes) else source
        raise InputError(f"{name} has the SHA-256 {found}: it must be {sha256}")
