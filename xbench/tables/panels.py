"""Rows -> panels: what every method scored on every item of one column, as arrays. The door from rows to statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xbench.plugins import reductions
from xbench.stats.bootstrap import ROUNDING, Mask, Scores
from xbench.store.manifests import AboutColumn, Columns
from xbench.tables import query, validation
from xbench.tables.validation import Verdict

ARROWS = {"higher": "↑", "lower": "↓"}
USED = ["method", "item", "cluster", "target", "status", "value", "vector", "constant", "grid"]
STATUSES = ("missing", "ok", "nan", "not_applicable", "unreadable")  # codes of Panel.status


@dataclass(frozen=True)
class Column:
    """One metric on one dataset under one protocol.

    group: ``faithfulness``, ``localization`` or another Group; empty where an older manifest does not say. verdict: of
    the metric's validation, None where none ships for its version. axes: see MetricInfo. repeats: an earlier column's metric that
    has the same value for every method and item; empty where there is none.
    """

    key: str
    dataset: str
    metric: str
    direction: str
    items: int
    chance: str = ""
    protocol: str = ""
    reduce: str = "mean"
    group: str = ""
    axes: tuple[str, ...] = ()
    version: str = ""
    verdict: Verdict | None = None
    repeats: str = ""

    @property
    def counted(self) -> bool:
        """Whether its ranks enter mean ranks, agreement and tests across datasets: not twice where two columns are the same."""
        return self.ranked and not self.repeats

    @property
    def ranked(self) -> bool:
        """Whether methods are ranked by it.

        Complexity says how concentrated a map is, not whether it is right; and a metric that orders planted maps wrongly may order
        methods wrongly.
        """
        return self.group != "complexity" and (self.verdict is None or self.verdict.valid)

    @property
    def controlled(self) -> bool:
        """Whether methods are held against controls.

        Not where these are the best by nature: noise is never the same on another network, and the picture's centre never moves.
        """
        return self.ranked and self.group not in ("randomisation", "robustness")

    @property
    def label(self) -> str:
        return f"{self.metric.partition('(')[0]} {ARROWS[self.direction]}"


@dataclass(frozen=True, eq=False)
class Panel:
    """M methods by N items. status: ``[M, N]`` index into STATUSES. rows: ``[M, N]`` place in the frame, -1 where there is none."""

    model: str
    column: Column
    methods: list[str]
    items: list[str]
    targets: NDArray[np.int64]
    scores: Scores
    status: NDArray[np.int8]
    rows: NDArray[np.int64]
    constant: Mask
    grids: NDArray[np.int64]

    def count(self, method: int, status: str) -> int:
        """How many items have a status."""
        return int((self.status[method] == STATUSES.index(status)).sum())

    def same_values(self, other: Panel) -> bool:
        """Whether another column has the same value for every method and item, as two metrics by definition may have."""
        ours, theirs = self.scores, other.scores
        return (
            (self.column.dataset, self.column.direction, ours.reduce)
            == (other.column.dataset, other.column.direction, theirs.reduce)
            and (self.methods, self.items) == (other.methods, other.items)
            and ours.data.shape == theirs.data.shape
            and np.array_equal(ours.known, theirs.known)
            and bool(ours.known.any())
            and np.allclose(ours.data[ours.known], theirs.data[theirs.known], rtol=ROUNDING, atol=ROUNDING**2)
        )

    def same_grid(self, a: int, b: int) -> bool:
        """Whether the maps of two methods are equally coarse on all items that both have."""
        both = self.scores.known[a] & self.scores.known[b]
        return bool((self.grids[a] == self.grids[b])[both].all())


def of_rows(rows: pd.DataFrame, columns: Columns) -> Iterator[Panel]:
    """A panel for each model and column of some rows: models by name, columns in the order of ``columns``, a manifest's."""
    rows = rows[["model", "protocol_key", "dataset", *USED]].reset_index(drop=True)
    # One number for a photograph of a dataset in all panels, so that what is judged across columns knows what these share.
    (datasets, _), (clusters, names) = _coded(rows["dataset"]), _coded(rows["cluster"])
    rows["cluster"] = datasets * len(names) + clusters
    found = rows.groupby(["model", "protocol_key"], sort=False, observed=True).indices
    verdicts = validation.load()
    for model in sorted(rows["model"].unique()):
        for key, about in columns.items():
            places = found.get((model, key))
            if places is not None:
                some = rows.iloc[places]
                column = _column(key, about, some["item"].nunique(), verdicts)
                yield _panel(model, some, np.asarray(places), column)


def _column(key: str, about: AboutColumn, items: int, verdicts: Mapping[tuple[str, str], Verdict]) -> Column:
    return Column(
        key,
        about.dataset,
        about.metric,
        about.direction,
        items,
        about.chance,
        about.protocol,
        about.reduce,
        about.group,
        about.axes,
        about.version,
        verdicts.get((query.id_of(about.metric), about.version)),
    )


def _panel(model: str, rows: pd.DataFrame, places: NDArray[np.intp], column: Column) -> Panel:
    of_method, methods = _coded(rows["method"])
    of_item, items = _coded(rows["item"])
    at, shape = (of_method, of_item), (len(methods), len(items))
    where = np.full(shape, -1)
    where[at] = places
    status = np.zeros(shape, np.int8)
    status[at] = rows["status"].map({name: code for code, name in enumerate(STATUSES)}).to_numpy(np.int8)
    if not reductions.is_vector(column.reduce):  # whatever a row says of itself
        lying = (status[at] == STATUSES.index("ok")) & ~np.isfinite(rows["value"].to_numpy(np.float64))
        status[of_method[lying], of_item[lying]] = STATUSES.index("nan")
    first = np.zeros(len(items), np.intp)
    first[of_item[::-1]] = np.arange(len(rows))[::-1]
    known = status == STATUSES.index("ok")
    data = np.zeros((*shape, 1))
    if reductions.is_vector(column.reduce):
        ok = known[at]
        vectors = np.stack(rows["vector"][ok].to_list()) if ok.any() else np.zeros((0, 1))
        data = np.zeros((*shape, vectors.shape[1]))
        data[of_method[ok], of_item[ok]] = vectors
    else:
        data[(*at, 0)] = np.nan_to_num(rows["value"].to_numpy(np.float64))
    targets = rows["target"].to_numpy(np.float64, na_value=-1)[first].astype(np.int64)
    clusters = rows["cluster"].to_numpy(np.int64)[first]
    classes = targets if column.reduce == "class_mean" else None
    constant = np.zeros(shape, bool)
    constant[at] = rows["constant"].fillna(False).to_numpy(bool)
    grids = np.full(shape, -1)
    grids[at] = rows["grid"].astype("category").cat.codes
    scores = Scores(data, known, clusters, column.reduce, column.direction == "higher", classes)
    return Panel(model, column, methods, items, targets, scores, status, where, constant, grids)


def _coded(names: pd.Series[str]) -> tuple[NDArray[np.intp], list[str]]:
    """(the place of each name in the sorted list of those that occur, this list)."""
    categories = names.astype("category").cat.remove_unused_categories()
    found = sorted(map(str, categories.cat.categories))
    return np.asarray(categories.cat.set_categories(found).cat.codes, dtype=np.intp), found
