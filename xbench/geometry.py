"""Geometry: how a picture becomes the model's input, and how truth follows it there. The only place that knows.

A View cuts a window out of the image frame and resizes it to the model's input. Truth is clipped to the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from xbench.data import Box, Sample, Truth

ViewKind = Literal["crop", "full"]


@dataclass(frozen=True)
class View:
    """A window of the image frame (left, top, width, height in whole pixels) and the input size (height, width)."""

    left: int
    top: int
    width: int
    height: int
    size: tuple[int, int]

    def image(self, image: Tensor) -> Tensor:
        """uint8 ``[3, H, W]`` -> uint8 ``[3, *size]``, bicubic with anti-aliasing (PIL: integer arithmetic, the same on every
        machine); untouched where nothing has to change."""
        window = self._cut(image)
        if window.shape[-2:] == self.size:
            return window
        picture = Image.fromarray(window.permute(1, 2, 0).contiguous().numpy())
        resized = picture.resize((self.size[1], self.size[0]), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(resized)).permute(2, 0, 1)

    def mask(self, mask: Tensor) -> Tensor:
        """bool ``[H, W]`` in the image frame -> bool ``[*size]``, nearest pixel."""
        window = self._cut(mask)[None, None].to(torch.uint8)
        return functional.interpolate(window, self.size, mode="nearest-exact")[0, 0].bool()

    def box(self, box: Box) -> Box | None:
        """A box in the image frame -> in the input frame, clipped to the window; None when nothing of it is visible."""
        scale_y, scale_x = self.size[0] / self.height, self.size[1] / self.width
        x0, x1 = (min(max(x - self.left, 0), self.width) * scale_x for x in (box.x0, box.x1))
        y0, y1 = (min(max(y - self.top, 0), self.height) * scale_y for y in (box.y0, box.y1))
        return Box(box.label, x0, y0, x1, y1, box.difficult) if x0 < x1 and y0 < y1 else None

    def truth(self, sample: Sample, target: int) -> Truth:
        """What is known of a target, in the input frame. Without a mask of its own, the mask is the union of its boxes."""
        boxes = [b for b in sample.boxes if b.label == target]
        mask = sample.masks.get(target)
        if mask is None and boxes:
            mask = torch.zeros(sample.image.shape[-2:], dtype=torch.bool)
            for b in boxes:
                mask[max(round(b.y0), 0) : max(round(b.y1), 0), max(round(b.x0), 0) : max(round(b.x1), 0)] = True
        if mask is None:
            return Truth(visible=0.0)
        total = int(mask.sum())
        visible = int(self._cut(mask).sum()) / total if total else 0.0
        return Truth(self.mask(mask), tuple(c for b in boxes if (c := self.box(b))), visible)

    def _cut(self, tensor: Tensor) -> Tensor:
        return tensor[..., self.top : self.top + self.height, self.left : self.left + self.width]


def crop(height: int, width: int, size: tuple[int, int], share: float) -> View:
    """The centred square of ``share`` of the shorter side, resized to ``size``."""
    side = max(1, int(min(height, width) * share))
    return View((width - side) // 2, (height - side) // 2, side, side, size)


def full(height: int, width: int) -> View:
    """The whole picture at its stored size."""
    return View(0, 0, width, height, (height, width))
