"""Boxes that do not keep to their pictures."""

from __future__ import annotations

import dataclasses

from xbench.plugin import Box

from .notes import Notes

ROUNDING = 0.01  # pixels: what sums of rounded coordinates exceed a picture by


def clipped(box: Box, size: tuple[int, int], notes: Notes, where: str) -> Box | None:
    """The part of a box inside a picture of (height, width); None where it has no pixel. Counts both."""
    height, width = size
    x0, x1 = (min(max(x, 0.0), float(width)) for x in (box.x0, box.x1))
    y0, y1 = (min(max(y, 0.0), float(height)) for y in (box.y0, box.y1))
    if 0 < max(box.x1, box.y1) <= 1 and any(side % 1 for side in (box.x0, box.y0, box.x1, box.y1)):
        notes.add("boxes on 0 to 1 instead of pixels, dropped", where)
        return None
    if x0 >= x1 or y0 >= y1:
        notes.add("boxes without area inside their pictures, dropped", where)
        return None
    if round(x0) == round(x1) or round(y0) == round(y1):
        notes.add("boxes that cover no pixel, dropped", where)
        return None
    if max(x0 - box.x0, box.x1 - x1, y0 - box.y0, box.y1 - y1) > ROUNDING:
        notes.add("boxes reaching beyond their pictures, clipped", where)
    return dataclasses.replace(box, x0=x0, y0=y0, x1=x1, y1=y1)
