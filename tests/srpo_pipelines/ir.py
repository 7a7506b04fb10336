"""Checks of a compiled package that Kubeflow's own loader does not make: does every reference resolve?"""

import re
from pathlib import Path
from typing import Any

import yaml

PLACEHOLDER = re.compile(r"\{\{\$\.inputs\.parameters\['([^']+)'\]\}\}")
# Inputs that the compiler itself adds to a task whose resources come from parameters; no component defines them.
RESOURCES = {"accelerator_count", "accelerator_type"}


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline spec and the platform spec of a package."""
    spec, platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    return spec, platform


def dangling(spec: dict[str, Any], platform: dict[str, Any]) -> list[str]:
    """Every reference that leads nowhere, in words; empty for a sound package."""
    wrong: list[str] = []
    components, executors = spec["components"], spec["deploymentSpec"]["executors"]
    used = set()
    for name, component in {**components, "root": spec["root"]}.items():
        if "dag" in component:
            wrong += _dag(name, component, spec, platform)
            used |= {task["componentRef"]["name"] for task in component["dag"]["tasks"].values()}
        elif component.get("executorLabel") not in executors:
            wrong.append(f"{name}: no executor {component.get('executorLabel')}")
    wrong += [f"component {name} is used by no task" for name in components if name not in used]
    labels = {component.get("executorLabel") for component in components.values()}
    wrong += [f"executor {name} is used by no component" for name in executors if name not in labels]
    config = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    wrong += [f"platform configures {name}, which is no executor" for name in config if name not in executors]
    return wrong


def _dag(name: str, component: dict[str, Any], spec: dict[str, Any], platform: dict[str, Any]) -> list[str]:
    wrong = []
    tasks = component["dag"]["tasks"]
    for task_name, task in tasks.items():
        where = f"{name}/{task_name}"
        called = spec["components"].get(task["componentRef"]["name"])
        if called is None:
            wrong.append(f"{where}: no component {task['componentRef']['name']}")
            continue
        wrong += [
            f"{where}: depends on no task {other}" for other in task.get("dependentTasks", []) if other not in tasks
        ]
        given = task.get("inputs", {})
        for kind in ("parameters", "artifacts"):
            wanted = called.get("inputDefinitions", {}).get(kind, {})
            have = component.get("inputDefinitions", {}).get(kind, {})
            item = task.get("parameterIterator", {}).get("itemInput")
            for key, source in given.get(kind, {}).items():
                wrong += (
                    [f"{where}: {key} is no input of the component"] if key not in wanted and not _added(key) else []
                )
                wrong += _source(f"{where}.{key}", source, kind, have, tasks, spec, name, item)
            filled = {*given.get(kind, {}), item}
            optional = {key for key, value in wanted.items() if value.get("isOptional")}
            wrong += [f"{where}: input {key} is not given" for key in wanted if key not in filled | optional]
        wrong += _executor(where, task, called, component, spec, platform)
    for key, output in component["dag"].get("outputs", {}).get("artifacts", {}).items():
        for selector in output["artifactSelectors"]:
            wrong += _output(f"{name}.{key}", selector["producerSubtask"], selector["outputArtifactKey"], tasks, spec)
    return wrong


def _added(key: str) -> bool:
    return key in RESOURCES or key.startswith("pipelinechannel--")


def _source(
    where: str, source: dict[str, Any], kind: str, have: dict[str, Any], tasks: Any, spec: Any, name: str, item: Any
) -> list[str]:
    for key in ("componentInputParameter", "componentInputArtifact"):
        if key in source:
            return [] if source[key] in have else [f"{where}: {name} has no input {source[key]}"]
    for key, output in (("taskOutputParameter", "outputParameterKey"), ("taskOutputArtifact", "outputArtifactKey")):
        if key in source:
            return _output(where, source[key]["producerTask"], source[key][output], tasks, spec)
    return [] if "runtimeValue" in source else [f"{where}: unknown source {source}"]


def _output(where: str, producer: str, key: str, tasks: dict[str, Any], spec: dict[str, Any]) -> list[str]:
    if producer not in tasks:
        return [f"{where}: no producer task {producer}"]
    component = spec["components"].get(tasks[producer]["componentRef"]["name"], {})
    outputs = component.get("outputDefinitions", {})
    known = {**outputs.get("parameters", {}), **outputs.get("artifacts", {})}
    return [] if key in known else [f"{where}: {producer} has no output {key}"]


def _executor(where: str, task: Any, called: Any, parent: Any, spec: Any, platform: Any) -> list[str]:
    """Placeholders in the container, and Kubernetes settings that come from parameters."""
    label = called.get("executorLabel")
    if label not in spec["deploymentSpec"]["executors"]:
        return []  # a sub-pipeline, or reported already
    container = spec["deploymentSpec"]["executors"][label]["container"]
    found = PLACEHOLDER.findall(repr(container.get("resources", {})).replace('"', "").replace("\\", ""))
    wrong = [f"{where}: placeholder of {key}" for key in found if key not in task.get("inputs", {})["parameters"]]
    config = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].get(label, {})
    sources = [config.get("nodeSelector", {}).get("nodeSelectorJson")]
    sources += [toleration.get("tolerationJson") for toleration in config.get("tolerations", [])]
    have = parent.get("inputDefinitions", {}).get("parameters", {})
    for source in filter(None, sources):
        tasks = parent["dag"]["tasks"]
        wrong += _source(f"{where}: Kubernetes setting", source, "parameters", have, tasks, spec, "the pipeline", None)
    return wrong
