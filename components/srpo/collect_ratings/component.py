"""The Kubeflow component of the `collect_ratings` stage: typed files out around its ``run``."""

# mypy: disable-error-code="untyped-decorator"

from typing import Any

from kfp import dsl


# The name of the image only; the pipeline puts the released one in its place.
@dsl.component(base_image="srpo-cpu", install_kfp_package=False)
def collect_ratings(
    config: dict[str, Any],
    workspace: str,
    ratings: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """Take in what raters saved, checked against the study's key, and say what they said."""
    import json
    from pathlib import Path

    from srpo.collect_ratings.run import STAGE
    from srpo.core.execution.stage import execute_or_exit

    execute_or_exit(
        STAGE,
        config,
        workspace,
        inputs={},
        outputs={
            "ratings": Path(ratings.path),
            "report": Path(report.path),
            "metrics": Path(metrics.path),
            "summary": Path(summary.path),
        },
    )
    for name, value in json.loads(Path(metrics.path).read_text(encoding="utf-8")).items():
        metrics.log_metric(name, value)
