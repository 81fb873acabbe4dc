"""The outlines of the generated world: signed distances, positive inside, in units of the figure's radius.

u grows to the figure's right, v downwards; every figure lies within the unit circle, about.
"""

from __future__ import annotations

import numpy as np

from .drawing import Figure, Floats, direction, wave


def disc(x: float, y: float, radius: float) -> Figure:
    """A disc."""

    def inside(u: Floats, v: Floats) -> Floats:
        across, down = u - np.float32(x), v - np.float32(y)
        return np.float32(radius) - np.sqrt(across * across + down * down)

    return inside


def oval(x: float, y: float, width: float, height: float) -> Figure:
    """An ellipse with these half axes; the distance is exact on its outline only."""

    def inside(u: Floats, v: Floats) -> Floats:
        across, down = (u - np.float32(x)) / np.float32(width), (v - np.float32(y)) / np.float32(height)
        return (np.float32(1) - np.sqrt(across * across + down * down)) * np.float32(min(width, height))

    return inside


def box(left: float, top: float, right: float, bottom: float) -> Figure:
    """A rectangle."""

    def inside(u: Floats, v: Floats) -> Floats:
        across = np.minimum(u - np.float32(left), np.float32(right) - u)
        return np.minimum(across, np.minimum(v - np.float32(top), np.float32(bottom) - v))

    return inside


def half(angle: int, distance: float) -> Figure:
    """All that lies less far in a direction (256ths of a turn, clockwise from the right) than a distance."""
    cosine, sine = (np.float32(c) for c in direction(angle))
    return lambda u, v: np.float32(distance) - (u * cosine + v * sine)


def polygon(corners: int, distance: float, first: int) -> Figure:
    """A regular one, by the distance of its sides from the centre and the direction of the first."""
    return common(*(half(first + round(256 * k / corners), distance) for k in range(corners)))


def common(*figures: Figure) -> Figure:
    """What lies in all of them."""

    def inside(u: Floats, v: Floats) -> Floats:
        found = figures[0](u, v)
        for figure in figures[1:]:
            found = np.minimum(found, figure(u, v))
        return found

    return inside


def union(*figures: Figure) -> Figure:
    """What lies in one of them at least."""

    def inside(u: Floats, v: Floats) -> Floats:
        found = figures[0](u, v)
        for figure in figures[1:]:
            found = np.maximum(found, figure(u, v))
        return found

    return inside


def without(figure: Figure, hole: Figure) -> Figure:
    """A figure with a piece cut out."""
    return lambda u, v: np.minimum(figure(u, v), -hole(u, v))


def _star(u: Floats, v: Floats) -> Floats:
    """Inside at least four of the five half planes of a pentagon: its body and its points."""
    sides = np.stack([half(64 + round(256 * k / 5), 0.31)(u, v) for k in range(5)])
    sides.sort(axis=0)
    result: Floats = sides[1]
    return result


def _diamond(u: Floats, v: Floats) -> Floats:
    """A rhombus of width 1.2 and height 2."""
    inside: Floats = np.subtract(np.float32(0.6) - np.maximum(u, -u), np.maximum(v, -v) * np.float32(0.6)) * np.float32(0.857)
    return inside


SHAPES: dict[str, Figure] = {
    "circle": disc(0, 0, 0.86),
    "ellipse": oval(0, 0, 1.0, 0.55),
    "triangle": polygon(3, 0.5, 64),
    "square": box(-0.76, -0.76, 0.76, 0.76),
    "diamond": _diamond,
    "hexagon": polygon(6, 0.82, 0),
    "star": _star,
    "cross": union(box(-0.27, -0.92, 0.27, 0.92), box(-0.92, -0.27, 0.92, 0.27)),
    "crescent": without(disc(0, 0, 0.95), disc(0.5, 0, 0.82)),
    "heart": union(
        disc(-0.43, -0.3, 0.47),
        disc(0.43, -0.3, 0.47),
        disc(0, -0.02, 0.2),
        common(half(32, 0.562), half(96, 0.562), half(192, -0.03)),
    ),
    "ring": without(disc(0, 0, 0.92), disc(0, 0, 0.52)),
    "arrow": union(box(-0.95, -0.2, 0.2, 0.2), common(half(128, 0.0), half(37, 0.6), half(219, 0.6))),
}


def pattern(name: str, u: Floats, v: Floats, radius: np.float32, frequency: float, phase: float) -> Floats | None:
    """How much of the second colour a surface has, 0 .. 1; None for a plain one. frequency: repeats per radius."""
    if name == "plain":
        return None
    fine = np.float32(frequency)
    sharp = radius / fine / np.float32(4)
    first = wave(u * fine + np.float32(phase))
    if name == "striped":
        signed = first
    elif name == "checkered":
        signed = first * wave(v * fine + np.float32(phase)) * np.float32(2)
    else:  # dots
        signed = first + wave(v * fine + np.float32(phase)) - np.float32(0.75)
    return np.minimum(np.maximum(signed * sharp + np.float32(0.5), np.float32(0)), np.float32(1))
