"""The Kubeflow component of the `evaluate` stage: typed files in and out around its ``run``."""

# mypy: disable-error-code="untyped-decorator"

from typing import Any

from kfp import dsl


# The name of the image only; the pipeline puts the released one in its place.
@dsl.component(base_image="srpo-cpu", install_kfp_package=False)
def evaluate(
    config: dict[str, Any],
    workspace: str,
    samples: dsl.Input[list[dsl.Dataset]],
    checkpoint: dsl.Input[dsl.Model],
    models: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """Compare before and after, with intervals, and say whether the run may be promoted."""
    import json
    from pathlib import Path

    from srpo.core.execution.stage import execute_or_exit
    from srpo.evaluate.run import STAGE

    execute_or_exit(
        STAGE,
        config,
        workspace,
        inputs={
            "samples": [Path(item.path) for item in samples],
            "checkpoint": Path(checkpoint.path),
            "models": Path(models.path),
        },
        outputs={
            "evaluation": Path(evaluation.path),
            "report": Path(report.path),
            "metrics": Path(metrics.path),
            "summary": Path(summary.path),
        },
    )
    for name, value in json.loads(Path(metrics.path).read_text(encoding="utf-8")).items():
        metrics.log_metric(name, value)
