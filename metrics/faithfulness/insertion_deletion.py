"""Insertion and deletion (RISE, Petsiuk et al. 2018): the target's probability as pixels come or go, most salient first.

steps=exact(n)        n + 1 points at equal shares of the pixels, both ends included; the area is the trapezoid rule over [0, 1]:
                      (sum - first/2 - last/2) / n
steps=stratified(k)   one point in each of k equal strata and both ends; all at one random place of their strata, seeded by the
                      item, so that all methods share it. mean + (first - last) * (mean place - 1/2) is the trapezoid rule over
                      all pixels in expectation, from far fewer points; one item's estimate may be outside of [0, 1] by 1 / (2 k)

Other implementations differ: RISE takes 224 * 8 pixels a step, some leave out an end point or divide by the number of points.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from xbench.plugin import Curve, SaliencyMap, Score, Spec, check_output, check_substrate, metric

from ._curves import AXES, RISE_STEPS, area, check_steps, counts, mean_curve

CITE, CHANCE = "petsiuk2018rise", "the `random` row"
ANY = (float("-inf"), float("inf"))
AREA = (-0.5, 1.5)  # [0, 1] if exact; an estimate from k strata is at most 1 / (2 k) outside


@dataclass(frozen=True)
class CurveArea:
    """steps: ``exact(n)`` or ``stratified(k)``. substrate: what stands in for a removed pixel.

    output: what of the target is measured, its ``probability``, ``logit``, or of a CLIP its ``cosine``.
    """

    steps: Spec = RISE_STEPS
    substrate: str = "zero"
    output: str = field(default="probability", kw_only=True)
    inserting: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_substrate(self.substrate)
        check_output(self.output)
        check_steps(self.steps, "exact", "stratified")

    def plan(self, map_: SaliencyMap) -> list[Curve]:
        """One curve per order of the map: one, or several whose mean is the expectation over ties of a constant map."""
        replaced = self._replaced(map_)
        ends = (self.substrate, "image") if self.inserting else ("image", self.substrate)
        return [Curve(ranking, replaced, *ends, self.output) for ranking in map_.rankings]

    @property
    def range(self) -> tuple[float, float]:
        return AREA if self.output == "probability" else ANY

    def score(self, map_: SaliencyMap, responses: list[Tensor]) -> Score:
        """The area under the mean curve, of probabilities in [0, 1] if exact; the vector is the curve itself."""
        curve = mean_curve(responses)
        return Score(area(self.steps, curve, self._replaced(map_)), tuple(curve.tolist()))

    def _replaced(self, map_: SaliencyMap) -> tuple[int, ...]:
        return counts(self.steps, map_.size[0] * map_.size[1], map_.seed)


@metric("deletion", kind="faithfulness", version="1", direction="lower", range=AREA, chance=CHANCE, axes=AXES, cite=CITE)
@dataclass(frozen=True)
class Deletion(CurveArea):
    """Area under the target's probability while the most salient pixels are removed first. Lower is better."""


@metric("insertion", kind="faithfulness", version="1", direction="higher", range=AREA, chance=CHANCE, axes=AXES, cite=CITE)
@dataclass(frozen=True)
class Insertion(CurveArea):
    """Area under the target's probability while the most salient pixels are shown first. Higher is better."""

    substrate: str = "rise_blur"
    inserting: ClassVar[bool] = True


@metric("insertion_minus_deletion", kind="faithfulness", version="1", direction="higher", range=(-2, 2), chance="0", cite=CITE)
@dataclass(frozen=True)
class InsertionMinusDeletion:
    """Insertion less deletion, from the same points: no passes of its own beside theirs. Higher is better, in [-1, 1] if exact."""

    steps: Spec = RISE_STEPS

    def __post_init__(self) -> None:
        check_steps(self.steps, "exact", "stratified")

    def plan(self, map_: SaliencyMap) -> list[Curve]:
        """The curves of both."""
        return [*Insertion(self.steps).plan(map_), *Deletion(self.steps).plan(map_)]

    def score(self, map_: SaliencyMap, responses: list[Tensor]) -> Score:
        """From the curves of both, half of the responses each."""
        half = len(responses) // 2
        inserted, deleted = Insertion(self.steps).score(map_, responses[:half]), Deletion(self.steps).score(map_, responses[half:])
        return Score(inserted.value - deleted.value)
