"""What metrics against masks share: the pixels that count, mass, and maps cut into levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xbench.plugin import NotApplicable, Truth

Values = NDArray[np.float32]
Rule = Callable[[Values, Values], Any]  # (a map's values in the region, its values elsewhere) -> a value, or a vector


def compare(maps: Tensor, truth: Truth, region: Tensor, rule: Rule, *size: int) -> Tensor:
    """The rule for every map, float32 ``[M, H, W]`` -> float64 ``[M, *size]``.

    Ignored pixels are neither in the region, bool ``[H, W]``, nor elsewhere. One map at a time: no value depends on its companions,
    not by a bit.

    Raises:
        NotApplicable: the region is empty.
    """
    counts = torch.ones_like(region) if truth.ignore is None else ~truth.ignore
    inside, outside = (np.flatnonzero((part & counts).numpy()) for part in (region, ~region))
    if not len(inside):
        raise NotApplicable("the target covers no pixel of the frame")
    found = [rule(map_.take(inside), map_.take(outside)) for map_ in maps.numpy()]
    return torch.from_numpy(np.array(found, dtype=np.float64).reshape(len(maps), *size))


def need_rest(outside: Values) -> None:
    """Raises NotApplicable where the region is all of the frame that counts."""
    if not len(outside):
        raise NotApplicable("the mask is the whole frame: there is nothing to tell it from")


def area_share(inside: Values, outside: Values) -> float:
    """The region's share of the pixels that count: what an uninformed map scores."""
    return len(inside) / (len(inside) + len(outside))


def mass_share(inside: Values, outside: Values) -> float:
    """The region's share of the positive saliency; its share of the area where there is none."""
    mass, rest = (float(np.maximum(values, 0).sum(dtype=np.float64)) for values in (inside, outside))
    return mass / (mass + rest) if mass + rest > 0 else area_share(inside, outside)


def levels(values: Values, top: int) -> NDArray[np.intp]:
    """Values scaled by their minimum and maximum to whole levels 0 to ``top``, rounded down; all 0 where they are equal."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return np.zeros(values.shape, dtype=np.intp)
    return ((values.astype(np.float64) - low) / (high - low) * top).astype(np.intp)


def histograms(inside: Values, outside: Values, bins: int) -> NDArray[np.intp]:
    """How many pixels of the region and how many others lie at each level of the map, ``[2, bins]``."""
    level = levels(np.concatenate([inside, outside]), bins - 1)
    parts = level[: len(inside)], level[len(inside) :]
    return np.stack([np.bincount(part, minlength=bins) for part in parts])
