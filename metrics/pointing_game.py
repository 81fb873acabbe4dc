"""The pointing game (Zhang et al. 2016) by TorchRay's rule, and its form by energy (Wang et al. 2020)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from xbench import Truth, metric

from ._common import Values, at_least, compare, mass_share


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
def pointing_game(maps: Tensor, truth: Truth, tolerance: int = 15) -> Tensor:
    """Whether the largest value lies less than ``tolerance`` pixels of the picture as stored from the target.

    maps float [M, H, W] -> [M] in [0, 1]. Distances are between pixels and strict (d < tolerance), so 0 and 1 both ask for a
    point on the target. Among tied maxima each is as likely to be picked: the value is the share of them that hits. Ignored
    pixels are not pointed at. Not applicable to an empty mask.

    Objects that PASCAL calls difficult are targets like all others, as in TorchRay. TorchRay leaves out a class of which all
    objects are difficult; here the dataset decides that, by not listing it. TorchRay sees the whole picture, we the model's window.
    """
    assert truth.mask is not None
    at_least(0, tolerance=tolerance)
    return compare(maps, truth, _within(truth.mask, tolerance), _share_of_maxima)


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
def pointing_game_class_mean(maps: Tensor, truth: Truth, tolerance: int = 15) -> Tensor:
    """The pointing game with every class counting the same, as papers report it. maps float [M, H, W] -> [M] in [0, 1]."""
    return pointing_game(maps, truth, tolerance)


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


def _share_of_maxima(inside: Values, outside: Values) -> float:
    largest = max(values.max() for values in (inside, outside) if len(values))
    hits, misses = (np.count_nonzero(values == largest) for values in (inside, outside))
    return hits / (hits + misses)


def _within(mask: Tensor, tolerance: int) -> Tensor:
    """bool ``[H, W]``: pixels that have a pixel of the mask nearer than ``tolerance``, and the mask.

    In whole numbers, so strictness holds, and as fast for any tolerance: in each row a mask pixel ``gap`` rows away reaches as many
    pixels to both sides as the disc is wide there.
    """
    height, width = mask.shape
    radius = min(max(tolerance, 1), height + width)  # a larger disc covers everything too
    rows = np.arange(height)[:, None]
    before = np.maximum.accumulate(np.where(mask.numpy(), rows, -radius), axis=0)
    after = np.minimum.accumulate(np.where(mask.numpy(), rows, height + radius)[::-1], axis=0)[::-1]
    gap = np.minimum(rows - before, after - rows)
    y, x = np.nonzero(gap < radius)
    reach = np.ceil(np.sqrt(radius**2 - gap[y, x] ** 2)).astype(np.intp) - 1  # the most with reach² + gap² < radius²
    edges = np.zeros((height, width + 1), dtype=np.intp)
    np.add.at(edges, (y, np.maximum(x - reach, 0)), 1)
    np.add.at(edges, (y, np.minimum(x + reach + 1, width)), -1)
    return torch.from_numpy(edges.cumsum(axis=1)[:, :width] > 0)
