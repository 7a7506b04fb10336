"""The `align` pipeline: from prompts and a base model to an evaluated release."""

# mypy: disable-error-code="untyped-decorator"

from typing import Any

from kfp import dsl

from srpo.cache_rewards.component import cache_rewards
from srpo.configure.component import configure, list_shards
from srpo.encode_prompts.component import encode_prompts
from srpo.evaluate.component import evaluate
from srpo.export.component import export
from srpo.fetch_base.component import fetch_base
from srpo.prepare_prompts.component import prepare_prompts
from srpo.rating_page.component import rating_page
from srpo.sample.component import sample
from srpo.train.component import train
from srpo_pipelines.placement import GpuNodes, place
from srpo_pipelines.resources import KEPT


@dsl.pipeline(
    name="align",
    display_name="Align",
    description="Align an image model with what people prefer (Direct-Align / SRPO), and show whether it worked.",
    pipeline_config=dsl.PipelineConfig(**KEPT),
)
def align(
    model: str = "tiny",
    reward: str = "tiny-clip",
    held_out_reward: str = "tiny-siglip",
    prompts: str = "tiny",
    steps: int = 30,
    batch_size: int = 8,
    learning_rate: float = 3e-5,
    resolution: int = 32,
    seed: int = 0,
    gpus: int = 0,
    gpu_type: str = "nvidia.com/gpu",
    num_nodes: int = 1,
    sample_shards: int = 2,
    destination: str = "/workspace/artifacts",
    workspace: str = "/workspace",
    node_selector: dict[str, Any] = {},  # noqa: B006  (Kubeflow reads the default; nothing writes it)
    tolerations: list[Any] = [],  # noqa: B006
    overrides: dict[str, Any] = {},  # noqa: B006
) -> None:
    """Align an image model with what people prefer.

    Args:
        model: Base model: a catalogue name, the folder of a diffusers pipeline, or a release (s3://bucket/prefix@latest)
        reward: Reward to train on: a catalogue name or a folder, or name=weight,name=weight
        held_out_reward: Reward that only judges: never trained on
        prompts: Prompt files, folders or globs, separated by commas (`a.txt=2` weighs), or `tiny`, the embedded set
        steps: Optimiser steps; the effect peaks early and collapses later
        batch_size: Prompts a step, over all GPUs
        learning_rate: Learning rate of AdamW
        resolution: Height and width of images in pixels, in training and in sampling
        seed: Seed of everything random in the run
        gpus: GPUs of a training pod; 0 trains on CPU
        gpu_type: Kubernetes' name of the GPUs: nvidia.com/gpu, amd.com/gpu, a MIG slice
        num_nodes: Training pods, each with `gpus` GPUs; several are a Kubeflow TrainJob
        sample_shards: Pods that sample in parallel, one GPU each
        destination: Folder that releases are published in
        workspace: Folder on the shared volume for results and checkpoints
        node_selector: Node selector of the GPU stages (Kubernetes JSON)
        tolerations: Tolerations of the GPU stages (Kubernetes JSON)
        overrides: Any other setting, by stage and name (JSON)
    """

    configured = configure(
        model=model,
        reward=reward,
        held_out_reward=held_out_reward,
        prompts=prompts,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        resolution=resolution,
        seed=seed,
        gpus=gpus,
        gpu_type=gpu_type,
        num_nodes=num_nodes,
        sample_shards=sample_shards,
        destination=destination,
        workspace=workspace,
        node_selector=node_selector,
        tolerations=tolerations,
        overrides=overrides,
    )
    place(configured, "configure", "Check the settings")
    config = configured.outputs
    one_gpu = GpuNodes(config["stage_gpus"], gpu_type, node_selector, tolerations)
    all_gpus = GpuNodes(config["train_gpus"], gpu_type, config["train_selector"], config["train_tolerations"])

    base = fetch_base(config=config["fetch_base"], workspace=workspace)
    place(base, "fetch_base", "Fetch the base model")

    # After the base model, whose tokenizers say how long a prompt is.
    prepared = prepare_prompts(config=config["prepare_prompts"], workspace=workspace, models=base.outputs["models"])
    place(prepared, "prepare_prompts", "Prepare prompts")

    given = {"workspace": workspace, "models": base.outputs["models"], "prompts": prepared.outputs["prompts"]}
    cached = cache_rewards(config=config["cache_rewards"], **given)
    place(cached, "cache_rewards", "Cache the rewards' text features", one_gpu)

    encoded = encode_prompts(config=config["encode_prompts"], **given)
    place(encoded, "encode_prompts", "Encode prompts", one_gpu)

    given |= {"embeddings": encoded.outputs["embeddings"], "text_features": cached.outputs["text_features"]}
    trained = train(config=config["train"], **given)
    place(trained, "train", "Train", all_gpus)

    # The number of shards is known at run time only, and another number does not retrain.
    shards = list_shards(config=config["sample"])
    place(shards, "list_shards", "List the shards")
    with dsl.ParallelFor(shards.output, name="shards") as shard:
        sampled = sample(config=shard, checkpoint=trained.outputs["checkpoint"], **given)
        place(sampled, "sample", "Sample and score", one_gpu)

    judged = evaluate(
        config=config["evaluate"],
        workspace=workspace,
        samples=dsl.Collected(sampled.outputs["samples"]),
        checkpoint=trained.outputs["checkpoint"],
        models=base.outputs["models"],
    )
    place(judged, "evaluate", "Evaluate")

    # A page that is sent to people, and its key: two artifacts, since who has both is blind no more.
    rated = rating_page(
        config=config["rating_page"], workspace=workspace, samples=dsl.Collected(sampled.outputs["samples"])
    )
    place(rated, "rating_page", "Make the rating page")

    exported = export(
        config=config["export"],
        workspace=workspace,
        models=base.outputs["models"],
        checkpoint=trained.outputs["checkpoint"],
        evaluation=judged.outputs["evaluation"],
        samples=dsl.Collected(sampled.outputs["samples"]),
        prompts=prepared.outputs["prompts"],
        rating_page=rated.outputs["Output"],  # where it stands; never the key: releases are read by others
    )
    place(exported, "export", "Export the release")
