"""A sheet of the items on which two methods, or two runs, differ most: the image, then the map of either side, made anew."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from xbench.errors import XbenchError
from xbench.report import pictures
from xbench.report.comparisons import method_name, model_name
from xbench.report.pictures import Pixels
from xbench.report.tables import number
from xbench.run import remake
from xbench.store.directory import Store
from xbench.store.gallery import Gallery, Key
from xbench.store.manifests import Manifest
from xbench.tables.compare import Difference, Report

CAPTION = 26  # letters in a line of a picture's caption
Row = list[tuple[str, Pixels]]


def to_sheet(report: Report, folders: tuple[Path, Path], differences: Sequence[Difference], most: int, path: Path) -> str:
    """Write a sheet of the items that differ most: picture, then the map of either side. -> a sentence that says what it shows.

    The maps are made anew; where that cannot be done here, the items that the runs' galleries keep are shown.

    Args:
        report: the comparison.
        folders: run directories of the sides.
        differences: as ``compare.differing`` sorts them.
        most: items to show.
        path: the file to write, in the format of its suffix.

    Raises:
        XbenchError: the file cannot be written.
    """
    try:
        rows, differing = _remade(report, folders, differences[:most])
        said = f"{len(rows)} item{'s' if len(rows) > 1 else ''} explained anew"
        if differing:
            whys = [f"{n} values differ from the run's: {why}" for why, n in differing.items()]
            said += f" ({'; '.join(whys)})"
    except XbenchError as error:
        kept = Store(folders[0]).gallery(), Store(folders[1]).gallery()
        rows = [_row(report, d, kept) for d in differences if _pictured(d, kept)][:most]
        said = f"{len(rows)} of the items that the run's gallery keeps, for none can be explained again here: {error}"
    if not rows:
        return f"no sheet is written: {said}" if differences else "no sheet is written: no item differs"
    pictures.sheet(rows, path)
    return f"{said}: {path}"


def _remade(report: Report, folders: tuple[Path, Path], differences: Sequence[Difference]) -> tuple[list[Row], Counter[str]]:
    """(a row of pictures per difference; why values made anew are not those of the rows -> how many)."""
    rows: dict[Difference, Row] = {}
    differing: Counter[str] = Counter()
    for figure in dict.fromkeys(d.figure for d in differences):
        mine = [d for d in differences if d.figure is figure]
        items = {d.item for d in mine}
        galleries = []
        for side, (folder, (known, manifest)) in enumerate(zip(folders, report.runs, strict=True)):
            methods = [figure.methods[side]]
            made = remake.explain(folder, manifest, figure.models[side], figure.column, methods, items)
            galleries.append(made.gallery)
            its = (known["method"] == methods[0]) & (known["model"] == figure.models[side])
            its &= known["protocol_key"] == figure.column.key
            keys = dict(zip(known["item"][its], known["cache_key"][its], strict=True))
            for d in mine:
                cell = methods[0], d.item
                if not math.isclose(d.values[side], made.values.get(cell, math.nan), rel_tol=1e-3, abs_tol=1e-4):
                    differing[_because(manifest, keys[d.item] == made.keys.get(cell))] += 1
        both = galleries[0], galleries[1]
        lost = [d.item for d in mine if not _pictured(d, both)]
        if lost:
            raise XbenchError(f"{', '.join(lost)} of {figure.column.dataset} cannot be explained any more")
        rows |= {d: _row(report, d, both) for d in mine}
    return [rows[d] for d in differences], differing


def _because(manifest: Manifest, same_key: bool) -> str:
    """Why a value made anew is another one. same_key: whether all that it depends on is as it was."""
    if (device := manifest.device) not in ("", "cpu"):  # part of the key, so that this says nothing more
        return f"they were computed on {device}, and here on the CPU"
    if same_key:
        return "nothing that they depend on has changed, so that the method or the metric does not give the same twice"
    return "they were computed by other code, libraries, weights, pictures or settings than those at hand"


def _keys(difference: Difference, side: int) -> tuple[Key, Key]:
    """The gallery's keys of an item: its picture, and a side's map."""
    figure = difference.figure
    key = Key(figure.models[side], figure.column.dataset, difference.item)
    return key, key.of(figure.methods[side])


def _pictured(difference: Difference, galleries: tuple[Gallery, Gallery]) -> bool:
    return all(key in gallery for side, gallery in enumerate(galleries) for key in _keys(difference, side))


def _row(report: Report, difference: Difference, galleries: tuple[Gallery, Gallery]) -> Row:
    figure = difference.figure
    facts = [difference.item, difference.target]
    facts += [model_name(figure.models)] if len(report.models) > 1 else []
    facts += [method_name(figure)] if report.two_runs else []
    row = []
    for side, gallery in enumerate(galleries):
        picture, map_ = (gallery[key] for key in _keys(difference, side))
        value = f"{figure.column.label} {number(difference.values[side])}"
        row.append((_caption([report.names[side], value]), pictures.overlay(picture, map_)))
        if side == 0:
            row.insert(0, (_caption(facts), picture))
    return row


def _caption(lines: Sequence[str]) -> str:
    return "\n".join(part for line in lines for part in textwrap.wrap(line, CAPTION))
