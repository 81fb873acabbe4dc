"""Occlusion: what the target's probability loses while a square of the input is hidden."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xbench.plugin import Batch, Blends, Curve, ModelView, Ranking, check_substrate, method

from .._shared import require


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
