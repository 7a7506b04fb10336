"""The Hugging Face hub, by its own client: what a repository holds, and one file of it, resumed after any interruption.

Where the hub is and who asks is the client's own configuration: ``HF_ENDPOINT``, and a token in ``HF_TOKEN`` or in the
file that ``HF_TOKEN_PATH`` names. The token goes to the hub alone (the client drops it when it is sent elsewhere) and
into no message: errors are told in words of this module.
"""

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from srpo.core.contracts.errors import InputError

DEFAULT_ENDPOINT = "https://huggingface.co"
ATTEMPTS = 6  # in a row without a byte of progress
PAUSE = 1.0  # seconds before the second attempt; doubled with each further one
LONGEST_PAUSE = 60.0
TEMPORARY = {408, 425, 429, 500, 502, 503, 504}


class HubError(OSError):
    """The hub kept failing in ways that another try later may not; what has arrived is kept."""


def endpoint() -> str:
    """The address of the hub."""
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def offline() -> bool:
    """Whether the environment forbids to ask the hub (``HF_HUB_OFFLINE``)."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def list_files(repo: str, revision: str) -> tuple[str, list[dict[str, Any]]]:
    """The commit that ``revision`` means now, and path, size and hash of each of its files.

    The hash is ``sha256`` for large files (Git LFS) and ``git``, the SHA-1 of Git's blob, for small ones.

    Raises:
        InputError: there is no such repository or revision, or no right to read it.
        HubError: the hub kept failing.
    """
    from huggingface_hub import HfApi

    client = HfApi(endpoint=endpoint(), token=_token() or False)
    try:
        found = _again(lambda: client.model_info(repo, revision=revision, files_metadata=True), repo, revision)
        files = [
            {"path": str(file.rfilename), "size": int(file.size)}
            | ({"sha256": file.lfs.sha256} if file.lfs is not None else {"git": file.blob_id})
            for file in found.siblings or []
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{endpoint()} does not answer as a model hub does (a login page or a proxy?): HF_ENDPOINT must be one"
        ) from None
    return str(found.sha), files


def download(repo: str, commit: str, file: dict[str, Any], path: Path, progress: Callable[[int], None]) -> None:
    """Make ``path`` hold the whole ``file`` (of :func:`list_files`); what ``path`` holds already is continued.

    ``progress`` hears how many bytes are there. Hashes are the caller's business.

    Raises:
        InputError: the file may not be read, or a web page came in its place.
        HubError: the hub kept failing; ``path`` keeps what has arrived.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(repo, file["path"], revision=commit, endpoint=endpoint())
    headers = build_hf_headers(token=_token() or False)
    headers["Accept-Encoding"] = "identity"  # a compressed answer cannot be continued by its bytes

    def get() -> None:
        with path.open("ab") as raw:
            kept = raw.tell()
        if kept > file["size"]:
            os.truncate(path, kept := 0)
        with _Counted(path, progress) as out:
            out.seek(kept)
            http_get(url, out, resume_size=kept, headers=headers, expected_size=file["size"])

    try:
        _again(get, repo, commit, lambda: path.stat().st_size if path.exists() else 0)
    finally:
        if path.is_file() and is_page(path):
            path.unlink()
            raise InputError(
                f"{endpoint()} sent a web page in place of {file['path']} of {repo}, as a login or a proxy does: "
                "HF_ENDPOINT must be a model hub that this machine reaches"
            )


def is_page(path: Path) -> bool:
    """Whether a file begins as an HTML page does."""
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    return head.startswith((b"<!doctype", b"<html", b"<?xml"))


class _Counted(io.FileIO):
    """A file that tells how long it is after each write."""

    def __init__(self, path: Path, progress: Callable[[int], None]) -> None:
        super().__init__(path, "r+")
        self.progress = progress

    def write(self, data: Any) -> int:
        view = memoryview(data)
        while view:  # a raw file may take less than all
            view = view[super().write(view) :]
        self.progress(self.tell())
        return len(data)


def _token() -> str | None:
    """The token, if one is given; raises for what cannot be one, without repeating it."""
    from huggingface_hub import get_token

    token = get_token()
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise InputError(
            "the hub's token (HF_TOKEN, or the file HF_TOKEN_PATH) is no token: it must be one word of ASCII"
        )
    return token


def _again(call: Callable[[], Any], repo: str, revision: str, arrived: Callable[[], int] = lambda: 0) -> Any:
    """``call``, again while it fails in a way that may pass; the attempts begin anew when bytes have arrived."""
    attempt, before = 0, arrived()
    while True:
        try:
            with _quiet():
                return call()
        except Exception as error:
            waited = _worth_waiting(error, repo, revision)
            attempt, before = (0, arrived()) if arrived() > before else (attempt + 1, before)
            if attempt >= ATTEMPTS:
                raise HubError(
                    f"{endpoint()} keeps failing for {repo} ({_told(error)}); what has arrived is kept: run it again"
                ) from None
            pause = min(LONGEST_PAUSE, waited or PAUSE * 2**attempt)
            print(f"{repo}: {endpoint()}: {_told(error)}; again in {pause:.0f} s", file=sys.stderr, flush=True)
            time.sleep(pause)


def _worth_waiting(error: Exception, repo: str, revision: str) -> float:
    """How long the hub asks to wait (0: it does not say); raises what waiting does not mend."""
    import httpx2
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.OfflineModeIsEnabled):
        raise InputError(
            f"{repo} cannot be fetched: HF_HUB_OFFLINE is set; it must be 0 or unset to ask the hub"
        ) from None
    if isinstance(error, errors.RevisionNotFoundError):
        raise InputError(f"{repo} has no revision {revision!r} on {endpoint()}") from None
    if isinstance(error, errors.RemoteEntryNotFoundError):
        raise InputError(
            f"{repo} lacks a file that its listing names (revision {revision!r} on {endpoint()})"
        ) from None
    if isinstance(error, (errors.GatedRepoError, errors.RepositoryNotFoundError)) or status in (401, 403):
        given = "the token that was given does not open it" if _token() else "no token was given"
        raise InputError(
            f"{endpoint()} refuses {repo} ({status}): {given}. The repository must exist, its terms be accepted on its "
            "page, and the token of that account be in HF_TOKEN or in the file that HF_TOKEN_PATH names"
        ) from None
    if isinstance(error, errors.HfHubHTTPError):
        if status not in TEMPORARY:
            raise InputError(f"{endpoint()} refuses {repo} at {revision!r}: it answered {status}") from None
        with contextlib.suppress(TypeError, ValueError):
            return float(error.response.headers.get("Retry-After", 0))
        return 0.0
    if isinstance(error, (httpx2.TransportError, errors.FileMetadataError)) or _is_cut(error):
        return 0.0
    raise error


def _is_cut(error: Exception) -> bool:
    """Whether the client found the file shorter or longer than announced: an OSError without a number."""
    return isinstance(error, OSError) and error.errno is None and not isinstance(error, InputError)


def _told(error: Exception) -> str:
    """What happened, without the addresses that the client's own words may hold."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"it answered {status}" if status else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Neither bars nor warnings of the client: progress is the caller's, and its warnings hold addresses."""
    from huggingface_hub.utils import disable_progress_bars, logging

    disable_progress_bars()
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)
