"""Which code a stage's result depends on: the hash of its own folder and of all it imports of ours.

Found from the source text alone (no import is run), so it is the same in every process and needs no torch.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGE_ROOT = Path(__file__).resolve().parents[3]  # the folder that holds the package `srpo`
DATA_SUFFIXES = {".yaml", ".json", ".html", ".css", ".js", ".j2"}
LIBRARIES = (
    *("torch", "diffusers", "transformers", "peft", "pyarrow", "numpy", "scipy", "pillow"),
    *("tokenizers", "rensa", "py3langid"),
)


@cache
def code_digest(stage: str, root: Path = PACKAGE_ROOT) -> str:
    """Hex SHA-256 over the sources that ``srpo.<stage>`` is made of, and over the versions of the main libraries."""
    digest = hashlib.sha256()
    for path in sources(stage, root):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update(repr(versions()).encode())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Installed versions of the libraries that can change a result; those not installed are left out."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def sources(stage: str, root: Path) -> list[Path]:
    """Every file of the stage's folder, each module of ours that they import, and the data files beside those."""
    folder = root / "srpo" / stage
    waiting = sorted(folder.glob("*.py"))
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += _imported(path, root)
    data = {file for module in seen for file in module.parent.iterdir() if file.suffix in DATA_SUFFIXES}
    return sorted(seen | data)


def _imported(path: Path, root: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            # `from srpo.a import b`: b may be a module of its own or a name inside a.
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "srpo":
                module = root.joinpath(*name.split("."))
                yield from (file for file in (module.with_suffix(".py"), module / "__init__.py") if file.is_file())
