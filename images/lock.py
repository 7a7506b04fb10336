"""Write the locked requirements of the images from constraints.txt: `make lock` (or `--check` that they are current).

Each list is what an extra of this project needs, with everything that needs in turn, as the installed packages say; the
versions are those of constraints.txt.
"""

import argparse
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

IMAGES = Path(__file__).resolve().parent
LISTS = {"build": "hatchling", "cpu": "srpo", "gpu": "srpo[gpu]"}
# The Python of the images, whichever this one is.
PYTHON = {"python_version": "3.11", "python_full_version": "3.11.0", "sys_platform": "linux"}


def pins(constraints: str) -> dict[str, str]:
    """`{canonical name: "Name==version"}` of a constraints file."""
    lines = (line.strip() for line in constraints.splitlines())
    return {canonicalize_name(line.split("==")[0]): line for line in lines if line and not line.startswith("#")}


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


def locked() -> dict[Path, str]:
    """Path and text of each list."""
    known = pins((IMAGES.parent / "constraints.txt").read_text(encoding="utf-8"))
    head = "# Made from constraints.txt by `make lock`; do not edit.\n"
    files = {"kfp": f"{known['kfp']}\n"}  # installed with --no-deps: its executor needs no other package
    for name, root in LISTS.items():
        files[name] = "".join(f"{known[package]}\n" for package in sorted(closure(root) - {"srpo"}))
    return {IMAGES / f"requirements-{name}.txt": head + text for name, text in files.items()}


def main() -> int:
    """Write the lists; with `--check` only say which are out of date (exit code 1)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a list is out of date")
    check = parser.parse_args().check
    stale = [path for path, text in locked().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{path.name}: " + ("out of date; run `make lock`" if check else "written"))
        if not check:
            path.write_text(locked()[path], encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
