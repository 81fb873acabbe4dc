"""A sheet of a dataset's pictures with all that is known of them, to be looked at before anything is computed."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from xbench.errors import XbenchError

if TYPE_CHECKING:
    from xbench.data.samples import Dataset, Sample

COLUMNS = 6
COLOURS = colormaps["tab10"].colors[:7] + colormaps["tab10"].colors[8:]  # type: ignore[attr-defined]  # no grey


def sheet(dataset: Dataset, count: int, path: Path) -> None:
    """Draw the first pictures of a dataset: outlines of parts, or else of objects and masks, boxes (dashed), classes, one caption.

    path: PNG, SVG or whatever else matplotlib writes.

    Raises:
        XbenchError: one of them cannot be read, or the file cannot be written.
    """
    samples = [dataset.load(entry.id) for entry in dataset.entries()[:count]]
    columns = min(COLUMNS, len(samples))
    rows = -(-len(samples) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.95 * rows), layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.set_axis_off()
    names = dataset.classes.names
    for axes, sample in zip(figure.axes, samples, strict=False):
        _draw(axes, sample, names)
    parts = list(dict.fromkeys(part for sample in samples for part in sample.parts))
    if parts:
        handles = [Rectangle((0, 0), 1, 1, fill=False, edgecolor=COLOURS[i % len(COLOURS)]) for i in range(len(parts))]
        figure.legend(handles, parts, loc="outside lower center", ncols=len(parts), frameon=False, fontsize=8)
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise XbenchError(f"cannot write {path}: {error}; give a path ending in .png or .svg in a folder that exists") from error


def _draw(axes: Axes, sample: Sample, names: tuple[str, ...]) -> None:
    height, width = sample.image.shape[1:]
    axes.imshow(sample.image.permute(1, 2, 0).numpy(), interpolation="nearest", extent=(0, width, height, 0))
    outlined = list(sample.parts.values() or sample.instances or sample.masks.values())
    for number, mask in enumerate(outlined):
        _outline(axes, mask.numpy(), COLOURS[number % len(COLOURS)])
    for number, box in enumerate(sample.boxes):
        colour = "white" if sample.parts else COLOURS[number % len(COLOURS)]
        size = (box.x1 - box.x0, box.y1 - box.y0)
        axes.add_patch(Rectangle((box.x0, box.y0), *size, fill=False, edgecolor=colour, linestyle=":", linewidth=0.9))
    axes.set_title(", ".join(names[label] for label in sample.labels), fontsize=8, pad=2)
    if sample.captions:
        longest = max(sample.captions[:4], key=len)
        axes.text(0.5, -0.02, textwrap.fill(longest, 34), transform=axes.transAxes, ha="center", va="top", fontsize=6)


def _outline(axes: Axes, mask: NDArray[np.bool_], colour: tuple[float, float, float]) -> None:
    """The border between pixels of a mask and others, exactly along the pixels' edges."""
    if not mask.any():
        return
    padded = np.pad(mask, 1)
    down = padded[:, 1:] != padded[:, :-1]
    across = padded[1:] != padded[:-1]
    y, x = down.nonzero()
    axes.vlines(x, y - 1, y, colors=[colour], linewidth=1.1)
    y, x = across.nonzero()
    axes.hlines(y, x - 1, x, colors=[colour], linewidth=1.1)
