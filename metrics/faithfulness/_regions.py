"""Random regions of a picture, seeded by the item: the same for all methods, so that each is looked at once."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from xbench.plugin import generator

SMALLEST, LARGEST = 0.1, 0.5  # side of a square, in shares of the picture's
GRID = 14  # cells a side; a subset of pixels would be salt and pepper, which no coarse map can tell apart
SUBSET = 0.25  # of the cells


@dataclass(frozen=True)
class Regions(ABC):
    """n random regions of an item of that seed and input size."""

    seed: str
    size: tuple[int, int]
    count: int

    @abstractmethod
    def mask(self, i: int) -> Tensor:
        """bool ``[H, W]``."""

    @abstractmethod
    def sums(self, map_: Tensor) -> Tensor:
        """float ``[H, W]`` -> its sum over each region, float64 ``[count]``."""


class Squares(Regions):
    """Rectangles of the picture's proportions, of random sizes at random places."""

    @functools.cached_property
    def edges(self) -> list[tuple[int, int, int, int]]:
        """top, bottom, left, right."""
        found = []
        for size, *place in torch.rand(self.count, 3, dtype=torch.float64, generator=generator(self.seed, "squares")).tolist():
            sides = [max(1, round((SMALLEST + (LARGEST - SMALLEST) * size) * side)) for side in self.size]
            top, left = (int(at * (whole - side + 1)) for at, whole, side in zip(place, self.size, sides, strict=True))
            found.append((top, top + sides[0], left, left + sides[1]))
        return found

    def mask(self, i: int) -> Tensor:
        mask = torch.zeros(self.size, dtype=torch.bool)
        top, bottom, left, right = self.edges[i]
        mask[top:bottom, left:right] = True
        return mask

    def sums(self, map_: Tensor) -> Tensor:
        below = functional.pad(map_.double(), (1, 0, 1, 0)).cumsum(dim=0).cumsum(dim=1)
        top, bottom, left, right = torch.tensor(self.edges).T
        return below[bottom, right] - below[top, right] - below[bottom, left] + below[top, left]


class Subsets(Regions):
    """SUBSET of the cells of a grid, drawn without replacement."""

    @functools.cached_property
    def cells(self) -> Tensor:
        """int ``[H, W]``, which cell a pixel is in."""
        rows, columns = (torch.arange(side) * min(GRID, side) // side for side in self.size)
        return rows[:, None] * min(GRID, self.size[1]) + columns

    @functools.cached_property
    def chosen(self) -> Tensor:
        """bool ``[count, cells]``."""
        order = torch.rand(self.count, int(self.cells.max()) + 1, generator=generator(self.seed, "subsets")).argsort(dim=1)
        return torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, : max(1, round(SUBSET * order.shape[1]))], True)

    def mask(self, i: int) -> Tensor:
        return self.chosen[i][self.cells]

    def sums(self, map_: Tensor) -> Tensor:
        return self.chosen.double() @ torch.bincount(self.cells.flatten(), weights=map_.double().flatten())
