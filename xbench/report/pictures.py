"""Overlays of saliency maps on pictures, as arrays, encoded images and sheets."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from xbench.errors import XbenchError

Pixels = NDArray[np.uint8]
Map = NDArray[np.float32]


def overlay(picture: Pixels, map_: Map, strength: float = 0.75) -> Pixels:
    """Colour over the greyed picture: the more evidence, the more colour. picture uint8 [H, W, 3]; map float [h, w], resized to it.

    Evidence against the class (below zero) is left without colour. The scale begins at zero, or at the map's minimum where that is
    above (RISE's maps differ little from their mean), and ends at the map's 99.5th percentile.
    """
    height, width = picture.shape[:2]
    scaled = Image.fromarray(np.asarray(map_, dtype=np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    positive = np.clip(np.asarray(scaled), 0, None)
    positive = positive - positive.min()
    top = float(np.percentile(positive, 99.5)) or float(positive.max())
    share = np.clip(positive / top, 0, 1) if top > 0 else np.zeros_like(positive)
    grey = picture.mean(axis=2, keepdims=True).repeat(3, axis=2)
    base = 0.35 * picture + 0.65 * grey
    colour = 255 * colormaps["turbo"](0.15 + 0.8 * share)[..., :3]
    weight = strength * np.sqrt(share)[..., None]
    return np.clip(base * (1 - weight) + colour * weight, 0, 255).astype(np.uint8)


def data_uri(pixels: Pixels, side: int = 176) -> str:
    """A picture as an embeddable JPEG, its longer side shrunk to ``side``."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def sheet(rows: Sequence[Sequence[tuple[str, Pixels]]], path: Path) -> None:
    """Write a sheet of captioned pictures, one list per row, in the format of the path's suffix (PNG, JPEG).

    Raises:
        XbenchError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    columns = max(len(row) for row in rows)
    figure = Figure(figsize=(2.1 * columns, 2.3 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for axis, cell in zip(line, [*row, *[None] * (columns - len(row))], strict=True):
            axis.axis("off")
            if cell is not None:
                axis.imshow(cell[1], interpolation="lanczos")
                axis.set_title(cell[0], fontsize=9)
    try:
        figure.savefig(path, dpi=110, bbox_inches="tight", pad_inches=0.08)
    except (OSError, ValueError) as error:
        raise XbenchError(f"cannot write {path}: {error}; give a path ending in .png or .jpg in a folder that exists") from error
