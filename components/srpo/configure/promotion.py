"""The parameters of the `promote` pipeline, and the configuration of its stages."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from srpo.collect_ratings.config import Config as CollectRatings
from srpo.configure.parameters import STAGES, described
from srpo.core.contracts.config import from_mapping
from srpo.decide.config import Config as Decide

PROMOTION: dict[str, type[Any]] = {"collect_ratings": CollectRatings, "decide": Decide}
ALL_STAGES: dict[str, type[Any]] = {**STAGES, **PROMOTION}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Promotion:
    """The parameters of the `promote` pipeline, in the order of the form."""

    ratings: str = described("", "Files that the rating page saved, or one table of ratings, separated by commas")
    study: str = described("", "The study's key: key.json or its folder")
    release: str = described("", "Release to promote: its id; empty is the candidate")
    gates: str = described(
        "", "YAML file with gates, minimum_raters and minimum_prompts; empty for those that come with the stage"
    )
    channel: str = described("latest", "Channel to move if every gate holds")
    who: str = described("", "Who promotes, for the record; empty is not stated")
    partial: bool = described(False, "Whether to take raters who stopped early, as far as they came")
    destination: str = described("/workspace/artifacts", "Folder or S3 URI that releases are published in")
    workspace: str = described("/workspace", "Folder on the shared volume for results")


def stage_configs(parameters: Promotion) -> dict[str, dict[str, Any]]:
    """The whole configuration of both stages, checked: ``{stage: {setting: value}}``.

    Raises:
        InputError: a parameter that a stage cannot take.
    """
    given: dict[str, dict[str, Any]] = {
        "collect_ratings": {
            "ratings": [name.strip() for name in parameters.ratings.split(",") if name.strip()],
            "study": parameters.study,
            "partial": parameters.partial,
        },
        "decide": {name: getattr(parameters, name) for name in ("destination", "release", "channel", "gates", "who")},
    }
    return {stage: dataclasses.asdict(from_mapping(config, given[stage], stage)) for stage, config in PROMOTION.items()}


def run(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Check the parameters and give each stage its settings; raises InputError naming what does not fit."""
    return stage_configs(from_mapping(Promotion, parameters, "parameters"))
