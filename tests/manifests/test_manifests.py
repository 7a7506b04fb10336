"""The Kubernetes manifests render, are valid to the letter, and give away no right and no secret."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jsonschema
import pytest
import yaml
from kubernetes.client import V1Taint

from srpo_pipelines.doctor import tolerates
from srpo_pipelines.resources import LABELS, S3

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ["manifests/base", *(f"manifests/overlays/{path.name}" for path in (ROOT / "manifests/overlays").iterdir())]


def only(*required: str, **properties) -> dict:
    """The schema of an object with these properties and no other."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def listed(item: dict) -> dict:
    return {"type": "array", "items": item, "minItems": 1}


TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "object", "additionalProperties": TEXT}
# Karpenter's NodePool of karpenter.sh/v1, in those fields that this project uses; every other is refused.
NODE_POOL = only(
    *("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "karpenter.sh/v1"},
    kind={"const": "NodePool"},
    metadata=only("name", name=TEXT, labels=TEXTS),
    spec=only(
        "template",
        template=only(
            "spec",
            metadata=only(labels=TEXTS),
            spec=only(
                *("nodeClassRef", "requirements"),
                nodeClassRef=only("group", "kind", "name", group=TEXT, kind=TEXT, name=TEXT),
                requirements=listed(
                    only(
                        *("key", "operator"),
                        key=TEXT,
                        operator={"enum": ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]},
                        values=listed(TEXT),
                    )
                ),
                taints=listed(
                    only("key", "effect", key=TEXT, value=TEXT, effect={"enum": ["NoSchedule", "NoExecute"]})
                ),
            ),
        ),
        disruption=only(
            "consolidateAfter",
            consolidationPolicy={"enum": ["WhenEmpty", "WhenEmptyOrUnderutilized"]},
            consolidateAfter={"type": "string", "pattern": "^(([0-9]+(s|m|h))+|Never)$"},
        ),
        limits=TEXTS,
    ),
)
CUSTOM = {"NodePool": NODE_POOL}


def render(folder: str, bucket: str = "defaultPipelineRoot=s3://a-bucket/kfp") -> str:
    """The YAML that kustomize makes of a folder, where somebody has named their bucket."""
    done = kustomize(folder, bucket)
    assert done.returncode == 0, f"kustomize 4 or newer must render {folder}: {done.stderr}"
    return done.stdout


def kustomize(folder: str, bucket: str) -> subprocess.CompletedProcess[str]:
    if program := shutil.which("kustomize"):
        command = [program, "build"]
    elif kubectl := shutil.which("kubectl"):
        command = [kubectl, "kustomize"]
    else:
        pytest.skip("neither kustomize nor kubectl is installed")
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(ROOT / "manifests", Path(place) / "manifests", ignore=shutil.ignore_patterns("bucket.env"))
        if bucket:
            for overlay in ("eks", "profile"):
                (Path(place) / "manifests/overlays" / overlay / "bucket.env").write_text(f"{bucket}\n")
        return subprocess.run([*command, Path(place) / folder], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", params=FOLDERS)
def rendered(request) -> str:
    return render(request.param)


def test_they_are_valid_kubernetes_resources(rendered, tmp_path):
    file = tmp_path / "rendered.yaml"
    known = [resource for resource in yaml.safe_load_all(rendered) if resource["kind"] not in CUSTOM]
    file.write_text(yaml.safe_dump_all(known))
    command = Path(sys.executable).with_name("kubernetes-validate")
    done = subprocess.run([command, "--strict", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_custom_resources_have_documented_fields_only(rendered):
    for resource in yaml.safe_load_all(rendered):
        if resource["kind"] in CUSTOM:
            jsonschema.Draft202012Validator(CUSTOM[resource["kind"]]).validate(resource)


def test_the_launcher_reads_keys_that_the_role_may_read(rendered):
    by_kind = {resource["kind"]: resource for resource in yaml.safe_load_all(rendered)}
    if "ConfigMap" not in by_kind:
        return  # Kubeflow's own
    config = by_kind["ConfigMap"]
    assert config["metadata"]["name"] == "kfp-launcher"
    assert config["data"]["defaultPipelineRoot"].startswith("s3://")
    (provider,) = yaml.safe_load(config["data"]["providers"])["s3"].values()
    if not provider["credentials"]["fromEnv"]:
        secrets = [rule["resourceNames"] for rule in by_kind["Role"]["rules"] if "secrets" in rule["resources"]]
        assert provider["credentials"]["secretRef"]["secretName"] in secrets[0]
        assert set(S3["srpo-s3"]) > {
            provider["credentials"]["secretRef"][key] for key in ("accessKeyKey", "secretKeyKey")
        }
    else:
        assert any("role-arn" in name for name in by_kind["ServiceAccount"]["metadata"]["annotations"])


def test_only_an_overlay_for_profiles_says_where_artifacts_go_and_it_demands_a_bucket():
    """Elsewhere the map is Kubeflow's own: another one would send all pipelines of the cluster into that bucket."""
    for folder in ("manifests/base", "manifests/overlays/kind"):
        assert "kfp-launcher" not in [resource["metadata"]["name"] for resource in yaml.safe_load_all(render(folder))]
    for folder in ("manifests/overlays/profile", "manifests/overlays/eks"):
        assert "s3://a-bucket/kfp" in render(folder)
        refused = kustomize(folder, bucket="")
        assert refused.returncode != 0
        assert "bucket.env" in refused.stderr


def test_a_quota_leaves_a_profiles_volumes_alone(rendered):
    for resource in yaml.safe_load_all(rendered):
        if resource["kind"] == "ResourceQuota":
            assert list(resource["spec"]["hard"]) == ["requests.nvidia.com/gpu"]


def test_gpu_nodes_take_the_pods_that_the_overlay_says_they_take():
    text = (ROOT / "manifests/overlays/eks/kustomization.yaml").read_text()
    selector = yaml.safe_load(re.search(r"node_selector=(\{.*?\})", text)[1])
    tolerations = yaml.safe_load(re.search(r"tolerations=(\[.*?\])", text)[1])
    (pool,) = [r for r in yaml.safe_load_all(render("manifests/overlays/eks")) if r["kind"] == "NodePool"]
    template = pool["spec"]["template"]
    assert selector.items() <= template["metadata"]["labels"].items()
    for taint in template["spec"]["taints"]:
        assert any(tolerates(toleration, V1Taint(**taint)) for toleration in tolerations)


def test_rights_are_named_one_by_one(rendered):
    roles = [resource for resource in yaml.safe_load_all(rendered) if resource["kind"].endswith("Role")]
    assert roles
    for rule in (rule for role in roles for rule in role["rules"]):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        if "secrets" in rule["resources"]:
            assert rule["resourceNames"]
            assert rule["verbs"] == ["get"]


def test_nobody_may_call_the_pods_of_a_run(rendered):
    (policy,) = [resource["spec"] for resource in yaml.safe_load_all(rendered) if resource["kind"] == "NetworkPolicy"]
    assert policy["podSelector"]["matchLabels"].items() <= LABELS.items()
    assert policy["policyTypes"] == ["Ingress"]
    assert "ingress" not in policy


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
    assert modes["eks"] == ["ReadWriteMany"]
    assert modes["kind"] == ["ReadWriteOnce"]  # one node, whose storage knows nothing else
