"""Rows -> one table object per model, which report/ turns into text: terminal, CSV, Markdown, LaTeX, JSON, HTML."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import pandas as pd

from xbench.stats import bootstrap
from xbench.stats.bootstrap import Estimate, Rank
from xbench.store.manifests import UNDESCRIBED, Manifest, Methods, Run
from xbench.tables import claims, consensus, groups, panels, published, query
from xbench.tables.consensus import Agreement, Friedman
from xbench.tables.panels import Column, Panel
from xbench.tables.published import Figure
from xbench.tables.query import Filter

INTERRUPTED = "INCOMPLETE: the run was interrupted; start it again to continue"
SMALL = 0.01  # a residual that is not worth a note, as a share of the promised sum
MARKS = {True: "†", False: "‡"}
LEGEND = {
    "†": "does not beat every control of its own granularity (paired over items; 95 % for all methods and controls at once)",
    "‡": "beats those, but not every control of another granularity",
}


@dataclass(frozen=True)
class Floor:
    """A control that a method is compared with on the same items. gain: mean difference, positive = the method is better.

    beaten: whether the method is better for sure, for all methods and controls of the column at once. same_grid: the control's maps
    are as coarse as the method's (or it has no granularity of its own).
    """

    control: str
    gain: Estimate
    beaten: bool
    same_grid: bool


@dataclass
class Cell:
    """One method's figure in a column. rank: None for controls, wherever a value is missing or NaN, and where the column has none.

    against: the controls that it is held against, none where these say nothing (``Column.controlled``).
    source: ``run``, or ``reference`` for the committed rows that a run is shown beside; empty where there is no row.
    published: what papers report of this method, dataset and metric, on their own models under their own protocols.
    """

    estimate: Estimate
    source: str = ""
    nan: int = 0
    not_applicable: int = 0
    constant: int = 0
    missing: int = 0
    reason: str = ""
    rank: Rank | None = None
    against: list[Floor] = field(default_factory=list)
    published: list[Figure] = field(default_factory=list)

    @property
    def best(self) -> bool:
        """Whether no method of the column is better for sure."""
        return self.rank is not None and self.rank.shared == 1

    @property
    def mark(self) -> str:
        """† or ‡ where a control is not beaten; see LEGEND."""
        unbeaten = {c.same_grid for c in self.against if not c.beaten}
        return MARKS[max(unbeaten)] if unbeaten else ""


@dataclass
class Line:
    """One method's row of the table. source: ``reference`` where all its cells are from there, else ``run``.

    mean_rank: mean of its shared rank over the columns that rank methods.
    """

    method: str
    control: bool
    source: str
    cells: list[Cell]
    forwards: float
    backwards: float
    seconds: float
    mean_rank: float | None = None
    mean_place: float | None = None


@dataclass(frozen=True)
class Quality:
    """The model on the very items of a dataset: accuracy and mean probability of the explained class.

    chance: the accuracy of guessing, by any class alike or always by the most frequent one; None where it is not known. guesses:
    whether the accuracy cannot be told from that.
    """

    dataset: str
    items: int
    accuracy: float
    confidence: float
    sources_correct: float | None
    chance: float | None = None
    guesses: bool = False


@dataclass
class Table:
    """The leaderboard of one model: methods by mean rank, then controls; columns group by group.

    inapplicable: reason -> methods that have no line, because they apply to nothing here. agreement: of the columns, where there
    are several. notes: what a reader must know of these figures.
    """

    model: str
    columns: list[Column]
    lines: list[Line]
    quality: list[Quality]
    inapplicable: dict[str, list[str]] = field(default_factory=dict)
    agreement: Agreement | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Origin:
    """Where rows come from. source: ``run``, or ``reference`` for committed rows. batch_size: of forward passes, by dataset."""

    source: str
    suite: str
    suite_version: str
    xbench: str
    seed: int | None
    dtype: str
    batch_size: dict[str, int]


@dataclass
class Leaderboard:
    """All tables of one or more runs. across: tests of methods over models and datasets, one per metric. notes: on all tables."""

    title: str
    tables: list[Table]
    origins: list[Origin] = field(default_factory=list)
    across: list[Friedman] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def build(
    rows: pd.DataFrame,
    manifest: Manifest,
    reference: Run | None = None,
    asked: Filter | None = None,
) -> Leaderboard:
    """Make the leaderboard of a run's rows; methods that it lacks come from reference rows of the same protocol.

    Args:
        rows: as ``Store.rows`` gives them.
        manifest: the run's (descriptions of columns, methods, models).
        reference: rows and manifest of the committed results, or None.
        asked: what to show, everything by default.

    Raises:
        XbenchError: something is asked for that there is not.
    """
    rows, described, left_out = query.joined((rows, manifest), reference)
    origins = _origins(manifest, "run")
    if reference is not None and (rows["source"] == "reference").any():
        origins += _origins(reference[1], "reference")
    present = set(rows["protocol_key"].unique())
    columns, superseded = query.newest({key: about for key, about in manifest.columns.items() if key in present})
    controls = [method for method, about in described.items() if about.control]
    rows, columns = query.narrowed(rows, columns, controls, asked or Filter())
    rows = rows.reset_index(drop=True)
    found: dict[str, list[Panel]] = {}
    for panel in panels.of_rows(rows, groups.arranged(columns)):
        found.setdefault(panel.model, []).append(panel)
    models = (reference[1].models if reference else {}) | manifest.models
    classes = {model: about.classes for model, about in models.items()}
    tables = [_table(model, some, rows, described, classes.get(model)) for model, some in found.items()]
    title = manifest.title or manifest.suite
    notes = _notes(manifest, {about.dataset for about in columns.values()}) + superseded + _unreadable(rows)
    notes += left_out
    return Leaderboard(title, tables, origins, consensus.across(tables), notes)


def _origins(manifest: Manifest, source: str) -> list[Origin]:
    """What a manifest says of its run, or of the several runs that it stands for."""
    return [
        Origin(source, run.suite, run.suite_version, run.xbench, run.seed, run.dtype, dict(run.batch_size)) for run in manifest.runs
    ]


def _table(model: str, found: list[Panel], rows: pd.DataFrame, described: Methods, classes: int | None) -> Table:
    """classes: how many the model has, where that is known."""
    found = _marked(found)
    mine = rows[rows["model"] == model]
    known = mine[mine["status"].isin(["ok", "nan"])]
    costs = known.groupby("method", observed=True)[["forwards", "backwards", "seconds"]].mean()
    sources = mine.groupby("method", observed=True)["source"].first()
    lines = []
    for method in sorted(mine["method"].unique()):
        cost = costs.loc[method] if method in costs.index else dict.fromkeys(costs.columns, math.nan)
        control = described.get(method, UNDESCRIBED).control
        spent = {str(name): float(cost[name]) for name in costs.columns}
        lines.append(Line(method, control, str(sources[method]), [], **spent))
    by_name = {line.method: line for line in lines}
    for panel in found:
        for method, cell in zip(panel.methods, _cells(panel, rows, described), strict=True):
            by_name[method].cells.append(cell)
        for line in lines:
            if line.method not in panel.methods:
                line.cells.append(Cell(bootstrap.NONE, missing=len(panel.items), reason="not run"))
    lines, inapplicable = _applicable(lines)
    for line in lines:
        ranks = [cell.rank for panel, cell in zip(found, line.cells, strict=True) if panel.column.counted and cell.rank is not None]
        if ranks and not line.control:
            line.mean_rank = sum(rank.shared for rank in ranks) / len(ranks)
            line.mean_place = sum(rank.place for rank in ranks) / len(ranks)
    lines.sort(key=lambda line: (line.control, line.mean_rank or math.inf, line.mean_place or math.inf, line.method))
    table = Table(model, [panel.column for panel in found], lines, _quality(mine, classes), inapplicable)
    _cite(table)
    table.agreement = consensus.within(table)
    table.notes = _table_notes(table) + _residuals(known)
    return table


def _marked(found: list[Panel]) -> list[Panel]:
    """Panels whose columns say which earlier one they repeat."""
    marked: list[Panel] = []
    for panel in found:
        first = next((p for p in marked if p.column.counted and panel.column.ranked and panel.same_values(p)), None)
        column = dataclasses.replace(panel.column, repeats=first.column.metric if first else "")
        marked.append(dataclasses.replace(panel, column=column))
    return marked


def _cite(table: Table) -> None:
    """Put what papers report beside what was measured."""
    figures = published.load().by_ids()
    for line in table.lines:
        for column, cell in zip(table.columns, line.cells, strict=True):
            ids = (query.id_of(line.method), query.id_of(column.dataset), query.id_of(column.metric))
            cell.published = list(figures.get(ids, []))


def _cells(panel: Panel, rows: pd.DataFrame, described: Methods) -> list[Cell]:
    """A cell for each method of a panel."""
    cells = [
        Cell(
            estimate,
            source=str(rows["source"].iloc[panel.rows[m].max()]),
            nan=panel.count(m, "nan"),
            not_applicable=panel.count(m, "not_applicable"),
            constant=int((panel.constant[m] & panel.scores.known[m]).sum()),
            missing=panel.count(m, "missing"),
        )
        for m, estimate in enumerate(panel.scores.estimates())
    ]
    for m, cell in enumerate(cells):
        if cell.not_applicable or panel.count(m, "unreadable"):
            reasons = rows["reason"].iloc[panel.rows[m][panel.rows[m] >= 0]].dropna().unique()
            cell.reason = "; ".join(map(str, reasons))
    if not panel.column.ranked:
        return cells
    found = claims.of_panel(panel, described)
    for m, rank in zip(found.ranked, panel.scores.ranks(found.ranked, found.among), strict=True):
        cells[m].rank = rank
    pairs = list(found.against)
    for (m, floor), gain in zip(pairs, panel.scores.differences(pairs), strict=True):
        same = described[panel.methods[floor]].any_grid or panel.same_grid(m, floor)
        cells[m].against.append(Floor(panel.methods[floor], gain, found.against[m, floor].better == 0, same))
    return cells


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


def _quality(rows: pd.DataFrame, classes: int | None) -> list[Quality]:
    found = []
    readable = rows[rows["status"] != "unreadable"]
    for dataset, group in readable.drop_duplicates(["dataset", "item"]).groupby("dataset", sort=False, observed=True):
        sources = group["sources_correct"].dropna()
        share = float(sources.astype(bool).mean()) if len(sources) else None
        correct = group["correct"].dropna().astype(bool)  # unknown of pictures without a label that the model has
        chance = _chance(group.loc[correct.index], classes) if len(correct) else None
        guesses = chance is not None and bootstrap.may_be(
            chance, correct.to_numpy(), group.loc[correct.index, "cluster"].to_numpy(str)
        )
        accuracy, confidence = float(correct.mean()), float(group["confidence"].mean())
        found.append(Quality(str(dataset), len(group), accuracy, confidence, share, chance, guesses))
    return found


def _chance(items: pd.DataFrame, classes: int | None) -> float | None:
    """The accuracy of guessing on a dataset's items: any class alike, or always the most frequent one where there are several."""
    if not classes:
        return None
    samples = items["item"].astype(str)
    if (items["target_policy"] == "present").all():  # an item is <sample>#<class>, and each of a picture's classes is right
        samples = samples.str.rpartition("#")[0]
    alike = len(items) / samples.nunique() / classes
    if (items["target_policy"] == "prediction").any() or items["target"].nunique() < 2:
        return min(1.0, alike)
    return min(1.0, max(alike, items["target"].value_counts().iloc[0] / samples.nunique()))


def _notes(manifest: Manifest, datasets: set[str]) -> list[str]:
    """What is to be said of a run, and of the datasets that are shown."""
    notes = [] if manifest.complete else [manifest.incomplete or INTERRUPTED]
    notes += manifest.notes
    for dataset, about in manifest.datasets.items():
        notes += [f"{dataset}: {note}" for note in about.notes if dataset in datasets]
    return notes


def _table_notes(table: Table) -> list[str]:
    """What was left out of a table or of its ranks, and why."""
    notes = [f"{', '.join(methods)} not applicable: {why}" for why, methods in table.inapplicable.items()]
    notes += [
        f"{column.metric} on {column.dataset} is the same number as {column.repeats} for every method and item: the two count once "
        "in mean ranks, agreement and tests across datasets"
        for column in table.columns
        if column.repeats
    ]
    for line in table.lines:
        for column, cell in zip(table.columns, line.cells, strict=True):
            where = f"{line.method} on {column.dataset}, {column.metric}"
            if cell.source == "reference" and line.source == "run":
                notes.append(f"{where}: reference rows")
            if cell.nan:
                notes.append(f"{where}: NaN on {cell.nan} of {column.items} items; not ranked")
            if cell.missing and cell.estimate.n:
                notes.append(f"{where}: only {cell.estimate.n} of {column.items} items; not ranked")
            if cell.constant and not line.control:
                notes.append(f"{where}: {cell.constant} constant maps, scored by the expectation over tie orders")
    sizes = {cell.estimate.clusters for line in table.lines for cell in line.cells}
    few = sorted(size for size in sizes if 0 < size < bootstrap.FEW_CLUSTERS)
    if few:
        span = f"{few[0]}" if len(few) == 1 else f"{few[0]} to {few[-1]}"
        notes.append(f"95 % intervals rest on {span} source pictures; below {bootstrap.FEW_CLUSTERS} they are approximate")
    return notes


def _residuals(rows: pd.DataFrame) -> list[str]:
    """One line per method and dataset whose maps miss the sum that the method promises by more than SMALL somewhere."""
    notes = []
    some = rows[rows["residual"].notna()] if "residual" in rows else rows[:0]
    for (method, dataset), group in some.groupby(["method", "dataset"], observed=True):
        missed = group.drop_duplicates("item")["residual"].astype(float)
        if missed.max() > SMALL:
            text = f"{missed.median():.1%} in the median, {missed.max():.1%} at most, of {len(missed)} items"
            remedy = f"what makes it smaller: xbench show {query.id_of(str(method))}"
            notes.append(f"{method} on {dataset}: maps miss the sum that the method promises (completeness) by {text}; {remedy}")
    return notes


def _unreadable(rows: pd.DataFrame) -> list[str]:
    """One line per dataset with samples that could not be used."""
    notes = []
    for dataset, group in rows.drop_duplicates(["dataset", "item"]).groupby("dataset", sort=False, observed=True):
        broken = group[group["status"] == "unreadable"]
        if len(broken):
            first = broken["reason"].iloc[0]
            notes.append(f"{dataset}: {len(broken)} of {len(group)} items cannot be read and count nowhere; the first: {first}")
    return notes
