"""Wrappers: methods that ask another one more than once, or change its map. See ``inverted`` among the controls too."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from xbench.plugin import Batch, Method, ModelView, NotApplicable, method, resize

from ._shared import noisy, require


@method("smooth", cite="smilkov2017smoothgrad")
def smooth(model: ModelView, batch: Batch, inner: Method, n: int = 25, sigma: float = 0.15) -> Tensor:
    """The mean of another method's maps at n noisy inputs, sigma in shares of the input's own range. Signed as the inner maps are.

    Each draw is new for whatever the inner method draws, too.
    """
    require(n >= 1, f"smooth: n must be positive, not {n}")
    require(sigma >= 0, f"smooth: sigma must not be negative, not {sigma}")
    total: Tensor = inner(model, noisy(batch, sigma, 0))
    for draw in range(1, n):
        total = total + inner(model, noisy(batch, sigma, draw))
    return total / n


@method("absolute")
def absolute(model: ModelView, batch: Batch, inner: Method) -> Tensor:
    """The absolute values of another method's map: evidence against counts as evidence. Unsigned."""
    result: Tensor = inner(model, batch)
    return result.abs()


@method("multi_scale")
def multi_scale(model: ModelView, batch: Batch, inner: Method, low: float = 0.75, high: float = 1.25, n: int = 3) -> Tensor:
    """The mean of another method's maps at n sizes of the input, from ``low`` to ``high`` times its own in equal steps.

    Each map is divided by its own largest absolute value, so that all weigh the same (a zero map stays zero), and resized to the
    finest of their grids, at most the input's. Signed as the inner maps are.

    Raises:
        NotApplicable: the network, or its feature layer, accepts one input size only.
    """
    require(0 < low < high, f"multi_scale: 0 < low < high must hold, not {low} and {high}")
    require(n >= 2, f"multi_scale: n must be at least 2, not {n}")
    factors = [low + (high - low) * k / (n - 1) for k in range(n)]
    sizes = [tuple(max(1, round(side * factor)) for side in batch.size) for factor in factors]
    layout = model.model.layout
    fixed = layout is not None and layout.kind == "tokens" and bool(inner.needs & {"feature_maps", "attention"})
    if fixed or not _accepts(model, batch.images[:1], sizes[0]):
        raise NotApplicable(f"multi_scale: {model.model.id} accepts inputs of {batch.size[0]} x {batch.size[1]} only")
    maps = [inner(model, batch if size == batch.size else batch.with_images(_resized(batch.images, size))) for size in sizes]
    finest = tuple(min(limit, max(m.shape[axis] for m in maps)) for axis, limit in zip((1, 2), batch.size, strict=True))
    total = torch.zeros(len(maps[0]), *finest, device=maps[0].device)
    for map_ in maps:
        largest = map_.abs().amax(dim=(1, 2), keepdim=True)
        total += resize(torch.where(largest > 0, map_ / largest, map_), (finest[0], finest[1]))
    return total / n


def _accepts(model: ModelView, image: Tensor, size: tuple[int, ...]) -> bool:
    try:
        with torch.no_grad():
            model.model(_resized(image, size))
    except (MemoryError, torch.OutOfMemoryError):  # that says nothing of the network
        raise
    except Exception:  # each network says no in its own way
        return False
    return True


def _resized(images: Tensor, size: tuple[int, ...]) -> Tensor:
    return functional.interpolate(images, list(size), mode="bilinear", align_corners=False, antialias=True)
