"""The `promote` pipeline: from people's ratings to the decision whether a release becomes `latest`."""

# mypy: disable-error-code="untyped-decorator"

from kfp import dsl

from srpo.collect_ratings.component import collect_ratings
from srpo.configure.component import configure_promotion
from srpo.decide.component import decide
from srpo_pipelines.placement import place
from srpo_pipelines.resources import KEPT


@dsl.pipeline(
    name="promote",
    display_name="Promote",
    description="Move a channel to a release that people have rated, if every gate holds, and say which does not.",
    pipeline_config=dsl.PipelineConfig(**KEPT),
)
def promote(
    ratings: str = "",
    study: str = "",
    release: str = "",
    gates: str = "",
    channel: str = "latest",
    who: str = "",
    partial: bool = False,
    destination: str = "/workspace/artifacts",
    workspace: str = "/workspace",
) -> None:
    """Move a channel to a release that people have rated, if every gate holds.

    Args:
        ratings: Files that the rating page saved, or one table of ratings, separated by commas
        study: The study's key: key.json or its folder
        release: Release to promote: its id; empty is the candidate
        gates: YAML file with gates, minimum_raters and minimum_prompts; empty for those that come with the stage
        channel: Channel to move if every gate holds
        who: Who promotes, for the record; empty is not stated
        partial: Whether to take raters who stopped early, as far as they came
        destination: Folder or S3 URI that releases are published in
        workspace: Folder on the shared volume for results
    """
    configured = configure_promotion(
        ratings=ratings,
        study=study,
        release=release,
        gates=gates,
        channel=channel,
        who=who,
        partial=partial,
        destination=destination,
        workspace=workspace,
    )
    place(configured, "configure_promotion", "Check the settings")

    collected = collect_ratings(config=configured.outputs["collect_ratings"], workspace=workspace)
    place(collected, "collect_ratings", "Collect the ratings")

    decided = decide(config=configured.outputs["decide"], workspace=workspace, ratings=collected.outputs["ratings"])
    place(decided, "decide", "Check the gates and promote")
