"""A release moves to `latest` only when people and scores say so, and what fails is said; by the stages themselves."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from studies import crossed, export, fair, make_study, save

from srpo.collect_ratings.run import STAGE as COLLECT
from srpo.core.contracts.errors import InputError
from srpo.core.contracts.gates import check, parse, read_gates, reward_aliases
from srpo.core.execution.stage import execute
from srpo.core.ratings import intervals
from srpo.core.ratings.plan import fnv1a
from srpo.core.ratings.study import write_study
from srpo.core.storage.releases import Item, move_channel, publish, read_channel, read_record
from srpo.decide.run import DEFAULT_GATES, STAGE, judge, sentence


class Scene:
    """A destination with a candidate, a study about it, and raters."""

    def __init__(self, root: Path) -> None:
        self.root, self.workspace = root, root / "workspace"
        self.destination = root / "releases"
        self.study = make_study(prompts=12)
        (root / "key").mkdir()
        write_study(root / "key", self.study)
        self.release("r1")
        move_channel(self.destination, "candidate", "r1")

    def release(self, name: str, candidate: bool = True, checkpoint: str = "c1", commit: str = "") -> None:
        entry = {"mean": 0.01, "low": -0.001, "high": 0.02}
        evaluation = {"delta": {"held_out": entry, "srp": entry}, "intervals": {"before": {}, "after": {"srp": entry}}}
        publish(
            self.destination,
            name,
            [Item.of_text("evaluation.json", json.dumps(evaluation))],
            {
                "candidate": candidate,
                "git_commit": commit,
                "stages": {"train": {"key": checkpoint}},
                "licences": {"held_out": {"name": "/models/hpsv2"}},
            },
        )

    def rate(self, *says, raters=("ann", "ben", "cho")) -> list[str]:
        """Files of raters who all say ``says``; returns their paths."""
        return [str(save(self.root, export(self.study, name, says[0] if says else fair))) for name in raters]

    def promote(self, files: list[str], **config) -> dict:
        """The decision."""
        collected, out = self.root / "collected", self.root / "out"
        execute(
            COLLECT, {"ratings": files, "study": str(self.root / "key")}, self.workspace, {}, {"ratings": collected}
        )
        settings = {"destination": str(self.destination)} | config
        execute(STAGE, settings, self.workspace, {"ratings": collected}, {"decision": out})
        return json.loads((out / "decision.json").read_text())

    def gates(self, text: str) -> str:
        path = self.root / "gates.yaml"
        path.write_text(text)
        return str(path)

    @property
    def latest(self) -> str | None:
        channel = read_channel(self.destination, "latest")
        return channel and channel["release"]


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


def better(item, dimension):
    """Tuned is better in everything, gold is told."""
    if item.gold:
        return item.gold.accepted[0]
    return "excellent" if item.models == ("tuned",) else "good"


def unsure(item, dimension):
    """Each model is better by a coin's fall."""
    if item.gold:
        return item.gold.accepted[0]
    return ("excellent", "good")[fnv1a(item.id) % 2]


def test_every_gate_holds_and_latest_moves_with_its_record(scene):
    decision = scene.promote(scene.rate(better), who="Ada")
    assert decision["promoted"] is True
    assert all(gate["passed"] for gate in decision["gates"])
    assert scene.latest == "r1"
    record = read_record(scene.destination, read_channel(scene.destination, "latest")["record"])
    assert record["ratings"]["raters"] == 3
    assert record["who"] == "Ada"
    assert record["time"] == read_channel(scene.destination, "latest")["time"]
    assert [gate["condition"] for gate in record["gates"]] == [gate["condition"] for gate in decision["gates"]]


def test_what_people_do_not_see_is_not_promoted_and_it_is_said(scene):
    decision = scene.promote(scene.rate(unsure))
    assert decision["promoted"] is False
    assert scene.latest is None
    assert decision["failed"] == ["ratings.overall.net_win.delta.low > 0", "ratings.alignment.net_win.delta.low > -0.1"]
    assert "2 of 5 gates fail, so latest is still nothing: ratings.overall" in sentence(decision)


def test_two_raters_are_too_few(scene):
    decision = scene.promote(scene.rate(better, raters=("ann", "ben")))
    assert decision["failed"][0] == "minimum_raters: 3"
    assert "ratings.overall.net_win.delta.low > 0" in decision["failed"]  # of two nothing follows for others
    assert scene.latest is None


def test_raters_who_are_left_out_do_not_count(scene):
    files = scene.rate(better, raters=("ann", "ben")) + scene.rate(lambda item, dimension: "good", raters=("eve",))
    assert "minimum_raters: 3" in scene.promote(files)["failed"]


def test_without_any_rater_left_gates_fail_and_nothing_crashes(scene):
    decision = scene.promote(scene.rate(lambda item, dimension: "excellent"))
    assert "minimum_raters: 3" in decision["failed"]
    assert [gate["value"] for gate in decision["gates"]][1:] == [0, 0, None, None]


def test_a_release_that_failed_its_automatic_gates_is_not_promoted(scene):
    scene.release("r2", candidate=False)
    decision = scene.promote(scene.rate(better), release="r2")
    assert decision["failed"] == ["the release passed its automatic gates"]


def test_gates_of_a_file_read_scores_and_ratings(scene):
    gates = """
        minimum_raters: 3
        gates:
          - held_out.hpsv2.delta.low > -0.002
          - ratings.realism.excellent.delta.low > 0
          - srp.after.low > 0
    """
    decision = scene.promote(scene.rate(better), gates=scene.gates(gates))
    values = {gate["condition"]: gate["value"] for gate in decision["gates"][3:]}
    assert values["held_out.hpsv2.delta.low > -0.002"] == values["srp.after.low > 0"] == -0.001
    assert 0 < values["ratings.realism.excellent.delta.low > 0"] < 1
    assert decision["failed"] == ["srp.after.low > 0"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gates: [ratings.realsm.excellent.delta.low > 0]", "did you mean 'ratings.realism.excellent'"),
        ("gates: [srp > 0]", "a gate must be"),
        ("gate: [srp.delta > 0]", "did you mean 'gates'"),
        ("minimum_raters: 3", "gates is missing"),
        ("gates: []", "at least one condition"),
        ("minimum_raters: -1\ngates: [srp.delta > 0]", "minimum_raters is -1"),
        ("[1]", "it must be a mapping"),
        ("gates: {", "cannot be read as YAML"),
    ],
)
def test_gates_that_say_nothing_are_refused(scene, text, said):
    with pytest.raises(InputError, match=said):
        scene.promote(scene.rate(better), gates=scene.gates(text))
    assert scene.latest is None


def test_ratings_of_another_model_are_refused(scene):
    scene.release("r3", checkpoint="c9")
    with pytest.raises(InputError, match="it must be about that of the release 'r3'"):
        scene.promote(scene.rate(better), release="r3")
    assert scene.latest is None


def test_no_candidate_and_no_release_are_told(scene):
    with pytest.raises(InputError, match="it is not a whole release"):
        scene.promote(scene.rate(better), release="none")
    with pytest.raises(InputError, match="has no candidate"):
        scene.promote(scene.rate(better), destination=str(scene.root / "empty"))


def test_a_changed_evaluation_is_refused(scene):
    (scene.destination / "releases/r1/evaluation.json").write_text("{}")
    with pytest.raises(InputError, match="missing or changed"):
        scene.promote(scene.rate(better))


def test_a_candidate_that_was_published_anew_is_judged_only_when_the_channel_means_it(scene):
    files = scene.rate(better)
    shutil.rmtree(scene.destination / "releases/r1")
    scene.release("r1", commit="another")
    with pytest.raises(InputError, match="releases/r1 is not what the channel was moved to"):
        scene.promote(files)
    move_channel(scene.destination, "candidate", "r1")
    assert scene.promote(files)["promoted"] is True


def test_the_same_again_changes_nothing_and_a_channel_that_was_moved_is_judged_anew(scene):
    files = scene.rate(better)
    scene.promote(files)
    before = read_channel(scene.destination, "latest")
    scene.promote(files)
    assert read_channel(scene.destination, "latest") == before
    scene.release("r0")
    move_channel(scene.destination, "latest", "r0")
    scene.promote(files)
    assert scene.latest == "r1"


def test_conditions_take_names_with_parts():
    gate = parse("held_out.hpsv2.1.delta.low > -0.002")
    assert (gate.name, gate.moment, gate.side) == ("held_out.hpsv2.1", "delta", "low")
    entry = {"mean": 0.2, "low": 0.1, "high": None}
    summary = {moment: {"held_out": entry, "reward_score": entry} for moment in ("before", "after", "delta")}
    aliases = reward_aliases({"held_out": "hpsv2.1", "base": "x"})
    found = check(["held_out.hpsv2.1.delta > 0", "reward.score.delta > 0", "held_out.delta.high > 0"], summary, aliases)
    assert [one["passed"] for one in found] == [True, True, False]
    for bad, said in (("srp.delta.lwo > 0", "did you mean 'low'"), ("a.dleta.low > 0", "did you mean 'delta'")):
        with pytest.raises(InputError, match=said):
            parse(bad)


@pytest.mark.parametrize("raters", [3, 5, 10])
def test_a_null_study_is_promoted_in_at_most_one_of_twenty(raters):
    """1,000 studies in which both models are as good, through the gates that come with the stage."""
    generator, prompts, studies = np.random.default_rng(raters), 40, 1000
    prompt, rater = crossed(raters, prompts)
    low = {}
    for name in ("overall", "alignment"):
        taste = (
            generator.normal(0, 0.5, (raters, studies))[rater] + generator.normal(0, 0.7, (prompts, studies))[prompt]
        )
        leaning = taste + generator.normal(0, 1, (raters * prompts, studies))
        won = np.sign(np.where(np.abs(leaning) < 0.3, 0, leaning))
        low[name] = intervals.difference(won, prompt, rater, 0.95)[1]
    rules = read_gates(DEFAULT_GATES)
    promoted = 0
    for study in range(studies):
        entry = {name: {"mean": 0.0, "low": float(values[study]), "high": 1.0} for name, values in low.items()}
        said = {"shares": {}, "delta": {}, "net_win": entry, "used": ["r"] * raters, "prompts": prompts}
        evaluation = {"delta": {}, "intervals": {}}
        promoted += all(one["passed"] for one in judge(rules, {"candidate": True}, evaluation, said))
    assert promoted <= 0.05 * studies
    assert stats.binom.sf(promoted, studies, 0.05) > 0.5
