"""What is compared beyond the whole: categories, earlier releases, plans; and how often chance looks like an effect."""

import json
import re

import numpy as np
import pytest

from srpo.core.contracts.errors import InputError
from srpo.evaluate import comparison, statistics
from srpo.evaluate.config import Config
from srpo.evaluate.verdict import Evidence, decide, effects, watched

GOOD = {"reward.srp": 0.1, "held_out.score": 0.02, "p_realistic": 0.2, "frechet": -0.3}
CONFIG = Config(resamples=400)


def test_six_prompts_are_called_too_few_and_not_without_effect(scene):
    """However large the effect: sign flips of six prompts reach 1/32, and two measures need less than 1/40."""
    scene.shift, scene.prompts, scene.gates = GOOD, 6, ()
    result = scene.result()
    assert (result["kind"], result["passed"], result["effect"]) == ("undecided", False, False)
    assert "too few" in result["verdict"]
    assert "6 prompts where a test of 2 measures needs at least 7" in result["verdict"]
    assert result["tests"]["srp"]["p"] == pytest.approx(1 / 32)
    scene.prompts = 7
    assert scene.result(into="seven")["kind"] == "improved"


def test_no_effect_says_which_effect_would_have_been_found(scene):
    scene.shift = {"reward.srp": 1e-4, "p_realistic": 1e-4}
    result = scene.result()
    assert result["kind"] == "none"
    least = result["smallest"]
    assert 0 < least["srp"] < 0.1
    assert "a true change of 0.0" in result["verdict"]
    assert "would have been found with 80% probability" in result["verdict"]
    assert result["power"] == 0.8


def test_an_effect_in_one_category_is_found_there_alone(scene):
    scene.prompts, scene.gates = 40, ()
    rows = scene.rows()
    generator = np.random.default_rng(1)
    for row in rows:
        if row["model"] == "tuned":
            for name in ("reward.srp", "held_out.score"):
                row["scores"][name] += generator.normal(0.1 * (row["category"] == "anime"), 0.05)
    result = scene.result(folders=scene.write(rows))
    assert {name: entry["prompts"] for name, entry in result["categories"].items()} == {"anime": 20, "photo": 20}
    anime, photo = result["categories"]["anime"], result["categories"]["photo"]
    assert anime["delta"]["srp"]["mean"] == pytest.approx(0.1, abs=0.03)
    assert anime["delta"]["srp"]["low"] > 0
    assert anime["clear"]["srp"]
    assert not photo["clear"]["srp"]
    assert not anime["clear"]["saturation"]
    assert anime["q"]["srp"] >= anime["p"]["srp"]


def test_one_category_is_no_breakdown(scene):
    rows = scene.rows()
    for row in rows:
        row["category"] = "photo"
    assert scene.result(folders=scene.write(rows))["categories"] == {}


def test_an_earlier_release_is_compared_with_the_tuned_model(scene):
    scene.shift = GOOD
    rows = scene.rows()
    for row in [row for row in rows if row["model"] == "tuned"]:
        earlier = row | {"model": "tiny-srpo-1", "image": row["image"].replace("tuned", "earlier")}
        scores = row["scores"] | {"saturation": row["scores"]["saturation"] - 0.05}
        rows.append(earlier | {"scores": scores})
    folders = scene.write(rows)
    out = scene.evaluate(folders)
    result = json.loads((out / "evaluation" / "evaluation.json").read_text())
    (entry,) = [result["releases"]["tiny-srpo-1"]]
    assert entry["delta"]["saturation"]["mean"] == pytest.approx(0.05)
    assert entry["clear"]["saturation"]
    assert not entry["clear"]["srp"]
    assert entry["before"]["srp"] == pytest.approx(result["after"]["srp"])
    assert result["images"] == 72, "base and tuned alone make the verdict"
    page = (out / "report.html").read_text().partition("Against the release tiny-srpo-1")[2].partition("</table>")[0]
    bold = re.findall(r'<th scope="row">([^<]+)</th>(?:(?!</tr>).)*class="n clear"', page)
    assert bold == ["saturation"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plans: plans[1].update(own=[]), "lack 1 of 2 blocks of the plan, the first is 1: all 2 shards"),
        (lambda plans: plans[1].update(digest="other"), "shards of different runs"),
        (lambda plans: plans.pop(), "shards of different runs"),
    ],
)
def test_a_missing_or_foreign_shard_is_seen_by_the_plan(scene, change, message):
    folders = scene.write()
    plans = [{"digest": "d", "blocks": [[], []], "shards": 2, "own": [shard]} for shard in range(2)]
    for into in ("whole", "spoilt"):
        for folder, plan in zip(folders, plans, strict=False):
            (folder / "plan.json").write_text(json.dumps(plan))
        if into == "whole":
            scene.evaluate(folders, into)
            change(plans)
            (folders[-1] / "plan.json").unlink()
    with pytest.raises(InputError, match=message):
        scene.evaluate(folders, "refused")


def test_every_reward_that_was_trained_on_is_aimed_at_and_watched():
    names = [
        "content",
        "held_out",
        "held_out_srp",
        "p_realistic",
        "reward_2_score",
        "reward_2_srp",
        "reward_score",
        "srp",
    ]
    assert effects(names) == ["reward_2_srp", "srp", "p_realistic"]
    assert watched(names) == ["reward_2_srp", "srp", "held_out", "p_realistic", "content"]


def null_studies(number, prompts):
    """Comparisons of a model with itself at other noise: five measures [N, 5, number], and their prompts."""
    generator = np.random.default_rng(2)
    cluster = np.repeat(np.arange(prompts), 2)
    shared = generator.normal(0, 1, (prompts, 1, number))  # measures of one image go together
    of_prompt = (shared + generator.normal(0, 1, (prompts, 5, number)))[cluster]
    return of_prompt + generator.normal(0, 0.5, (2 * prompts, 5, number)), cluster


def test_chance_alone_is_rarely_called_an_effect():
    """Of 400 studies without any difference, at most 1 in 20 is called anything but "no effect"."""
    names = ["srp", "p_realistic", "held_out", "content", "reward_score"]
    values, cluster = null_studies(400, 20)
    flat = values.reshape(len(values), -1)
    p = statistics.sign_flip_p(flat, cluster, 400, 0).reshape(5, -1)
    found = statistics.mean_interval(flat, cluster, 0.95)
    low, mean, high = (side.reshape(5, -1) for side in (found.low, found.mean, found.high))
    kinds, searched = [], 0
    for study in range(400):
        chances = dict(zip(names, p[:, study].tolist(), strict=True))
        delta = {
            name: {"mean": mean[k, study], "low": low[k, study], "high": high[k, study]} for k, name in enumerate(names)
        }
        tests = comparison.effect_tests(chances, delta, CONFIG)
        evidence = Evidence(
            {name: bool(test["clear"]) for name, test in tests.items()},
            comparison.watched_tests(chances),
            dict.fromkeys(names, 1.0),
            20,
            0.05,
            0.8,
        )
        zero = {name: {"mean": 0.0, "low": 0.0, "high": 0.0} for name in names}
        kinds.append(decide({"before": zero, "after": zero, "delta": delta}, evidence, []))
        looked, _ = comparison.searched_tests(chances, {}, CONFIG)
        searched += any(test["clear"] for test in looked.values())
    assert sum(kind.effect for kind in kinds) <= 0.05 * 400
    assert sum(kind.kind != "none" for kind in kinds) <= 0.06 * 400, "effects, and harm that is no chance"
    assert sum(kind.may_pass for kind in kinds) <= 0.03 * 400
    assert searched <= 0.06 * 400
