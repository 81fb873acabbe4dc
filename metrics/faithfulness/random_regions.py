"""Does the saliency of a random region say how much the target's probability falls without it?

With S_1 .. S_n random regions of the item, the same for all methods, phi(S) the sum of the map over a region, and
delta(S) = p(x) - p(x with S replaced by the substrate):

infidelity                min over b >= 0 of mean_i (b phi(S_i) - delta(S_i))^2   Yeh et al. 2019, def. 2.1, square removal
faithfulness_correlation  Pearson correlation of phi(S_i) and delta(S_i)          Bhatt et al. 2020, def. 3; S of equal size

A map is worth one number a pixel, so a region is removed wholly and its map is summed: the form of both for attributions that
already hold the input. Scale does not count: infidelity takes the best one, as captum's ``normalize=True`` does, which however
lets it be negative, so that a map and its negation score the same there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from xbench.plugin import Curve, Hidden, Request, SaliencyMap, Score, check_substrate, metric

from .._shared import at_least
from ._regions import Regions, Squares, Subsets

Sums = NDArray[np.float64]


@dataclass(frozen=True)
class _ByRegions(ABC):
    """n: regions for each item. substrate: what they turn into (see xbench.maps.perturbation.SUBSTRATES)."""

    n: int = 64
    substrate: str = "zero"
    regions: ClassVar[type[Regions]]

    def __post_init__(self) -> None:
        check_substrate(self.substrate)
        at_least(3, n=self.n)

    def plan(self, map_: SaliencyMap) -> list[Request]:
        """The picture, and it without each region: the same for all methods."""
        picture = Curve(map_.rankings[0], (0,), "image", self.substrate)
        return [picture, Hidden(map_.row, self._regions(map_), self.substrate)]

    def score(self, map_: SaliencyMap, responses: list[Tensor]) -> Score:
        """From p(x) and p without each region."""
        p, without = responses
        return self.compare(self._regions(map_).sums(map_.full).numpy(), (p - without).numpy())

    def _regions(self, map_: SaliencyMap) -> Regions:
        return self.regions(map_.seed, map_.size, self.n)

    @abstractmethod
    def compare(self, phi: Sums, delta: Sums) -> Score:
        """The value of one item, from what the map says of each region and what the target lost without it."""


@metric(
    "infidelity", kind="faithfulness", version="1", direction="lower", range=(0, 1), chance="the `constant` row", cite="yeh2019on"
)
@dataclass(frozen=True)
class Infidelity(_ByRegions):
    """Mean squared error of a map, at its best scale, for what the target loses without random squares. Lower is better."""

    regions: ClassVar[type[Regions]] = Squares

    def compare(self, phi: Sums, delta: Sums) -> Score:
        power = float(phi @ phi)
        scale = max(0.0, float(phi @ delta)) / power if power > 0 else 0.0
        return Score(float(np.mean((scale * phi - delta) ** 2)))


@metric(
    "faithfulness_correlation",
    kind="faithfulness",
    version="1",
    direction="higher",
    range=(-1, 1),
    chance="0",
    cite="bhatt2020evaluating",
)
@dataclass(frozen=True)
class FaithfulnessCorrelation(_ByRegions):
    """Correlation of what a map says of random subsets with what the target loses without them. Higher is better, in [-1, 1].

    0 for a map that gives all subsets the same. Not applicable where all subsets cost the target the same.
    """

    regions: ClassVar[type[Regions]] = Subsets

    def compare(self, phi: Sums, delta: Sums) -> Score:
        if np.ptp(delta) == 0:
            return Score(not_applicable="every subset costs the target the same")
        if np.ptp(phi) <= 1e-12 * np.abs(phi).max():  # differences that rounding alone makes
            return Score(0.0)
        return Score(float(np.corrcoef(phi, delta)[0, 1]))

    def score(self, map_: SaliencyMap, responses: list[Tensor]) -> Score:
        """As above; the cells of a constant map may differ by their sizes, which says nothing."""
        found = super().score(map_, responses)
        return Score(0.0) if map_.constant and not found.not_applicable else found
