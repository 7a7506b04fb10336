"""The Kubeflow component of the `encode_prompts` stage: typed files in and out around its ``run``."""

# mypy: disable-error-code="untyped-decorator"

from typing import Any

from kfp import dsl


# The name of the image only; the pipeline puts the released one in its place.
@dsl.component(base_image="srpo-gpu", install_kfp_package=False)
def encode_prompts(
    config: dict[str, Any],
    workspace: str,
    models: dsl.Input[dsl.Model],
    prompts: dsl.Input[dsl.Dataset],
    embeddings: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Embed every prompt once with the text encoders of the base model."""
    from pathlib import Path

    from srpo.core.execution.stage import execute_or_exit
    from srpo.encode_prompts.run import STAGE

    execute_or_exit(
        STAGE,
        config,
        workspace,
        inputs={"models": Path(models.path), "prompts": Path(prompts.path)},
        outputs={"embeddings": Path(embeddings.path), "report": Path(report.path)},
    )
