"""The Kubernetes manifests render, are valid to the letter, and give away no right and no secret."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ["manifests/base", *(f"manifests/overlays/{path.name}" for path in (ROOT / "manifests/overlays").iterdir())]


def render(folder: str) -> str:
    """The YAML that kustomize makes of a folder."""
    if kustomize := shutil.which("kustomize"):
        command = [kustomize, "build"]
    elif kubectl := shutil.which("kubectl"):
        command = [kubectl, "kustomize"]
    else:
        pytest.skip("neither kustomize nor kubectl is installed")
    done = subprocess.run([*command, ROOT / folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"kustomize 4 or newer must render {folder}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module", params=FOLDERS)
def rendered(request) -> str:
    return render(request.param)


def test_they_are_valid_kubernetes_resources(rendered, tmp_path):
    file = tmp_path / "rendered.yaml"
    file.write_text(rendered)
    command = Path(sys.executable).with_name("kubernetes-validate")
    done = subprocess.run([command, "--strict", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rights_are_named_one_by_one(rendered):
    roles = [resource for resource in yaml.safe_load_all(rendered) if resource["kind"].endswith("Role")]
    assert roles
    for rule in (rule for role in roles for rule in role["rules"]):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        if "secrets" in rule["resources"]:
            assert rule["resourceNames"]
            assert rule["verbs"] == ["get"]


def test_the_account_has_the_role_in_its_own_namespace(rendered):
    by_kind = {resource["kind"]: resource for resource in yaml.safe_load_all(rendered)}
    binding = by_kind["RoleBinding"]
    assert binding["roleRef"]["name"] == by_kind["Role"]["metadata"]["name"]
    (subject,) = binding["subjects"]
    account = by_kind["ServiceAccount"]["metadata"]
    assert (subject["name"], subject.get("namespace")) == (account["name"], account.get("namespace"))
    assert "ClusterRole" not in by_kind


def test_every_resource_is_labelled_and_none_is_a_secret(rendered):
    for resource in yaml.safe_load_all(rendered):
        assert resource["metadata"]["labels"]["app.kubernetes.io/part-of"] == "srpo"
        assert resource["kind"] != "Secret"
    assert not re.search(r"(?i)(password|secret_?key|token)\s*[:=]\s*\S", rendered)


def test_the_workspace_fits_where_it_is_asked_for():
    modes = {}
    for folder in FOLDERS:
        (claim,) = [r for r in yaml.safe_load_all(render(folder)) if r["kind"] == "PersistentVolumeClaim"]
        assert claim["metadata"]["name"] == "srpo-workspace"
        modes[Path(folder).name] = claim["spec"]["accessModes"]
    assert modes["base"] == ["ReadWriteMany"]  # stages of one run stand on different nodes
    assert modes["kind"] == ["ReadWriteOnce"]  # one node, whose storage knows nothing else
