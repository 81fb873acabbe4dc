"""quantus's metrics against masks, unmodified, as its papers mean them: docs/metrics.md says what each is equal to here."""

from __future__ import annotations

import math

from torch import Tensor

from xbench.plugin import NotApplicable, Truth, metric

from .._shared import at_least
from ._adapter import AREA, CITE, against_mask, against_quarters


@metric(
    "quantus/RelevanceMassAccuracy", kind="ground_truth", version="1", direction="higher", chance=AREA, needs={"mask"}, cite=CITE
)
def relevance_mass_accuracy(maps: Tensor, truth: Truth) -> Tensor:
    """Share of the saliency inside the mask. maps float [M, H, W] -> [M] in [0, 1].

    It gets the positive part: of signed maps its quotient has no bounds. NaN where that part is zero or constant.
    """
    return against_mask("RelevanceMassAccuracy", maps.clamp(min=0), truth)


@metric(
    "quantus/AttributionLocalisation", kind="ground_truth", version="1", direction="higher", chance=AREA, needs={"mask"}, cite=CITE
)
def attribution_localisation(maps: Tensor, truth: Truth) -> Tensor:
    """Share of the positive saliency inside the mask (Kohlbrenner et al. 2020). maps float [M, H, W] -> [M] in [0, 1].

    Unweighted: the weights divide by the size of the batch's later pictures. It gets the positive part, of which it takes
    absolute values, as it insists on. NaN where that part is zero or constant.
    """
    return against_mask("AttributionLocalisation", maps.clamp(min=0), truth, abs=True, max_size=math.inf)


@metric(
    "quantus/RelevanceRankAccuracy", kind="ground_truth", version="1", direction="higher", chance=AREA, needs={"mask"}, cite=CITE
)
def relevance_rank_accuracy(maps: Tensor, truth: Truth) -> Tensor:
    """Share of the K most salient pixels that lie inside the mask of K pixels. maps float [M, H, W] -> [M] in [0, 1].

    Ties are in the order of numpy's unstable sort. NaN for constant maps and those that are negative everywhere.
    """
    return against_mask("RelevanceRankAccuracy", maps, truth)


@metric("quantus/TopKIntersection", kind="ground_truth", version="1", direction="higher", chance=AREA, needs={"mask"}, cite=CITE)
def top_k_intersection(maps: Tensor, truth: Truth, k: int = 1000) -> Tensor:
    """Share of the k most salient pixels inside the mask (Theiner et al. 2022). maps float [M, H, W] -> [M] in [0, 1].

    At most mask / k where the mask has fewer than k pixels. Ties and NaN as in ``quantus/RelevanceRankAccuracy``. Not applicable
    where no more than k pixels count.

    Raises:
        NotApplicable: no more than k pixels count.
    """
    at_least(1, k=k)
    count = maps[0].numel() if truth.ignore is None else int((~truth.ignore).sum())
    if k >= count:
        raise NotApplicable(f"k = {k} is not less than the {count} pixels")
    return against_mask("TopKIntersection", maps, truth, k=k)


@metric("quantus/AUC", kind="ground_truth", version="1", direction="higher", chance="0.5", needs={"mask"}, cite=CITE)
def auc(maps: Tensor, truth: Truth) -> Tensor:
    """Area under the ROC curve of the mask's pixels, ties half. maps float [M, H, W] -> [M] in [0, 1].

    NaN for constant maps and those that are negative everywhere. Not applicable where the mask is the whole frame.

    Raises:
        NotApplicable: the mask is the whole frame.
    """
    assert truth.mask is not None
    if not (~truth.mask if truth.ignore is None else ~(truth.mask | truth.ignore)).any():
        raise NotApplicable("the mask is the whole frame: there is nothing to tell it from")
    return against_mask("AUC", maps, truth)


@metric("quantus/Focus", kind="ground_truth", version="1", direction="higher", chance=AREA, needs={"mask"}, cite=CITE)
def focus(maps: Tensor, truth: Truth) -> Tensor:
    """Share of the positive saliency in the target's cells of a 2 x 2 mosaic (Arias-Duart et al. 2022). [M, H, W] -> [M] in [0, 1].

    NaN where the positive part is zero or constant. Not applicable elsewhere than in mosaics.
    """
    return against_quarters("Focus", maps.clamp(min=0), truth)
