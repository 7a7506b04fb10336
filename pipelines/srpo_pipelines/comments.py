"""What the code says of each setting of a stage: the comments in the source of its dataclass."""

import ast
import io
import sys
import tokenize
from pathlib import Path
from typing import Any, NamedTuple


class Commented(NamedTuple):
    """A setting as its source has it."""

    name: str
    computed: str | None  # the default as it is computed (27 / 28), where it is
    comment: str
    group: str  # the comment that heads a group of settings, or ""


def comments_of(config: type[Any]) -> list[Commented]:
    """The settings of the dataclass ``config``, in the order of its source.

    A comment beside a setting, or right above it, is about that setting; one after an empty line heads a group.
    """
    source = Path(sys.modules[config.__module__].__file__ or "").read_text(encoding="utf-8")
    lines = source.splitlines()
    comments = {  # line: text, for comments beside code and comments of their own
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    body = next(n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ClassDef) and n.name == config.__name__)
    settings, group = [], ""
    for node in body.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        above: list[str] = []
        line = node.lineno - 1
        while lines[line - 1].strip().startswith("#"):
            above.insert(0, comments[line])
            line -= 1
        alone = not lines[line - 1].strip()
        if alone and above:
            group, above = " ".join(above), []
        elif alone:
            group = ""  # an empty line without a heading ends the group
        beside = [comments[place] for place in range(node.lineno, (node.end_lineno or 0) + 1) if place in comments]
        computed = ast.unparse(node.value) if isinstance(node.value, ast.BinOp) else None
        settings.append(Commented(node.target.id, computed, " ".join([*above, *beside]), group))
    return settings
