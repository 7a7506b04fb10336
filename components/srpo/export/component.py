"""The Kubeflow component of the `export` stage: typed files in and out around its ``run``."""

# mypy: disable-error-code="untyped-decorator"

from typing import Any

from kfp import dsl


# The name of the image only; the pipeline puts the released one in its place.
@dsl.component(base_image="srpo-cpu", install_kfp_package=False)
def export(
    config: dict[str, Any],
    workspace: str,
    models: dsl.Input[dsl.Model],
    checkpoint: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Dataset],
    samples: dsl.Input[list[dsl.Dataset]],
    prompts: dsl.Input[dsl.Dataset],
    rating_page: str,
    release: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Publish the tuned model as a release; it becomes the candidate only if the evaluation passed.

    ``rating_page`` is where the page stands in the workspace: a large one is left out, and need not be copied for that.
    """
    from pathlib import Path

    from srpo.core.execution.stage import execute_or_exit
    from srpo.export.run import STAGE

    execute_or_exit(
        STAGE,
        config,
        workspace,
        inputs={
            "models": Path(models.path),
            "checkpoint": Path(checkpoint.path),
            "evaluation": Path(evaluation.path),
            "samples": [Path(item.path) for item in samples],
            "prompts": Path(prompts.path),
            "rating_page": Path(rating_page),
        },
        outputs={"release": Path(release.path), "report": Path(report.path)},
    )
