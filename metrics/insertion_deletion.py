"""Insertion and deletion (RISE, Petsiuk et al. 2018): the target's probability as pixels come or go, most salient first.

steps=exact(n)        n + 1 points at equal shares of the pixels, both ends included; the area is the trapezoid rule over [0, 1]:
                      (sum - first/2 - last/2) / n
steps=stratified(k)   one point at a random place of each of k equal strata, seeded by the item, so that all methods share the
                      places; the area is their mean, right in expectation (up to half a pixel) from far fewer points

The normalised forms are (area - p_substrate) / (p_picture - p_substrate), comparable across
models; they are not applicable where the substrate costs the target less than LEAST_DROP of probability.

Other implementations differ: RISE takes 224 * 8 pixels a step, some leave out an end point or divide by the number of points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xbench import Curve, SaliencyMap, Score, Spec, XbenchError, metric
from xbench.data import generator
from xbench.probing import check_substrate

LEAST_DROP = 0.05
RISE_STEPS = Spec("exact", (28,))  # about 224 * 8 pixels each at 224 px


@dataclass(frozen=True)
class _Curve:
    """steps: ``exact(n)`` or ``stratified(k)``. substrate: what stands in for a removed pixel (see xbench.probing.SUBSTRATES)."""

    steps: Spec = RISE_STEPS
    substrate: str = "zero"
    inserting: ClassVar[bool] = False
    normalised: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_substrate(self.substrate)
        arguments = self.steps.args
        valid = self.steps.name in ("exact", "stratified") and len(arguments) == 1 and not self.steps.kwargs
        if not valid or not isinstance(arguments[0], int) or isinstance(arguments[0], bool) or arguments[0] < 1:
            raise XbenchError(f"steps={self.steps} is not a protocol of a curve; write steps=exact(28) or steps=stratified(8)")

    def plan(self, map_: SaliencyMap) -> list[Curve]:
        """One curve per order of the map: one, or several whose mean is the expectation over ties of a constant map."""
        counts = self._counts(map_.size[0] * map_.size[1], map_.seed)
        ends = (self.substrate, "image") if self.inserting else ("image", self.substrate)
        return [Curve(ranking, counts, *ends) for ranking in map_.rankings]

    def _counts(self, pixels: int, seed: str) -> tuple[int, ...]:
        """How many pixels are replaced at each point, both ends included: all curves of an item share the ends."""
        steps = int(self.steps.args[0])  # type: ignore[arg-type]
        if self.steps.name == "exact":
            return tuple(round(i * pixels / steps) for i in range(steps + 1))
        shifts = torch.rand(steps, generator=generator(seed, "strata"), dtype=torch.float64).tolist()
        return (0, *(int((i + shift) * pixels / steps) for i, shift in enumerate(shifts)), pixels)

    def score(self, map_: SaliencyMap, responses: list[Tensor]) -> Score:
        """The area under the mean curve, in [0, 1] unless normalised; the vector is the curve itself, raw."""
        curve = torch.stack(responses).mean(dim=0)
        if self.steps.name == "exact":
            area = float((curve.sum() - curve[0] / 2 - curve[-1] / 2) / (len(curve) - 1))
        else:
            area = float(curve[1:-1].mean())
        vector = tuple(curve.tolist())
        if not self.normalised:
            return Score(area, vector)
        picture, removed = (vector[-1], vector[0]) if self.inserting else (vector[0], vector[-1])
        if picture - removed < LEAST_DROP:
            return Score(vector=vector, not_applicable=f"the substrate costs the target less than {LEAST_DROP} of probability")
        return Score((area - removed) / (picture - removed), vector)


@metric("deletion", kind="faithfulness", version="1", direction="lower", chance="the `random` row", cite="petsiuk2018rise")
@dataclass(frozen=True)
class Deletion(_Curve):
    """Area under the target's probability while the most salient pixels are removed first. Lower is better."""


@metric("insertion", kind="faithfulness", version="1", direction="higher", chance="the `random` row", cite="petsiuk2018rise")
@dataclass(frozen=True)
class Insertion(_Curve):
    """Area under the target's probability while the most salient pixels are shown first. Higher is better."""

    substrate: str = "rise_blur"
    inserting: ClassVar[bool] = True


@metric(
    "deletion_normalised",
    kind="faithfulness",
    version="1",
    direction="lower",
    range=(float("-inf"), float("inf")),
    chance="the `random` row",
    cite="petsiuk2018rise",
)
@dataclass(frozen=True)
class DeletionNormalised(_Curve):
    """Deletion between its end points: 0 = as if all were removed at once, 1 = as if nothing were. Lower is better."""

    normalised: ClassVar[bool] = True


@metric(
    "insertion_normalised",
    kind="faithfulness",
    version="1",
    direction="higher",
    range=(float("-inf"), float("inf")),
    chance="the `random` row",
    cite="petsiuk2018rise",
)
@dataclass(frozen=True)
class InsertionNormalised(_Curve):
    """Insertion between its end points: 1 = as if all were shown at once. Higher is better."""

    substrate: str = "rise_blur"
    inserting: ClassVar[bool] = True
    normalised: ClassVar[bool] = True
