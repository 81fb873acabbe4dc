"""The pointing game on parts of the target, for datasets that know them: does a map point at the beak, or at any part?"""

from __future__ import annotations

import torch
from torch import Tensor

from xbench.plugin import NotApplicable, Truth, metric

from .._shared import at_least
from ._comparison import compare
from ._pointing import share_of_maxima, within


@metric(
    "part_pointing",
    kind="ground_truth",
    version="1",
    direction="higher",
    chance="the share of the window that lies within the tolerance of the part",
    needs={"mask", "parts"},
    frame="image",
    cite="zhang2016topdown",
)
def part_pointing(maps: Tensor, truth: Truth, part: str = "", tolerance: int = 15) -> Tensor:
    """Whether the largest value lies less than ``tolerance`` pixels of the picture as stored from a part of the target.

    part: its name; empty for whichever is nearest. maps float [M, H, W] -> [M] in [0, 1]. Distances, ties and ignored pixels are
    those of the pointing game. Not applicable where the target has no such part, or the model does not see it.
    """
    at_least(0, tolerance=tolerance)
    return compare(maps, truth, within(_region(truth, part), tolerance), share_of_maxima)


def _region(truth: Truth, part: str) -> Tensor:
    """bool ``[H, W]``: the part's pixels, or those of all parts."""
    if not truth.parts:
        raise NotApplicable("no parts of the target are known")
    if part and part not in truth.parts:
        raise NotApplicable(f"{part!r} is not one of the target's known parts: {', '.join(truth.parts)}")
    region = truth.parts[part] if part else torch.stack(list(truth.parts.values())).any(dim=0)
    if not region.any():
        raise NotApplicable(f"the part {part!r} is not visible to the model" if part else "no part is visible to the model")
    return region
