"""The Kubeflow component that turns the pipeline's parameters into the stages' configurations."""

# mypy: disable-error-code="untyped-decorator, valid-type"

from typing import Any, NamedTuple

from kfp import dsl


# The name of the image only; the pipeline puts the released one in its place.
@dsl.component(base_image="srpo-cpu", install_kfp_package=False)
def configure(
    model: str,
    reward: str,
    held_out_reward: str,
    prompts: str,
    steps: int,
    batch_size: int,
    learning_rate: float,
    resolution: int,
    seed: int,
    gpus: int,
    gpu_type: str,
    num_nodes: int,
    sample_shards: int,
    destination: str,
    workspace: str,
    node_selector: dict[str, Any],
    tolerations: list[Any],
    overrides: dict[str, Any],
) -> NamedTuple(
    "Configured",
    [
        ("prepare_prompts", dict[str, Any]),
        ("fetch_base", dict[str, Any]),
        ("cache_rewards", dict[str, Any]),
        ("encode_prompts", dict[str, Any]),
        ("train", dict[str, Any]),
        ("sample", dict[str, Any]),
        ("evaluate", dict[str, Any]),
        ("rating_page", dict[str, Any]),
        ("export", dict[str, Any]),
        ("train_gpus", str),
        ("stage_gpus", str),
        ("train_selector", dict[str, Any]),
        ("train_tolerations", list[Any]),
    ],
):
    """Check every parameter and setting before anything is started."""
    parameters = dict(locals())

    from collections import namedtuple

    from srpo.configure.run import run_or_exit

    configured = run_or_exit(parameters)
    return namedtuple("Configured", configured)(**configured)


@dsl.component(base_image="srpo-cpu", install_kfp_package=False)
def list_shards(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The configuration of each shard. KFP's local runner sets two terms, and so this is a task of its own.

    It loops only over a task's single, unnamed output, and inside of a loop it takes every value that comes from
    another task for the loop's item. So the item is the whole configuration.
    """
    return [config | {"shard": shard} for shard in range(int(config["shards"]))]


@dsl.component(base_image="srpo-cpu", install_kfp_package=False)
def configure_promotion(
    ratings: str,
    study: str,
    release: str,
    gates: str,
    channel: str,
    who: str,
    partial: bool,
    destination: str,
    workspace: str,
) -> NamedTuple("Promotion", [("collect_ratings", dict[str, Any]), ("decide", dict[str, Any])]):
    """Check every parameter of a promotion before anything is started."""
    parameters = dict(locals())

    from collections import namedtuple

    from srpo.configure.promotion import run
    from srpo.configure.run import run_or_exit

    configured = run_or_exit(parameters, run)
    return namedtuple("Promotion", configured)(**configured)
