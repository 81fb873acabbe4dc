"""Pixels of objects: outlines and runs as COCO writes them, and masks in PNG files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xbench import BrokenSample, pictures

from ._beside import beside
from ._tree import Tree

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Polygon:
    """A closed outline, x0, y0, x1, y1, ... in pixels; the pixel in column i covers i to i + 1.

    A pixel belongs to it when its centre lies inside by the even-odd rule, so that areas are right on average; filling as
    drawing libraries do adds half a pixel all around.
    """

    points: tuple[float, ...]

    def paint(self, height: int, width: int) -> Mask:
        """bool ``[height, width]``"""
        flips = np.zeros((height, width + 1), np.bool_)
        ends = np.array(self.points).reshape(-1, 2)
        for (xa, ya), (xb, yb) in zip(ends, np.roll(ends, -1, axis=0), strict=True):
            first, last = (int(np.clip(np.ceil(y - 0.5), 0, height)) for y in sorted((ya, yb)))
            rows = np.arange(first, last)  # whose centres the edge crosses, so ya != yb where there are any
            x = xa + (rows + 0.5 - ya) * ((xb - xa) / (yb - ya if ya != yb else 1))
            flips[rows, np.clip(np.ceil(x - 0.5), 0, width).astype(int)] ^= True
        return np.logical_xor.accumulate(flips, axis=1)[:, :width]


@dataclass(frozen=True)
class Runs:
    """COCO's run-length encoding: lengths of runs of pixels outside, inside, outside, ... down the columns, left to right."""

    counts: tuple[int, ...]

    def paint(self, height: int, width: int) -> Mask:
        """bool ``[height, width]``"""
        return np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts).reshape(height, width, order="F")


@dataclass(frozen=True)
class Rectangle:
    """A box for lack of an outline: the pixels between its rounded sides, as geometry.py makes masks of boxes."""

    x0: float
    y0: float
    x1: float
    y1: float

    def paint(self, height: int, width: int) -> Mask:
        """bool ``[height, width]``"""
        mask = np.zeros((height, width), np.bool_)
        mask[round(self.y0) : round(self.y1), round(self.x0) : round(self.x1)] = True
        return mask


Region = Polygon | Runs | Rectangle


def decompressed(text: str) -> list[int]:
    """Run lengths from COCO's compressed string: base 32, least digit first, one printable character per digit (offset 48), bit 5
    set where more follow, bit 4 of the last one is the sign; from the fourth number on, the difference to the last but one.

    Raises:
        ValueError: a character that cannot be, or a number that never ends.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - 48
        if not 0 <= digit < 64:
            raise ValueError(f"character {character!r} in compressed runs")
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            value -= (digit & 16) << (shift - 4)  # two's complement
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("compressed runs that end within a number")
    return counts


def union(regions: list[Region], height: int, width: int) -> Mask:
    """bool ``[height, width]``"""
    mask = np.zeros((height, width), np.bool_)
    for region in regions:
        mask |= region.paint(height, width)
    return mask


def found(tree: Tree, folder: Path) -> dict[str, Path]:
    """Picture id -> its mask's file, where the two are of one size."""
    files, there = {}, beside(tree, folder, ".png", "masks")
    for picture in tree.pictures:
        if (path := there.get(picture.id)) is None:
            continue
        try:
            size = pictures.size(path, upright=False)
        except BrokenSample as error:
            tree.notes.add("masks that cannot be read, dropped", str(error))
            continue
        if tree.fits(picture, [size]):
            files[picture.id] = path
    return files


def read(path: Path) -> tuple[Mask, Mask | None]:
    """(the object, void or None), bool ``[H, W]``. Every pixel that is not zero in some colour is the object, whatever its alpha;
    but 255 in a palette picture is void, as in PASCAL VOC.

    Raises:
        BrokenSample: it cannot be read.
    """
    with pictures.opened(path) as picture:
        values = np.array(picture)
        bands = [i for i, band in enumerate(picture.getbands()) if band != "A"]
        if picture.mode == "P":
            return (values != 0) & (values != 255), values == 255
    return (values[..., bands] != 0).any(axis=-1) if values.ndim == 3 else values != 0, None
