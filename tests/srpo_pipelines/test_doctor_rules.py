"""What `srpo doctor` knows of Kubernetes' and the registries' rules, without a cluster."""

import itertools
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.client import V1Taint

from srpo_pipelines.doctor import NODES_RIGHTS, RIGHTS, manifest_url, tolerates

ROOT = Path(__file__).resolve().parents[2]


def test_the_rights_that_are_asked_for_are_those_of_the_manifests():
    for wanted, file in ((RIGHTS, "base"), (NODES_RIGHTS, "several-nodes")):
        rules = yaml.safe_load((ROOT / "manifests" / file / "role.yaml").read_text())["rules"]
        given = {
            (verb, group, kind, name)
            for rule in rules
            for verb, group, kind in itertools.product(rule["verbs"], rule["apiGroups"], rule["resources"])
            for name in rule.get("resourceNames", [""])
            if kind != "secrets"  # which of them there must be depends on where artifacts are kept
        }
        assert set(wanted) == given


@pytest.mark.parametrize(
    ("image", "url"),
    [
        ("python:3.11", "https://registry-1.docker.io/v2/library/python/manifests/3.11"),
        ("team/srpo", "https://registry-1.docker.io/v2/team/srpo/manifests/latest"),
        ("ghcr.io/srpo/srpo-cpu:0.1.0", "https://ghcr.io/v2/srpo/srpo-cpu/manifests/0.1.0"),
        ("localhost:5000/srpo-cpu:1@sha256:ab", "http://localhost:5000/v2/srpo-cpu/manifests/sha256:ab"),
    ],
)
def test_where_a_registry_keeps_an_image(image, url):
    assert manifest_url(image) == url


TEXTS = st.sampled_from(["", "a", "b"])


@given(TEXTS, TEXTS, st.sampled_from(["Exists", "Equal"]), st.sampled_from(["", "NoSchedule", "NoExecute"]), TEXTS)
def test_tolerations_match_taints_as_in_kubernetes(key, value, operator, effect, tainted):
    """The rules of https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/."""
    taint = V1Taint(key="a", value=tainted, effect="NoSchedule")
    toleration = {"key": key, "value": value, "operator": operator, "effect": effect}
    effects = effect in ("", "NoSchedule")
    keys = key == "a" or (key == "" and operator == "Exists")
    values = operator == "Exists" or value == tainted
    assert tolerates(toleration, taint) == (effects and keys and values)
