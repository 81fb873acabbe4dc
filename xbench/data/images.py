"""Reading pictures: files as uint8 ``[3, H, W]``, their size without decoding them, and one clear line where that fails.

What becomes of what is not plain RGB:

grey, 1-bit, palette, CMYK   as Pillow converts them; it undoes the inversion of Adobe's CMYK and YCCK JPEGs
16-bit grey                  scaled to 8 bits, round(v / 257); Pillow would clip all above 255 to white
transparency, also a         composited over white; the colours behind transparent pixels are arbitrary, and conversion
palette's or a key colour    alone would show them
EXIF orientation             applied where ``upright``; TIFF always, since Pillow itself turns those
animations, many pages       the first frame
floats, 32-bit integers      refused: nobody knows which value is white
more than LARGEST pixels     refused
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from xbench.errors import BrokenSample

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
LARGEST = 200_000_000  # pixels: 600 MB once decoded, thrice that while decoding
# Only these are tried, whatever a file's name: Pillow would hand PostScript to an interpreter.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM")
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EIGHT_BITS = ((np.arange(2**16) + 128) // 257).astype(np.uint8)


def read(path: Path, upright: bool = True) -> Tensor:
    """A picture's pixels, uint8 ``[3, H, W]``. upright: apply the EXIF orientation.

    Raises:
        BrokenSample: it is missing, truncated, no picture, too large or of a kind that is refused.
    """
    with opened(path) as picture:
        turn = _TURNS.get(_orientation(picture)) if upright and picture.format != "TIFF" else None
        colours = _colours(picture)
        pixels = np.array(colours.transpose(turn) if turn is not None else colours)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def size(path: Path, upright: bool = True) -> tuple[int, int]:
    """(height, width) of what ``read`` gives, from the file's header.

    Raises:
        BrokenSample: the header cannot be read, or ``read`` would refuse the size.
    """
    with opened(path) as picture:
        width, height = _stored_size(picture)
        lying = _orientation(picture) >= 5 and (upright or picture.format == "TIFF")
        return (width, height) if lying else (height, width)


def turned(path: Path) -> bool:
    """Whether the EXIF orientation is another than upright, from the file's header.

    Raises:
        BrokenSample: the header cannot be read.
    """
    with opened(path) as picture:
        return _orientation(picture) in _TURNS


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A picture as Pillow opens it, for what wants other than colours, such as the indices of a mask's palette.

    Raises:
        BrokenSample: whatever else goes wrong inside.
        MemoryError: there is no memory for the picture.
    """  # noqa: DOC501 (_Refused does not leave it)
    try:
        with _limit.lifted(), path.open("rb") as file, Image.open(file, formats=_FORMATS) as picture:
            width, height = _stored_size(picture)
            if width * height > LARGEST:
                raise _Refused(f"has {width} x {height} pixels, more than {LARGEST:,}; scale it down")
            yield picture
    except MemoryError:
        raise
    except _Refused as error:
        raise BrokenSample(f"picture {path} {error}") from error
    except UnidentifiedImageError as error:
        raise BrokenSample(f"picture {path} is none of {', '.join(_FORMATS)}, whatever its name; convert or remove it") from error
    except Exception as error:  # broken files make Pillow raise nearly anything
        why = (error.strerror if isinstance(error, OSError) else None) or f"{type(error).__name__}: {error}"
        raise BrokenSample(f"picture {path} cannot be read ({' '.join(why.split())}); replace or remove it") from error


class _Refused(Exception):
    """What the message says of a picture, with the remedy."""


class _Limit:
    """Pillow's limit of pixels, a global that only warns, and does so for pictures that are fine; LARGEST takes its place."""

    def __init__(self) -> None:
        self.lock, self.users, self.pillows = threading.Lock(), 0, Image.MAX_IMAGE_PIXELS

    @contextmanager
    def lifted(self) -> Iterator[None]:
        with self.lock:
            if not self.users:
                self.pillows, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self.users += 1
        try:
            yield
        finally:
            with self.lock:
                self.users -= 1
                if not self.users:
                    Image.MAX_IMAGE_PIXELS = self.pillows


_limit = _Limit()


def _stored_size(picture: Image.Image) -> tuple[int, int]:
    """(width, height) before any turn. Versions of Pillow differ in whether a TIFF's ``size`` is turned before it is decoded."""
    tags = getattr(picture, "tag_v2", None)
    return (int(tags[256]), int(tags[257])) if picture.format == "TIFF" and tags else picture.size


def _orientation(picture: Image.Image) -> int:
    """1 to 8 as EXIF has them; 1 where there is none. The base class's method: that of PNG would decode the picture."""
    try:
        return int(Image.Image.getexif(picture).get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF: the picture itself is fine
        return 1


def _colours(picture: Image.Image) -> Image.Image:
    """Any mode -> RGB."""
    if picture.mode == "F":
        raise _Refused("has floating-point pixels, and nobody knows which is white; save it with 8 or 16 bits")
    if picture.mode.startswith("I"):
        picture = _eight_bits(picture)
    if not (picture.mode.endswith(("A", "a")) or "transparency" in picture.info):
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    paper = Image.new("RGB", picture.size, "white")
    paper.paste(picture.convert("RGB"), mask=picture.getchannel("A"))
    return paper


def _eight_bits(picture: Image.Image) -> Image.Image:
    """16-bit grey, which some formats open as 32-bit integers -> L, or LA where one grey value stands for transparent."""
    values = np.array(picture)
    if values.min() < 0 or values.max() >= 2**16:
        raise _Refused("has 32-bit integers for pixels, and nobody knows which is white; save it with 8 or 16 bits")
    grey = Image.fromarray(_EIGHT_BITS[values])
    if isinstance(key := picture.info.get("transparency"), int):
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey
