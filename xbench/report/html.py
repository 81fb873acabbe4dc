"""The HTML page of a run: tables, what is not beaten, curves, and a gallery of overlays. One file, no network."""

from __future__ import annotations

import io
import math
import re
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from xbench.plugins import reductions
from xbench.report import heads, pictures, tables
from xbench.store.gallery import Gallery
from xbench.store.manifests import Manifest
from xbench.tables import leaderboard
from xbench.tables.leaderboard import Leaderboard
from xbench.tables.panels import Column
from xbench.tables.validation import Verdict

CURVES_SHOWN = 8  # methods per curve plot
COLOURS = [f"C{i}" for i in (0, 1, 2, 3, 4, 5, 6, 8)]  # matplotlib's C7 is the controls' grey


def render(board: Leaderboard, rows: pd.DataFrame, manifest: Manifest, gallery: Gallery) -> str:
    """The page as text. gallery: as ``Store.gallery`` gives it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("xbench", "report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"short": tables.number, "interval": tables.interval, "count": tables.count}
    return environment.get_template("page.html.j2").render(
        board=board,
        manifest=manifest,
        details=tables.details,
        warnings=tables.warnings,
        remarks=[*tables.legend(board, "bold on green"), *board.notes, *tables.origins(board)],
        across=tables.across(board),
        figures=tables.figures,
        has_published=tables.has_published,
        column_name=heads.column_name,
        head=heads.head,
        spans=heads.spans,
        validation=heads.validation,
        verdict=_verdict,
        agreement=_agreement,
        shade=_shade,
        empty=tables.short,
        curves={table.model: _curves(table, rows) for table in board.tables},
        gallery=_gallery(board, rows, manifest, gallery),
    )


def _shade(tau: float) -> str:
    """CSS for a cell of the heat table: green for columns that agree, red for those that contradict each other."""
    colour = "46, 139, 87" if tau > 0 else "190, 70, 40"
    return f"background: rgba({colour}, {0 if math.isnan(tau) else 0.6 * abs(tau):.2f})"


def _verdict(verdict: Verdict) -> str:
    """In few words, for below a head."""
    if not verdict.valid:
        return "not valid"
    return f"valid, {verdict.separation:.1f} sd" if math.isfinite(verdict.separation) else "valid"


def _agreement(table: leaderboard.Table) -> list[tuple[Column, list[float]]]:
    """Each column that ranks methods, with its tau with each of them."""
    places = [i for i, column in enumerate(table.columns) if column.counted]
    return [(table.columns[i], [table.agreement.tau[i][j] for j in places]) for i in places] if table.agreement else []


def _curves(table: leaderboard.Table, rows: pd.DataFrame) -> list[Markup]:
    """Mean curves of the best methods and the controls, one plot per metric whose vectors are curves."""
    from matplotlib.figure import Figure

    plots: list[Markup] = []
    for column in table.columns:
        mine = rows[(rows["protocol_key"] == column.key) & (rows["model"] == table.model) & (rows["status"] == "ok")]
        mine = mine[mine["vector"].notna()]
        if mine.empty or not _axes(column):
            continue
        figure = Figure(figsize=(5.6, 3.4), layout="constrained")
        axis = figure.subplots()
        groups = mine.groupby("method", observed=True)["vector"]
        means = {method: np.stack(vectors.to_list()).mean(axis=0) for method, vectors in groups}
        present = [line for line in table.lines if line.method in means]
        best = [line for line in present if not line.control][:CURVES_SHOWN]
        for i, line in enumerate(best + [line for line in present if line.control]):
            style: dict[str, Any] = {"color": "0.6", "linestyle": "--", "linewidth": 0.9}
            if not line.control:
                style = {"color": COLOURS[i], "linewidth": 1.6}
            axis.plot(*_line(means[line.method], column), label=None if line.control else line.method, **style)
        across, up = _axes(column)
        axis.set(xlabel=across, ylabel=up, title=f"{column.label} ({column.dataset})")
        if best:
            axis.legend(fontsize=7, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        # Only the <svg> element; ids are made unique per plot, since all share one page.
        svg = re.sub(r"^.*?(<svg)", r"\1", text.getvalue(), flags=re.DOTALL)
        prefix = f"p{len(plots)}-"
        svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}", svg)
        plots.append(Markup(svg))
    return plots


def _line(mean: NDArray[Any], column: Column) -> tuple[NDArray[Any], NDArray[Any]]:
    """(x, y) of a mean vector: a curve over pixels, a score over thresholds (its groups averaged), or precision over recall."""
    if column.reduce == "average_precision":
        return reductions.precision_recall(mean)
    if reductions.is_vector(column.reduce):
        mean = mean.reshape(reductions.groups(column.reduce), -1).mean(axis=0)
        return np.arange(len(mean)) / len(mean), mean
    if "stratified(" in column.metric:  # between the ends, the mean over a stratum stands for its middle
        count = len(mean) - 2
        return np.array([0, *(np.arange(count) + 0.5) / count, 1]), mean
    return np.linspace(0, 1, len(mean)), mean


def _axes(column: Column) -> tuple[str, ...]:
    if column.reduce == "average_precision":
        return "recall", "precision, pixels of all pictures pooled"
    if reductions.is_vector(column.reduce):
        return "threshold, one for all pictures", "mean score"
    return column.axes


def _gallery(board: Leaderboard, rows: pd.DataFrame, manifest: Manifest, gallery: Gallery) -> list[dict[str, Any]]:
    """Per kept item of what is shown: its picture, what was explained, and an overlay per method in the table's order."""
    order = [line.method for table in board.tables for line in table.lines]
    datasets = list(dict.fromkeys(column.dataset for table in board.tables for column in table.columns))
    rows = rows[rows["model"].isin([table.model for table in board.tables]) & rows["dataset"].isin(datasets)]
    facts = rows.drop_duplicates(["model", "dataset", "item"]).set_index(["model", "dataset", "item"]).to_dict("index")
    pictured = [key for key in gallery if not key.method and (key.model, key.dataset, key.item) in facts]
    shown = []
    for key in sorted(pictured, key=lambda k: (k.model, datasets.index(k.dataset), k.item)):
        model, dataset, item, _ = key
        picture = gallery[key]
        fact = facts[model, dataset, item]
        target = str(int(fact["target"]))
        cells = [
            (name, pictures.data_uri(pictures.overlay(picture, gallery[key.of(name)])))
            for name in dict.fromkeys(order)
            if key.of(name) in gallery
        ]
        shown.append(
            {
                "model": model,
                "dataset": dataset,
                "item": item,
                "target": manifest.class_names.get(model, {}).get(target, target),
                "confidence": float(fact["confidence"]),
                "correct": pd.isna(fact["correct"]) or bool(fact["correct"]),  # unknown is not wrong
                "picture": pictures.data_uri(picture),
                "cells": cells,
            }
        )
    return shown
