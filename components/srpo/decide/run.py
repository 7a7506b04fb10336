"""Hold a candidate release and its ratings against the gates; move the channel only if every one holds."""

import hashlib
import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.gates import Gates, check, read_gates, reward_aliases
from srpo.core.execution.stage import Context, Stage
from srpo.core.ratings.protocol import DIMENSIONS, OVERALL
from srpo.core.ratings.report import headline
from srpo.core.ratings.summary import SCHEMA, gate_summary
from srpo.core.reports.page import page, paragraph, table
from srpo.core.storage.files import write_json, write_text
from srpo.core.storage.known_hashes import KnownHashes
from srpo.core.storage.locations import destination_of
from srpo.core.storage.releases import move_channel, read_channel, read_release, require_as_pointed
from srpo.core.storage.stores import open_store
from srpo.decide.config import Config

CANDIDATE = "candidate"
DEFAULT_GATES = Path(__file__).with_name("gates.yaml")
# What people can be asked about; a gate on something that this study has not got fails, and is no mistake.
MEASURABLE = tuple(
    f"ratings.{name}.{measure}" for name in (*DIMENSIONS, OVERALL) for measure in ("excellent", "net_win")
)


@dataclass(frozen=True)
class Inputs:
    """What people said: ratings.json, with the study that they were asked in."""

    ratings: Path


@dataclass(frozen=True)
class Outputs:
    """``decision``: decision.json: release, channel, promoted, and each gate with its value and whether it holds."""

    decision: Path
    report: Path
    metrics: Path
    summary: Path


def run(config: Config, inputs: Inputs, outputs: Outputs, context: Context) -> None:
    """Read release and ratings, check that they belong together, check every gate, move the channel or leave it."""
    destination, release = destination_of(config.destination), release_of(config)
    rules = read_gates(gates_file(config))
    manifest = read_release(destination, release)
    said = read_said(inputs.ratings / "ratings.json")
    require_same_model(said, manifest)
    results = judge(rules, manifest, read_evaluation(destination, manifest), said)
    failed = [result["condition"] for result in results if not result["passed"]]
    people = {name: said[name] for name in ("study", "mode", "prompts", "net_win")}
    record = {"who": config.who or "not stated", "gates": results, "ratings": people | {"raters": len(said["used"])}}
    if not failed:
        move_channel(destination, config.channel, release, record)
    now = read_channel(destination, config.channel)
    decision = {
        "schema": "srpo.decision/1",
        "destination": str(destination),
        "release": release,
        "channel": config.channel,
        "promoted": not failed,
        "failed": failed,
        "gates": results,
        "ratings": headline(said),
        "points_to": now["release"] if now else None,
    }
    write_json(outputs.decision / "decision.json", decision)
    write_json(outputs.metrics, {"promoted": float(not failed), "gates": len(results), "failed": len(failed)})
    write_text(outputs.report, report(decision))
    write_text(outputs.summary, markdown(decision))
    context.progress(1, 1, promoted=not failed)


def judge(
    rules: Gates, manifest: Mapping[str, Any], evaluation: Mapping[str, Any], said: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Each gate with its value and whether it holds: the automatic ones, how many rated how much, the conditions."""
    people, scores = gate_summary(said), scores_of(evaluation)
    names = {role: str(model["name"]) for role, model in manifest.get("licences", {}).items()}
    counts = (
        ("minimum_raters", rules.minimum_raters, len(said["used"])),
        ("minimum_prompts", rules.minimum_prompts, int(said["prompts"])),
    )
    candidate = bool(manifest.get("candidate"))
    return [
        {"condition": "the release passed its automatic gates", "value": float(candidate), "passed": candidate},
        *({"condition": f"{name}: {least}", "value": there, "passed": there >= least} for name, least, there in counts),
        *check(
            rules.gates,
            {moment: {**scores[moment], **people[moment]} for moment in scores},
            reward_aliases(names),
            MEASURABLE,
        ),
    ]


def release_of(config: Config) -> str:
    """The id of the release that is judged.

    Raises:
        InputError: there is no candidate, or it is not what the channel was moved to.
    """
    if config.release:
        return config.release
    destination = destination_of(config.destination)
    candidate = read_channel(destination, CANDIDATE)
    if candidate is None:
        raise InputError(
            f"release is '', and {config.destination} has no candidate: it must be the id of a release, or a run whose "
            "automatic gates hold must have come first"
        )
    release = str(candidate["release"])
    require_as_pointed(candidate, read_release(destination, release), f"{config.destination}/releases/{release}")
    return release


def require_same_model(said: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Raise InputError unless people rated the images of this release's own model."""
    trained = manifest.get("stages", {}).get("train", {}).get("key", "")
    if said["checkpoint"] != trained:
        raise InputError(
            f"study {said['study']!r} is about the model of the training {said['checkpoint'][:12]!r}: it must be about "
            f"that of the release {manifest['id']!r}, {trained[:12]!r}"
        )


def scores_of(evaluation: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The evaluation's numbers as gates read them: ``[before, after or delta][name][mean, low or high]``."""
    intervals = evaluation.get("intervals", {})
    return {
        "before": dict(intervals.get("before", {})),
        "after": dict(intervals.get("after", {})),
        "delta": dict(evaluation["delta"]),
    }


def read_evaluation(destination: str | Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The release's evaluation.json, as it was published."""
    store, name = open_store(destination), f"releases/{manifest['id']}/evaluation.json"
    data = store.read(name)
    hashes = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    if data is None or hashlib.sha256(data).hexdigest() != hashes.get("evaluation.json"):
        raise InputError(f"{store.where(name)} is missing or changed: it must be what the release was published with")
    return dict(json.loads(data))


def read_said(path: Path) -> dict[str, Any]:
    """What people said; raises InputError for another file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise InputError(f"{path} is of another schema: it must be {SCHEMA!r}")
    return value


def gates_file(config: Config) -> Path:
    """The file of the gates."""
    return Path(config.gates) if config.gates else DEFAULT_GATES


def sentence(decision: Mapping[str, Any]) -> str:
    """What was decided, in one sentence."""
    if decision["promoted"]:
        return f"Every gate holds: {decision['channel']} is now {decision['release']}."
    points = f"still {decision['points_to']}" if decision["points_to"] else "still nothing"
    count = f"{len(decision['failed'])} of {len(decision['gates'])} gates fail"
    return f"{count}, so {decision['channel']} is {points}: {'; '.join(decision['failed'])}."


def shown(value: float | None) -> str:
    """A gate's value as text."""
    return "not measured" if value is None else f"{value:.4g}"


def report(decision: Mapping[str, Any]) -> str:
    """The decision as a page."""
    rows = [
        ["holds" if gate["passed"] else "FAILS", gate["condition"], shown(gate["value"])] for gate in decision["gates"]
    ]
    title = f"{decision['release']}: {'promoted' if decision['promoted'] else 'not promoted'}"
    parts = [paragraph(sentence(decision)), paragraph(f"People: {decision['ratings']}")]
    return page(title, *parts, table(["", "gate", "value"], rows))


def markdown(decision: Mapping[str, Any]) -> str:
    """The decision for the pipeline's UI."""
    gates = [
        f"- {'holds' if gate['passed'] else '**FAILS**'}: `{gate['condition']}` ({shown(gate['value'])})"
        for gate in decision["gates"]
    ]
    return "\n".join([f"**{html.escape(sentence(decision))}**", "", html.escape(decision["ratings"]), "", *gates, ""])


def fingerprint(config: Config) -> Any:
    """The release's manifest and the gates: both are outside of the inputs."""
    release = release_of(config)
    path = gates_file(config)
    gates = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    return [release, read_release(destination_of(config.destination), release).get("digest"), gates]


def intact(result: Path, workspace: Path, known: KnownHashes) -> str:
    """What is wrong with the channel: it must still point where the decision put it."""
    decision = json.loads((result / "decision" / "decision.json").read_text(encoding="utf-8"))
    now = read_channel(decision["destination"], decision["channel"])
    points = now["release"] if now else None
    return "" if points == decision["points_to"] else f"{decision['channel']} points to {points} by now"


STAGE = Stage(
    name="decide", config=Config, inputs=Inputs, outputs=Outputs, run=run, fingerprint=fingerprint, intact=intact
)
