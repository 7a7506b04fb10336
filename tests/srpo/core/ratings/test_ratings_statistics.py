"""The statistics against published examples, scipy and statsmodels, and by simulation with known truth."""

import numpy as np
import pandas as pd
import pytest
import ratings_intervals
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.anova import anova_lm
from studies import crossed, export, fair, make_study, save

from srpo.core.ratings import intervals
from srpo.core.ratings.agreement import check_rater, krippendorff_alpha
from srpo.core.ratings.bradley_terry import strengths, strengths_with_errors
from srpo.core.ratings.protocol import GRADES, overall
from srpo.core.ratings.study import Rules
from srpo.core.ratings.summary import gate_summary, summarise
from srpo.core.ratings.table import about, collect

NAN = float("nan")
# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability": four observers, twelve units.
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]
# Agresti, Categorical Data Analysis, 1987 American League: wins of the row's team over the column's, and the estimates.
TEAMS = [
    [0, 7, 9, 7, 7, 9, 11],
    [6, 0, 7, 5, 11, 9, 9],
    [4, 6, 0, 7, 7, 8, 12],
    [6, 8, 6, 0, 6, 7, 10],
    [6, 2, 6, 7, 0, 7, 12],
    [4, 4, 5, 6, 6, 0, 6],
    [2, 4, 1, 3, 1, 7, 0],
]
ESTIMATES = [1.581, 1.436, 1.294, 1.248, 1.108, 0.684, 0]


def test_alpha_is_that_of_the_published_example():
    assert krippendorff_alpha(np.array(OBSERVERS).T) == pytest.approx(0.815, abs=5e-4)


def test_alpha_of_full_agreement_of_chance_and_of_nothing():
    same = np.tile(np.array([[1.0], [2], [3], [4]]), 3)
    assert krippendorff_alpha(same) == 1
    assert abs(krippendorff_alpha(np.random.default_rng(0).integers(0, 4, (4000, 3)).astype(float))) < 0.03
    assert krippendorff_alpha(np.ones((5, 3))) is None
    assert krippendorff_alpha(np.array([[1.0, NAN], [NAN, 2.0]])) is None
    assert krippendorff_alpha(np.full((2, 2), NAN)) is None


def test_strengths_are_those_of_the_published_example():
    first, second, won = [], [], []
    for one, row in enumerate(TEAMS):
        for other, wins in enumerate(row):
            first += [one] * wins
            second += [other] * wins
            won += [1.0] * wins
    found = strengths(np.array(first), np.array(second), np.array(won), 7, prior=0)
    assert found - found[-1] == pytest.approx(ESTIMATES, abs=2e-3)


def test_a_model_that_always_wins_has_a_finite_strength():
    found = strengths(np.zeros(30, int), np.ones(30, int), np.ones(30), 2)
    assert found[0] > 1
    assert np.isfinite(found).all()


def test_of_a_whole_table_the_error_is_that_of_the_analysis_of_variance():
    generator = np.random.default_rng(4)
    prompt, rater = crossed(5, 12)
    values = generator.normal(0, 1, 60) + generator.normal(0, 1, 12)[prompt] + generator.normal(0, 2, 5)[rater]
    frame = pd.DataFrame({"y": values, "p": prompt, "r": rater})
    square = anova_lm(smf.ols("y ~ C(p) + C(r)", frame).fit())["mean_sq"]
    found = intervals.two_way(values[:, None], prompt, rater)
    total = square["C(p)"] + square["C(r)"] - square["Residual"]
    assert found.error[0] ** 2 == pytest.approx(total / 60)
    freedom = total**2 / (square["C(p)"] ** 2 / 11 + square["C(r)"] ** 2 / 4)
    assert found.freedom[0] == pytest.approx(freedom)


def test_raters_who_agree_fully_leave_the_t_interval_over_prompts():
    prompt, rater = crossed(4, 15)
    values = np.random.default_rng(2).normal(0.3, 1, 15)
    low, high = intervals.two_way(values[prompt][:, None], prompt, rater).interval(0.95)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high))


def test_raters_of_different_prompts_leave_the_t_interval_over_raters():
    generator = np.random.default_rng(2)
    rater = np.repeat(np.arange(4), [3, 5, 9, 2])
    values = generator.normal(0, 1, len(rater)) + generator.normal(0, 5, 4)[rater]
    low, high = intervals.two_way(values[:, None], np.arange(len(rater)), rater).interval(0.95)
    own = [values[rater == one].mean() for one in range(4)]
    expected = stats.ttest_1samp(own, 0).confidence_interval(0.95)
    assert (low[0] + high[0]) / 2 == pytest.approx(np.mean(own))
    assert high[0] - low[0] == pytest.approx(expected.high - expected.low, rel=0.05)


def test_of_one_rater_or_one_prompt_nothing_follows_for_others():
    for raters, prompts in ((1, 20), (20, 1)):
        low, high = intervals.two_way(np.ones((20, 1)), *crossed(raters, prompts)).interval(0.95)
        assert (low[0], high[0]) == (-np.inf, np.inf)
        assert [float(part[0]) for part in intervals.share(np.ones((20, 1)), *crossed(raters, prompts), 0.95)] == [
            1,
            0,
            1,
        ]


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 5), st.integers(2, 8), st.floats(0, 1), st.integers(0, 1000))
def test_an_interval_of_a_share_holds_it_and_stays_within_0_and_1(raters, prompts, chance, seed):
    values = (np.random.default_rng(seed).random((raters * prompts, 1)) < chance).astype(float)
    mean, low, high = (float(part[0]) for part in intervals.share(values, *crossed(raters, prompts), 0.95))
    assert 0 <= low <= mean <= high <= 1
    assert high - low > 0.02


GRID = {(row.name, row.measure, row.prompts): row for row in ratings_intervals.rows()}
HARD = [
    ("3 raters, all of 100", "delta", 100),
    ("3 raters: 100, 10, 10", "win", 100),
    ("3 raters: 64, 64, 6", "delta", 64),
    ("5 raters: 500, four with 50", "win", 500),
    ("10 raters: three with 500, seven with 50", "win", 500),
    ("10 raters, all of 4", "delta", 4),
    ("5 raters, strong rater effects", "win", 64),
    ("10 raters, nearly all won", "win", 64),
    ("3 raters, 97 % ties, 16 prompts", "win", 16),
    ("10 raters, all of 64, strong rater effects", "share", 64),
]


@pytest.mark.parametrize("place", HARD, ids=lambda place: " ".join(map(str, place)))
def test_intervals_cover_the_truth_and_a_null_study_is_not_promoted(place):
    """A part of the grid that `benchmarks/ratings_intervals.py` publishes."""
    found = ratings_intervals.measure(GRID[place], studies=500, seed=1)
    assert found["covers"] >= 0.93
    assert found["no_width"] == 0
    assert max(found.get("null_above", 0), found.get("null_below", 0)) <= 0.05


def test_a_rater_counts_once_however_many_ratings_they_gave():
    rater, prompt = np.repeat([0, 1, 2], [90, 10, 10]), np.concatenate([np.arange(90), np.arange(10), np.arange(10)])
    values = (rater > 0).astype(float)[:, None]
    mean, low, high = (part[0] for part in intervals.difference(values, prompt, rater, 0.95))
    assert mean == pytest.approx(2 / 3)
    assert low < 0 < mean < high


def test_two_prompts_or_two_raters_who_agree_prove_nothing():
    for raters, prompts in ((3, 2), (2, 64)):
        _, low, high = intervals.difference(np.ones((raters * prompts, 1)), *crossed(raters, prompts), 0.95)
        assert low[0] < 0
        assert high[0] == 1


def test_a_plain_interval_over_ratings_would_not_cover():
    """What the effects of raters and prompts are counted for."""
    row = GRID["3 raters, all of 100", "win", 100]
    _, _, values, truth = ratings_intervals.simulate(row, row.gain, 500, np.random.default_rng(0))
    reach = 1.96 * values.std(0, ddof=1) / np.sqrt(len(values))
    assert np.mean(np.abs(values.mean(0) - truth) <= reach) < 0.9


def test_a_real_gain_is_found():
    row = ratings_intervals.Row("5 raters, all of 100", (100,) * 5, 100, of_rater=0.3, of_prompt=0.5)
    prompt, rater, values, _ = ratings_intervals.simulate(row, 1.0, 200, np.random.default_rng(0))
    _, low, _ = intervals.difference(values, prompt, rater, 0.95)
    assert np.mean(low > 0) > 0.9


@pytest.mark.real
@pytest.mark.parametrize("raters", [3, 5, 10])
def test_intervals_of_strengths_cover_the_truth(raters):
    generator = np.random.default_rng(raters)
    truth = np.array([-0.5, 0.0, 0.5])
    prompts, pairs = 20, [(0, 1), (0, 2), (1, 2)]
    prompt, rater = crossed(raters, prompts)
    first, second = np.repeat(pairs, len(prompt), axis=0).T
    covered = []
    for _ in range(1000):
        chance = 1 / (1 + np.exp(truth[second] - truth[first]))
        won = (generator.random(len(first)) < chance).astype(float)
        low, high = strengths_with_errors(first, second, won, 3, np.tile(prompt, 3), np.tile(rater, 3)).interval(0.95)
        covered.append((low <= truth) & (truth <= high))
    assert np.mean(covered, axis=0).min() >= 0.93


@pytest.mark.parametrize(
    ("grades", "expected"),
    [
        ("eeee", "excellent"),
        ("eeeg", "good"),
        ("ggpp", "good"),
        ("egpp", "good"),
        ("gppp", "pass"),
        ("eppp", "pass"),
        ("eeef", "fail"),
        ("pppp", "pass"),
    ],
)
def test_the_overall_grade_is_the_papers(grades, expected):
    names = {grade[0]: grade for grade in GRADES}
    assert overall([names[letter] for letter in grades]) == expected


def test_checks_of_a_rater_and_the_rules():
    row = {
        "position": 0,
        "item": "i",
        "kind": "item",
        "dimension": "realism",
        "answer": "good",
        "correct": None,
        "seconds": 5.0,
    }
    gold = [row | {"kind": "gold", "item": f"g{place}", "correct": place < 1, "position": place} for place in (0, 1, 2)]
    row |= {"position": 3}
    again = [row | {"kind": "repeat", "position": place, "answer": "fail"} for place in (7, 8, 9)]
    assert check_rater([row, *gold[1:]], Rules()).excluded == ""  # two checks are too few to judge by
    found = check_rater([row, *gold, *again], Rules())
    assert (found.gold, found.repeats, found.seconds) == ((1, 3), (0, 3), 5.0)
    assert found.excluded == "gold accuracy 1 of 3 is below 0.5; self-agreement 0 of 3 is below 0.4"
    assert check_rater([row, *gold], Rules(gold_accuracy=0.3)).excluded == ""
    assert "median time" in check_rater([row | {"seconds": 0.2}], Rules()).excluded


def careless(item, dimension):
    """Everything is excellent, gold included."""
    return "excellent"


def summary_of(tmp_path, study, says):
    return summarise(
        collect([save(tmp_path, export(study, name, say)) for name, say in says.items()], study), about(study)
    )


def test_a_rater_who_fails_the_gold_is_left_out_and_named(tmp_path):
    found = summary_of(tmp_path, make_study(), {"ann": fair, "ben": fair, "eve": careless})
    assert found["used"] == ["ann", "ben"]
    assert "gold accuracy 0 of" in found["raters"]["eve"]["excluded"]
    assert found["shares"]["realism"]["tuned"]["mean"] == 1
    assert found["shares"]["overall"]["tuned"]["mean"] == 0
    assert found["net_win"]["realism"]["mean"] == 1
    known = gate_summary(found)
    assert known["delta"]["ratings.realism.excellent"]["mean"] == 1
    assert known["after"]["ratings.realism.excellent"]["mean"] == 1
    assert known["delta"]["ratings.realism.net_win"]["mean"] == 1


def test_pairs_count_a_win_on_either_side(tmp_path):
    found = summary_of(tmp_path, make_study("pair"), {"ann": fair, "ben": fair})
    assert found["net_win"]["overall"]["mean"] == 1
    assert found["shares"] == {}
    assert found["strengths"] == {}


@pytest.mark.parametrize("mode", ["grade", "pair"])
def test_strengths_come_with_three_models(tmp_path, mode):
    study = make_study(mode, ("base", "v1", "tuned"))
    found = summary_of(tmp_path, study, {"ann": fair, "ben": fair})
    realism = found["strengths"]["realism"]
    assert realism["tuned"]["mean"] > 1
    assert realism["base"]["mean"] == pytest.approx(realism["v1"]["mean"], abs=1e-6)
    assert found["net_win"]["realism"]["mean"] == 1


def test_one_rater_alone_proves_nothing(tmp_path):
    found = summary_of(tmp_path, make_study(), {"ann": fair})
    assert found["delta"]["realism"] == {"mean": 1.0, "low": -1, "high": 1}
