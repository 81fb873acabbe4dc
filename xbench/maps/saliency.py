"""Every rule on saliency maps: what a valid map is, resize, order, ties, degenerate maps. The only place that knows."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from xbench.data.samples import generator
from xbench.errors import XbenchError

# A constant map has no order, so its curve is an expectation over orders, estimated from this many cyclic shifts of one random
# order: each shift is uniform over all orders (no bias), and together they visit every pixel early and late (low variance).
TIE_ORDERS = 4


@dataclass(frozen=True, eq=False)
class Attribution:
    """What a method returns that promises what its maps sum to: the maps, and by how much they miss it.

    maps: ``[B, h, w]``. residual: ``[B]``, ``|sum of the map - promised sum| / |promised sum|``. passes: ``[B, 2]``, the forward
    and backward passes that each item takes alone, from a method that spends more of them on some.
    """

    maps: Tensor
    residual: Tensor
    passes: Tensor | None = None

    @classmethod
    def of(cls, maps: Tensor, promised: Tensor, passes: Tensor | None = None) -> Attribution:
        """With the residual measured. promised: the sum of each map, ``[B]``."""
        missing = (maps.double().sum(dim=(1, 2)) - promised).abs()
        return cls(maps, (missing / promised.double().abs().clamp(min=1e-12)).float(), passes)


def validated(maps: object, rows: int, items: int, size: tuple[int, int], name: str) -> Tensor:
    """Check what a method returned for a batch of so many rows, the first ``items`` of them real.

    -> float32 ``[n, h, w]``, detached, on the CPU, n = rows or items.

    Raises:
        XbenchError: not a floating tensor ``[n, h, w]`` with h, w between 1 and the input size; names the method.
    """
    wanted = f"a float tensor [{rows}, h, w] with h <= {size[0]} and w <= {size[1]}"
    if not isinstance(maps, Tensor):
        raise XbenchError(f"method {name} returned {type(maps).__name__}; it must return {wanted}")
    fits = maps.ndim == 3 and maps.shape[0] in (rows, items) and all(1 <= m <= s for m, s in zip(maps.shape[1:], size, strict=True))
    if not fits or not maps.is_floating_point():
        raise XbenchError(f"method {name} returned {maps.dtype} {list(maps.shape)}; it must return {wanted}")
    return maps.detach().float().cpu()


def attributed(found: object, rows: int, items: int, size: tuple[int, int], name: str) -> Attribution:
    """The same of maps with or without what their method says of them; the residual is NaN where it says nothing.

    Raises:
        XbenchError: as ``validated``, or what is said is not of as many maps.
    """
    if not isinstance(found, Attribution):
        maps = validated(found, rows, items, size, name)
        return Attribution(maps, torch.full((len(maps),), float("nan")))
    maps = validated(found.maps, rows, items, size, name)
    said = [found.residual.shape == maps.shape[:1], found.passes is None or found.passes.shape == (len(maps), 2)]
    if not all(said):
        raise XbenchError(f"method {name} says of other than its {len(maps)} maps how far they miss their sum, or what they took")
    return Attribution(maps, found.residual.detach().float().cpu(), None if found.passes is None else found.passes.cpu())


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """``[..., h, w]`` -> ``[..., H, W]``, bilinear, pixel centres aligned as images are (no corner alignment)."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    flat = maps.reshape(1, -1, *maps.shape[-2:])
    shrinks = size[0] < maps.shape[-2] or size[1] < maps.shape[-1]  # then every cell still counts
    resized = functional.interpolate(flat, size, mode="bilinear", align_corners=False, antialias=shrinks)
    return resized.reshape(*maps.shape[:-2], *size)


@dataclass(frozen=True, eq=False)
class Ranking:
    """An order of pixels. row: the batch row it belongs to. ranks: int32 ``[H, W]``, 0 = most salient."""

    row: int
    ranks: Tensor


def min_max(maps: Tensor) -> Tensor:
    """Each of the maps ``[B, h, w]`` from 0 at its lowest value to 1 at its highest; a constant one is 0.

    What methods for CLIP end with; it hides how similar places and text are at all.
    """
    low, high = (f(maps, dim=(1, 2), keepdim=True) for f in (torch.amin, torch.amax))
    return torch.where(high > low, (maps - low) / (high - low), 0.0)


def _descending(values: Tensor) -> Tensor:
    """Indices of float32 ``[n]`` from largest to smallest, equal values in their given order.

    The same as a stable argsort and several times faster: a value's bits, made to order as integers do, and its index share one
    64-bit key, so that plain sorting of the keys does it all.
    """
    bits = (-values + 0.0).numpy().view(np.int32)  # + 0.0 makes one zero of two
    ascending = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    keys = (ascending.astype(np.int64) << 32) | np.arange(len(bits))
    keys.sort()
    return torch.from_numpy(keys & 0xFFFFFFFF)


def _ranks(order: Tensor) -> Tensor:
    """Indices in an order -> each index's place in it, int32."""
    ranks = torch.empty(len(order), dtype=torch.int32)
    ranks[order] = torch.arange(len(order), dtype=torch.int32)
    return ranks


class SaliencyMap:
    """One item's map by one method, at the method's own grid, with all that is derived from it computed at most once.

    native: float32 ``[h, w]``, higher = more evidence. size: the input's (H, W). row: in its batch. seed: breaks ties.
    """

    def __init__(self, native: Tensor, size: tuple[int, int], row: int, seed: str) -> None:
        self.native, self.size, self.row, self.seed = native, size, row, seed

    @functools.cached_property
    def nan(self) -> bool:
        """Some value is NaN or infinite: every score of the map is NaN."""
        return not bool(torch.isfinite(self.native).all())

    @functools.cached_property
    def constant(self) -> bool:
        """All values are equal (all zero too): scores are expectations over tie orders."""
        return not self.nan and bool((self.native == self.native.flatten()[0]).all())

    @functools.cached_property
    def tie_mass(self) -> float:
        """Share of native cells whose value another cell has too; NaN for a NaN map."""
        if self.nan:
            return float("nan")
        values = self.native.flatten().sort().values
        same = torch.zeros(len(values) + 1, dtype=torch.bool)  # same[i]: values i - 1 and i are equal
        same[1:-1] = values[1:] == values[:-1]
        return float((same[1:] | same[:-1]).double().mean())

    @property
    def grid(self) -> str:
        return f"{self.native.shape[0]}x{self.native.shape[1]}"

    @functools.cached_property
    def full(self) -> Tensor:
        """The map at the input size, float32 ``[H, W]``."""
        return resize(self.native, self.size)

    def at(self, size: tuple[int, int]) -> Tensor:
        """The map at any other size, such as that of its window in the image frame, float32 ``[h, w]``."""
        return self.full if size == self.size else resize(self.native, size)

    @functools.cached_property
    def weights(self) -> Tensor:
        """How much of each pixel the map shows, float32 ``[H, W]`` in [0, 1]: its positive part over its largest value.

        All zero where no value is positive: such a map shows nothing.
        """
        positive = self.full.clamp(min=0)
        largest = positive.max()
        return positive / largest if largest > 0 else positive

    @functools.cached_property
    def rankings(self) -> list[Ranking]:
        """Pixel orders, most salient first, whose scores are averaged: one, or TIE_ORDERS for a constant map.

        Equal pixels are ordered by the item's own seeded noise, never by position.
        """
        return [Ranking(self.row, _ranks(order).reshape(self.size)) for order in self._orders(self.full.flatten())]

    def region_rankings(self, side: int) -> list[tuple[Ranking, tuple[int, ...]]]:
        """The same for squares of ``side`` pixels, ordered by their means; those at the right and lower borders may be smaller.

        -> (an order of pixels, square by square; how many pixels the first k squares have, k from 0), for each order.
        """
        height, width = self.size
        columns = -(-width // side)
        square = (torch.arange(height)[:, None] // side * columns + torch.arange(width) // side).flatten()
        areas = torch.bincount(square)
        means = torch.bincount(square, weights=self.full.flatten().double()) / areas
        found = []
        for order in self._orders(means.float()):
            pixels = _ranks(order)[square].argsort(stable=True)
            counts = (0, *areas[order].cumsum(dim=0).tolist())
            found.append((Ranking(self.row, _ranks(pixels).reshape(self.size)), counts))
        return found

    def _orders(self, values: Tensor) -> list[Tensor]:
        """Indices of ``[n]`` values from largest to smallest, ties by noise; several orders where the map is constant."""
        count = len(values)
        noise = torch.randperm(count, generator=generator(self.seed, "ties"))
        if not self.constant:
            return [noise[_descending(values[noise])]]
        return [noise.roll(round(i * count / TIE_ORDERS)) for i in range(TIE_ORDERS)]
