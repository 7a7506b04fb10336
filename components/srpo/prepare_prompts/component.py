"""The Kubeflow component of the `prepare_prompts` stage: typed files in and out around its ``run``."""

# mypy: disable-error-code="untyped-decorator"

from typing import Any

from kfp import dsl


# The name of the image only; the pipeline puts the released one in its place.
@dsl.component(base_image="srpo-cpu", install_kfp_package=False)
def prepare_prompts(
    config: dict[str, Any],
    workspace: str,
    models: dsl.Input[dsl.Model],
    prompts: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Read every prompt source into one table: cleaned, split, refusals on record."""
    import json
    from pathlib import Path

    from srpo.core.execution.stage import execute_or_exit
    from srpo.prepare_prompts.run import STAGE

    execute_or_exit(
        STAGE,
        config,
        workspace,
        inputs={"models": Path(models.path)},
        outputs={"prompts": Path(prompts.path), "report": Path(report.path), "metrics": Path(metrics.path)},
    )
    for name, value in json.loads(Path(metrics.path).read_text(encoding="utf-8")).items():
        metrics.log_metric(name, value)
