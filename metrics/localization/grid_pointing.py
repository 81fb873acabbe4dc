"""The grid pointing game (Boehle et al. 2021): does a map keep to the cell of its target in a mosaic?"""

from __future__ import annotations

from torch import Tensor

from xbench.plugin import Truth, metric

from ._comparison import compare, mass_share


@metric(
    "grid_pointing",
    kind="ground_truth",
    version="1",
    direction="higher",
    chance="the cell's share of the area: 0.25 in a 2x2 mosaic",
    needs={"mask"},
    cite="bohle2021convolutional",
)
def grid_pointing(maps: Tensor, truth: Truth) -> Tensor:
    """Share of the positive saliency inside the cell. maps float [M, H, W] -> [M] in [0, 1].

    A map without positive saliency scores what an uninformed one does: the cell's share of the area.
    """
    assert truth.mask is not None
    return compare(maps, truth, truth.mask, mass_share)


@metric(
    "grid_pointing_hit",
    kind="ground_truth",
    version="1",
    direction="higher",
    chance="the cell's share of the area: 0.25 in a 2x2 mosaic",
    needs={"mask"},
    cite="bohle2021convolutional",
)
def grid_pointing_hit(maps: Tensor, truth: Truth) -> Tensor:
    """Whether the largest value lies in the cell, without tolerance. maps float [M, H, W] -> [M] in [0, 1].

    Among tied maxima each is as likely to be picked: the value is the share of them that lies in the cell.
    """
    assert truth.mask is not None
    largest = maps == maps.amax(dim=(1, 2), keepdim=True)
    return (largest & truth.mask).sum(dim=(1, 2)).double() / largest.sum(dim=(1, 2))
