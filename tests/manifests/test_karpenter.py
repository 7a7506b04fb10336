"""The pool of GPU nodes by Karpenter's published definition: its values by the schema, its fields by the types.

Both are made from Karpenter's own CRDs and come as an npm package. The schema takes unknown fields; the types do not.
"""

import copy
import json
import shutil
import subprocess

import pytest
import yaml
from test_manifests import render

pytestmark = pytest.mark.real

PACKAGES = ("@kubernetes-models/karpenter@2.0.0", "typescript@7.0.2")
VALUES = """
import { readFileSync } from "node:fs";
import { NodePool } from "@kubernetes-models/karpenter/karpenter.sh/v1/NodePool";
new NodePool(JSON.parse(readFileSync(0))).validate();
"""
FIELDS = """
import type {{ INodePool }} from "@kubernetes-models/karpenter/karpenter.sh/v1/NodePool";
export const pool: INodePool = {pool};
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the packages."""
    if not (shutil.which("npm") and shutil.which("node")):
        pytest.skip("npm and node are not installed")
    folder = tmp_path_factory.mktemp("karpenter")
    command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", *PACKAGES]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    (folder / "values.mjs").write_text(VALUES)
    return folder


def said_of_values(folder, pool):
    """What the schema says; empty for a good pool."""
    return subprocess.run(
        ["node", "values.mjs"], cwd=folder, input=json.dumps(pool), capture_output=True, text=True, check=False
    ).stderr


def said_of_fields(folder, pool):
    """What the types say; empty for a good pool."""
    (folder / "fields.ts").write_text(FIELDS.format(pool=json.dumps(pool)))
    options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--target", "es2022"]
    command = [folder / "node_modules/.bin/tsc", *options, "fields.ts"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout


def test_the_pool_is_one_of_karpenters(folder):
    (pool,) = [one for one in yaml.safe_load_all(render("manifests/overlays/eks")) if one["kind"] == "NodePool"]
    assert said_of_values(folder, pool) == ""
    assert said_of_fields(folder, pool) == ""

    wrong = copy.deepcopy(pool)
    wrong["spec"]["disruption"]["consolidateAfter"] = "soon"
    assert "/spec/disruption/consolidateAfter must match" in said_of_values(folder, wrong)
    wrong = copy.deepcopy(pool)
    wrong["spec"]["template"]["spec"]["startupTaint"] = []
    assert "'\"startupTaint\"' does not exist in type" in said_of_fields(folder, wrong)
