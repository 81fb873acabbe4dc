"""RISE: the target's probability on the input seen through random soft masks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xbench.plugin import Batch, Blends, ModelView, generator, method, resize

from .._shared import require


@method("rise", cite="petsiuk2018rise")
def rise(model: ModelView, batch: Batch, n: int = 4000, cells: int = 7, keep: float = 0.5) -> Tensor:
    """The mean of random masks, weighted by the target's probability on the input seen through them: sum(p m) / (n keep) (eq. 6).

    A mask is a grid of cells x cells, each kept with probability ``keep``, upsampled bilinearly and cropped at random; what is not
    seen is zero in the normalised space. All items share the masks, which the run's seed and the input's size determine; those
    of a smaller n are the first of a larger one. -> [items, H, W], unsigned.
    """
    require(n >= 1, f"rise: n must be positive, not {n}")
    require(cells >= 1, f"rise: cells must be positive, not {cells}")
    require(0 < keep <= 1, f"rise: keep must be in (0, 1], not {keep}")
    height, width = batch.size
    cell = [math.ceil(side / cells) for side in batch.size]
    run = batch.seed.partition("/")[0]
    drawn = torch.rand(n, cells, cells, generator=generator(run, "rise", "cells", *batch.size))
    shifts = torch.rand(n, 2, dtype=torch.float64, generator=generator(run, "rise", "shifts", *batch.size)) * torch.tensor(cell)

    def mask(i: int) -> Tensor:
        top, left = shifts[i].long().tolist()
        whole = resize((drawn[i] < keep).float(), ((cells + 1) * cell[0], (cells + 1) * cell[1]))
        return whole[top : top + height, left : left + width]

    (probabilities,) = model.probe(batch, [Blends(tuple(range(len(batch.items))), n, mask)])
    total = torch.zeros(len(batch.items), height, width, dtype=torch.float64)
    for i in range(n):
        total += probabilities[:, i, None, None] * mask(i)
    return (total / (n * keep)).float()
