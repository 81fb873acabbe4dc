"""Was what the map calls salient needed, and is it enough? (ERASER, DeYoung et al. 2020), averaged over SHARES of the pixels.

comprehensiveness    p(x) - p(x without them)    eq. 1: large where the most salient pixels were needed
sufficiency          p(x) - p(x with them only)  eq. 2: small where they are enough
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from xbench.plugin import Curve, SaliencyMap, Score, check_substrate, metric

from ._curves import mean_curve

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
ROW, CITE = "the `random` row", "deyoung2020eraser"


@dataclass(frozen=True)
class _Shares:
    """substrate: what stands in for a removed pixel (see xbench.maps.perturbation.SUBSTRATES)."""

    substrate: str = "zero"

    def __post_init__(self) -> None:
        check_substrate(self.substrate)

    def plan(self, map_: SaliencyMap) -> list[Curve]:
        """The picture, then SHARES of its pixels replaced, or replacing."""
        counts = tuple(round(share * map_.size[0] * map_.size[1]) for share in SHARES)
        curves = [Curve(ranking, counts, *self.ends()) for ranking in map_.rankings]
        return [Curve(map_.rankings[0], (0,), "image", self.substrate), *curves]

    def ends(self) -> tuple[str, str]:
        """What the pixels show before, and after."""
        return "image", self.substrate

    def score(self, map_: SaliencyMap, responses: list[Tensor]) -> Score:
        """The mean loss; the vector is p(x) and p at each share."""
        p, curve = responses[0], mean_curve(responses[1:])
        return Score(float((p - curve).mean()), (*p.tolist(), *curve.tolist()))


@metric("comprehensiveness", kind="faithfulness", version="1", direction="higher", range=(-1, 1), chance=ROW, cite=CITE)
@dataclass(frozen=True)
class Comprehensiveness(_Shares):
    """Loss of the target's probability without the most salient pixels, averaged over SHARES of them. Higher is better."""


@metric("sufficiency", kind="faithfulness", version="1", direction="lower", range=(-1, 1), chance=ROW, cite=CITE)
@dataclass(frozen=True)
class Sufficiency(_Shares):
    """Loss of the target's probability with the most salient pixels only, averaged over SHARES of them. Lower is better."""

    def ends(self) -> tuple[str, str]:
        return self.substrate, "image"
