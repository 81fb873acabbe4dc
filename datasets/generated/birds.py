"""A cartoon bird, painted part by part. Species differ in the beak alone; all else varies without telling anything."""

from __future__ import annotations

import numpy as np

from .drawing import TURN, Bits, Canvas, Figure, Floats, Place, background
from .figures import box, common, disc, half, oval, union, without
from .vocabulary import COLOURS

PARTS = ("tail", "legs", "body", "wing", "beak", "head", "eye")  # in the order in which they are painted, the first below

# The head's centre and radius; the beak starts within and points to the right.
HEAD_X, HEAD_Y, HEAD = 0.5, -0.5, 0.28


def _bent(length: float, thick: float, bend: float) -> Figure:
    """A beak that tapers from its base to its tip and bends by ``bend`` there (negative: up)."""

    def inside(u: Floats, v: Floats) -> Floats:
        along = (u - np.float32(HEAD_X + 0.12)) / np.float32(length)
        middle = np.float32(HEAD_Y) + along * along * np.float32(bend)
        half_width = np.float32(thick) * (np.float32(1.15) - along)
        ends = np.minimum(along, np.float32(1) - along) * np.float32(length)
        return np.minimum(half_width - np.abs(v - middle), ends)

    return inside


BEAK: tuple[Figure, ...] = (
    _bent(0.42, 0.24, 0.0),  # finch
    _bent(0.98, 0.1, 0.0),  # heron
    _bent(0.88, 0.09, -0.42),  # avocet
    _bent(0.88, 0.09, 0.5),  # curlew
    union(_bent(0.85, 0.07, 0.0), oval(HEAD_X + 0.9, HEAD_Y, 0.17, 0.15)),  # spoonbill
    union(_bent(0.42, 0.17, 0.1), common(disc(HEAD_X + 0.32, HEAD_Y + 0.1, 0.24), half(128, -HEAD_X - 0.3))),  # hawk
)
TAILS: tuple[Figure, ...] = (
    common(half(0, -0.45), half(128, 1.0), half(70, 0.02), half(198, 0.3)),
    without(common(half(0, -0.45), half(128, 1.0), half(72, 0.12), half(184, 0.42)), disc(-1.0, 0.12, 0.16)),
    oval(-0.75, 0.1, 0.3, 0.13),
)


def draw_bird(bits: Bits, size: int, species: int) -> tuple[Canvas, str]:
    """A bird of a species somewhere in a picture, and the name of its colour."""
    ground, _ = background(bits, size)
    canvas = Canvas(ground)
    radius = size * bits.between(0.3, 0.36)
    tilt, mirrored = bits.below(27) - 13, bits.chance(50)
    # It reaches one radius backwards and 1.65 forwards; hardly any of it leaves the picture.
    x = size / 2 + (0.32 if mirrored else -0.32) * radius + (size / 2 - radius * 1.36) * bits.between(-1, 1)
    y = size / 2 + (size / 2 - radius * 1.1) * bits.between(-1, 1)
    place = canvas.place(x, y, radius, tilt % TURN, mirrored, reach=1.9)
    assert place is not None  # its centre is inside
    body, second, beak = (COLOURS[bits.below(len(COLOURS))] for _ in range(3))
    figures: dict[str, Figure] = {
        "tail": TAILS[bits.below(len(TAILS))],
        "legs": union(box(-0.14, 0.3, -0.08, 0.95), box(0.08, 0.3, 0.14, 0.95)),
        "body": oval(0, 0.1, 0.58, 0.42),
        "wing": oval(-0.12, 0.08, bits.between(0.26, 0.38), bits.between(0.14, 0.22)),
        "beak": BEAK[species],
        "head": disc(HEAD_X, HEAD_Y + 0.04, HEAD),
        "eye": disc(HEAD_X + 0.1, HEAD_Y - 0.04, 0.07),
    }
    neck = oval(0.33, -0.2, 0.2, 0.32)
    figures["body"] = union(figures["body"], neck)
    dark, bright = _rgb(bits, (30, 30, 30)), _rgb(bits, (225, 215, 190))
    colours = {
        "tail": _rgb(bits, second.rgb),
        "legs": bright if bits.chance(50) else dark,
        "body": _rgb(bits, body.rgb),
        "wing": _rgb(bits, second.rgb),
        "beak": _rgb(bits, beak.rgb),
        "head": _rgb(bits, body.rgb),
        "eye": bright if sum(body.rgb) < 250 else dark,
    }
    shade = np.float32(1.08) - place.v * np.float32(0.2)
    for number, part in enumerate(PARTS, 1):
        _paint(canvas, place, figures[part], colours[part] * shade, number)
    return canvas, body.name


def _paint(canvas: Canvas, place: Place, figure: Figure, colour: Floats, owner: int) -> None:
    canvas.paint(place, place.cover(figure), colour, owner)


def _rgb(bits: Bits, rgb: tuple[int, int, int]) -> Floats:
    """A colour with some variation, ``[3, 1, 1]``."""
    return np.array([c + bits.below(31) - 15 for c in rgb], dtype=np.float32)[:, None, None]
