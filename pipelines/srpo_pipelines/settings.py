"""From a recipe and `--set key=value` to the checked parameters of a run."""

import copy
import dataclasses
import itertools
import re
import typing
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from srpo.configure.parameters import STAGES, Parameters
from srpo.configure.run import run as configure
from srpo.core.contracts.config import convert, describe, from_mapping, load_yaml, nearest
from srpo.core.contracts.errors import InputError


def recipe_names() -> list[str]:
    """The recipes that are installed."""
    folder = resources.files("srpo_pipelines").joinpath("recipes")
    return sorted(Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".yaml"))


def load_recipe(name: str) -> dict[str, Any]:
    """The parameters that the recipe ``name`` sets; the others keep their defaults.

    Raises:
        InputError: there is no such recipe.
    """
    return dict(yaml.safe_load(_recipe_text(name)) or {})


def recipe_title(name: str) -> str:
    """The first sentence of the comment that the recipe begins with: what it is, in one line."""
    comment = itertools.takewhile(lambda line: line.startswith("#"), _recipe_text(name).splitlines())
    words = " ".join(line.lstrip("# ") for line in comment)
    return re.split(r"(?<=\.)\s", words, maxsplit=1)[0]


def _recipe_text(name: str) -> str:
    if name not in recipe_names():
        raise InputError(f"there is no recipe {name!r}{nearest(name, recipe_names())}")
    return resources.files("srpo_pipelines").joinpath("recipes", f"{name}.yaml").read_text(encoding="utf-8")


def parameters(recipe: str | None, sets: Iterable[str] = (), defaults: Mapping[str, Any] | None = None) -> Parameters:
    """The parameters of a run: defaults, then the recipe, then each ``key=value`` of ``sets`` in order.

    A key is a parameter (``steps``) or a setting of a stage (``train.margin``). What every stage would be given is
    checked as well, so nothing is started that cannot end.

    Raises:
        InputError: an unknown recipe, key or stage, or a value that does not fit.
    """
    values = dict(defaults or {}) | (load_recipe(recipe) if recipe else {})
    overrides = copy.deepcopy(values.pop("overrides", {}))
    for text in sets:
        key, equals, raw = text.partition("=")
        if not equals:
            raise InputError(f"--set is {text!r}: it must be key=value")
        stage, dot, setting = key.partition(".")
        if dot:
            if stage not in STAGES:
                raise InputError(f"--set {key}: there is no stage {stage!r}{nearest(stage, STAGES)}")
            overrides.setdefault(stage, {})[setting] = _value(raw, _hints(STAGES[stage], stage, setting), key)
        elif key == "overrides":
            given = convert(_value(raw, dict, key) or {}, dict[str, dict[str, Any]], "parameters.overrides")
            for name, settings in given.items():
                overrides[name] = overrides.get(name, {}) | settings
        else:
            values[key] = _value(raw, _hint_of_parameter(key), key)
    checked = from_mapping(Parameters, values | {"overrides": overrides}, "parameters")
    configure(values | {"overrides": overrides})
    # Now a null is its setting's default, and KFP's local runner takes none.
    given = {
        stage: {name: value for name, value in settings.items() if value is not None}
        for stage, settings in checked.overrides.items()
    }
    return dataclasses.replace(checked, overrides=given)


def _hint_of_parameter(key: str) -> Any:
    hints = typing.get_type_hints(Parameters)
    if key not in hints:
        owners = [f"{stage}.{key}" for stage, config in STAGES.items() if key in _names(config)]
        hint = f": did you mean {' or '.join(owners)}?" if owners else nearest(key, hints)
        raise InputError(f"there is no parameter {key!r}{hint}")
    return hints[key]


def _hints(config: type[Any], stage: str, setting: str) -> Any:
    if setting not in _names(config):
        raise InputError(f"{stage} has no setting {setting!r}{nearest(setting, _names(config))}")
    return typing.get_type_hints(config)[setting]


def _names(config: type[Any]) -> list[str]:
    return [field.name for field in dataclasses.fields(config)]


def _value(raw: str, hint: Any, key: str) -> Any:
    """``raw`` read as YAML, except that text stays as it was typed (a prompt file may be called ``1``)."""
    if hint is str:
        return raw
    try:
        value = load_yaml(raw)
    except yaml.YAMLError:
        raise InputError(f"--set {key} is {raw[:100]!r}: it is not valid YAML, or nested too deep") from None
    if value is None and type(None) not in typing.get_args(hint) and key != "overrides":
        raise InputError(f"--set {key} is {raw!r}: it must be {describe(hint)}")  # as written: YAML reads '' as null
    return value
