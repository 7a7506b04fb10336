"""The images of a release in the package and in the manifests for GitOps."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import ir
import jsonschema
import pytest
import yaml
from planted import PLANTED, assert_no_secret, written_below

from srpo.core.contracts.errors import InputError
from srpo_pipelines.cli import main
from srpo_pipelines.package import read_images
from srpo_pipelines.settings import recipe_names

RELEASE = {
    kind: f"registry.example.org/team/srpo-{kind}:1.2@sha256:{digit * 64}"
    for kind, digit in (("cpu", "1"), ("gpu", "2"))
}


def skaffold_file(folder: Path) -> Path:
    """What `skaffold build --file-output` writes."""
    file = folder / "images.json"
    builds = [{"imageName": f"srpo-{kind}", "tag": image} for kind, image in RELEASE.items()]
    file.write_text(json.dumps({"builds": builds}))
    return file


def images_in(spec):
    return {name: one["container"]["image"] for name, one in spec["deploymentSpec"]["executors"].items()}


def test_every_container_gets_the_images_of_the_release(tmp_path):
    assert main(["compile", "--output", str(tmp_path / "plain")]) == 0
    assert main(["compile", "--images", str(skaffold_file(tmp_path)), "--output", str(tmp_path / "release")]) == 0
    plain, release = (ir.load(tmp_path / name / "align.yaml")[0] for name in ("plain", "release"))
    before, after = images_in(plain), images_in(release)
    assert set(after.values()) == set(RELEASE.values())
    for name in before:
        assert after[name] == RELEASE["gpu" if "srpo-gpu" in before[name] else "cpu"], name
        container = plain["deploymentSpec"]["executors"][name]["container"]
        container["image"] = after[name]
        (variable,) = [one for one in container["env"] if one["name"] == "SRPO_IMAGE"]
        assert variable["value"] == before[name], "no container knows its own image: the package tells it"
        variable["value"] = after[name]
    assert plain == release


# The fields of Kubeflow's definitions (pipelines.kubeflow.org/v2beta1); those take others too, and drop them.
TEXT, OBJECT = {"type": "string"}, {"type": "object", "minProperties": 1}
FIELDS = {
    "Pipeline": dict.fromkeys(("description", "displayName"), TEXT),
    "PipelineVersion": {
        **dict.fromkeys(("codeSourceURL", "description", "displayName", "pipelineName", "pipelineSpecURI"), TEXT),
        **dict.fromkeys(("pipelineSpec", "platformSpec"), OBJECT),
    },
}


def resource_schema(kind):
    """The schema of a resource, with no field but the published ones."""
    required = ["pipelineSpec", "platformSpec"] if kind == "PipelineVersion" else []
    spec = OBJECT | {"properties": FIELDS[kind], "required": required, "additionalProperties": False}
    version = {"const": "pipelines.kubeflow.org/v2beta1"}
    parts = {"apiVersion": version, "kind": {"const": kind}, "metadata": OBJECT, "spec": spec}
    return OBJECT | {"properties": parts, "required": list(parts), "additionalProperties": False}


def test_manifests_hold_the_package_under_a_name_of_its_content(tmp_path):
    names = []
    for steps in ("demo", "flux1-dev-hpsv2", "demo"):
        command = ["compile", "--recipe", steps, "--images", str(skaffold_file(tmp_path)), "--output", str(tmp_path)]
        assert main([*command, "--manifests", "--namespace", "team"]) == 0
        pipeline, version = yaml.safe_load_all((tmp_path / "align-manifests.yaml").read_text())
        spec, platform = ir.load(tmp_path / "align.yaml")
        assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
        for resource in (pipeline, version):
            jsonschema.Draft202012Validator(resource_schema(resource["kind"])).validate(resource)
            assert resource["metadata"]["namespace"] == "team"
            assert re.fullmatch("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", resource["metadata"]["name"])
        assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == "align"
        assert version["spec"]["pipelineSpec"] == spec
        assert version["spec"]["platformSpec"] == platform
        names.append(version["metadata"]["name"])
    assert names[0] == names[2] != names[1]


@pytest.mark.parametrize("recipe", recipe_names())
def test_no_secret_is_in_a_package_or_in_what_is_said_of_it(tmp_path, recipe):
    """Pods get secrets by reference: what the one who compiles has in the environment stays there."""
    options = ["--recipe", recipe, "--images", str(skaffold_file(tmp_path)), "--manifests", "--output", str(tmp_path)]
    command = [sys.executable, "-m", "srpo_pipelines.cli", "compile", *options]
    done = subprocess.run(command, capture_output=True, env=os.environ | PLANTED, check=True)
    written = written_below(tmp_path)
    packages = {"align.yaml", "promote.yaml", "align-manifests.yaml"}
    assert packages <= {Path(name).name for name in written}
    assert_no_secret(written | {"stdout": done.stdout, "stderr": done.stderr})


def test_a_plain_mapping_will_do(tmp_path):
    file = tmp_path / "images.yaml"
    file.write_text(yaml.safe_dump(RELEASE))
    assert read_images(file) == RELEASE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "names no image 'cpu'"),
        ("{builds: [{imageName: srpo-cpu, tag: 'a/srpo-cpu:1'}]}", "names no image 'gpu'"),
        ("{cpu: a/srpo-cpu, gpu: 'a/srpo-gpu:1'}", "image cpu is 'a/srpo-cpu'"),
        ("{cpu: 'a:5000/srpo-cpu', gpu: 'a/srpo-gpu:1'}", "image cpu is 'a:5000/srpo-cpu'"),
        ("{cpu: 'a/srpo-cpu:latest', gpu: 'a/srpo-gpu:1'}", "a tag that never moves"),
        ("{cpu: 'a srpo-cpu:1', gpu: 'a/srpo-gpu:1'}", "names no image 'cpu'"),
    ],
)
def test_other_files_are_refused(tmp_path, text, said):
    file = tmp_path / "images.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as refusal:
        read_images(file)
    assert said in str(refusal.value)


def test_a_missing_file_ends_the_command_with_one_line(tmp_path):
    command = [sys.executable, "-m", "srpo_pipelines.cli", "compile", "--images", str(tmp_path / "none.json")]
    done = subprocess.run([*command, "--output", str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "none.json" in done.stderr
    assert not (tmp_path / "out").exists()
