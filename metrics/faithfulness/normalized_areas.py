"""Insertion and deletion between their end points, (area - p_substrate) / (p_picture - p_substrate): comparable across models.

They are not applicable where the substrate costs the target less than LEAST_DROP of probability. All else is in
insertion_deletion.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from xbench.plugin import SaliencyMap, Score, XbenchError, metric

from .insertion_deletion import ANY, CHANCE, CITE, CurveArea

LEAST_DROP = 0.05


class _Normalised(CurveArea):
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output != "probability":  # a least drop of logits or cosines would be another one for every model
            raise XbenchError(f"normalised insertion and deletion are of probabilities; ask for insertion(output={self.output})")

    @property
    def range(self) -> tuple[float, float]:
        """None: a curve may leave the span of its ends far behind."""
        return ANY

    def score(self, map_: SaliencyMap, responses: list[Tensor]) -> Score:
        """The area between the end points; the vector is the curve itself, raw."""
        raw = super().score(map_, responses)
        assert raw.vector
        removed, picture = (raw.vector[0], raw.vector[-1])[:: 1 if self.inserting else -1]
        if picture - removed < LEAST_DROP:
            why = f"the substrate costs the target less than {LEAST_DROP} of probability"
            return Score(vector=raw.vector, not_applicable=why)
        return Score((raw.value - removed) / (picture - removed), raw.vector)


@metric("deletion_normalised", kind="faithfulness", version="1", direction="lower", range=ANY, chance=CHANCE, cite=CITE)
@dataclass(frozen=True)
class DeletionNormalised(_Normalised):
    """Deletion between its end points: 0 = as if all were removed at once, 1 = as if nothing were. Lower is better."""


@metric("insertion_normalised", kind="faithfulness", version="1", direction="higher", range=ANY, chance=CHANCE, cite=CITE)
@dataclass(frozen=True)
class InsertionNormalised(_Normalised):
    """Insertion between its end points: 1 = as if all were shown at once. Higher is better."""

    substrate: str = "rise_blur"
    inserting: ClassVar[bool] = True
