"""Occlusion for transformers, by the very squares that the network cuts."""

from __future__ import annotations

import torch
from torch import Tensor

from xbench.plugin import Batch, Blends, ModelView, NotApplicable, method

from .._shared import require


@method("leave_patch_out", needs={"feature_maps"}, cite="zeiler2014visualizing")
def leave_patch_out(model: ModelView, batch: Batch, block: int = 1) -> Tensor:
    """What the target's probability loses when one patch of the token grid is replaced by the mean colour, zero when normalised.

    Occlusion (section 4.2) by the very squares that the network cuts. block: hide so many patches by so many at once, for a coarser
    map that costs less: a forward pass for each block, and one. [items, h / block, w / block], signed: negative = hiding it helps.

    Raises:
        NotApplicable: the model has no grid of tokens.
        XbenchError: blocks do not tile it.
    """
    layout = model.model.layout
    if layout is None or layout.kind != "tokens":
        raise NotApplicable(f"leave_patch_out: {model.model.id} has no grid of tokens; use occlusion")
    tiles = block > 0 and all(side % block == 0 for side in layout.grid)
    require(
        tiles, f"leave_patch_out: blocks of {block} do not tile {layout.grid[0]} x {layout.grid[1]} patches; choose another block"
    )
    (h, w), (height, width) = (side // block for side in layout.grid), batch.size
    cells = (torch.arange(height) * h // height * w)[:, None] + torch.arange(width) * w // width
    # No pixel has the last number: that mask hides nothing.
    masks = Blends(tuple(range(len(batch.items))), h * w + 1, lambda i: (cells != i).float())
    (probabilities,) = model.probe(batch, [masks])
    return (probabilities[:, -1:] - probabilities[:, :-1]).reshape(-1, h, w).float()
