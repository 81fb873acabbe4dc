"""What the target's probability p loses as the most salient pixels, or squares, are taken away one after another (AOPC).

With x_k the picture without its k most salient pixels or squares, the mean over k = 0 .. n of p(x) - p(x_k):

pixel_flipping       pixels            Bach et al. 2015, fig. 6; Samek et al. 2017, eq. 12
region_perturbation  squares, by mean  MoRF of Samek et al. 2017, sec. III: 100 of 9 x 9 pixels, turned to noise

Whole pixels are replaced; quantus's PixelFlipping counts channel values as features.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from xbench.plugin import Curve, SaliencyMap, Score, Spec, check_substrate, metric

from .._shared import at_least
from ._curves import AXES, RISE_STEPS, check_steps, counts, mean_curve, number

ROW = "the `random` row"
HUNDRED = Spec("exact", (100,))


def _aopc(responses: list[Tensor]) -> Score:
    """The vector is the curve, p(x) first."""
    curve = mean_curve(responses)
    return Score(float((curve[0] - curve).mean()), tuple(curve.tolist()))


@metric(
    "pixel_flipping",
    kind="faithfulness",
    version="1",
    direction="higher",
    range=(-1, 1),
    chance=ROW,
    axes=AXES,
    cite="bach2015pixel",
)
@dataclass(frozen=True)
class PixelFlipping:
    """Mean loss of the target's probability along the deletion of pixels, most salient first (AOPC). Higher is better."""

    steps: Spec = RISE_STEPS
    substrate: str = "zero"

    def __post_init__(self) -> None:
        check_substrate(self.substrate)
        check_steps(self.steps, "exact")

    def plan(self, map_: SaliencyMap) -> list[Curve]:
        """From the picture to the substrate, by equal shares of the pixels."""
        gone = counts(self.steps, map_.size[0] * map_.size[1], map_.seed)
        return [Curve(ranking, gone, "image", self.substrate) for ranking in map_.rankings]

    def score(self, map_: SaliencyMap, responses: list[Tensor]) -> Score:
        """The mean loss over the points."""
        return _aopc(responses)


@metric(
    "region_perturbation",
    kind="faithfulness",
    version="1",
    direction="higher",
    range=(-1, 1),
    chance=ROW,
    axes=("share of the squares that are replaced", AXES[1]),
    cite="samek2017evaluating",
)
@dataclass(frozen=True)
class RegionPerturbation:
    """Mean loss of the target's probability while the most salient squares turn to noise, one after another. Higher is better.

    side: of a square, in pixels of an input whose shorter side is 224. regions: how many are taken away, at most all.
    steps: ``exact(n)`` looks n times on the way, at most after each square.
    """

    side: int = 9
    regions: int = 100
    steps: Spec = HUNDRED
    substrate: str = "noise"

    def __post_init__(self) -> None:
        check_substrate(self.substrate)
        check_steps(self.steps, "exact")
        at_least(1, side=self.side, regions=self.regions)

    def plan(self, map_: SaliencyMap) -> list[Curve]:
        """From the picture to the substrate, square by square."""
        curves = []
        for ranking, gone in map_.region_rankings(max(1, round(self.side * min(map_.size) / 224))):
            last = min(self.regions, len(gone) - 1)
            looks = dict.fromkeys(round(i * last / number(self.steps)) for i in range(number(self.steps) + 1))
            curves.append(Curve(ranking, tuple(gone[k] for k in looks), "image", self.substrate))
        return curves

    def score(self, map_: SaliencyMap, responses: list[Tensor]) -> Score:
        """The mean loss over the points."""
        return _aopc(responses)
