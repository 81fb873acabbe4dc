"""ROAD: remove and debias (Rong et al. 2022): what removing pixels changes, when nothing shows that something was removed.

With x_q the picture of which a share q of the pixels is replaced by noisy linear imputation, most salient first (MoRF) or least
salient first (LeRF), both ends of one order, and p the target's probability:

road_morf   mean over q of p(x_q) - p(x), most salient first     lower is better
road_lerf   mean over q of p(x_q) - p(x), least salient first    higher is better
road        half the difference of both, (LeRF - MoRF) / 2       higher is better; 0 = the order does not matter

The three share their forward passes. Noise is the item's own, the same for all methods and shares.

Other implementations differ: the authors count right predictions over a dataset; pytorch-grad-cam takes a percentile of the map's
*values*, so that of a map with many zeros all pixels go at once, and ranks 1 - map anew for the least salient; its noise and
quantus's are not seeded; quantus counts channel values and reads the first batch only.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from xbench.plugin import Along, Curve, Pictures, Request, SaliencyMap, Score, generator, metric

from .._shared import at_least
from ._curves import mean_curve
from ._imputation import impute, noisy

CITE, CHANCE = "rong2022consistent", "the `random` row"


@dataclass(frozen=True)
class Imputed(Along):
    """The picture without the first pixels of a ranking, or the last, imputed."""

    most_salient: bool
    seed: str

    def draw(self, point: int, pictures: Pictures, out: Tensor) -> None:
        seen, ranks, count = pictures.of("image", self.row), self.ranking.ranks, self.counts[point]
        removed = (ranks < count if self.most_salient else ranks >= ranks.numel() - count).to(seen.device)
        out.copy_(noisy(impute(seen, removed), removed, generator(self.seed, "road")))


@dataclass(frozen=True)
class _Road:
    """points: how many shares q, k / (points + 1) each: 10 to 90 % by default."""

    points: int = 9

    def __post_init__(self) -> None:
        at_least(1, points=self.points)

    def plan(self, map_: SaliencyMap) -> list[Request]:
        """The picture; then for each order of the map the most salient removed, and the least salient."""
        pixels = map_.size[0] * map_.size[1]
        counts = tuple(round((k + 1) * pixels / (self.points + 1)) for k in range(self.points))
        orders = [Imputed(ranking, counts, most, map_.seed) for most in (True, False) for ranking in map_.rankings]
        return [Curve(map_.rankings[0], (0,), "image", "zero"), *orders]

    def changes(self, responses: list[Tensor]) -> tuple[Tensor, Tensor]:
        """p(x_q) - p(x), most salient first and least salient first, ``[points]`` each."""
        p, half = responses[0], (len(responses) - 1) // 2
        return mean_curve(responses[1 : 1 + half]) - p, mean_curve(responses[1 + half :]) - p


@metric("road_morf", kind="faithfulness", version="1", direction="lower", range=(-1, 1), chance=CHANCE, cite=CITE)
@dataclass(frozen=True)
class RoadMostRelevantFirst(_Road):
    """Mean change of the target's probability as the most salient pixels are imputed. Lower is better."""

    def score(self, map_: SaliencyMap, responses: list[Tensor]) -> Score:
        """The vector is the change at each share."""
        most, _ = self.changes(responses)
        return Score(float(most.mean()), tuple(most.tolist()))


@metric("road_lerf", kind="faithfulness", version="1", direction="higher", range=(-1, 1), chance=CHANCE, cite=CITE)
@dataclass(frozen=True)
class RoadLeastRelevantFirst(_Road):
    """Mean change of the target's probability as the least salient pixels are imputed. Higher is better."""

    def score(self, map_: SaliencyMap, responses: list[Tensor]) -> Score:
        """The vector is the change at each share."""
        _, least = self.changes(responses)
        return Score(float(least.mean()), tuple(least.tolist()))


@metric("road", kind="faithfulness", version="1", direction="higher", range=(-0.5, 0.5), chance="0", cite=CITE)
@dataclass(frozen=True)
class Road(_Road):
    """Half of what imputing the least salient pixels leaves more than imputing the most salient ones. Higher is better."""

    def score(self, map_: SaliencyMap, responses: list[Tensor]) -> Score:
        """The vector is half the difference at each share."""
        most, least = self.changes(responses)
        combined = (least - most) / 2
        return Score(float(combined.mean()), tuple(combined.tolist()))
