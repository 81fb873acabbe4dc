"""Does a map change when the network, or the class, does? (sanity checks)

mprt          mean similarity of the map to those of networks whose last layers are random, k equal parts of them, then more and
              more (cascading; Adebayo et al. 2018, sec. 3.1): low, or the map does not show what the network learned
random_logit  similarity of the map to that of another class, drawn at random (Sixt et al. 2020, sec. 4): low, or the map does not
              show what speaks for its class

similarity=spearman   rank correlation of the maps at the method's own grid; 0 for unrelated maps
similarity=ssim       structural similarity at the input's size, after scaling each map to [0, 1]

Unrelated maps are not at 0 in SSIM, and smooth ones less so: what chance gives at a grid is the ``random_grid`` row, whose noise
is drawn anew each time. A method that samples is asked with new samples, so its own noise lowers the similarity too: the first
entry of ``mprt``'s vector, under the trained network asked again, says how much. Maps are compared as they are, signs included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xbench.plugin import Answer, Randomised, Retargeted, Same, Score, Variation, metric

from .._shared import at_least
from .._similarity import of_maps

Similarity = Literal["spearman", "ssim"]
CHANCE = "the `random_grid` row; 0 for spearman"


@metric(
    "mprt",
    kind="re_explanation",
    version="1",
    direction="lower",
    range=(-1, 1),
    chance=CHANCE,
    group="randomisation",
    axes=("share of the layers that are random", "mean similarity"),
    cite="adebayo2018sanity",
)
@dataclass(frozen=True)
class ModelParameterRandomisation:
    """Mean similarity of a map to those of ever more random networks (model parameter randomisation test). Lower is better.

    stages: how many equal parts the layers are cut into, randomised from the logits down. The vector: asked again, then each stage.
    """

    stages: int = 4
    similarity: Similarity = "spearman"

    def __post_init__(self) -> None:
        at_least(1, stages=self.stages)

    def plan(self) -> list[Variation]:
        """The trained network again, then the cascade."""
        return [Same(), *(Randomised(stage + 1, self.stages) for stage in range(self.stages))]

    def score(self, before: Answer, after: list[Answer]) -> Score:
        """The mean over the stages."""
        found = [of_maps(self.similarity, before.map_, answer.map_) for answer in after]
        return Score(sum(found[1:]) / self.stages, tuple(found))


@metric(
    "random_logit",
    kind="re_explanation",
    version="1",
    direction="lower",
    range=(-1, 1),
    chance=CHANCE,
    group="randomisation",
    cite="sixt2020explanations",
)
@dataclass(frozen=True)
class RandomLogit:
    """Similarity of a map to that of another class in the same picture. Lower is better."""

    similarity: Similarity = "spearman"

    def plan(self) -> list[Variation]:
        """Another class."""
        return [Retargeted()]

    def score(self, before: Answer, after: list[Answer]) -> Score:
        """The similarity."""
        return Score(of_maps(self.similarity, before.map_, after[0].map_))
