"""How concentrated a map is, whatever it points at: Gini index, entropy, and the areas that saliency takes up.

With v the d absolute values of a map, ascending, and p = v / sum(v):

sparseness       1 - 2 sum_k p_k (d - k + 1/2) / d     Gini index (Chalasani et al. 2020, sec. 4.1): 0 evenly spread, to 1
entropy          - sum_k p_k ln p_k / ln d             Bhatt et al. 2020, eq. of mu_C, here over its largest value, ln d
effective_area   exp(entropy ln d) / d                 the share of the picture over which even saliency has that entropy
shown_area       mean of the positive part over its largest value: what ``average_drop`` shows of the picture

Constant maps are spread evenly. None of these says that a map is right: a single pixel anywhere is as concise as can be.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xbench.plugin import Truth, metric

Shares = NDArray[np.float64]
EVEN = "{} for an even map"


def _shares(maps: Tensor) -> list[Shares]:
    """Of each map ``[M, H, W]`` the absolute values over their sum, ascending, ``[H * W]``; a map of zeros is even."""
    found = []
    for values in maps.abs().double().flatten(1).sort(dim=1).values.numpy():
        largest = values[-1]
        scaled = values / largest if largest > 0 else np.ones_like(values)
        found.append(scaled / scaled.sum())
    return found


def _entropy(shares: Shares) -> float:
    some = shares[shares > 0]
    return max(0.0, -float((some * np.log(some)).sum()))


@metric(
    "sparseness",
    kind="ground_truth",
    version="1",
    direction="higher",
    chance=EVEN.format(0),
    group="complexity",
    cite="chalasani2020concise",
)
def sparseness(maps: Tensor, truth: Truth) -> Tensor:
    """Gini index of the absolute saliency. maps float [M, H, W] -> [M] in [0, 1), higher is sparser.

    >>> sparseness(torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 1.0]]]), Truth()).tolist()
    [0.0, 0.75]
    """
    d = maps[0].numel()
    places = (d - np.arange(1, d + 1) + 0.5) / d
    return torch.tensor([max(0.0, 1 - 2 * float(p @ places)) for p in _shares(maps)], dtype=torch.float64)


@metric(
    "entropy",
    kind="ground_truth",
    version="1",
    direction="lower",
    chance=EVEN.format(1),
    group="complexity",
    cite="bhatt2020evaluating",
)
def entropy(maps: Tensor, truth: Truth) -> Tensor:
    """Entropy of the absolute saliency over its largest possible value. maps float [M, H, W] -> [M] in [0, 1], lower is sparser."""
    most = math.log(maps[0].numel())
    return torch.tensor([min(1.0, _entropy(p) / most) for p in _shares(maps)], dtype=torch.float64)


@metric(
    "effective_area",
    kind="ground_truth",
    version="1",
    direction="lower",
    chance=EVEN.format(1),
    group="complexity",
    cite="bhatt2020evaluating",
)
def effective_area(maps: Tensor, truth: Truth) -> Tensor:
    """Share of the picture over which even saliency has the map's entropy. maps float [M, H, W] -> [M] in (0, 1]."""
    return torch.tensor([min(1.0, math.exp(_entropy(p)) / len(p)) for p in _shares(maps)], dtype=torch.float64)


@metric("shown_area", kind="ground_truth", version="1", direction="lower", chance=EVEN.format(1), group="complexity")
def shown_area(maps: Tensor, truth: Truth) -> Tensor:
    """Share of the picture that shows where the positive part weighs pixels. maps float [M, H, W] -> [M] in [0, 1]."""
    positive = maps.clamp(min=0).double().flatten(1)
    largest = positive.amax(dim=1, keepdim=True)
    return (positive / largest.where(largest > 0, torch.ones_like(largest))).mean(dim=1)
