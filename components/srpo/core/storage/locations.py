"""How places are written: local paths, file:// and s3:// URIs. Light: settings are checked with it."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from srpo.core.contracts.errors import InputError

BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def split_uri(uri: str) -> tuple[str, str]:
    """``("bucket", "some/key")`` of ``s3://bucket/some/key``; the key may be empty.

    Raises:
        InputError: ``uri`` is no S3 URI.
    """
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not BUCKET.fullmatch(bucket) or "\0" in key:
        raise InputError(f"{uri!r} is no S3 URI: it must be s3://bucket/key")
    return bucket, key


def destination_of(text: str) -> Path | str:
    """A destination of releases: an S3 URI without a "/" at its end, or the absolute path of a local folder.

    Raises:
        InputError: it is neither.
    """
    if text.startswith("s3://") and BUCKET.fullmatch(text[5:].partition("/")[0]) and "\0" not in text:
        return text.rstrip("/")
    parts = urlsplit(text) if SCHEME.match(text) else None
    if not text.strip() or (parts and (parts.scheme != "file" or parts.netloc not in ("", "localhost"))):
        accepted = "the path of a local folder, its file:// URI, or s3://bucket/prefix"
        raise InputError(f"destination is {text!r}: it must be {accepted}")
    return Path(unquote(parts.path) if parts else text).absolute()
