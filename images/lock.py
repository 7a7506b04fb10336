"""Write the locked requirements of the images from constraints.txt: `make lock` (or `--check` that they are current).

Each list is what an extra of this project needs, with everything that needs in turn, in the versions of
constraints.txt, and with the hashes of every file that the index has of them: pip installs nothing else. uv works them
out. torch has a list of its own with its CUDA libraries, since other builds of it (CPU, another CUDA) need others.
"""

import argparse
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

IMAGES = Path(__file__).resolve().parent
CONSTRAINTS = IMAGES.parent / "constraints.txt"
LISTS = {"build": "hatchling", "cpu": "srpo", "gpu": "srpo[gpu,nodes]"}
# The Python of the images, whichever this one is.
PYTHON = {"python_version": "3.11", "python_full_version": "3.11.0", "sys_platform": "linux"}
PLATFORM = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28")
HEAD = "# Made from constraints.txt by `make lock`; do not edit.\n"


def pins(constraints: str) -> dict[str, str]:
    """`{name: "name==version"}` of a constraints file, names in their canonical form."""
    entries = (line.strip().split("==") for line in constraints.splitlines() if line.strip() and line[0] != "#")
    return {canonicalize_name(name): f"{canonicalize_name(name)}=={version}" for name, version in entries}


def closure(root: str) -> set[str]:
    """Canonical names of all that `root` needs (itself included), by the metadata of the installed packages."""
    waiting, seen = [Requirement(root)], set()
    while waiting:
        requirement = waiting.pop()
        for extra in ("", *requirement.extras):
            step = (canonicalize_name(requirement.name), extra)
            if step in seen:
                continue
            seen.add(step)
            for text in metadata.requires(requirement.name) or []:
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({**PYTHON, "extra": extra}):
                    waiting.append(needed)
    return {name for name, _ in seen}


def wanted() -> dict[str, list[str]]:
    """The `name==version` lines of each list, sorted."""
    known = pins(CONSTRAINTS.read_text(encoding="utf-8"))
    lists = {name: sorted(closure(root) - {"srpo", "torch"}) for name, root in LISTS.items()}
    # kfp is installed with --no-deps: its executor needs no other package. torch comes with what its wheel asks for.
    lists |= {"kfp": ["kfp"], "torch": ["torch"]}
    return {name: [known[package] for package in packages] for name, packages in lists.items()}


def with_hashes(lines: list[str], *options: str) -> str:
    """`lines` with the hashes of their files, by uv."""
    command = ["uv", "pip", "compile", "-", "--generate-hashes", "--no-header", "--no-annotate", "--quiet", *options]
    done = subprocess.run(
        [sys.executable, "-m", *command, *PLATFORM], input="\n".join(lines), capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"uv: {done.stderr.strip()}")
    return done.stdout


def write(name: str, lines: list[str]) -> None:
    """Write the list `name`; torch's own holds its CUDA libraries too, but what the gpu list has already."""
    if name == "torch":
        text = with_hashes(lines, "--constraint", str(CONSTRAINTS))
        have = {line.split("==")[0] for line in wanted()["gpu"]}
        entries = text.replace("\\\n    ", "\0").splitlines()
        kept = [entry.replace("\0", "\\\n    ") for entry in entries if entry.split("==")[0] not in have]
        text = "\n".join(kept) + "\n"
    else:
        text = with_hashes(lines, "--no-deps")
    (IMAGES / f"requirements-{name}.txt").write_text(HEAD + text, encoding="utf-8")
    print(f"requirements-{name}.txt: written")


def is_current(name: str, lines: list[str]) -> bool:
    """Whether the list `name` holds `lines`, each with a hash, and (but for torch's) no other."""
    path = IMAGES / f"requirements-{name}.txt"
    entries = path.read_text(encoding="utf-8").replace("\\\n", "").splitlines() if path.is_file() else []
    found = {entry.split()[0]: "--hash=sha256:" in entry for entry in entries if not entry.startswith("#")}
    return all(found.values()) and (set(lines) <= set(found) if name == "torch" else set(lines) == set(found))


def main() -> int:
    """Write the lists; with `--check` only say which are out of date (exit code 1), without a network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a list is out of date")
    check = parser.parse_args().check
    lists = wanted()
    stale = [name for name, lines in lists.items() if not is_current(name, lines)]
    for name in stale:
        if check:
            print(f"requirements-{name}.txt: out of date; run `make lock`")
        else:
            write(name, lists[name])
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
