"""Every default of the `fetch_base` stage."""

import dataclasses
from typing import Any

from srpo.core.contracts.config import place
from srpo.core.contracts.errors import require


def _plain(value: Any) -> Any:
    """A setting as JSON has it, and a whole number as such: Kubeflow makes 32.0 of each 32 inside of a mapping."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return list(value) if isinstance(value, tuple) else value


# The settings of the stages that come after, with which a base must be able to go.
REHEARSED = {
    "encode_prompts": ("max_sequence_length",),
    "train": (
        *("resolution", "rollout_steps", "schedule", "shift", "guidance", "true_guidance"),
        *("lora_rank", "lora_targets"),
    ),
    "sample": ("resolution", "steps", "schedule", "shift", "guidance", "true_guidance"),
    "export": ("formats",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Which models the run uses: a name of the catalogue or the path of a folder; the base may be a release, too.

    Several rewards are trained on as a weighted sum: ``"name=1.0,other=0.5"``.
    """

    model: str = "tiny"
    reward: str = "tiny-clip"
    held_out_reward: str = "tiny-siglip"

    # Where models come from and are kept. None of these makes another result.
    catalogue: str = place("")  # a catalogue file of your own, beside the built-in one
    cache: str = place("")  # folder of the cache; empty: $SRPO_MODEL_CACHE, else `models` in the workspace
    mirror: str = place("")  # s3://bucket/prefix as the cache's second level, shared by clusters
    offline: bool = place(False)  # everything from the cache and the mirror, or one list of what is missing

    # What the run will do with the models, by `stage.setting`: gone through by shapes alone (filled by `configure`).
    rehearsal: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rehearsal", {name: _plain(value) for name, value in self.rehearsal.items()})
        for name in ("model", "reward", "held_out_reward"):
            require(bool(getattr(self, name).strip()), name, getattr(self, name), "a catalogue name or a folder")
        require(
            not self.mirror or self.mirror.startswith("s3://"), "mirror", self.mirror, "s3://bucket/prefix or empty"
        )
        names = [name for name, _ in self.weighted_rewards()]
        require(len(set(names)) == len(names), "reward", self.reward, "a list that names every reward once")
        require(
            self.held_out_reward not in names,
            "held_out_reward",
            self.held_out_reward,
            "another reward than the one trained on: it is what tells a real gain from a hacked one",
        )

    def weighted_rewards(self) -> list[tuple[str, float]]:
        """The rewards to train on with their weights, in order; raises :class:`InputError` for a bad weight."""
        rewards = []
        for part in self.reward.split(","):
            name, _, weight = part.strip().partition("=")
            try:
                number = float(weight or 1)
            except ValueError:
                number = 0.0
            require(
                bool(name) and 0 < number < float("inf"), "reward", self.reward, "'name' or 'name=weight,other=0.5'"
            )
            rewards.append((name, number))
        return rewards
