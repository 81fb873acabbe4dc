"""Geometry: how a picture becomes the model's input, and how truth and maps follow it. The only place that knows.

Three frames. The *image frame* is the picture as stored. The *input frame* is what the model gets. The *window frame* is the part
of the picture that the model sees, in pixels of the image frame: where tolerances in real pixels make sense, and where nothing
unseen exists that could be counted for or against a map. A View cuts the window out and resizes it to the input.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from xbench.data.samples import Box, Sample, Truth

ViewKind = Literal["crop", "squash", "keep_aspect", "full"]
Frame = Literal["input", "image"]
Interpolation = Literal["bicubic", "bilinear"]

# Why a target has no mask.
NO_TRUTH = "the explained class has no truth in this picture"
NO_MASK = "the explained class has boxes in this picture, but no mask"
NO_PIXEL = "the truth of the explained class covers no pixel"
LONGEST = 16  # times the shorter side: what keep_aspect makes of a thinner picture would not fit into memory


@dataclass(frozen=True)
class View:
    """A window of the image frame (left, top, width, height in whole pixels) and the input size (height, width)."""

    left: int
    top: int
    width: int
    height: int
    size: tuple[int, int]

    def image(self, image: Tensor, interpolation: Interpolation = "bicubic") -> Tensor:
        """uint8 ``[3, H, W]`` -> uint8 ``[3, *size]``, with anti-aliasing (PIL: integer arithmetic, the same on every machine);
        untouched where nothing has to change."""
        window = self._cut(image)
        if window.shape[-2:] == self.size:
            return window
        picture = Image.fromarray(window.permute(1, 2, 0).contiguous().numpy())
        resized = picture.resize((self.size[1], self.size[0]), Image.Resampling[interpolation.upper()])
        return torch.from_numpy(np.array(resized)).permute(2, 0, 1)

    @property
    def window(self) -> View:
        """The view that shows the same window pixel by pixel: the window frame."""
        return dataclasses.replace(self, size=(self.height, self.width))

    def mask(self, mask: Tensor) -> Tensor:
        """bool ``[H, W]`` in the image frame -> bool ``[*size]``, nearest pixel."""
        window = self._cut(mask)[None, None].to(torch.uint8)
        if window.shape[-2:] == self.size:
            return window[0, 0].bool()
        return functional.interpolate(window, self.size, mode="nearest-exact")[0, 0].bool()

    def box(self, box: Box) -> Box | None:
        """A box in the image frame -> in the input frame, clipped to the window; None when nothing of it is visible."""
        scale_y, scale_x = self.size[0] / self.height, self.size[1] / self.width
        x0, x1 = (min(max(x - self.left, 0), self.width) * scale_x for x in (box.x0, box.x1))
        y0, y1 = (min(max(y - self.top, 0), self.height) * scale_y for y in (box.y0, box.y1))
        return Box(box.label, x0, y0, x1, y1, box.difficult) if x0 < x1 and y0 < y1 else None

    def paste(self, map_: Tensor, height: int, width: int) -> Tensor:
        """A map at any grid, float ``[h, w]`` -> the whole image frame, ``[height, width]``, NaN where the model saw nothing."""
        whole = torch.full((height, width), torch.nan)
        window = functional.interpolate(
            map_[None, None].float(), (self.height, self.width), mode="bilinear", align_corners=False, antialias=True
        )
        whole[self.top : self.top + self.height, self.left : self.left + self.width] = window[0, 0]
        return whole

    def truth(self, sample: Sample, target: int) -> Truth:
        """What is known of a target, in the input frame. Where the dataset has no masks, the mask is the union of the boxes. Where
        it has, boxes never stand for a missing mask: a column compares all its items with truth of one kind."""
        boxes = [b for b in sample.boxes if b.label == target]
        drawn = torch.zeros(sample.image.shape[-2:], dtype=torch.bool)
        for b in boxes:
            drawn[max(round(b.y0), 0) : max(round(b.y1), 0), max(round(b.x0), 0) : max(round(b.x1), 0)] = True
        mask = sample.masks.get(target, None if sample.outlined or sample.masks or not boxes else drawn)
        masked = mask is not None and bool(mask.any())
        extent = mask if masked and mask is not None else drawn
        total = int(extent.sum())
        visible = int(self._cut(extent).sum()) / total if total else 0.0
        shown = tuple(c for b in boxes if (c := self.box(b))) if total else ()
        if mask is None or not masked:
            lacking = NO_PIXEL if mask is not None else NO_MASK if total else NO_TRUTH
            return Truth(boxes=shown, visible=visible, lacking=lacking)
        seen = self.mask(mask)
        ignore = self.mask(sample.ignore) & ~seen if sample.ignore is not None else None
        difficult = 4 * total < mask.numel() and any(label != target for label in sample.labels)
        parts = sample.parts if sample.labels[:1] == (target,) else {}
        return Truth(
            seen,
            shown,
            visible,
            ignore,
            difficult,
            {name: self.mask(part) for name, part in parts.items()},
        )

    def _cut(self, tensor: Tensor) -> Tensor:
        return tensor[..., self.top : self.top + self.height, self.left : self.left + self.width]


def crop(height: int, width: int, size: tuple[int, int], share: float) -> View:
    """The centred window of the input's proportions and ``share`` of the largest such, resized to ``size``."""
    if size[0] == size[1]:
        high = wide = max(1, int(min(height, width) * share))
    else:
        scale = min(height / size[0], width / size[1]) * share
        high, wide = (min(max(1, round(s * scale)), limit) for s, limit in zip(size, (height, width), strict=True))
    return View((width - wide) // 2, (height - high) // 2, wide, high, size)


def squash(height: int, width: int, size: tuple[int, int]) -> View:
    """The whole picture, stretched to ``size`` whatever its proportions."""
    return View(0, 0, width, height, size)


def keep_aspect(height: int, width: int, size: tuple[int, int]) -> View:
    """The whole picture in its proportions, its shorter side resized to the input's shorter side. Networks must take any size."""
    shorter, side = min(height, width), min(size)
    high, wide = (min(max(1, round(s * side / shorter)), LONGEST * side) for s in (height, width))
    return View(0, 0, width, height, (high, wide))


def full(height: int, width: int) -> View:
    """The whole picture at its stored size."""
    return View(0, 0, width, height, (height, width))


def view(kind: ViewKind, height: int, width: int, size: tuple[int, int], share: float) -> View:
    """The view of that kind of a picture of height x width for a model input of ``size`` and a crop of ``share``."""
    match kind:
        case "crop":
            return crop(height, width, size, share)
        case "squash":
            return squash(height, width, size)
        case "keep_aspect":
            return keep_aspect(height, width, size)
        case "full":
            return full(height, width)
