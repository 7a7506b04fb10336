"""skaffold.yaml by the documented fields of its API version, and what it names exists.

The schema below is written for the part of skaffold/v4beta13 that this project uses; it refuses every other field.
"""

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
CONFIG = yaml.safe_load((ROOT / "skaffold.yaml").read_text(encoding="utf-8"))


def only(*required: str, **properties) -> dict:
    """The schema of an object with these properties and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


TEXT = {"type": "string", "minLength": 1}
FLAG = {"type": "boolean"}
DOCKER = only(dockerfile=TEXT, target=TEXT, buildArgs={"type": "object", "additionalProperties": {"type": "string"}})
BUILD = only(
    artifacts={"type": "array", "items": only("image", image=TEXT, context=TEXT, docker=DOCKER)},
    tagPolicy=only(inputDigest=only()),
    local=only(push=FLAG, useBuildkit=FLAG, useDockerCLI=FLAG),
)
MANIFESTS = only(kustomize=only(paths={"type": "array", "items": TEXT, "minItems": 1}))
DEPLOY = only(kubectl={"type": "object"})
ACTIVATION = only(kubeContext=TEXT, env=TEXT, command=TEXT)
PROFILE = only(
    "name",
    name=TEXT,
    activation={"type": "array", "items": ACTIVATION},
    build=BUILD,
    manifests=MANIFESTS,
    deploy=DEPLOY,
)
SCHEMA = only(
    "apiVersion",
    "kind",
    apiVersion={"const": "skaffold/v4beta13"},
    kind={"const": "Config"},
    metadata=only(name=TEXT),
    build=BUILD,
    manifests=MANIFESTS,
    deploy=DEPLOY,
    profiles={"type": "array", "items": PROFILE},
)


def test_it_has_documented_fields_only():
    jsonschema.Draft202012Validator(SCHEMA).validate(CONFIG)


def test_a_field_in_the_wrong_place_is_refused():
    artifact = {"image": "srpo-cpu", "dockerfile": "images/Dockerfile"}  # belongs below `docker`
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate({**CONFIG, "build": {"artifacts": [artifact]}})


def test_it_builds_both_targets_of_the_dockerfile():
    built = {artifact["image"]: artifact["docker"] for artifact in CONFIG["build"]["artifacts"]}
    assert set(built) == {"srpo-cpu", "srpo-gpu"}
    for image, docker in built.items():
        targets = re.findall(r"^FROM .* AS (\S+)$", (ROOT / docker["dockerfile"]).read_text(encoding="utf-8"), re.M)
        assert docker["target"] == image.removeprefix("srpo-")
        assert docker["target"] in targets


def test_both_images_are_told_the_commit():
    dockerfile = (ROOT / "images/Dockerfile").read_text(encoding="utf-8")
    for artifact in CONFIG["build"]["artifacts"]:
        for name, value in artifact["docker"]["buildArgs"].items():
            assert f"\nARG {name}=unknown\n" in dockerfile
            assert value == f'{{{{default "unknown" .{name}}}}}'  # of Skaffold's own environment


def test_the_folders_and_profiles_are_those_of_the_manifests():
    profiles = {profile["name"]: profile for profile in CONFIG["profiles"]}
    assert set(profiles) == {path.name for path in (ROOT / "manifests/overlays").iterdir()}
    for part in (CONFIG, *CONFIG["profiles"]):
        for path in part["manifests"]["kustomize"]["paths"]:
            assert (ROOT / path / "kustomization.yaml").is_file()
