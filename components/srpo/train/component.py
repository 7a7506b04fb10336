"""The Kubeflow component of the `train` stage: typed files in and out around its ``run``."""

# mypy: disable-error-code="untyped-decorator"

from typing import Any

from kfp import dsl


# The name of the image only; the pipeline puts the released one in its place.
@dsl.component(base_image="srpo-gpu", install_kfp_package=False)
def train(
    config: dict[str, Any],
    workspace: str,
    models: dsl.Input[dsl.Model],
    prompts: dsl.Input[dsl.Dataset],
    embeddings: dsl.Input[dsl.Dataset],
    text_features: dsl.Input[dsl.Dataset],
    checkpoint: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Align the transformer with Direct-Align and the relative reward (SRPO)."""
    import json
    from pathlib import Path

    from srpo.core.execution.stage import execute_or_exit
    from srpo.train.run import STAGE

    execute_or_exit(
        STAGE,
        config,
        workspace,
        inputs={
            "models": Path(models.path),
            "prompts": Path(prompts.path),
            "embeddings": Path(embeddings.path),
            "text_features": Path(text_features.path),
        },
        outputs={"checkpoint": Path(checkpoint.path), "report": Path(report.path), "metrics": Path(metrics.path)},
    )
    for name, value in json.loads(Path(metrics.path).read_text(encoding="utf-8")).items():
        metrics.log_metric(name, value)
