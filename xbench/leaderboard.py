"""Rows -> one table object per model -> terminal, CSV, Markdown, JSON, (in report/) HTML."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from xbench import reductions, stats
from xbench.stats import Estimate, Sample

INTERRUPTED = "INCOMPLETE: the run was interrupted; start it again to continue"
ARROWS = {"higher": "↑", "lower": "↓"}
MARKS = {True: "†", False: "‡"}
LEGEND = {
    "†": "does not beat every control of its own granularity (paired over items, 95 %)",
    "‡": "beats those, but not every control of another granularity",
}


@dataclass(frozen=True)
class Comparison:
    """A method against a control on the same items. gain: mean difference, oriented so that positive = the method is better.

    same_grid: the control's maps are as coarse as the method's (or it has no granularity of its own).
    """

    control: str
    gain: Estimate
    same_grid: bool

    @property
    def beaten(self) -> bool:
        return self.gain.low > 0


@dataclass(frozen=True)
class Column:
    """One metric on one dataset under one protocol."""

    key: str
    dataset: str
    metric: str
    direction: str
    items: int
    chance: str = ""
    protocol: str = ""
    reduce: str = "mean"

    @property
    def label(self) -> str:
        return f"{self.metric.partition('(')[0]} {ARROWS[self.direction]}"


@dataclass
class Cell:
    """One method's figure in a column. rank: None for controls and wherever a value is missing or NaN."""

    estimate: Estimate
    nan: int = 0
    not_applicable: int = 0
    constant: int = 0
    missing: int = 0
    reason: str = ""
    rank: int | None = None
    against: list[Comparison] = field(default_factory=list)

    @property
    def mark(self) -> str:
        """† or ‡ where a control is not beaten; see LEGEND."""
        unbeaten = {c.same_grid for c in self.against if not c.beaten}
        return MARKS[max(unbeaten)] if unbeaten else ""


@dataclass
class Line:
    """One method's row of the table. source: ``run``, or ``reference`` for the committed rows that a run is shown beside."""

    method: str
    control: bool
    source: str
    cells: list[Cell]
    forwards: float
    backwards: float
    seconds: float
    mean_rank: float | None = None


@dataclass(frozen=True)
class Quality:
    """The model on the very items of a dataset: accuracy and mean probability of the explained class."""

    dataset: str
    items: int
    accuracy: float
    confidence: float
    sources_correct: float | None


@dataclass
class Table:
    """The leaderboard of one model: methods by mean rank, then controls.

    inapplicable: reason -> methods that have no line, because they apply to nothing here.
    """

    model: str
    columns: list[Column]
    lines: list[Line]
    quality: list[Quality]
    inapplicable: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Leaderboard:
    """All tables of one or more runs. notes: what a reader must know before the numbers."""

    title: str
    tables: list[Table]
    notes: list[str] = field(default_factory=list)


def build(
    rows: pd.DataFrame, manifest: Mapping[str, Any], reference: tuple[pd.DataFrame, Mapping[str, Any]] | None = None
) -> Leaderboard:
    """Make the leaderboard of a run's rows; methods that it lacks come from reference rows of the same protocol.

    Args:
        rows: as ``Store.rows`` gives them. manifest: the run's (descriptions of columns, methods, models).
        reference: rows and manifest of the committed results, or None.
    """
    described = {"columns": dict(manifest["columns"]), "methods": dict(manifest["methods"])}
    rows = rows.assign(source="run")
    if reference is not None:
        other, about = reference
        mine = set(zip(rows["model"], rows["protocol_key"], rows["method"], strict=True))
        items = set(zip(rows["model"], rows["protocol_key"], rows["item"], strict=True))
        theirs = zip(other["model"], other["protocol_key"], other["method"], other["item"], strict=True)
        # Of a method that the run lacks, and of the run's own items only: a limited run is compared on equal terms.
        keep = [(model, key, method) not in mine and (model, key, item) in items for model, key, method, item in theirs]
        if any(keep):
            rows = pd.concat([rows, other[keep].assign(source="reference")], ignore_index=True)
        described["methods"] = {**about["methods"], **described["methods"]}
    tables = [_table(str(model), group, described) for model, group in rows.groupby("model", sort=True)]
    notes = _notes(tables, manifest) + _unreadable(rows)
    return Leaderboard(manifest.get("title") or manifest.get("suite", ""), tables, notes)


def _table(model: str, rows: pd.DataFrame, described: Mapping[str, Any]) -> Table:
    columns = [
        Column(
            key,
            about["dataset"],
            about["metric"],
            about["direction"],
            0,
            about["chance"],
            about["protocol"],
            about.get("reduce", "mean"),
        )
        for key, about in described["columns"].items()
        if key in set(rows["protocol_key"])
    ]
    lines, values = [], {}
    counts = rows.groupby("protocol_key")["item"].nunique()
    columns = [dataclasses.replace(c, items=int(counts[c.key])) for c in columns]
    groups = dict(iter(rows.groupby(["method", "protocol_key"], sort=False)))
    for method in sorted(set(rows["method"])):
        about = described["methods"].get(method, {})
        own = rows[rows["method"] == method]
        cells = []
        for column in columns:
            group = groups.get((method, column.key))
            cells.append(_cell(group, column))
            if group is not None:
                values[method, column.key] = group.set_index("item")
        known = own[own["status"].isin(["ok", "nan"])]
        cost = {name: float(known[name].mean()) for name in ("forwards", "backwards", "seconds")}
        lines.append(Line(method, bool(about.get("control")), str(own["source"].iloc[0]), cells, **cost))
    lines, inapplicable = _applicable(lines)
    floors = [m for m in (line.method for line in lines if line.control) if not described["methods"][m].get("ceiling")]
    for i, column in enumerate(columns):
        _rank([line for line in lines if not line.control], i, column)
        for line in lines:
            if not line.control and (line.method, column.key) in values:
                line.cells[i].against = [c for floor in floors if (c := _against(values, line.method, floor, column, described))]
    for line in lines:
        found = [cell.rank for cell in line.cells if cell.rank is not None]
        line.mean_rank = sum(found) / len(found) if found and not line.control else None
    lines.sort(key=lambda line: (line.control, line.mean_rank if line.mean_rank is not None else math.inf, line.method))
    return Table(model, columns, lines, _quality(rows), inapplicable)


def _applicable(lines: list[Line]) -> tuple[list[Line], dict[str, list[str]]]:
    """(lines with a figure or something that went wrong, reason -> methods that are not applicable anywhere)."""
    kept: list[Line] = []
    left_out: dict[str, list[str]] = {}
    for line in lines:
        if all(cell.not_applicable and not (cell.estimate.n or cell.nan or cell.missing) for cell in line.cells):
            left_out.setdefault("; ".join(dict.fromkeys(cell.reason for cell in line.cells)), []).append(line.method)
        else:
            kept.append(line)
    return kept, left_out


def _cell(group: pd.DataFrame | None, column: Column) -> Cell:
    if group is None:
        return Cell(Estimate(math.nan, math.nan, math.nan, 0, 0), missing=column.items, reason="not run")
    ok = group[group["status"] == "ok"]
    reasons = group["reason"].dropna().unique()
    return Cell(
        stats.estimate(_sample(ok, column)),
        nan=int((group["status"] == "nan").sum()),
        not_applicable=int((group["status"] == "not_applicable").sum()),
        constant=int(ok["constant"].fillna(False).astype(bool).sum()),
        missing=column.items - len(group),
        reason="; ".join(map(str, reasons)),
    )


def _rank(lines: Sequence[Line], i: int, column: Column) -> None:
    fit = [line for line in lines if line.cells[i].estimate.n and not line.cells[i].nan and not line.cells[i].missing]
    sign = 1 if column.direction == "higher" else -1
    means = np.array([sign * line.cells[i].estimate.mean for line in fit])
    for line, rank in zip(fit, stats.ranks(means), strict=True):
        line.cells[i].rank = int(rank)


def _against(
    values: Mapping[tuple[str, str], pd.DataFrame], method: str, floor: str, column: Column, described: Mapping[str, Any]
) -> Comparison | None:
    if (floor, column.key) not in values:
        return None
    ours, theirs = (group[group["status"] == "ok"] for group in (values[method, column.key], values[floor, column.key]))
    both = ours.index.intersection(theirs.index)
    if both.empty:
        return None
    ours, theirs = ours.loc[both], theirs.loc[both]
    better, worse = (ours, theirs) if column.direction == "higher" else (theirs, ours)
    gain = stats.difference(_sample(better, column), _sample(worse, column))
    same = bool(described["methods"][floor].get("any_grid")) or bool((ours["grid"] == theirs["grid"]).all())
    return Comparison(floor, gain, same)


def _sample(rows: pd.DataFrame, column: Column) -> Sample:
    """What a column's figure is computed from; rows are all ok."""
    if reductions.is_vector(column.reduce):
        data = np.stack(rows["vector"].to_list()).astype(np.float64) if len(rows) else np.empty((0, 1))
    else:
        data = rows["value"].to_numpy(np.float64)[:, None]
    return Sample(data, rows["cluster"].to_numpy(object), column.reduce, rows["target"].to_numpy())


def _quality(rows: pd.DataFrame) -> list[Quality]:
    found = []
    readable = rows[rows["status"] != "unreadable"]
    for dataset, group in readable.drop_duplicates(["dataset", "item"]).groupby("dataset", sort=False):
        sources = group["sources_correct"].dropna()
        share = float(sources.astype(bool).mean()) if len(sources) else None
        accuracy, confidence = float(group["correct"].astype(bool).mean()), float(group["confidence"].mean())
        found.append(Quality(str(dataset), len(group), accuracy, confidence, share))
    return found


def _notes(tables: Iterable[Table], manifest: Mapping[str, Any]) -> list[str]:
    notes = [] if manifest.get("complete", True) else [manifest.get("incomplete") or INTERRUPTED]
    for dataset, about in manifest.get("datasets", {}).items():
        notes += [f"{dataset}: {note}" for note in about.get("notes", [])]
    for table in tables:
        notes += [f"{table.model}: {', '.join(methods)} not applicable: {why}" for why, methods in table.inapplicable.items()]
        for line in table.lines:
            for column, cell in zip(table.columns, line.cells, strict=True):
                where = f"{line.method} on {column.dataset}, {column.metric}"
                if cell.nan:
                    notes.append(f"{where}: NaN on {cell.nan} of {column.items} items; not ranked")
                if cell.missing and cell.estimate.n:
                    notes.append(f"{where}: only {cell.estimate.n} of {column.items} items; not ranked")
                if cell.constant and not line.control:
                    notes.append(f"{where}: {cell.constant} constant maps, scored by the expectation over tie orders")
        sizes = {cell.estimate.clusters for line in table.lines for cell in line.cells}
        few = sorted(size for size in sizes if 0 < size < stats.FEW_CLUSTERS)
        if few:
            span = f"{few[0]}" if len(few) == 1 else f"{few[0]} to {few[-1]}"
            notes.append(f"95 % intervals rest on {span} source pictures; below {stats.FEW_CLUSTERS} they are approximate")
    return list(dict.fromkeys(notes))


def _unreadable(rows: pd.DataFrame) -> list[str]:
    """One line per dataset with samples that could not be used."""
    notes = []
    for dataset, group in rows.drop_duplicates(["dataset", "item"]).groupby("dataset", sort=False):
        broken = group[group["status"] == "unreadable"]
        if len(broken):
            first = broken["reason"].iloc[0]
            notes.append(f"{dataset}: {len(broken)} of {len(group)} items cannot be read and count nowhere; the first: {first}")
    return notes
