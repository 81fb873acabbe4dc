"""Mean score contrast (Li et al. 2022, ECLIP and CLIP Surgery): how much brighter a map is on the target than elsewhere."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from xbench.plugin import Truth, metric

from ._comparison import Values, compare, need_rest


@metric(
    "msc",
    kind="ground_truth",
    version="1",
    direction="higher",
    range=(-1.0, 1.0),
    chance="0",
    needs={"mask"},
    cite="li2022exploring",
)
def msc(maps: Tensor, truth: Truth) -> Tensor:
    """Mean inside the mask minus mean outside, of the map scaled by its minimum and maximum. maps [M, H, W] -> [M] in [-1, 1].

    Below 0 the map is inverted. A constant map scores 0. Ignored pixels do not count, in the scaling either. Not applicable where
    the mask is empty or the whole frame. Papers print it in per cent.
    """
    assert truth.mask is not None
    return compare(maps, truth, truth.mask, _contrast)


def _contrast(inside: Values, outside: Values) -> float:
    need_rest(outside)
    low, high = float(min(inside.min(), outside.min())), float(max(inside.max(), outside.max()))
    if low == high:
        return 0.0
    there, elsewhere = (float(values.mean(dtype=np.float64)) for values in (inside, outside))
    return (there - elsewhere) / (high - low)
