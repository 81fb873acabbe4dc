"""What pointing games share: the pixels near a target, and how much of a map's maximum lies in a region."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ._comparison import Values


def share_of_maxima(inside: Values, outside: Values) -> float:
    """The share of the tied maxima that lies in the region."""
    largest = max(values.max() for values in (inside, outside) if len(values))
    hits, misses = (np.count_nonzero(values == largest) for values in (inside, outside))
    return hits / (hits + misses)


def within(mask: Tensor, tolerance: int) -> Tensor:
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
