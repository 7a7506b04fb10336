"""The Kubeflow component of the `sample` stage: typed files in and out around its ``run``."""

# mypy: disable-error-code="untyped-decorator"

from typing import Any

from kfp import dsl


# The name of the image only; the pipeline puts the released one in its place.
@dsl.component(base_image="srpo-gpu", install_kfp_package=False)
def sample(
    config: dict[str, Any],
    workspace: str,
    models: dsl.Input[dsl.Model],
    prompts: dsl.Input[dsl.Dataset],
    embeddings: dsl.Input[dsl.Dataset],
    text_features: dsl.Input[dsl.Dataset],
    checkpoint: dsl.Input[dsl.Model],
    samples: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Sample one shard of held-out prompts from the base and the tuned model, same noise, and score the images."""
    from pathlib import Path

    from srpo.core.execution.stage import execute_or_exit
    from srpo.sample.run import STAGE

    execute_or_exit(
        STAGE,
        config,
        workspace,
        inputs={
            "models": Path(models.path),
            "prompts": Path(prompts.path),
            "embeddings": Path(embeddings.path),
            "text_features": Path(text_features.path),
            "checkpoint": Path(checkpoint.path),
        },
        outputs={"samples": Path(samples.path), "report": Path(report.path)},
    )
