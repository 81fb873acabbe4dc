"""What is left of the target's probability when the picture is seen through the map, and what is gained.

The input x becomes w x + (1 - w) s, w the map's positive part over its largest value and s the substrate: by default 0 in the
network's normalised input. With p the target's probability on x, and q on what is left:

average_drop             max(0, p - q) / p              Grad-CAM++ (Chattopadhay et al. 2018, sec. 5.1.1), lower is better
increase_in_confidence   1 where q > p, else 0          the same (sec. 5.1.2), higher is better
average_gain             max(0, q - p) / (1 - p)        Opti-CAM (Zhang et al. 2024), higher is better

A map that shows everything drops nothing: read these beside ``shown_area``, the mean of w. Papers print them in per cent.

Other implementations differ: pytorch-grad-cam's drop is p - q itself, of logits unless told otherwise, and is not divided by p.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from xbench.plugin import Curve, SaliencyMap, Score, Weighted, check_substrate, metric


@dataclass(frozen=True)
class _Through(ABC):
    """substrate: what is seen where the map is 0 (see xbench.maps.perturbation.SUBSTRATES)."""

    substrate: str = "zero"

    def __post_init__(self) -> None:
        check_substrate(self.substrate)

    def plan(self, map_: SaliencyMap) -> list[Curve | Weighted]:
        """The picture as it is, and through the map."""
        return [Curve(map_.rankings[0], (0,), "image", self.substrate), Weighted(map_, self.substrate)]

    def score(self, map_: SaliencyMap, responses: list[Tensor]) -> Score:
        """From p and q."""
        return Score(self.compare(*(float(response[0]) for response in responses)))

    @abstractmethod
    def compare(self, p: float, q: float) -> float:
        """The value of one item."""


CITE = "chattopadhay2018gradcampp"


@metric("average_drop", kind="faithfulness", version="1", direction="lower", chance="the `random` row", cite=CITE)
@dataclass(frozen=True)
class AverageDrop(_Through):
    """Share of the target's probability that is lost when the picture is seen through the map. Lower is better."""

    def compare(self, p: float, q: float) -> float:
        return max(0.0, p - q) / p if p > 0 else 0.0


@metric("increase_in_confidence", kind="faithfulness", version="1", direction="higher", chance="the `random` row", cite=CITE)
@dataclass(frozen=True)
class IncreaseInConfidence(_Through):
    """Whether the target is more probable when the picture is seen through the map. Higher is better."""

    def compare(self, p: float, q: float) -> float:
        return float(q > p)


@metric("average_gain", kind="faithfulness", version="1", direction="higher", chance="the `random` row", cite="zhang2024opticam")
@dataclass(frozen=True)
class AverageGain(_Through):
    """Share of what the target's probability lacks to 1 that is gained through the map. Higher is better."""

    def compare(self, p: float, q: float) -> float:
        return max(0.0, q - p) / (1 - p) if p < 1 else 0.0
