"""Drawing that gives the same bytes everywhere: a canvas, backgrounds, and objects with exact pixels.

Randomness is the raw words of a counter-based generator. Arithmetic is elementwise float32 addition, multiplication, division and
square root, which IEEE 754 rounds alike on every machine; sines come from a table of integers. No sums, powers or exponentials,
whose last bits differ between processors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Figure = Callable[[Floats, Floats], Floats]  # (u, v) in units of the radius -> distance to the outline, positive inside

TURN = 256  # directions in a full turn
SINES = tuple(round(math.sin(2 * math.pi * k / TURN) * 2**14) for k in range(TURN))  # far from ties: the same on every machine


class Bits:
    """The random numbers of one picture, read one after the other: words of Philox-4x64 under the key (seed, index)."""

    def __init__(self, seed: int, index: int) -> None:
        self._source = np.random.Philox(key=np.array([seed, index], dtype=np.uint64))
        self._words: list[int] = []

    def below(self, n: int) -> int:
        """0 .. n - 1; the bias of the remainder is below 2^-50."""
        if not self._words:
            self._words = self._source.random_raw(64).tolist()
        return self._words.pop() % n

    def between(self, low: float, high: float) -> float:
        """One of 4,096 equal steps from low to high."""
        return low + (high - low) * self.below(4097) / 4096

    def chance(self, percent: int) -> bool:
        """True in that many of a hundred cases."""
        return self.below(100) < percent

    def bytes(self, count: int) -> Bytes:
        """That many bytes."""
        words: npt.NDArray[np.uint64] = self._source.random_raw(-(-count // 8))
        return words.astype("<u8").view(np.uint8)[:count]


def direction(angle: int) -> tuple[float, float]:
    """(cosine, sine) of an angle in 256ths of a turn."""
    return SINES[(angle + TURN // 4) % TURN] / 2**14, SINES[angle % TURN] / 2**14


class Canvas:
    """A picture being drawn, float32 ``[3, size, size]`` in 0..255, and whose each pixel is.

    owner: uint8 ``[size, size]``; 0 is the background, k the k-th object that was painted, where it covers at least half a pixel.
    """

    def __init__(self, background: Floats) -> None:
        self.pixels = background
        self.size = background.shape[-1]
        self.owner = np.zeros((self.size, self.size), dtype=np.uint8)

    def place(self, x: float, y: float, radius: float, angle: int, mirrored: bool = False, reach: float = 1.0) -> Place | None:
        """Where an object with centre (x, y) lies; None outside of the picture. reach: how far it goes, in radii."""
        left, top = (max(0, math.floor(c - reach * radius) - 1) for c in (x, y))
        right, bottom = (min(self.size, math.ceil(c + reach * radius) + 1) for c in (x, y))
        if left >= right or top >= bottom:
            return None
        across = (np.arange(left, right, dtype=np.float32) + np.float32(0.5 - x)) / np.float32(radius)
        down = (np.arange(top, bottom, dtype=np.float32) + np.float32(0.5 - y)) / np.float32(radius)
        cosine, sine = (np.float32(v) for v in direction(angle))
        u = (across * cosine)[None, :] + (down * sine)[:, None]
        v = (down * cosine)[:, None] - (across * sine)[None, :]
        return Place((slice(top, bottom), slice(left, right)), -u if mirrored else u, v, np.float32(radius))

    def paint(self, place: Place, coverage: Floats, colour: Floats, owner: int) -> None:
        """Cover pixels with a colour, ``[3, h, w]`` or ``[3, 1, 1]``."""
        region = self.pixels[:, place.window[0], place.window[1]]
        region += (colour - region) * coverage
        self.owner[place.window][coverage >= 0.5] = owner

    def finish(self, bits: Bits, grain: float) -> Bytes:
        """The picture with sensor noise of at most ``grain``, uint8 ``[3, size, size]``."""
        noise = bits.bytes(self.pixels.size).view(np.int8).reshape(self.pixels.shape)
        noisy = self.pixels + noise * np.float32(grain / 128)
        return (np.minimum(np.maximum(noisy, np.float32(0)), np.float32(255)) + np.float32(0.5)).astype(np.uint8)


class Place:
    """A window of a canvas in an object's own coordinates: u, v are 0 at its centre and 1 at its radius."""

    def __init__(self, window: tuple[slice, slice], u: Floats, v: Floats, radius: np.float32) -> None:
        self.window, self.u, self.v, self.radius = window, u, v, radius

    def cover(self, figure: Figure) -> Floats:
        """How much of each pixel a figure covers, 0 .. 1, to the accuracy of one straight edge a pixel."""
        return _clip(figure(self.u, self.v) * self.radius + np.float32(0.5))


def noise(bits: Bits, size: int, cells: int) -> Floats:
    """Value noise ``[size, size]`` in 0 .. 1: random values at a lattice, smoothly interpolated."""
    lattice = bits.bytes((cells + 1) ** 2).reshape(cells + 1, cells + 1).astype(np.float32) / np.float32(255)
    low, share = _lattice(size, cells)
    rows = lattice[low] + (lattice[low + 1] - lattice[low]) * share[:, None]
    found: Floats = np.add(rows[:, low], (rows[:, low + 1] - rows[:, low]) * share)
    return found


def clouds(bits: Bits, size: int) -> Floats:
    """Noise of three scales, 0 .. 1."""
    return noise(bits, size, 3) * np.float32(0.5) + noise(bits, size, 7) * np.float32(0.3) + noise(bits, size, 16) * np.float32(0.2)


def ramp(size: int, angle: int) -> Floats:
    """A straight gradient ``[size, size]``, 0 .. 1 along a direction."""
    cosine, sine = (np.float32(v) for v in direction(angle))
    axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size) - np.float32(0.5)
    return _clip((axis * cosine)[None, :] + (axis * sine)[:, None] + np.float32(0.5))


def wave(x: Floats) -> Floats:
    """A triangle wave of period 1, -1 .. 1."""
    centred = x - np.floor(x) - np.float32(0.5)
    return np.float32(4) * np.maximum(centred, -centred) - np.float32(1)


def background(bits: Bits, size: int) -> tuple[Floats, tuple[tuple[int, ...], tuple[int, ...]]]:
    """(a muted background ``[3, size, size]``: clouds, a gradient, grain like that of wood, or blotches; its two colours)."""
    first, second = (_muted(bits) for _ in range(2))
    kind, cloud, angle = bits.below(4), clouds(bits, size), bits.below(TURN)
    if kind == 0:
        field = cloud
    elif kind == 1:
        field = ramp(size, angle) * np.float32(0.8) + cloud * np.float32(0.2)
    elif kind == 2:
        lines = ramp(size, angle) * np.float32(bits.between(5, 14)) + cloud * np.float32(bits.between(0, 3))
        field = wave(lines) * np.float32(0.3) + np.float32(0.5)
    else:
        field = _clip((cloud - np.float32(0.5)) * np.float32(bits.between(4, 9)) + np.float32(0.5))
    low, high = (np.array(c, dtype=np.float32)[:, None, None] for c in (first, second))
    light = np.float32(0.8) + ramp(size, bits.below(TURN)) * np.float32(0.4)
    return (low + (high - low) * field) * light, (first, second)


def _muted(bits: Bits) -> tuple[int, ...]:
    grey = 60 + bits.below(130)
    return tuple(grey + bits.below(61) - 30 for _ in range(3))


def _clip(x: Floats) -> Floats:
    return np.minimum(np.maximum(x, np.float32(0)), np.float32(1))


@functools.lru_cache
def _lattice(size: int, cells: int) -> tuple[npt.NDArray[np.intp], Floats]:
    """For each pixel of an axis: the lattice point before it, and the weight of the next one (a cubic, flat at both ends)."""
    position = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(cells) / np.float32(size)
    low = np.minimum(position.astype(np.intp), cells - 1)
    share = position - low.astype(np.float32)
    return low, share * share * (np.float32(3) - np.float32(2) * share)
