"""Every default of the `evaluate` stage."""

import dataclasses

from srpo.core.contracts.errors import require
from srpo.evaluate.gates import parse, require_measure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """How before and after are compared, what must hold for a release, and how much the page shows."""

    confidence: float = 0.95  # of every interval; 1 - confidence is also the error rate of the corrected tests
    resamples: int = 2000  # sign flips of the tests
    frechet_resamples: int = 400  # the same for the Fréchet distance, and draws of whole prompts for its interval
    power: float = 0.8  # with which the smallest effect that the sample could have shown would be found
    seed: int = 0
    # "<name>.<before|after|delta>[.low|.high|.mean] <op> <number>"; all must hold for `passed`.
    gates: tuple[str, ...] = ("srp.delta.low > 0", "held_out.delta.low > -0.02")

    # The page.
    grid_pairs: int = 36  # pairs of images in the even selection over all prompts
    extreme_pairs: int = 4  # pairs in each group of the most changed, best and worst
    thumbnail: int = 256  # longest side in pixels in the even selection; images of at most 64 pixels are shown whole
    zoom: int = 768  # the same for the most changed, best and worst, which are there to be looked into

    def __post_init__(self) -> None:
        require(0.5 <= self.confidence < 1, "confidence", self.confidence, "at least 0.5 and below 1")
        require(200 <= self.resamples <= 100_000, "resamples", self.resamples, "a whole number from 200 to 100000")
        require(
            100 <= self.frechet_resamples <= 100_000,
            "frechet_resamples",
            self.frechet_resamples,
            "a whole number from 100 to 100000",
        )
        require(0.5 <= self.power < 1, "power", self.power, "at least 0.5 and below 1")
        require(self.seed >= 0, "seed", self.seed, "a whole number of at least 0")
        require(0 <= self.grid_pairs <= 200, "grid_pairs", self.grid_pairs, "a whole number from 0 to 200")
        require(0 <= self.extreme_pairs <= 50, "extreme_pairs", self.extreme_pairs, "a whole number from 0 to 50")
        require(32 <= self.thumbnail <= 512, "thumbnail", self.thumbnail, "a whole number from 32 to 512")
        require(32 <= self.zoom <= 2048, "zoom", self.zoom, "a whole number from 32 to 2048")
        for condition in self.gates:
            require_measure(parse(condition))
