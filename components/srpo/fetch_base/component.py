"""The Kubeflow component of the `fetch_base` stage: typed files in and out around its ``run``."""

# mypy: disable-error-code="untyped-decorator"

from typing import Any

from kfp import dsl


# The name of the image only; the pipeline puts the released one in its place.
@dsl.component(base_image="srpo-cpu", install_kfp_package=False)
def fetch_base(
    config: dict[str, Any],
    workspace: str,
    models: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Check the base model and both rewards and place them in the workspace."""
    from pathlib import Path

    from srpo.core.execution.stage import execute_or_exit
    from srpo.fetch_base.run import STAGE

    execute_or_exit(
        STAGE,
        config,
        workspace,
        inputs={},
        outputs={"models": Path(models.path), "report": Path(report.path)},
    )
