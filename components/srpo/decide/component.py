"""The Kubeflow component of the `decide` stage: typed files in and out around its ``run``."""

# mypy: disable-error-code="untyped-decorator"

from typing import Any

from kfp import dsl


# The name of the image only; the pipeline puts the released one in its place.
@dsl.component(base_image="srpo-cpu", install_kfp_package=False)
def decide(
    config: dict[str, Any],
    workspace: str,
    ratings: dsl.Input[dsl.Dataset],
    decision: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """Move the channel to the release if every gate holds, and say which does not."""
    import json
    from pathlib import Path

    from srpo.core.execution.stage import execute_or_exit
    from srpo.decide.run import STAGE

    execute_or_exit(
        STAGE,
        config,
        workspace,
        inputs={"ratings": Path(ratings.path)},
        outputs={
            "decision": Path(decision.path),
            "report": Path(report.path),
            "metrics": Path(metrics.path),
            "summary": Path(summary.path),
        },
    )
    for name, value in json.loads(Path(metrics.path).read_text(encoding="utf-8")).items():
        metrics.log_metric(name, value)
