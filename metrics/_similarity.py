"""How alike two maps are: Spearman's rank correlation, and SSIM."""

from __future__ import annotations

import torch
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional

from xbench.plugin import SaliencyMap

WINDOW, SIGMA = 11, 1.5  # of SSIM (Wang et al. 2004, sec. III C)
C1, C2 = 0.01**2, 0.03**2


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation of two maps of one shape, tied values at their mean rank; in [-1, 1].

    1 where the maps are equal; otherwise 0 where one of them is constant, which has no order.
    """
    if torch.equal(a, b):
        return 1.0
    ranks = torch.from_numpy(rankdata(torch.stack([a.flatten(), b.flatten()]).numpy(), axis=1))
    centred = ranks - ranks.mean(dim=1, keepdim=True)
    lengths = centred.norm(dim=1)
    return float(centred[0] @ centred[1] / lengths.prod()) if lengths.min() > 0 else 0.0


def ssim(a: Tensor, b: Tensor) -> float:
    """Mean structural similarity of two maps ``[H, W]``, each scaled to [0, 1] by its extremes; Gaussian window of 11, sigma 1.5.

    Only windows that lie wholly inside count. A constant map scales to 0. In [-1, 1].

    Raises:
        ValueError: the maps are smaller than the window.
    """
    if min(a.shape) < WINDOW:
        raise ValueError(f"SSIM needs maps of {WINDOW} x {WINDOW} or more, not {a.shape[0]} x {a.shape[1]}")
    taps = torch.exp(-0.5 * ((torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2) / SIGMA) ** 2)
    kernel = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
    x, y = (_unit(map_.double()) for map_ in (a, b))
    local = functional.conv2d(torch.stack([x, y, x * x, y * y, x * y])[:, None], kernel)[:, 0]
    mean_x, mean_y = local[0], local[1]
    var_x, var_y, covariance = local[2] - mean_x**2, local[3] - mean_y**2, local[4] - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    return float((likeness / ((mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2))).mean())


def of_maps(kind: str, a: SaliencyMap, b: SaliencyMap) -> float:
    """By name: Spearman's at the method's own grid where both have the same, SSIM at the input's size."""
    if kind == "ssim":
        return ssim(a.full, b.full)
    return spearman(a.native, b.native) if a.grid == b.grid else spearman(a.full, b.full)


def _unit(map_: Tensor) -> Tensor:
    low, high = map_.min(), map_.max()
    return (map_ - low) / (high - low) if high > low else torch.zeros_like(map_)
