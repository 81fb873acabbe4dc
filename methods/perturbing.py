"""Methods that look at the target's probability p while parts of the input are hidden; no gradients, no internals."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xbench import Batch, Blends, Curve, ModelView, method
from xbench.data import generator
from xbench.maps import Ranking, resize
from xbench.probing import check_substrate

from ._shared import require


@method("occlusion", cite="zeiler2014visualizing")
def occlusion(model: ModelView, batch: Batch, window: int = 64, stride: int = 16, substrate: str = "zero") -> Tensor:
    """What the target's probability loses when a square is hidden, averaged over the squares that cover a cell (section 4.2).

    window, stride: in pixels of an input whose shorter side is 224; the input is cut into cells of about one stride, and a square
    covers round(window / stride) cells a side, so that nothing depends on the input's size. The paper paints the square grey and
    names no sizes. -> [items, rows, columns] of cells. Signed: negative = hiding it helps the target.
    """
    require(1 <= stride <= window <= 224, f"occlusion: 1 <= stride <= window <= 224 must hold, not {stride} and {window}")
    check_substrate(substrate)
    sides = [min(side, max(1, round(side / (stride * min(batch.size) / 224)))) for side in batch.size]
    reach = [min(side, round(window / stride)) for side in sides]
    tops, lefts = (range(side - r + 1) for side, r in zip(sides, reach, strict=True))
    hidden = torch.zeros(len(tops) * len(lefts), *sides)
    for i, cells in enumerate(hidden):
        top, left = divmod(i, len(lefts))
        cells[top : top + reach[0], left : left + reach[1]] = 1
    of_row, of_column = (torch.arange(n) * side // n for n, side in zip(batch.size, sides, strict=True))

    rows = tuple(range(len(batch.items)))
    order = torch.arange(math.prod(batch.size), dtype=torch.int32).reshape(batch.size)
    clean = [Curve(Ranking(row, order), (0,), "image", substrate) for row in rows]
    squares = Blends(rows, len(hidden), lambda i: 1 - hidden[i][of_row][:, of_column], substrate)
    *before, after = model.probe(batch, [*clean, squares])
    drops = torch.stack(before) - after
    covering = hidden.double()
    maps = torch.stack([(drop[:, None, None] * covering).sum(dim=0) for drop in drops]) / covering.sum(dim=0)
    return maps.float()


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
