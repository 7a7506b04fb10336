"""From the parameters of a run to the configuration of every stage, on the cluster as on a laptop."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from srpo.configure.parameters import STAGES, Parameters, stage_configs
from srpo.core.contracts.config import from_mapping
from srpo.core.contracts.errors import InputError


def run(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Check the parameters and work out what the pipeline hands on.

    Returns the configuration of each stage by its name, and the number of GPUs of the pod of `train` (``train_gpus``)
    and of every other GPU stage (``stage_gpus``), as text: Kubeflow fills a resource limit from text parameters only,
    and drops it without a word when it is a number. With several nodes that pod only starts the others: it needs no
    GPU, and may stand on any node (``train_selector``, ``train_tolerations``).

    Raises:
        InputError: a parameter that is unknown, of another type or out of range.
    """
    checked = from_mapping(Parameters, parameters, "parameters")
    one = checked.num_nodes == 1
    return {stage: without_nulls(stage, config) for stage, config in stage_configs(checked).items()} | {
        "train_gpus": str(checked.gpus if one else 0),
        "stage_gpus": str(min(1, checked.gpus)),
        "train_selector": checked.node_selector if one else {},
        "train_tolerations": checked.tolerations if one else [],
    }


def without_nulls(stage: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` without settings that are null: KFP's local runner hands on no null, and null is their default."""
    defaults = {field.name: field.default for field in dataclasses.fields(STAGES[stage])}
    for name, value in config.items():
        if value is None and defaults[name] is not None:
            raise InputError(f"{stage}.{name} is null: it must have a value in a pipeline")
    return {name: value for name, value in config.items() if value is not None}


def run_or_exit(
    parameters: Mapping[str, Any], check: Callable[[Mapping[str, Any]], dict[str, Any]] = run
) -> dict[str, Any]:
    """``check`` as the body of a container: one clear last line and exit code 2 for bad input."""
    try:
        return check(parameters)
    except InputError as error:
        print(f"srpo: configure: {error}", flush=True)
        raise SystemExit(2) from None
