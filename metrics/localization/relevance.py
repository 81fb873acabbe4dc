"""How well a map separates a target's mask from the rest: relevance mass and rank (Arras et al. 2022), and ROC AUC."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from xbench.plugin import Truth, metric

from ._comparison import Values, compare, mass_share, need_rest


@metric(
    "relevance_mass",
    kind="ground_truth",
    version="1",
    direction="higher",
    chance="the mask's share of the area",
    needs={"mask"},
    cite="arras2022clevr",
)
def relevance_mass(maps: Tensor, truth: Truth) -> Tensor:
    """Share of the positive saliency inside the mask. maps float [M, H, W] -> [M] in [0, 1].

    Negative saliency is clipped, so that signed maps stay in range. A map without positive saliency scores the mask's share of the
    area. Ignored pixels do not count. Not applicable to an empty mask.
    """
    assert truth.mask is not None
    return compare(maps, truth, truth.mask, mass_share)


@metric(
    "relevance_rank",
    kind="ground_truth",
    version="1",
    direction="higher",
    chance="the mask's share of the area",
    needs={"mask"},
    cite="arras2022clevr",
)
def relevance_rank(maps: Tensor, truth: Truth) -> Tensor:
    """Share of the K most salient pixels that lie inside the mask of K pixels. maps float [M, H, W] -> [M] in [0, 1].

    Of the pixels that tie for the last places each is as likely to get one: they count by the share of them inside. Signed maps
    are ranked as they are. Ignored pixels do not count. Not applicable to an empty mask.
    """
    assert truth.mask is not None
    return compare(maps, truth, truth.mask, _rank_share)


@metric(
    "auc_mask",
    kind="ground_truth",
    version="1",
    direction="higher",
    chance="0.5",
    needs={"mask"},
    cite="fawcett2006roc",
)
def auc_mask(maps: Tensor, truth: Truth) -> Tensor:
    """Area under the ROC curve: how often a pixel of the mask is more salient than one elsewhere. maps [M, H, W] -> [M] in [0, 1].

    Ties count half; signed maps are taken as they are. Ignored pixels do not count. Not applicable where the mask is empty or
    the whole frame.
    """
    assert truth.mask is not None
    return compare(maps, truth, truth.mask, _auc)


def _rank_share(inside: Values, outside: Values) -> float:
    values, size = np.concatenate([inside, outside]), len(inside)
    last = np.partition(values, -size)[-size]
    sure = [np.count_nonzero(part > last) for part in (inside, outside)]
    tied = [np.count_nonzero(part == last) for part in (inside, outside)]
    return (sure[0] + (size - sum(sure)) * tied[0] / sum(tied)) / size


def _auc(inside: Values, outside: Values) -> float:
    need_rest(outside)
    inside, outside = np.sort(inside), np.sort(outside)
    lower, not_higher = (int(np.searchsorted(outside, inside, side).sum()) for side in ("left", "right"))
    return (lower + not_higher) / (2 * len(inside) * len(outside))
