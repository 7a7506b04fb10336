"""The Kubeflow component of the `rating_page` stage: typed files in and out around its ``run``."""

# mypy: disable-error-code="untyped-decorator"

from typing import Any

from kfp import dsl


# The name of the image only; the pipeline puts the released one in its place.
@dsl.component(base_image="srpo-cpu", install_kfp_package=False)
def rating_page(
    config: dict[str, Any],
    workspace: str,
    samples: dsl.Input[list[dsl.Dataset]],
    page: dsl.Output[dsl.Dataset],
    key: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
) -> str:
    """Make the page on which people rate the samples, blind, and the key that stays behind.

    Returns the folder in the workspace where the page stands. It may have gigabytes, and Kubeflow copies an artifact
    into the pod of every stage that takes it: who reads it in part, or not at all, takes this.
    """
    from pathlib import Path

    from srpo.core.execution.stage import execute_or_exit
    from srpo.rating_page.run import STAGE

    result = execute_or_exit(
        STAGE,
        config,
        workspace,
        inputs={"samples": [Path(item.path) for item in samples]},
        outputs={"page": Path(page.path), "key": Path(key.path), "report": Path(report.path)},
    )
    return str(result / "page")
