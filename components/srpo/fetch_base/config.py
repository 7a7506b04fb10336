"""Every default of the `fetch_base` stage."""

import dataclasses

from srpo.core.contracts.errors import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Which models the run uses: a name of the catalogue or the path of a folder."""

    model: str = "tiny"
    reward: str = "tiny-clip"
    held_out_reward: str = "tiny-siglip"

    def __post_init__(self) -> None:
        for name in ("model", "reward", "held_out_reward"):
            require(bool(getattr(self, name).strip()), name, getattr(self, name), "a catalogue name or a folder")
        require(
            self.reward != self.held_out_reward,
            "held_out_reward",
            self.held_out_reward,
            "another reward than the one trained on: it is what tells a real gain from a hacked one",
        )
