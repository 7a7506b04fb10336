"""Secrets that a test plants into the environment, one for each variable that a pod may get a secret in."""

from pathlib import Path

from srpo_pipelines.resources import PODS

VARIABLES = {variable for pod in PODS.values() for keys in pod.secrets.values() for variable in keys.values()}
PLANTED = {name: f"planted/{name.lower()}+4711" for name in sorted(VARIABLES | {"KF_PIPELINES_TOKEN"})}
PLANTED["AWS_ACCESS_KEY_ID"] = "AKIAPLANTED4711PLANTED"  # a part of requests, in which a slash separates


def written_below(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones too."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_no_secret(written: dict[str, bytes]) -> None:
    """None of them holds one, as it is or with its slash escaped as in JSON or in a URL."""
    for name, data in written.items():
        for secret in PLANTED.values():
            for form in (secret, secret.replace("/", "\\/"), secret.replace("/", "%2F").replace("+", "%2B")):
                assert form.encode() not in data, name
