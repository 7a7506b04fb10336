"""Build the images and run what is in them, without a Docker engine: buildah, podman and runc over a Debian base."""

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("buildah", "podman", "runc", "mmdebstrap")
BASE = "localhost/srpo-test-base:1"
# What pip is told on this machine and a build must be told too, or it finds no package here.
PIP = ("index-url", "extra-index-url", "find-links", "cert", "trusted-host", "proxy")
LIMITS = """[containers]
default_ulimits = ["nofile=4096:16384", "nproc=8192:16384"]
"""  # raising limits is not allowed everywhere


class Engine:
    """A container store of its own below ``folder``; nothing of it is left behind by :meth:`close`."""

    def __init__(self, folder: Path) -> None:
        missing = [tool for tool in TOOLS if not shutil.which(tool)]
        if missing:
            pytest.skip(f"images are built with {', '.join(TOOLS)}: {', '.join(missing)} not installed")
        if os.geteuid() != 0:
            pytest.skip("a root file system is made here: that needs root")
        self.folder = folder
        (folder / "containers.conf").write_text(LIMITS)
        self.environment = os.environ | {
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "TMPDIR": str(folder),
        }
        self.store = ["--root", str(folder / "store"), "--runroot", str(folder / "run")]

    def call(self, *command: str, **more: Any) -> str:
        """Run a command to its end; what it said is in the failure."""
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=self.environment, timeout=1500, **more
        )
        assert done.returncode == 0, f"{' '.join(command)[:300]}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def make_base(self) -> None:
        """A small Debian with Python, as the official python image is one."""
        packages = "ca-certificates,python3,python3-pip,python3-venv"
        archive = str(self.folder / "base.tar")
        self.call("mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}", "bookworm", archive)
        self.call("podman", *self.store, "import", "--quiet", archive, BASE)
        Path(archive).unlink()

    def build(self, target: str, torch_index: str = "") -> str:
        """Build a target of the Dockerfile as it is, and return its name."""
        mounts = {"/etc/ssl/certs": "/etc/ssl/certs"} | self._pip_configuration()
        volumes = [part for here, there in mounts.items() for part in ("--volume", f"{here}:{there}:ro")]
        name = f"localhost/srpo-{target}:test"
        arguments = ["--build-arg", f"BASE_IMAGE={BASE}", "--build-arg", f"TORCH_INDEX={torch_index}"]
        command = ["buildah", *self.store, "bud", "--runtime", "runc", "--pull-never", "--network", "host", *volumes]
        self.call(*command, *arguments, "--file", "images/Dockerfile", "--target", target, "--tag", name, ".", cwd=ROOT)
        return name

    def _pip_configuration(self) -> dict[str, str]:
        """pip's settings as a file for the build, and the folders of this machine that they name."""
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
        ).stdout
        found = dict(line.split("=", 1) for line in listed.splitlines() if "=" in line)
        settings = {name: found[f"global.{name}"].strip("'\"") for name in PIP if f"global.{name}" in found}
        config = configparser.ConfigParser(interpolation=None)
        config["global"] = {name: value.replace("\\n", " ") for name, value in settings.items()}
        with (self.folder / "pip.conf").open("w") as file:
            config.write(file)
        paths = re.findall(r"(?:file://|(?<=\s)|^)(/[^\s]+)", " ".join(config["global"].values()))
        # The pages of a local index name files beside its folder.
        folders = {str(Path(path).parent if Path(path).name == "simple" else path) for path in paths}
        return {str(self.folder / "pip.conf"): "/etc/pip.conf"} | {
            path: path for path in sorted(folders) if Path(path).is_dir()
        }

    def run(self, image: str, *command: str, shared: Path | None = None) -> str:
        """Run a command as a strict cluster does: no rights, no network, nothing written but to mounts."""
        cache = self.folder / "cache"  # an emptyDir on a cluster: everybody may write it
        cache.mkdir(exist_ok=True)
        cache.chmod(0o777)
        volumes = ["--volume", f"{cache}:/cache", *(["--volume", f"{shared}:{shared}"] if shared else [])]
        confined = ["--read-only", "--network", "none", "--cap-drop", "all", "--security-opt", "no-new-privileges"]
        writable = ["--tmpfs", "/tmp"]
        start = ["podman", *self.store, "run", "--rm", "--runtime", "runc"]
        return self.call(*start, *confined, *writable, *volumes, image, *command)

    def close(self) -> None:
        """Remove everything."""
        subprocess.run(["podman", *self.store, "rmi", "--all", "--force"], capture_output=True, env=self.environment)
        shutil.rmtree(self.folder, ignore_errors=True)


def executor_input(parameters: dict[str, Any], inputs: dict[str, Any], outputs: dict[str, str], folder: Path) -> str:
    """What Kubeflow's launcher hands a component: parameters, artifacts in (a path or several), artifacts out."""

    def artifact(name: str, kind: str, path: Path) -> dict[str, Any]:
        return {"name": name, "type": {"schemaTitle": kind}, "uri": str(path), "metadata": {}}

    given = {
        name: {"artifacts": [artifact(name, "system.Artifact", path) for path in paths]}
        for name, paths in inputs.items()
    }
    made = {name: {"artifacts": [artifact(name, kind, folder / name)]} for name, kind in outputs.items()}
    return json.dumps(
        {
            "inputs": {"parameterValues": parameters, "artifacts": given},
            "outputs": {"artifacts": made, "outputFile": str(folder / "executor_output.json")},
        }
    )
