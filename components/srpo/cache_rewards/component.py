"""The Kubeflow component of the `cache_rewards` stage: typed files in and out around its ``run``."""

# mypy: disable-error-code="untyped-decorator"

from typing import Any

from kfp import dsl


# The name of the image only; the pipeline puts the released one in its place.
@dsl.component(base_image="srpo-gpu", install_kfp_package=False)
def cache_rewards(
    config: dict[str, Any],
    workspace: str,
    models: dsl.Input[dsl.Model],
    prompts: dsl.Input[dsl.Dataset],
    text_features: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Text features of every prompt under the control words, for each reward."""
    from pathlib import Path

    from srpo.cache_rewards.run import STAGE
    from srpo.core.execution.stage import execute_or_exit

    execute_or_exit(
        STAGE,
        config,
        workspace,
        inputs={"models": Path(models.path), "prompts": Path(prompts.path)},
        outputs={"text_features": Path(text_features.path), "report": Path(report.path)},
    )
