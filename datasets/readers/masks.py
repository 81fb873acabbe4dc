"""Pixels of objects: outlines and runs as COCO writes them, and masks in PNG files."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xbench.plugin import BrokenSample, XbenchError

from .beside import beside
from .tree import Picture, Tree, readable
from .values import BACKGROUND, OWN, REMEDY, VOID, Reading, Values, opened, plain

Mask = NDArray[np.bool_]
THREADS = 4  # masks are decoded outside Python


@dataclass(frozen=True)
class Polygon:
    """A closed outline, x0, y0, x1, y1, ... in pixels; the pixel in column i covers i to i + 1.

    A pixel belongs to it when its centre lies inside by the even-odd rule, so that areas are right on average; filling as
    drawing libraries do adds half a pixel all around.
    """

    points: tuple[float, ...]

    def covers(self, height: int, width: int) -> bool:
        """Whether it has a pixel inside a picture. Only what is thin or outside has to be painted to tell."""
        x, y = np.array(self.points).reshape(-1, 2).T
        sides = np.hypot(np.roll(x, -1) - x, np.roll(y, -1) - y).sum()
        area = abs(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())) / 2
        inside = x.min() >= 0 and y.min() >= 0 and x.max() <= width and y.max() <= height
        return bool((inside and area > sides) or self.paint(height, width).any())

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

    def covers(self, height: int, width: int) -> bool:
        """Whether it has a pixel."""
        return any(self.counts[1::2])

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

    def covers(self, height: int, width: int) -> bool:
        """Whether it has a pixel inside a picture."""
        return bool(self.paint(height, width).any())

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


@dataclass(frozen=True)
class Masks:
    """The masks of a dataset. files: picture id -> its mask. areas: picture id -> label -> its number of pixels."""

    reading: Reading
    files: Mapping[str, Path]
    areas: Mapping[str, Mapping[int, int]]


def read_masks(tree: Tree, folder: Path, reading: Reading | None) -> Masks:
    """The masks in a folder of PNG files, each opened once to see what values there are. reading: of these values; None where
    nobody says.

    Raises:
        XbenchError: there is no such folder, or no mask in it; or what a value means is not known.
    """
    files, values = beside(tree, folder, ".png", "masks"), {}
    with ThreadPoolExecutor(THREADS) as pool:
        looked = dict(zip(files, pool.map(_look, files.values()), strict=True))
    for picture in tree.pictures:
        seen = looked.get(picture.id)
        if isinstance(seen, BrokenSample):
            tree.notes.add("masks that cannot be read, dropped", str(seen))
        elif seen is not None and tree.fits(picture, [seen[0]]):
            values[picture.id] = seen[1]
    names = {id: readable(files[id].name) for id in values}
    reading = reading or plain({names[id]: seen for id, seen in values.items()})
    areas = {}
    for picture in tree.pictures:
        if picture.id in values:
            areas[picture.id] = _areas(tree, picture, values[picture.id], reading, names[picture.id])
    return Masks(reading, {id: files[id] for id in values}, areas)


def _look(path: Path) -> tuple[tuple[int, int], Values] | BrokenSample:
    """A mask's (height, width) and its values, or why it cannot be read."""
    try:
        codes, values = opened(path)
    except BrokenSample as error:
        return error
    return (codes.shape[0], codes.shape[1]), values


def _areas(tree: Tree, picture: Picture, values: Values, reading: Reading, name: str) -> dict[int, int]:
    """Label -> pixels of one mask; counts what is amiss with it."""
    try:
        meanings = reading.meanings(values)
    except ValueError as error:
        raise XbenchError(f"masks: {name} has the value {error}, which means nothing; {REMEDY}") from error
    areas: dict[int, int] = {}
    for code, meaning in meanings.items():
        label = picture.label if meaning == OWN else tree.index.get(meaning)
        if label is not None and meaning not in (BACKGROUND, VOID):
            areas[label] = areas.get(label, 0) + values.counts[code]
        elif meaning == OWN:
            raise XbenchError(f"masks: the picture of {name} has no class folder, so its mask must name one; {REMEDY}")
        elif meaning not in (BACKGROUND, VOID):
            tree.notes.add("classes in masks that the dataset does not have, ignored", f"{meaning} in {name}")
    if not areas:
        tree.notes.add("masks without a pixel of an object", name)
    elif picture.label is not None and picture.label not in areas:
        tree.notes.add("masks without a pixel of their picture's own class", name)
    return areas


def read_mask(path: Path, reading: Reading) -> dict[str, Mask]:
    """What a mask's pixels mean -> these pixels, bool ``[H, W]``; OWN even where there are none.

    Raises:
        BrokenSample: it cannot be read any more.
    """
    codes, values = opened(path)
    try:
        meanings = reading.meanings(values)
    except ValueError as error:
        raise BrokenSample(f"mask {path} has the value {error}, which means nothing; start anew") from error
    return {name: np.isin(codes, [c for c, m in meanings.items() if m == name]) for name in {*meanings.values(), OWN}}
