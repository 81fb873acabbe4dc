"""What the values of masks mean: which are which class, which are background, and which are void (nobody knows whose).

A mask's pixels have numbers (grey levels, indices of a palette), colours, or both. A Table says what they mean; ``plain`` finds out
where nobody says, and refuses where that cannot be known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xbench.plugin import XbenchError, images

Codes = NDArray[np.integer]
Colour = tuple[int, int, int]

# What a value may mean beside the name of a class. OWN: the class of the picture's folder.
BACKGROUND, VOID, OWN = "background", "void", "label"
BLACK: Colour = (0, 0, 0)
VOC_VOID: Colour = (224, 224, 192)
VOC = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
REMEDY = (
    "say what they mean: values=FILE with lines such as `1,cat` or `128,0,0,cat`, values=classes (1 is the first class), "
    "values=voc, or values=nonzero (all that is not black is the picture's own class)"
)


@dataclass(frozen=True)
class Values:
    """The values that occur in one mask, by codes. counts: of pixels. numbers: empty where there are only colours.
    colours: None where transparent. kind: ``index`` where a palette's index 0 is black, and no other one that occurs."""

    counts: Mapping[int, int]
    numbers: Mapping[int, int]
    colours: Mapping[int, Colour | None]
    kind: Literal["grey", "index", "palette", "colour"]

    def described(self, code: int) -> str:
        """``38 on 1,204 pixels``; colours ``r,g,b``."""
        number = self.numbers.get(code)
        what = ",".join(map(str, self.colours[code] or ())) if number is None else str(number)
        return f"{what} on {self.counts[code]:,} pixels"


class Reading(Protocol):
    """What the values of masks mean."""

    def meanings(self, values: Values) -> dict[int, str]:
        """Code -> the name of a class, BACKGROUND, VOID or OWN.

        Raises:
            ValueError: a value means nothing; the message describes it.
        """


@dataclass(frozen=True)
class Table:
    """Number or colour -> what it means. Black, 0 and transparent are background where they are not named."""

    numbers: Mapping[int, str]
    colours: Mapping[Colour, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Classes, in their order."""
        every = (*self.numbers.values(), *self.colours.values())
        return tuple(dict.fromkeys(name for name in every if name not in (BACKGROUND, VOID, OWN)))

    def meanings(self, values: Values) -> dict[int, str]:
        """By colours or by numbers, whichever names more of the values; if neither, by colours, in grey masks by numbers.

        Raises:
            ValueError: a value has no meaning by either.
        """
        colours: dict[Colour | None, str] = {BLACK: BACKGROUND, None: BACKGROUND}
        colours |= {colour: name for colour, name in self.colours.items()}  # noqa: C416 (keys of another type)
        numbers = {0: BACKGROUND, **self.numbers}
        tries = []
        if self.colours or not values.numbers:
            tries.append({code: colours.get(colour) for code, colour in values.colours.items()})
        if self.numbers and values.numbers:
            clear = {code for code, colour in values.colours.items() if colour is None}
            tries.append({code: BACKGROUND if code in clear else numbers.get(n) for code, n in values.numbers.items()})
        if values.kind == "grey":
            tries.reverse()
        best = min(tries, key=lambda found: list(found.values()).count(None))
        known = {code: meaning for code, meaning in best.items() if meaning is not None}
        if unknown := sorted(best.keys() - known.keys()):
            raise ValueError(values.described(unknown[0]))
        return known


@dataclass(frozen=True)
class Nonzero:
    """All that is not black or transparent is the picture's own class, but VOC's colour for void."""

    def meanings(self, values: Values) -> dict[int, str]:
        """As Reading says; every value means something."""
        plain = {BLACK: BACKGROUND, None: BACKGROUND, VOC_VOID: VOID}
        return {code: plain.get(colour, OWN) for code, colour in values.colours.items()}


def _voc_colour(index: int) -> Colour:
    """PASCAL VOC's colour of a class: the index's bits, dealt to the three channels from the highest bit down."""
    channels = [sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)]
    return channels[0], channels[1], channels[2]


VOC_TABLE = Table(
    {**dict(enumerate(VOC, 1)), 255: VOID}, {**{_voc_colour(i): name for i, name in enumerate(VOC, 1)}, VOC_VOID: VOID}
)


def numbered(names: Sequence[str]) -> Table:
    """1 is the first class, and so on; 255 is void."""
    return Table({255: VOID} | dict(enumerate(names, 1)), {})


def read_table(file: Path) -> Table:
    """A text file with a value and what it means on each line: ``1,cat``, ``128,0,0,cat``, ``255,void``.

    Raises:
        XbenchError: it cannot be read, or a line is none of these.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise XbenchError(f"values: {file} cannot be read ({error}); give a text file, or voc, classes or nonzero") from error
    numbers: dict[int, str] = {}
    colours: dict[Colour, str] = {}
    for place, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"\s*(\d+)\s*[,;\t]\s*(?:(\d+)\s*[,;\t]\s*(\d+)\s*[,;\t]\s*)?(\S.*?)\s*", line)
        if match is None or (match[2] is None and match[4].isdecimal()):
            raise XbenchError(f"values: {file}, line {place}: {line.strip()!r}; write `number,class` or `red,green,blue,class`")
        if (colour := match[2]) is None:
            twice, numbers[int(match[1])] = int(match[1]) in numbers, match[4]
        else:
            rgb = int(match[1]), int(colour), int(match[3])
            twice, colours[rgb] = rgb in colours, match[4]
        if twice:
            raise XbenchError(f"values: {file}, line {place}: {line.strip()!r} names a value that a line above names; keep one")
    if not numbers and not colours:
        raise XbenchError(f"values: {file} names no value; write lines of `number,class` or `red,green,blue,class`")
    return Table(numbers, colours)


def plain(found: Mapping[str, Values]) -> Table:
    """The reading of masks by name of which nobody says what their values mean: they have a single colour beside black and VOC's
    void; or they are index masks with a single index beside 0 and 255, which is void.

    Raises:
        XbenchError: there are several.
    """
    seen = {colour: name for name, values in found.items() for colour in values.colours.values()}
    colours = [colour for colour in seen if colour not in (None, BLACK, VOC_VOID)]
    if not colours and None in seen and BLACK in seen:
        raise XbenchError(f"masks: {seen[None]} is black and transparent, and which is the object is not known; {REMEDY}")
    if len(colours) <= 1:
        return Table({}, {VOC_VOID: VOID, **{colour: OWN for colour in colours if colour is not None}})
    indices = {number: name for name, values in found.items() for number in values.numbers.values() if number not in (0, 255)}
    if len(indices) <= 1 and all(values.kind == "index" for values in found.values()):
        return Table({255: VOID, **dict.fromkeys(indices, OWN)}, {})
    examples = []
    for name, values in found.items():
        own = [code for code, colour in values.colours.items() if colour not in (None, BLACK, VOC_VOID)]
        examples += [f"{values.described(code)} of {name}" for code in own]
        if len(examples) > 1:
            break
    raise XbenchError(f"masks: there are several values ({' and '.join(examples[:2])}, for two); {REMEDY}")


def opened(path: Path) -> tuple[Codes, Values]:
    """A mask's pixels as codes ``[H, W]``, and what these stand for. Pixels are transparent below one half of alpha.

    Raises:
        BrokenSample: it cannot be read.
    """
    with images.opened(path) as picture:
        transparency = picture.info.get("transparency")
        if picture.mode == "P":
            codes = np.array(picture)
            return codes, _palette(codes, picture.getpalette() or [], transparency)
        if picture.mode in ("1", "L") or picture.mode.startswith("I"):
            codes = np.array(picture.convert("L") if picture.mode == "1" else picture).astype(np.int64)
            counts = _counts(codes)
            clear = transparency if isinstance(transparency, int) else None
            return codes, Values(counts, {c: c for c in counts}, {c: None if c == clear else (c, c, c) for c in counts}, "grey")
        return _coloured(picture, has_alpha="A" in picture.mode or transparency is not None)


def _palette(codes: Codes, palette: Sequence[int], transparency: object) -> Values:
    def colour(index: int) -> Colour | None:
        alpha = 0 if transparency == index else 255
        if isinstance(transparency, bytes):
            alpha = transparency[index] if index < len(transparency) else 255
        red, green, blue = (*palette[3 * index : 3 * index + 3], 0, 0, 0)[:3]
        return (red, green, blue) if alpha >= 128 else None

    counts = _counts(codes)
    colours = {index: colour(index) for index in counts}
    blacks = [index for index, found in colours.items() if found == BLACK and index]
    indexed = tuple(palette[:3]) == BLACK and not blacks
    return Values(counts, {index: index for index in counts}, colours, "index" if indexed else "palette")


def _coloured(picture: Image.Image, has_alpha: bool) -> tuple[Codes, Values]:
    pixels = np.array(picture.convert("RGBA" if has_alpha else "RGB")).astype(np.int64)
    codes = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    if has_alpha:
        codes[pixels[..., 3] < 128] = -1
    counts = _counts(codes)
    colours = {c: None if c < 0 else (c >> 16, c >> 8 & 255, c & 255) for c in counts}
    grey = all(colour is None or len(set(colour)) == 1 for colour in colours.values())
    return codes, Values(counts, {c: max(c, 0) & 255 for c in counts} if grey else {}, colours, "colour")


def _counts(codes: Codes) -> dict[int, int]:
    if codes.dtype == np.uint8:
        counts = np.bincount(codes.ravel(), minlength=256)
        return {int(code): int(counts[code]) for code in counts.nonzero()[0]}
    return {int(code): int(count) for code, count in zip(*np.unique(codes, return_counts=True), strict=True)}
