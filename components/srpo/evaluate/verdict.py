"""What the comparison says, in one honest sentence."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from srpo.evaluate.gates import accepted_costs

LOWER_IS_BETTER = frozenset({"frechet"})
TRAINED = "srp"
JUDGE = ("p_realistic", "content", "frechet")  # independent: never a reward
GUARDS = (TRAINED, "held_out", *JUDGE)  # what must not get worse
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
    """``kind`` is improved, cost, unconfirmed, hacked, mixed, worse or none."""

    kind: str
    headline: str
    numbers: list[str]
    effect: bool  # the trained reward or the judged realism moved, clear of zero after correction

    @property
    def sentence(self) -> str:
        """Headline and numbers as one sentence."""
        return f"{self.headline}: {'; '.join(self.numbers)}."

    @property
    def may_pass(self) -> bool:
        """Whether gates that pass are enough: an effect for the better, at no cost but what a gate accepts."""
        return self.kind in ("improved", "cost", "unconfirmed")


def decide(summary: Summary, clear: Mapping[str, bool], gates: list[dict[str, Any]]) -> Verdict:
    """The verdict on ``summary``; ``clear`` says of each tested name whether its delta is not 0 after correction."""
    delta = summary["delta"]
    gained = [name for name, moved in clear.items() if moved and delta[name]["mean"] > 0]
    worse = [name for name in GUARDS if name in delta and _clearly_worse(name, delta[name])]
    accepted = accepted_costs(gates, LOWER_IS_BETTER)
    harm = [name for name in worse if name not in accepted]
    if gained and harm and TRAINED in gained:
        kind, headline = "hacked", f"Reward hacking is likely, the trained reward rose but {_list(harm)} got worse"
    elif gained and harm:
        kind, headline = "mixed", f"The images are {_list(gained)} more often but {_list(harm)} got worse"
    elif gained and worse:
        kind, headline = (
            "cost",
            f"Training helped, {_list(gained)} rose, at a cost in {_list(worse)} that the gates accept",
        )
    elif gained == [TRAINED] and "p_realistic" in delta:
        kind, headline = "unconfirmed", "The trained reward rose, but the independent judge sees no more realism"
    elif gained:
        kind, headline = "improved", f"Training helped, {_list(gained)} rose and nothing watched got clearly worse"
    elif worse:
        kind, headline = "worse", f"Training made it worse, {_list(worse)} got worse and nothing was gained"
    elif all(entry["low"] == entry["mean"] == entry["high"] == 0 for entry in delta.values()):
        kind, headline = "none", "No effect was found, every number is the same before and after"
    else:
        kind, headline = "none", "No effect was found"
    numbers = [_number(name, summary) for name in GUARDS if name in delta]
    if not any(name in delta for name in JUDGE):
        numbers.append("no independent judge has seen these images, so only people's ratings can confirm it")
    return Verdict(kind, headline, numbers, any(clear.values()))


def _clearly_worse(name: str, delta: Mapping[str, float]) -> bool:
    return delta["low"] > 0 if name in LOWER_IS_BETTER else delta["high"] < 0


def _number(name: str, summary: Summary) -> str:
    before, after, delta = (summary[moment][name] for moment in ("before", "after", "delta"))
    note = ", lower is better" if name in LOWER_IS_BETTER else ""
    return (
        f"{label(name)} {show(before['mean'])} → {show(after['mean'])} "
        f"({show(delta['mean'], sign=True)} [{show(delta['low'], sign=True)}, {show(delta['high'], sign=True)}]{note})"
    )


def label(name: str) -> str:
    """A name in a reader's words."""
    return LABELS.get(name, name.replace("_", " "))


def show(value: float, sign: bool = False) -> str:
    """A number as people read it: three significant digits, a true minus; ``sign`` shows a plus too."""
    if value == 0:
        return "0"
    places = 4 if abs(value) < 0.1 else 3 if abs(value) < 10 else 1
    text = f"{value:.{places}f}" if 1e-4 <= abs(value) < 1e5 else f"{value:.2g}"
    return ("+" if sign and value > 0 else "") + text.replace("-", "−")


def _list(names: list[str]) -> str:
    words = [label(name) for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
