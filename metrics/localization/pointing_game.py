"""The pointing game (Zhang et al. 2016) by TorchRay's rule, and its form by energy (Wang et al. 2020)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from xbench.plugin import NotApplicable, Truth, metric

from .._shared import at_least
from ._comparison import compare, mass_share
from ._pointing import share_of_maxima, within

Split = Literal["all", "difficult"]


@metric(
    "pointing_game",
    kind="ground_truth",
    version="1",
    direction="higher",
    chance="the share of the window that lies within the tolerance of the target",
    needs={"mask"},
    frame="image",
    cite="zhang2016topdown",
)
def pointing_game(maps: Tensor, truth: Truth, tolerance: int = 15, *, split: Split = "all") -> Tensor:
    """Whether the largest value lies less than ``tolerance`` pixels of the picture as stored from the target.

    maps float [M, H, W] -> [M] in [0, 1]. Distances are between pixels and strict (d < tolerance), so 0 and 1 both ask for a
    point on the target. Among tied maxima each is as likely to be picked: the value is the share of them that hits. Ignored
    pixels are not pointed at. Not applicable to an empty mask.

    split: ``difficult`` plays with the items alone whose target covers less than a quarter of the picture, beside another class.

    Objects that PASCAL calls difficult are targets like all others, as in TorchRay. TorchRay leaves out a class of which all
    objects are difficult; here the dataset decides that, by not listing it. TorchRay sees the whole picture, we the model's window.

    >>> truth = Truth(mask=torch.tensor([[True, False, False, False]]))
    >>> pointing_game(torch.tensor([[[0.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 1.0]]]), truth, tolerance=3).tolist()
    [1.0, 0.5]

    Raises:
        NotApplicable: an empty mask; an item that is not difficult, where those alone play.
    """
    assert truth.mask is not None
    at_least(0, tolerance=tolerance)
    if split == "difficult" and not truth.difficult:
        raise NotApplicable("not difficult: the target covers a quarter of the picture or more, or no other class is there")
    return compare(maps, truth, within(truth.mask, tolerance), share_of_maxima)


@metric(
    "pointing_game_class_mean",
    kind="ground_truth",
    version="1",
    direction="higher",
    chance="the share of the window that lies within the tolerance of the target, averaged by class",
    needs={"mask"},
    frame="image",
    reduce="class_mean",
    cite="zhang2016topdown",
)
def pointing_game_class_mean(maps: Tensor, truth: Truth, tolerance: int = 15, *, split: Split = "all") -> Tensor:
    """The pointing game with every class counting the same, as papers report it. maps float [M, H, W] -> [M] in [0, 1].

    A class without an item in the split is left out.
    """
    return pointing_game(maps, truth, tolerance, split=split)


@metric(
    "energy_pointing_game",
    kind="ground_truth",
    version="1",
    direction="higher",
    chance="the share of the area that the boxes cover",
    needs={"boxes"},
    cite="wang2020scorecam",
)
def energy_pointing_game(maps: Tensor, truth: Truth) -> Tensor:
    """Share of the positive saliency inside the target's boxes. maps float [M, H, W] -> [M] in [0, 1].

    A pixel is inside when its centre is. A map without positive saliency scores the boxes' share of the area. Not applicable
    where the boxes hold no centre. The authors' helper swaps the axes of the boxes; this does not.
    """
    region = torch.zeros(maps.shape[1:], dtype=torch.bool)
    y, x = (torch.arange(side, dtype=torch.float64) + 0.5 for side in region.shape)
    for box in truth.boxes:
        region |= ((box.y0 <= y) & (y < box.y1))[:, None] & (box.x0 <= x) & (x < box.x1)
    return compare(maps, truth, region, mass_share)
