"""Maps as segmentations of the target: the best mask IoU, and PxAP (Choe et al. 2020)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from xbench.plugin import Truth, metric

from .._shared import at_least
from ._comparison import Values, area_share, compare, histograms

LEVELS = 256


@metric(
    "mask_iou",
    kind="ground_truth",
    version="1",
    direction="higher",
    chance="the mask's share of the area",
    needs={"mask"},
    reduce="best",
    cite="choe2020evaluating",
)
def mask_iou(maps: Tensor, truth: Truth, thresholds: int = 100) -> Tensor:
    """IoU of the mask with the pixels above a threshold, one threshold for the dataset. maps float [M, H, W] -> [M, thresholds].

    Maps are scaled by their minimum and maximum to 256 levels; threshold i of n keeps the levels above floor(255 i / n), strictly.
    A constant map selects the whole frame at all thresholds. Ignored pixels do not count, in the scaling either. Not applicable
    to an empty mask.
    """
    assert truth.mask is not None
    at_least(1, thresholds=thresholds)
    kept = np.arange(thresholds) * (LEVELS - 1) // thresholds

    def ious(inside: Values, outside: Values) -> NDArray[np.float64]:
        counts = histograms(inside, outside, LEVELS)
        hits, false = (counts.sum(axis=1, keepdims=True) - counts.cumsum(axis=1))[:, kept]  # strictly above each level
        if not hits[0] + false[0]:
            return np.full(thresholds, area_share(inside, outside))
        shares: NDArray[np.float64] = hits / (len(inside) + false)
        return shares

    return compare(maps, truth, truth.mask, ious, thresholds)


@metric(
    "pxap",
    kind="ground_truth",
    version="1",
    direction="higher",
    chance="the mask's share of the area, over all pictures",
    needs={"mask"},
    reduce="average_precision",
    cite="choe2020evaluating",
)
def pxap(maps: Tensor, truth: Truth, bins: int = 256) -> Tensor:
    """Pixels of the mask, then all others, counted by score; their pool gives the average precision. maps [M, H, W] -> [M, 2 bins].

    Maps are scaled by their minimum and maximum; the last bin holds the maximum alone, the others cut [0, 1) into equal parts. All
    of a constant map is in the first: precision is then the mask's share. The dataset's pixels are pooled, so larger inputs count
    more (views ``crop`` and ``squash`` make all equal). Ignored pixels do not count, in the scaling either (the authors scale
    before they drop them). Not applicable to an empty mask.
    """
    assert truth.mask is not None
    at_least(2, bins=bins)
    return compare(maps, truth, truth.mask, lambda inside, outside: histograms(inside, outside, bins).ravel(), 2 * bins)
