"""Boxes around what maps show (Choe et al. 2020, weakly supervised object localisation), at one threshold for the dataset."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xbench.plugin import NotApplicable, Truth, metric

from .._shared import at_least
from ._boxes import Binary, Boxes, all_contours, best_ious, largest_components, largest_contours
from ._comparison import levels

Judge = Callable[[NDArray[np.float64]], list[float]]  # IoUs of at least one box -> values
CHANCE = "no closed form: compare with the control center"


@metric(
    "max_box_acc",
    kind="ground_truth",
    version="1",
    direction="higher",
    chance=CHANCE,
    needs={"boxes"},
    reduce="best",
    cite="choe2020evaluating",
)
def max_box_acc(maps: Tensor, truth: Truth, thresholds: int = 100) -> Tensor:
    """Whether the box around the largest contour has an IoU of .5 with a box of the target. maps [M, H, W] -> [M, thresholds].

    Maps are scaled by their minimum and maximum to uint8; threshold i of n keeps values above floor(255 i / n), strictly. Largest
    by cv2.contourArea; where contours tie, the share of them that hits. A constant map's box is the whole frame. Not applicable
    without a box of the target.

    Boxes are half open. The original takes pixel numbers for both edges (areas + 1, the far edge clipped to side - 1), cuts the
    truth to whole pixels, resizes maps bicubically, takes the first of tied contours, and gives a constant map no box. Ignored
    pixels are like any others, there and here: boxes are compared as boxes.
    """
    return _sweep(maps, truth, thresholds, largest_contours, lambda ious: [(ious >= 0.5).mean()])


@metric(
    "max_box_acc_v2",
    kind="ground_truth",
    version="1",
    direction="higher",
    chance=CHANCE,
    needs={"boxes"},
    reduce="best(3)",
    cite="choe2020evaluating",
)
def max_box_acc_v2(maps: Tensor, truth: Truth, thresholds: int = 100) -> Tensor:
    """Whether the box around any contour has an IoU of .3, .5, .7 with a box of the target. maps [M, H, W] -> [M, 3 thresholds].

    The table's figure is the mean of the three accuracies, each at its own best threshold. The rest is as in max_box_acc.
    """
    return _sweep(maps, truth, thresholds, all_contours, lambda ious: [float(ious.max() >= t) for t in (0.3, 0.5, 0.7)])


@metric(
    "box_iou",
    kind="ground_truth",
    version="1",
    direction="higher",
    chance=CHANCE,
    needs={"boxes"},
    reduce="best",
    cite="zhou2016learning",
)
def box_iou(maps: Tensor, truth: Truth, thresholds: int = 100) -> Tensor:
    """IoU of the box around the largest component with the nearest box of the target. maps [M, H, W] -> [M, thresholds].

    Largest by its number of pixels, joined by sides or corners; where components tie, their mean. The rest is as in max_box_acc.
    """
    return _sweep(maps, truth, thresholds, largest_components, lambda ious: [ious.mean()])


def _sweep(maps: Tensor, truth: Truth, thresholds: int, boxes_of: Callable[[Binary], Boxes], judge: Judge) -> Tensor:
    """What ``judge`` says of the boxes' IoUs at every threshold -> ``[M, judgements * thresholds]``."""
    at_least(1, thresholds=thresholds)
    count = len(judge(np.zeros(1)))
    if not truth.boxes:
        raise NotApplicable("the target has no box in the frame")
    target = np.array([(b.x0, b.y0, b.x1, b.y1) for b in truth.boxes], dtype=np.float64)
    found = np.zeros((len(maps), count, thresholds))
    for map_, judged in zip(maps.numpy(), found, strict=True):
        grey = levels(map_, 255).astype(np.uint8)
        above = grey.size - np.bincount(grey.ravel(), minlength=256).cumsum()
        # By the number of pixels above: as masks are nested, it tells them apart. None are above only where the map is constant.
        known = {0: judge(best_ious(np.array([[0, 0, *grey.shape[::-1]]]), target))}
        for i in range(thresholds):
            level = 255 * i // thresholds
            size = int(above[level])
            if size not in known:
                known[size] = judge(best_ious(boxes_of((grey > level).view(np.uint8)), target))
            judged[:, i] = known[size]
    return torch.from_numpy(found.reshape(len(maps), -1))
