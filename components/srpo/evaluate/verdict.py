"""What the comparison says, in one honest sentence."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from srpo.evaluate.gates import accepted_costs
from srpo.evaluate.statistics import clusters_needed

LOWER_IS_BETTER = frozenset({"frechet"})
TRAINED = "srp"  # of the first reward; those of others are reward_2_srp, reward_3_srp, ...
REALISTIC = "p_realistic"
JUDGE = (REALISTIC, "content", "frechet")  # independent: never a reward
LABELS = {
    "srp": "trained reward",
    "held_out": "held-out reward",
    "p_realistic": "judged realistic",
    "content": "content kept",
    "frechet": "Fréchet distance",
    "reward_score": "trained reward, plain",
    "held_out_srp": "held-out reward, relative",
}
Summary = Mapping[str, Mapping[str, Mapping[str, float]]]  # [before, after or delta][name][mean, low or high]


class Verdict(NamedTuple):
    """``kind`` is improved, cost, unconfirmed, hacked, mixed, worse, none or undecided."""

    kind: str
    headline: str
    numbers: list[str]
    effect: bool  # a reward that was trained on or the judged realism moved, clear of zero after correction

    @property
    def sentence(self) -> str:
        """Headline and numbers as one sentence."""
        return f"{self.headline}: {'; '.join(self.numbers)}."

    @property
    def may_pass(self) -> bool:
        """Whether gates that pass are enough: an effect for the better, at no cost but what a gate accepts."""
        return self.kind in ("improved", "cost", "unconfirmed")


class Evidence(NamedTuple):
    """What the tests found."""

    clear: Mapping[str, bool]  # of each of :func:`effects`: its delta is not 0, after correction
    worse_p: Mapping[str, float]  # of each of :func:`watched`: the corrected p-value that its delta is 0
    smallest: Mapping[str, float]  # the smallest effect that would have been found
    prompts: int
    alpha: float
    power: float


def trained(names: Iterable[str]) -> list[str]:
    """The measures that training maximised."""
    return [name for name in names if name == TRAINED or re.fullmatch(r"reward_\d+_srp", name)]


def effects(names: Iterable[str]) -> list[str]:
    """The measures that say whether training did anything."""
    names = list(names)
    return trained(names) + [name for name in names if name == REALISTIC]


def watched(names: Iterable[str]) -> list[str]:
    """The measures that must not get worse: rewards trained on, held-out rewards, the judge's."""
    names = list(names)
    held_out = [name for name in names if re.fullmatch(r"held_out(_\d+_score)?", name)]
    return trained(names) + held_out + [name for name in JUDGE if name in names]


def decide(summary: Summary, evidence: Evidence, gates: list[dict[str, Any]]) -> Verdict:
    """The verdict on ``summary``."""
    delta, clear = summary["delta"], evidence.clear
    gained = [name for name, moved in clear.items() if moved and delta[name]["mean"] > 0]
    # A loss stops a release as soon as its own interval says so. Among several measures one does so by chance more
    # often than a single one would, so that training *made it worse* is said only after correction.
    worse = [name for name in watched(delta) if _clearly_worse(name, delta[name])]
    beyond_chance = [name for name in worse if evidence.worse_p[name] < evidence.alpha]
    accepted = accepted_costs(gates, LOWER_IS_BETTER)
    harm = [name for name in worse if name not in accepted]
    needed = clusters_needed(max(1, len(clear)), evidence.alpha)
    numbers = [_number(name, summary) for name in watched(delta)]
    if gained and harm and trained(gained):
        kind, headline = "hacked", f"Reward hacking is likely, the trained reward rose but {_list(harm)} got worse"
    elif gained and harm:
        kind, headline = "mixed", f"The images are {_list(gained)} more often but {_list(harm)} got worse"
    elif gained and worse:
        kind, headline = (
            "cost",
            f"Training helped, {_list(gained)} rose, at a cost in {_list(worse)} that the gates accept",
        )
    elif gained and gained == trained(gained) and REALISTIC in delta:
        kind, headline = "unconfirmed", "The trained reward rose, but the independent judge sees no more realism"
    elif gained:
        kind, headline = "improved", f"Training helped, {_list(gained)} rose and nothing watched got clearly worse"
    elif beyond_chance:
        kind, headline = "worse", f"Training made it worse, {_list(beyond_chance)} got worse and nothing was gained"
    elif all(entry["low"] == entry["mean"] == entry["high"] == 0 for entry in delta.values()):
        kind, headline = "none", "No effect was found, every number is the same before and after"
    elif evidence.prompts < needed:
        kind, headline = (
            "undecided",
            f"These samples are too few to show any effect, {evidence.prompts} prompts where a test of {len(clear)} "
            f"measures needs at least {needed}",
        )
    else:
        kind, headline = "none", "No effect was found"
        if worse:
            headline += f", though {_list(worse)} got worse, by no more than chance explains among so many measures"
        numbers.append(_could_have_shown(evidence))
    if not any(name in delta for name in JUDGE):
        numbers.append("no independent judge has seen these images, so only people's ratings can confirm it")
    return Verdict(kind, headline, numbers, any(clear.values()))


def _clearly_worse(name: str, delta: Mapping[str, float]) -> bool:
    return delta["low"] > 0 if name in LOWER_IS_BETTER else delta["high"] < 0


def _could_have_shown(evidence: Evidence) -> str:
    least = [f"{show(evidence.smallest[name])} in {label(name)}" for name in evidence.clear]
    return f"a true change of {' and '.join(least)} would have been found with {evidence.power:.0%} probability"


def _number(name: str, summary: Summary) -> str:
    before, after, delta = (summary[moment][name] for moment in ("before", "after", "delta"))
    note = ", lower is better" if name in LOWER_IS_BETTER else ""
    return (
        f"{label(name)} {show(before['mean'])} → {show(after['mean'])} "
        f"({show(delta['mean'], sign=True)} [{show(delta['low'], sign=True)}, {show(delta['high'], sign=True)}]{note})"
    )


def label(name: str) -> str:
    """A name in a reader's words."""
    if match := re.fullmatch(r"reward_(\d+)_(srp|score)", name):
        return f"trained reward {match[1]}" + (", plain" if match[2] == "score" else "")
    return LABELS.get(name, name.replace("_", " "))


def show(value: float, sign: bool = False) -> str:
    """A number as people read it: three significant digits, a true minus; ``sign`` shows a plus too."""
    if value == 0:
        return "0"
    places = 4 if abs(value) < 0.1 else 3 if abs(value) < 10 else 1
    text = f"{value:.{places}f}" if 1e-4 <= abs(value) < 1e5 else f"{value:.1e}"
    if 1e-6 <= abs(value) < 1e-4:
        text = f"{value:.6f}"
    return ("+" if sign and value > 0 else "") + text.replace("-", "−")


def _list(names: list[str]) -> str:
    words = [label(name) for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
