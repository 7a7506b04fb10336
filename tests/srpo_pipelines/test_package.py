"""The compiled package: every reference resolves, and each pod asks for what it needs."""

import copy
import dataclasses
import inspect
import json
from typing import Any

import ir
import kubeflow_pods
import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from srpo.configure.component import configure
from srpo.configure.parameters import SHARDS, STAGES, Parameters
from srpo.configure.run import run
from srpo.core.contracts.config import from_mapping
from srpo.core.contracts.errors import InputError
from srpo.core.execution.stage import of_the_key
from srpo.train.nodes import NAMESPACE, POD
from srpo_pipelines.align import align
from srpo_pipelines.cli import main
from srpo_pipelines.resources import UNDISTURBED
from srpo_pipelines.servers import NEWEST
from srpo_pipelines.settings import parameters

GPU = {"cache-rewards", "encode-prompts", "train", "sample"}
CPU = {"configure", "list-shards", "prepare-prompts", "fetch-base", "evaluate", "rating-page", "export"}
TRAIN = ["root", "dag", "tasks", "train"]
FROZEN = {
    "model": str,
    "reward": str,
    "held_out_reward": str,
    "prompts": str,
    "steps": int,
    "batch_size": int,
    "learning_rate": float,
    "resolution": int,
    "seed": int,
    "gpus": int,
    "gpu_type": str,
    "num_nodes": int,
    "sample_shards": int,
    "destination": str,
    "workspace": str,
    "node_selector": dict[str, Any],
    "tolerations": list[Any],
    "overrides": dict[str, Any],
}


@pytest.fixture(scope="module")
def package_folder(tmp_path_factory):
    """Where `srpo compile` writes, for the newest servers: with all that a package can say."""
    folder = tmp_path_factory.mktemp("package")
    assert main(["compile", "--server", NEWEST, "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def package(package_folder):
    """The package `align`: (spec, platform)."""
    return ir.load(package_folder / "align.yaml")


def leaf_tasks(spec):
    for component in [*spec["components"].values(), spec["root"]]:
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            if "executorLabel" in spec["components"][task["componentRef"]["name"]]:
                yield name, task


def test_every_reference_resolves(package):
    assert ir.dangling(*package) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ([*TRAIN, "componentRef", "name"], "comp-training"),
        (["components", "comp-train", "executorLabel"], "exec-training"),
        (["root", "dag", "tasks", "evaluate", "dependentTasks", 0], "gone"),
        ([*TRAIN, "inputs", "parameters", "config", "taskOutputParameter", "producerTask"], "x"),
        ([*TRAIN, "inputs", "artifacts", "models", "taskOutputArtifact", "outputArtifactKey"], "x"),
        ([*TRAIN, "inputs", "parameters", "workspace", "componentInputParameter"], "work"),
        (
            ["deploymentSpec", "executors", "exec-train", "container", "resources", "accelerator", "resourceCount"],
            "{{$.inputs.parameters['gpus']}}",
        ),
    ],
)
def test_a_dangling_reference_is_found(package, path, value):
    spec, platform = copy.deepcopy(package[0]), package[1]
    place = spec
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert ir.dangling(spec, platform)


def test_package_is_a_pipeline_spec(package):
    message = json_format.ParseDict(package[0], pipeline_spec_pb2.PipelineSpec())
    assert message.pipeline_info.name == "align"


@pytest.mark.parametrize("name", ["align.yaml", "promote.yaml"])
def test_executors_and_their_kubernetes_settings_are_what_the_backend_reads(package_folder, name):
    """In the specs they stand as free structures, in which a misspelt field would go unseen."""
    spec, platform = ir.load(package_folder / name)
    deployment = json_format.ParseDict(spec["deploymentSpec"], pipeline_spec_pb2.PipelineDeploymentConfig())
    json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
    configs = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(configs) == set(deployment.executors)
    for config in configs.values():
        json_format.ParseDict(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
    with pytest.raises(json_format.ParseError):
        json_format.ParseDict({"nodeSelektor": {}}, kubernetes_executor_config_pb2.KubernetesExecutorConfig())


def test_the_tasks_are_the_stages(package):
    assert {name for name, _ in leaf_tasks(package[0])} == GPU | CPU


def test_no_task_uses_kubeflows_cache(package):
    for name, task in leaf_tasks(package[0]):
        assert not task.get("cachingOptions", {}).get("enableCache"), name


def test_gpu_stages_and_they_alone_ask_for_gpus(package):
    spec, platform = package
    kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name in GPU | CPU:
        container = spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]
        pod = kubernetes.get(f"exec-{name}", {})
        kind = container["resources"].get("accelerator", {}).get("resourceType", "")
        assert ir.PLACEHOLDER.findall(kind) == (["pipelinechannel--gpu_type"] if name in GPU else []), name
        assert ("nodeSelectorJson" in pod.get("nodeSelector", {})) == (name in GPU), name
        assert any("tolerationJson" in one for one in pod.get("tolerations", [])) == (name in GPU), name
        assert pod["podMetadata"].get("annotations", {}) == (UNDISTURBED if name in GPU else {}), name
        # fetch_base converts released `.pt` weights: torch, but no GPU.
        assert ("gpu" in container["image"]) == (name in GPU | {"fetch-base"}), name


def test_the_stage_that_fetches_models_and_it_alone_may_ask_a_hub(package):
    executors = package[0]["deploymentSpec"]["executors"]
    for name in GPU | CPU:
        variables = {one["name"]: one["value"] for one in executors[f"exec-{name}"]["container"].get("env", [])}
        assert variables.get("HF_HUB_OFFLINE") == ("0" if name == "fetch-base" else None), name


def test_gpu_limits_are_text_parameters(package):
    """Kubeflow's driver reads a limit's parameter as text and silently sets none when it is a number."""
    spec, _ = package
    outputs = spec["components"]["comp-configure"]["outputDefinitions"]["parameters"]
    for name in GPU:
        resources = spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]["resources"]
        (source,) = ir.PLACEHOLDER.findall(resources["accelerator"]["resourceCount"])
        output = "train_gpus" if name == "train" else "stage_gpus"
        assert source == f"pipelinechannel--configure-{output}"
        assert outputs[output]["parameterType"] == "STRING"


def test_every_stage_has_requests_limits_and_the_workspace(package):
    spec, platform = package
    kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name in GPU | CPU:
        resources = spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]["resources"]
        for key in ("resourceCpuRequest", "resourceCpuLimit", "resourceMemoryRequest", "resourceMemoryLimit"):
            assert resources[key], name
        mounts = kubernetes.get(f"exec-{name}", {}).get("pvcMount", [])
        found = [(mount["pvcNameParameter"]["runtimeValue"]["constant"], mount["mountPath"]) for mount in mounts]
        assert found == ([] if name in ("configure", "list-shards") else [("srpo-workspace", "/workspace")]), name


def test_the_rating_page_is_named_to_the_release_and_not_copied_into_its_pod(package):
    """Kubeflow copies each artifact that a task takes, and a page of gigabytes would be left out of the release."""
    inputs = package[0]["root"]["dag"]["tasks"]["export"]["inputs"]
    assert "rating_page" not in inputs["artifacts"]
    assert inputs["parameters"]["rating_page"]["taskOutputParameter"]["producerTask"] == "rating-page"


def test_stages_that_do_work_are_retried_with_backoff(package):
    for name, task in leaf_tasks(package[0]):
        policy = task.get("retryPolicy", {})
        assert bool(policy.get("maxRetryCount")) == (name not in {"configure", "list-shards"}), name
        assert not policy or policy["backoffFactor"] == 2.0


def test_there_is_time_for_all_tries(package):
    """Argo counts ``maxDuration`` from the start of the first try, and ends whatever runs when it is over."""
    deadlines = {name: int(pod["activeDeadlineSeconds"]) for name, _, pod in executors(package)}
    for name, task in leaf_tasks(package[0]):
        if policy := task.get("retryPolicy"):
            tries = policy["maxRetryCount"] + 1
            waits = sum(30 * 2**number for number in range(policy["maxRetryCount"]))
            assert policy["backoffDuration"] == "30s"
            assert waits < 3600
            assert policy["backoffMaxDuration"] == f"{tries * deadlines[name] + 3600}s", name


def executors(package):
    """(name, container, what Kubernetes is told) of every executor."""
    spec, platform = package
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, executor in spec["deploymentSpec"]["executors"].items():
        yield name.removeprefix("exec-"), executor["container"], pods[name]


def test_every_pod_passes_a_security_review(package):
    """Kubeflow itself drops capabilities, refuses escalation and sets seccomp; the rest is the package's to say."""
    for name, container, pod in executors(package):
        assert pod["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}, name
        tag = container["image"].rpartition("/")[2].partition(":")[2]
        assert tag not in ("", "latest"), name
        assert int(pod["activeDeadlineSeconds"]) > 0, name
        assert pod["podMetadata"]["labels"]["app.kubernetes.io/part-of"] == "srpo", name
        assert {"mountPath": "/cache", "volumeName": "cache"} in pod["emptyDirMounts"], name
        assert "hostPath" not in str(pod), name


def test_secrets_are_optional_references_and_go_where_they_are_used(package):
    seen = {
        name: {secret["secretName"] for secret in pod.get("secretAsEnv", [])} for name, _, pod in executors(package)
    }
    assert seen["fetch-base"] == {"srpo-s3", "srpo-hub"}
    assert seen["export"] == {"srpo-s3"}
    assert seen["train"] == {"srpo-trackers"}
    assert not any(seen[name] for name in ("configure", "list-shards", "evaluate", "cache-rewards", "encode-prompts"))
    for name, _, pod in executors(package):
        for reference in [*pod.get("secretAsEnv", []), *pod["configMapAsEnv"]]:
            assert reference["optional"] is True, name


@pytest.mark.parametrize("name", ["align.yaml", "promote.yaml"])
def test_kubernetes_takes_the_pods_that_kubeflow_makes(package_folder, name):
    """With a proxy of the API server and Kubeflow's MLflow plugin, which add variables of their own to each pod."""
    spec, platform = ir.load(package_folder / name)
    assert kubeflow_pods.refused(spec, platform) is None
    configs = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    (first, *_) = configs.values()
    first["configMapAsEnv"][0]["keyToEnv"].append({"configMapKey": "NO_PROXY", "envVar": "NO_PROXY"})
    assert "may not be specified when `value` is not empty" in kubeflow_pods.refused(spec, platform)


@pytest.mark.parametrize("name", ["align.yaml", "promote.yaml"])
def test_nothing_of_the_package_steers_kubeflows_own_launcher(package_folder, name):
    """It reads the AWS SDK's variables and proxies too: a stage's bucket is not that of the artifacts."""
    for pod in kubeflow_pods.pods(*ir.load(package_folder / name)).values():
        assert kubeflow_pods.steers_the_launcher(pod) == []


def test_a_finished_run_is_cleared_away_after_a_week(package):
    """However it ended: a cluster's default for one of the ends would count before ours for any."""
    kept = package[1]["platforms"]["kubernetes"]["pipelineConfig"]
    assert kept == {f"resourceTtlOn{end}": 7 * 24 * 3600 for end in ("Completion", "Success", "Failure")}


def test_parameters_are_frozen():
    """Add one here only after asking whether it should not be an override."""
    assert {field.name: field.type for field in dataclasses.fields(Parameters)} == FROZEN


def test_the_package_restates_the_parameters(package):
    given = package[0]["root"]["inputDefinitions"]["parameters"]
    assert sorted(given) == sorted(FROZEN)
    for field in dataclasses.fields(Parameters):
        default = getattr(parameters("demo"), field.name)
        assert given[field.name].get("defaultValue", type(default)()) == default, field.name
        assert given[field.name]["description"] == field.metadata["description"], field.name
    types = {name: spec.type for name, spec in align.component_spec.inputs.items()}
    checked = {name: spec.type for name, spec in configure.component_spec.inputs.items()}
    assert checked == types
    assert list(inspect.signature(align.pipeline_func).parameters) == list(FROZEN)


def test_a_recipe_becomes_the_defaults(tmp_path):
    assert main(["compile", "--output", str(tmp_path), "--recipe", "demo"]) == 0
    spec, platform = ir.load(tmp_path / "align.yaml")
    assert ir.dangling(spec, platform) == []
    recipe = yaml.safe_load((tmp_path / "align.yaml").read_text().split("\n---\n")[0])["root"]["inputDefinitions"]
    assert set(recipe["parameters"]) == set(FROZEN)


def test_configure_gives_every_stage_its_settings():
    configured = run({"gpus": 4.0, "batch_size": 8.0, "sample_shards": 3.0})  # Kubeflow passes numbers as doubles
    assert set(STAGES) < set(configured)
    assert configured["sample"]["shards"] == 3
    assert (configured["train_gpus"], configured["stage_gpus"]) == ("4", "1")
    assert configured["train"]["processes"] == 4
    assert (run({})["train_gpus"], run({})["stage_gpus"]) == ("0", "0")
    with pytest.raises(InputError, match="steps is -1"):
        run({"steps": -1})


def test_the_artifacts_of_all_shards_fit_the_argument_that_names_them(package):
    """The pods that take all of them get `--executor_input`, and Linux takes no argument beyond 128 KiB."""
    spec, _ = package
    kind = spec["components"]["comp-evaluate"]["inputDefinitions"]["artifacts"]["samples"]["artifactType"]
    root = "s3://a-bucket-with-quite-a-long-name/artifacts/of/our/department/kubeflow/v2/artifacts/align"
    uri = f"{root}/{'0' * 36}/for-loop-shards/sample/{'0' * 36}/samples"
    artifact = {"name": "2" * 19, "type": kind, "uri": uri, "metadata": {"display_name": "samples"}}
    settings = json.dumps(run({"sample_shards": SHARDS})["evaluate"])
    assert SHARDS * len(json.dumps(artifact)) + len(settings) + 4096 < 128 * 1024
    with pytest.raises(InputError, match="sample_shards is 257: it must be a whole number from 1 to 256"):
        run({"sample_shards": SHARDS + 1})


def test_gates_may_name_the_rewards_of_the_run_and_no_other():
    def given(reward, held_out, *gates):
        return {"reward": reward, "held_out_reward": held_out, "overrides": {"evaluate": {"gates": gates}}}

    gates = (
        "reward_2_srp.delta > 0",
        "held_out.hpsv2.1.delta.low > -1",
        "held_out.srp.after > 0",
        "held_out.delta > 0",
    )
    assert run(given("pickscore=2,hpsv2", "hpsv2.1", *gates))["evaluate"]["gates"] == gates
    run(given("hpsv2", "folders/mine/", "held_out.mine.delta > 0"))
    for gate in ("reward_3_score.delta > 0", "held_out.pickscore.delta > 0", "held_out_2_srp.delta > 0"):
        with pytest.raises(InputError, match=r"evaluate\.gates has .*, but this run measures no "):
            run(given("pickscore=2,hpsv2", "hpsv2.1", gate))


def test_several_nodes_need_no_gpu_in_the_task_that_starts_them():
    nodes = {"node_selector": {"pool": "h100"}, "tolerations": [{"key": "spot", "operator": "Exists"}]}
    one, two = run({"gpus": 4, **nodes}), run({"gpus": 4.0, "num_nodes": 2.0, **nodes})
    placed = ("train_gpus", "train_selector", "train_tolerations")
    assert [one[name] for name in placed] == ["4", nodes["node_selector"], nodes["tolerations"]]
    assert [two[name] for name in placed] == ["0", {}, []]
    assert two["stage_gpus"] == "1"
    # The nodes' own pods get them, through the settings of the stage.
    assert (two["train"]["nodes"], two["train"]["processes"], two["train"]["device"]) == (2, 8, "cuda")
    assert {name: two["train"][name] for name in nodes} == nodes
    assert run({"num_nodes": 2})["train"]["processes"] == 2
    assert run({"num_nodes": 2, "gpu_type": "amd.com/gpu"})["train"]["gpu_type"] == "amd.com/gpu"
    with pytest.raises(InputError, match=r"train\.nodes is 2: it must be left to num_nodes"):
        run({"overrides": {"train": {"nodes": 2, "processes": 2}}})


def test_where_ranks_stand_is_no_part_of_the_result():
    """Eight GPUs of one pod or four of two: a result of the one is found by the other."""
    settings = [run({"gpus": 8 // nodes, "num_nodes": nodes})["train"] for nodes in (1, 2)]
    first, second = (of_the_key(from_mapping(STAGES["train"], one, "train")) for one in settings)
    assert first == second
    assert first["processes"] == 8


def test_the_task_that_starts_several_nodes_knows_which_pod_it_is(package):
    for name, _, pod in executors(package):
        fields = {one["name"]: one["fieldPath"] for one in pod.get("fieldPathAsEnv", [])}
        assert fields == ({POD: "metadata.name", NAMESPACE: "metadata.namespace"} if name == "train" else {}), name


def test_the_training_pod_has_shared_memory_for_nccl(package):
    memory = {"volumeName": "shared-memory", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "8Gi"}
    for name, _, pod in executors(package):
        assert (memory in pod["emptyDirMounts"]) == (name == "train"), name


def test_ranks_and_gpus_must_agree():
    with pytest.raises(InputError, match=r"train\.processes is 4 with gpus 4 and num_nodes 2: it must be 8"):
        run({"gpus": 4, "num_nodes": 2, "overrides": {"train": {"processes": 4}}})
    with pytest.raises(InputError, match=r"train\.processes is 2 with gpus 4"):
        run({"gpus": 4, "overrides": {"train": {"processes": 2}}})
    assert run({"gpus": 4})["train"]["processes"] == 4
    with pytest.raises(InputError, match=r"node_selector\.gpu is True: it must be text"):
        Parameters(node_selector={"gpu": True})
