"""Write what a stage takes, makes and can be set to into its README, from its code: `python docs/stage_readmes.py`.

Only what stands between the two markers is written; the words around it are a person's. With `--check` nothing is
written, and the exit code says whether all READMEs are up to date.
"""

import argparse
import dataclasses
import importlib
import json
import sys
import typing
from pathlib import Path
from typing import Any

from srpo.configure.parameters import STAGES, Parameters
from srpo.configure.promotion import ALL_STAGES, PROMOTION
from srpo.core.contracts.config import describe
from srpo.core.execution.stage import FILE_NAMES
from srpo_pipelines.comments import comments_of

PACKAGE = Path(__file__).resolve().parents[1] / "components" / "srpo"
START, END = "<!-- settings -->", "<!-- /settings -->"
NOTE = "*This part is written by `make readmes`, from the code.*"
NAMES = ["configure", *ALL_STAGES]


@dataclasses.dataclass(frozen=True)
class Setting:
    """A row of the table; everything is Markdown already."""

    name: str
    kind: str
    default: str
    comment: str
    group: str  # the comment that heads a group of settings, or ""


def readme(stage: str) -> str:
    """The README of ``stage`` as it should be."""
    path = PACKAGE / stage / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else f"# {stage}\n\n{START}\n{END}\n"
    if START not in text:
        text = text.rstrip() + f"\n\n{START}\n{END}\n"
    before, _, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{path} has no {END!r} after {START!r}")
    return f"{before}{START}\n{section(stage)}\n{END}{after}"


def section(stage: str) -> str:
    """What stands between the markers."""
    if stage == "configure":
        settings = parameters()
        made = [*STAGES, "train_gpus", "stage_gpus"]
        places = [f"**Makes** {', '.join(f'`{name}`' for name in made)} (parameters of the tasks that follow)."]
        title = "## Parameters\n\nOf the pipeline; what they hand on are the settings of the stages."
    else:
        stage_module = importlib.import_module(f"srpo.{stage}.run")
        settings = settings_of(ALL_STAGES[stage])
        places = [
            f"**Takes** {artifacts(stage_module.STAGE.inputs)}",
            f"**Makes** {artifacts(stage_module.STAGE.outputs)}",
        ]
        title = "## Settings\n\nThe parameters of the pipeline `promote` set them."
        if stage not in PROMOTION:
            title = (
                f"## Settings\n\nAs `--set {stage}.NAME=VALUE` of `srpo run`, or in the `overrides` of a pipeline run."
            )
    return "\n\n".join([NOTE, *places, title, *tables(settings)])


def artifacts(places: type[Any]) -> str:
    """The names of inputs or outputs with what each is, and the docstring of their class."""
    names = []
    for field in dataclasses.fields(places):
        several = typing.get_origin(typing.get_type_hints(places)[field.name]) is tuple
        kind = "folders" if several else FILE_NAMES.get(field.name, "folder")
        optional = "" if field.default is dataclasses.MISSING else ", optional"
        names.append(f"`{field.name}` ({kind}{optional})")
    said = " ".join((places.__doc__ or "").split()).replace("``", "`")
    return f"{', '.join(names)}. {said}" if names else said


def tables(settings: list[Setting]) -> list[str]:
    """One table for each group of settings, in the order of the code."""
    parts = []
    for group in dict.fromkeys(setting.group for setting in settings):
        rows = [
            f"| `{setting.name}` | {setting.kind} | {setting.default} | {setting.comment} |"
            for setting in settings
            if setting.group == group
        ]
        parts += [group] * bool(group)
        parts.append("\n".join(["| name | type | default | |", "|---|---|---|---|", *rows]))
    return parts


def settings_of(config: type[Any]) -> list[Setting]:
    """The settings of a stage: fields from the dataclass, comments from its source."""
    hints, fields = typing.get_type_hints(config), {field.name: field for field in dataclasses.fields(config)}
    return [
        Setting(
            name=said.name,
            kind=escape(describe(hints[said.name])),
            default=shown(fields[said.name], said.computed),
            comment=escape(said.comment),
            group=escape(said.group),
        )
        for said in comments_of(config)
    ]


def parameters() -> list[Setting]:
    """The parameters of the pipeline, which carry their own descriptions."""
    hints = typing.get_type_hints(Parameters)
    return [
        Setting(
            field.name,
            escape(describe(hints[field.name])),
            shown(field, None),
            escape(field.metadata["description"]),
            "",
        )
        for field in dataclasses.fields(Parameters)
    ]


def shown(field: "dataclasses.Field[Any]", computed: str | None) -> str:
    """A default as it is written in YAML, or as it is computed in the code."""
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return "must be given"
    value = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    return f"`{computed or json.dumps(value, ensure_ascii=False)}`".replace("|", "\\|")


def escape(text: str) -> str:
    """Text as Markdown shows it in a table: no tag, no further column, no word that only Python knows."""
    return text.replace(", each entry Any", "").replace("<", "&lt;").replace(">", "&gt;").replace("|", "\\|")


def main() -> None:
    """Write all READMEs, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a README is stale")
    check = parser.parse_args().check
    stale = []
    for stage in NAMES:
        path, text = PACKAGE / stage / "README.md", readme(stage)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(str(path.relative_to(PACKAGE.parents[1])))
            if not check:
                path.write_text(text, encoding="utf-8")
    print(f"{'stale' if check else 'written'}: {', '.join(stale)}" if stale else "all READMEs are up to date")
    sys.exit(1 if stale and check else 0)


if __name__ == "__main__":
    main()
