"""The quantus library's classes, unmodified, one map at a time: what ``quantus/<ClassName>`` metrics share.

One at a time, because quantus scales by the largest value of all maps that it is given, and refuses constant maps only where all of
them are: a map's value would depend on its companions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xbench.plugin import NotApplicable, Truth, XbenchError

CITE = "hedstrom2023quantus"
AREA = "the mask's share of the area"


def without_truth(name: str, maps: Tensor, **options: float) -> Tensor:
    """The class's value of each map's absolute values, float ``[M, H, W]`` -> float64 ``[M]``."""
    return _values(name, maps.abs().flatten(1), {}, {"abs": True, **options})


def against_mask(name: str, maps: Tensor, truth: Truth, **options: Any) -> Tensor:
    """The class's value of each map ``[M, H, W]`` against the mask -> float64 ``[M]``. Ignored pixels are left out.

    Raises:
        NotApplicable: the mask is empty.
    """
    assert truth.mask is not None
    counts = torch.ones_like(truth.mask) if truth.ignore is None else ~truth.ignore
    inside = truth.mask[counts]
    if not inside.any():
        raise NotApplicable("the target covers no pixel of the frame")
    return _values(name, maps[:, counts], {"s_batch": _one(inside)}, {"abs": False, **options})


def against_quarters(name: str, maps: Tensor, truth: Truth) -> Tensor:
    """The class's value of each map of a 2 x 2 mosaic, whose mask is one of its cells or more. ``[M, H, W]`` -> float64 ``[M]``.

    Raises:
        NotApplicable: the mask is not made of cells.
    """
    assert truth.mask is not None
    h, w = truth.mask.shape[0] // 2, truth.mask.shape[1] // 2
    cells = [truth.mask[rows, columns] for rows in (slice(h), slice(h, None)) for columns in (slice(w), slice(w, None))]
    if not truth.mask.any() or not all(bool(cell.all()) or not cell.any() for cell in cells):
        raise NotApplicable("the mask is not made of quarters of the frame, as in a 2 x 2 mosaic")
    if truth.ignore is not None:
        maps = maps.masked_fill(truth.ignore, 0)  # saliency is summed, so that zeros are as good as absent
    given = {"custom_batch": [[int(cell.any()) for cell in cells]], "model": torch.nn.Identity()}  # it asks for a model, unused
    return _values(name, maps, given, {"abs": False})


def _values(name: str, maps: Tensor, given: Mapping[str, Any], options: Mapping[str, Any]) -> Tensor:
    """NaN where quantus takes no map: a constant one, or one that is negative everywhere."""
    make = getattr(_library(name), name)
    found = []
    for map_ in maps:
        if map_.min() == map_.max() or map_.max() < 0:
            found.append(math.nan)
            continue
        values = _one(map_.double())
        arguments = {"model": None, "s_batch": None, "x_batch": np.zeros_like(values), "y_batch": np.zeros(1, dtype=int), **given}
        with np.errstate(divide="ignore"):  # AttributionLocalisation's size of the picture, which only its weights use
            judge = make(normalise=True, disable_warnings=True, **options)
            found.append(float(judge(a_batch=values, channel_first=True, **arguments)[0]))
    return torch.tensor(found, dtype=torch.float64)


def _one(values: Tensor) -> NDArray[Any]:
    """A batch of one with one channel: ``[...]`` -> ``[1, 1, ...]``."""
    array: NDArray[Any] = values.numpy()[None, None]
    return array


def _library(name: str) -> Any:
    try:
        import quantus  # 6 s: only when one of its classes runs
    except ImportError as error:
        what = f"metric quantus/{name} needs the quantus library ({error})"
        raise XbenchError(f"{what}; pip install 'xbench-xai[quantus]', for OpenCV's sake as docs/metrics.md says") from error
    return quantus
