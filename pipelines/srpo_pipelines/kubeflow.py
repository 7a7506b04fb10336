"""Talk to the API of Kubeflow Pipelines, and say in one line what went wrong with it.

Tokens come from the environment alone and are taken out of everything that is told.
"""

import contextlib
import dataclasses
import io
import json
import logging
import os
import socket
import time
import urllib.parse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from srpo.core.contracts.errors import InputError
from srpo_pipelines.errors import Failed

TOKEN = "KF_PIPELINES_TOKEN"  # a bearer token; the client has no variable of its own for one
TOKEN_FILE = "KF_PIPELINES_SA_TOKEN_PATH"  # the client's own: a file that is read again for every request
CLIENT_SECRET = "KF_PIPELINES_APP_OAUTH2_CLIENT_SECRET"  # the client's own, for Identity-Aware Proxy

REACH = 15.0  # seconds to connect; the client itself would try for minutes
POLL = 10.0  # seconds between two looks at a run
MISSES = 30  # looks in a row that may fail before `--wait` gives up: a run outlives a broken connection
LONGEST = 400  # characters of a message


@dataclasses.dataclass(frozen=True)
class Api:
    """Where the API is and how to be let in; ``secrets`` are never shown."""

    host: str
    token: str | None = dataclasses.field(repr=False)
    token_file: bool
    secrets: tuple[str, ...] = dataclasses.field(repr=False)


def api(host: str) -> Api:
    """The API at ``host``, with what the environment holds to be let in; asks nothing of it yet.

    Raises:
        InputError: ``host`` is no plain http(s) URL, or a token cannot be one. Tokens are not part of the message.
    """
    if "@" in host:
        raise InputError(f"--host holds a user or a password: it must be a URL without; a token is read from {TOKEN}")
    if not _is_address(host):
        raise InputError(f"--host is {host!r}: it must be a URL like https://kubeflow.example.org/pipeline")

    token = os.environ.get(TOKEN, "").strip()
    if token and not _one_word(token):
        raise InputError(f"{TOKEN} holds spaces or characters that no token has: it must be the token alone")
    secrets, file = [token, os.environ.get(CLIENT_SECRET, "")], os.environ.get(TOKEN_FILE, "")
    if file and not token:
        try:
            secrets.append(Path(file).read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError):
            secrets.append("")
        if not _one_word(secrets[-1]):
            raise InputError(f"{TOKEN_FILE} is {file!r}: it must be a file that can be read and holds one token")
    return Api(host.rstrip("/"), token or None, bool(file), tuple(secret for secret in secrets if secret))


def connect(at: Api, namespace: str | None) -> Any:
    """The ``kfp.Client`` of the API.

    Raises:
        Failed: it cannot be reached, or refuses.
    """
    import kfp.client

    class Client(kfp.client.Client):  # type: ignore[misc]
        def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
            """Once: the client's own asks five times and then keeps to itself what the answer was."""
            return self._healthz_api.healthz_service_get_healthz()

    parts = urllib.parse.urlsplit(at.host)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with telling(at):
        socket.create_connection((str(parts.hostname), port), timeout=REACH).close()
        return Client(
            host=at.host,
            namespace=namespace or "kubeflow",  # the client's default, which it takes for "none"
            existing_token=at.token,
            credentials=kfp.client.ServiceAccountTokenVolumeCredentials() if at.token_file else None,
        )


def server_version(at: Api, client: Any) -> str:
    """What the API says of its own version ("2.16.1"), or nothing.

    The API and the UI before it use two names for it, of which the client's own model knows neither.
    """
    with telling(at):
        answer = client._healthz_api.healthz_service_get_healthz(_preload_content=False)
    try:
        told = json.loads(answer.data)
        return _line(str(told.get("tag_name") or told.get("apiServerTagName") or ""), at.secrets)
    except (ValueError, AttributeError):  # a login page, say: the next call tells more
        return ""


def create_run(at: Api, client: Any, **given: Any) -> tuple[str, str]:
    """Create a run with ``create_run_from_pipeline_package(**given)``; returns its id and the address of its page.

    Raises:
        Failed: the API refuses, or what answers is none.
    """
    from kfp.client import client as names

    with telling(at), contextlib.redirect_stdout(io.StringIO()):  # the client prints links of its own
        made = client.create_run_from_pipeline_package(**given)
    identity = _line(str(made.run_id or ""))
    if not identity:
        raise Failed(f"srpo: {at.host} answered without a run: it does not seem to be the API of Kubeflow Pipelines", 1)
    pages = os.environ.get(names.KF_PIPELINES_UI_ENDPOINT_ENV, at.host).rstrip("/")
    return identity, f"{pages}/#/runs/details/{identity}"


def wait(at: Api, client: Any, identity: str, say: Callable[[str], None]) -> None:
    """Return when the run has succeeded; ``say`` gets each state as it comes.

    The client's own wait knows no cancelled run, and ends at the first answer that fails.

    Raises:
        Failed: the run ended otherwise, or nothing was heard of it for ``MISSES`` looks.
    """
    missed, last = 0, ""
    while True:
        try:
            with telling(at):
                run = client.get_run(identity)
            missed = 0
        except Failed as failure:
            missed += 1
            if missed >= MISSES or _is_refusal(failure.__cause__):
                raise Failed(f"{failure} (the run itself goes on)", 1) from None
            time.sleep(POLL)
            continue
        state = _line(str(run.state or "PENDING"))
        if state != last:
            say(state.lower())
            last = state
        if state == "SUCCEEDED":
            return
        if state in ("FAILED", "ERROR", "CANCELED", "SKIPPED"):
            why = _line(getattr(run.error, "message", None) or "", at.secrets)
            raise Failed(f"srpo: the run ended as {state.lower()}{': ' if why else ''}{why}", 1)
        time.sleep(POLL)


@contextlib.contextmanager
def telling(at: Api) -> Iterator[None]:
    """Turn whatever the client raises into one line without secrets, and keep its log and its warnings quiet."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        raise Failed(f"srpo: {at.host} {_line(_reason(error), at.secrets)}", 1) from error
    finally:
        logging.disable(before)


def _reason(error: Exception) -> str:
    """What happened, after the host's name."""
    import kfp_server_api
    import urllib3

    if isinstance(error, kfp_server_api.ApiException) and error.status:
        said = _message(error.body)
        hint = f" (a token is read from {TOKEN} or {TOKEN_FILE})" if error.status in (401, 403) else ""
        return f"refused: {error.status} {error.reason}{': ' if said else ''}{said}{hint}"
    if isinstance(error, urllib3.exceptions.HTTPError):
        return f"cannot be reached: {getattr(error, 'reason', None) or error}"
    if isinstance(error, OSError):
        return f"cannot be reached: {error.strerror or error}"
    return f"was not understood: {type(error).__name__}: {error}"


def _is_refusal(error: BaseException | None) -> bool:
    """Whether asking again would be refused again."""
    status = getattr(error, "status", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)


def _message(body: Any) -> str:
    """The API's own words in the body of an answer; of another server's body nothing but plain text."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or "")
    try:
        given = json.loads(text)
    except ValueError:
        return "" if text.lstrip().startswith("<") else text
    if isinstance(given, dict):
        return str(given.get("message") or given.get("error") or "")
    return ""


def _line(text: str, secrets: tuple[str, ...] = ()) -> str:
    """``text`` as one line of bounded length: nothing that a terminal would obey, and no secret."""
    for secret in secrets:
        text = text.replace(secret, "***")
    text = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _is_address(host: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(host)
        _ = parts.port  # raises where it is no number
    except ValueError:
        return False
    plain = _one_word(host) and not parts.query and not parts.fragment
    return plain and parts.scheme in ("http", "https") and bool(parts.hostname)


def _one_word(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable() and " " not in text
