"""The files of a folder that came from elsewhere: links are followed where they stay in it, and nothing else is opened.

A link that leads out of a folder would publish whatever it names; a pipe or a device would hang or never end. A hub's
cache is made of links: a snapshot's files are its blobs, which lie beside the snapshots.
"""

import stat
from collections.abc import Iterator
from pathlib import Path

from srpo.core.contracts.errors import InputError


def files_below(folder: Path, hidden: bool = True) -> Iterator[Path]:
    """Every regular file below ``folder``, sorted; folders and files behind links that stay inside are among them.

    Without ``hidden`` names that begin with a dot are left out. A folder that is not there has none.

    Raises:
        InputError: a link leads elsewhere, to nothing or in a circle, or something is no file and no folder.
    """
    if not folder.is_dir():
        return
    root = folder.resolve()
    yield from _below(folder, (root, *_blobs(root)), hidden, (root,))


def check_regular(path: Path, roots: tuple[Path, ...]) -> Path:
    """What ``path`` is in the end: a regular file or a folder below one of ``roots``, which are resolved.

    Raises:
        InputError: it is something else, or lies elsewhere.
    """
    try:
        target = path.resolve(strict=True) if path.is_symlink() else path
        mode = target.stat().st_mode
    except (OSError, RuntimeError) as error:
        what = f"leads nowhere or in a circle ({error})" if path.is_symlink() else f"cannot be read ({error})"
        raise InputError(f"{path} {what}: it must be a file or a folder") from None
    if path.is_symlink() and not any(target.is_relative_to(root) for root in roots):
        raise InputError(f"{path} is a link to {target}: a link must stay inside of {roots[0]}; copy what it names")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path} is a pipe, a device or a socket: it must be a regular file or a folder")
    return target


def _below(folder: Path, roots: tuple[Path, ...], hidden: bool, chain: tuple[Path, ...]) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") and not hidden:
            continue
        target = check_regular(path, roots)
        if not target.is_dir():
            yield path
        elif (resolved := target.resolve()) in chain:
            raise InputError(f"{path} leads in a circle, to {resolved}: a link must not lead to a folder that holds it")
        else:
            yield from _below(path, roots, hidden, (*chain, resolved))


def _blobs(root: Path) -> list[Path]:
    """Where the files of a hub cache's snapshot lie, if ``root`` is (in) one."""
    return [
        parent.parent / "blobs"
        for parent in root.parents
        if parent.name == "snapshots" and (parent.parent / "blobs").is_dir()
    ]
