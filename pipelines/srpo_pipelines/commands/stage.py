"""`srpo stage`: one stage here and now, outside of any pipeline."""

import argparse
import dataclasses
import importlib
import typing
from pathlib import Path
from typing import Any

from srpo.configure.promotion import ALL_STAGES as STAGES
from srpo.core.contracts.config import describe, nearest, read_mapping
from srpo.core.contracts.errors import InputError
from srpo_pipelines.comments import comments_of

HELP = "Run one stage on this machine."

KEYS = ("config", "inputs", "outputs", "workspace")


def epilog() -> str:
    """What stands below the options."""
    return f"""stages: {", ".join(STAGES)}

FILE is YAML:
  workspace: runs/workspace              # results are kept and found again here
  config: {{steps: 5, learning_rate: 3e-5}}  # only what differs from the defaults
  inputs: {{models: runs/models, ...}}     # a folder each; a list of folders for a fan-in
  outputs: {{checkpoint: runs/checkpoint}} # those that are wanted

What a stage takes and makes stands in components/srpo/NAME/README.md. Without `outputs` the result stays in the
workspace, and its place is printed.

The whole configuration of a stage under a recipe, as the first lines of such a file (and of the one that
`torchrun -m srpo.train --config FILE` reads):
  srpo stage train --recipe flux1-dev-hpsv2 --settings > train.yaml

example: srpo stage prepare_prompts --config prompts.yaml
         srpo stage train --settings"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("name", metavar="NAME", help="the stage")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, metavar="FILE", help="YAML file with config, inputs, outputs, workspace")
    what.add_argument("--settings", action="store_true", help="list the stage's settings with defaults and comments")
    parser.add_argument("--recipe", metavar="NAME", help="with --settings: all of them under this recipe, as YAML")


def main(args: argparse.Namespace) -> None:
    """Run the stage, or show its settings."""
    if args.name not in STAGES:
        raise InputError(f"there is no stage {args.name!r}{nearest(args.name, STAGES)}")
    if args.recipe is not None and not args.settings:
        raise InputError(f"--recipe is {args.recipe!r}: it goes with --settings alone; what runs is what FILE says")
    if args.recipe is not None:
        print(settings_under(args.name, args.recipe), end="")
        return
    if args.settings:
        print("\n".join(settings(STAGES[args.name])))
        return
    given = read(args.config)

    from srpo.core.execution.stage import execute_or_exit

    stage = importlib.import_module(f"srpo.{args.name}.run").STAGE
    names = stage.names(stage.inputs)
    inputs = _paths(given["inputs"], names, "inputs", [name for name in names if name not in stage.optional()])
    outputs = _paths(given["outputs"], stage.names(stage.outputs), "outputs", [])
    result = execute_or_exit(stage, given["config"], Path(given["workspace"]).absolute(), inputs, outputs)
    print(f"result: {result}")
    for name, path in outputs.items():
        print(f"{name}: {path}")


def settings(config: type[Any]) -> list[str]:
    """One line for each setting of a stage, with name, default, type and comment; a heading above each group."""
    hints = typing.get_type_hints(config)
    lines: list[str] = []
    group = ""
    for field, said in zip(dataclasses.fields(config), comments_of(config), strict=True):
        if said.group != group:
            group = said.group
            lines += ["", f"# {group}"] if group else [""]
        default = field.default_factory() if callable(field.default_factory) else field.default
        shown = "required" if default is dataclasses.MISSING else repr(default)
        comment = f"  # {said.comment}" if said.comment else ""
        lines.append(f"{field.name} = {shown}  ({describe(hints[field.name])}){comment}")
    return lines


def settings_under(name: str, recipe: str) -> str:
    """The whole configuration of the stage ``name`` under ``recipe``, as the key ``config`` of a YAML file.

    Raises:
        InputError: there is no such recipe.
    """
    import yaml

    from srpo.configure.parameters import stage_configs
    from srpo_pipelines.settings import parameters

    configs = stage_configs(parameters(recipe))
    if name not in configs:
        raise InputError(f"--recipe is {recipe!r}: recipes are of the pipeline `align`, which has no stage {name!r}")
    config = configs[name]
    lines = [f"# {name} under the recipe {recipe}", "config:"]
    group = ""
    for said in comments_of(STAGES[name]):
        if said.group != group:
            group = said.group
            lines += ["", f"# {group}"] if group else [""]
        value = config[said.name]
        plain = {said.name: list(value) if isinstance(value, tuple) else value}
        written = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110).splitlines()
        if said.comment and len(written) == 1:
            written = [f"{written[0]}  # {said.comment}"]
        elif said.comment:
            written = [f"# {said.comment}", *written]
        lines += written
    return "\n".join(lines[:2] + [line and f"  {line}" for line in lines[2:]]) + "\n"


def read(path: Path) -> dict[str, Any]:
    """The YAML file of a stage, with every key present.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    given = read_mapping(path, "--config", KEYS)
    for key in ("config", "inputs", "outputs"):
        if not isinstance(given.setdefault(key, {}), dict):
            raise InputError(f"{path}: {key} is {given[key]!r}: it must be a mapping")
    if not isinstance(given.get("workspace"), str):
        raise InputError(f"{path}: workspace is {given.get('workspace')!r}: it must be a folder")
    return given


def _paths(given: dict[str, Any], names: list[str], what: str, needed: list[str]) -> dict[str, Any]:
    for name in given:
        if name not in names:
            raise InputError(f"{what} has no {name!r}{nearest(name, names)}" if names else f"the stage has no {what}")
    missing = [name for name in needed if name not in given]
    if missing:
        lacking = " and ".join(f"{what}.{name}" for name in missing)
        raise InputError(f"missing: {lacking}; each must be the folder that another stage wrote")
    for name, value in given.items():
        if not all(isinstance(one, str) and one for one in (value if isinstance(value, list) else [value])):
            raise InputError(f"{what}.{name} is {value!r}: it must be a folder, or a list of folders")
    return {
        name: [Path(item).absolute() for item in value] if isinstance(value, list) else Path(value).absolute()
        for name, value in given.items()
    }
