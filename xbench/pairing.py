"""Two runs side by side: which figures belong together, and why some have no partner. What compare and gate judge.

Rows pair where protocol, method and item are equal and the explained class is the same. The model may differ: that is what two runs
of a retrained one are for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from xbench import panels
from xbench.panels import Column, Panel
from xbench.stats import Scores

Run = tuple[pd.DataFrame, Mapping[str, Any]]  # rows and manifest, as runs.read gives them


@dataclass(frozen=True, eq=False)
class Pair:
    """One method's scores in one column of two runs. scores: the old run's are method 0, the new one's 1, on the items of both.

    retrained: whether the networks differ. unpaired: items that only one run has a row of. moved: items that explain another class
    in the new run. valued: items of which the old run has a value. nan: items whose value became NaN.
    """

    method: str
    models: tuple[str, str]
    column: Column
    items: list[str]
    scores: Scores
    retrained: bool
    unpaired: int
    moved: int
    valued: int
    nan: int

    @property
    def name(self) -> str:
        """What is judged, in one line."""
        return f"{self.method}, {self.column.metric} on {self.column.dataset}, {self.models[1]}"


@dataclass(frozen=True)
class Pairing:
    """All pairs of two runs, and one line for each figure of the old run that has no partner."""

    pairs: list[Pair]
    unmatched: list[str]


def pair(old: Run, new: Run) -> Pairing:
    """Pair the methods of two runs, controls left out."""
    olds, news = (list(panels.of_rows(rows, manifest["columns"])) for rows, manifest in (old, new))
    partners = _partners({p.model for p in olds}, {p.model for p in news})
    by_key = {(p.model, p.column.key): p for p in news}
    pairs: list[Pair] = []
    unmatched: list[str] = []
    for panel in olds:
        partner = partners.get(panel.model)
        where = f"{panel.column.metric} on {panel.column.dataset}, {panel.model}"
        if partner is None:
            unmatched.append(f"{where}: the new run has {_models(news)}, and it is not clear which of them takes its place")
            continue
        other = by_key.get((partner, panel.column.key))
        if other is None:
            unmatched.append(f"{where}: {_why(panel, [p for p in news if p.model == partner])}")
            continue
        retrained = _digest(old, panel.model) != _digest(new, partner)
        for method in panel.methods:
            if old[1]["methods"].get(method, {}).get("control"):
                continue
            if method in other.methods:
                pairs.append(_pair(method, panel, other, retrained))
            else:
                unmatched.append(f"{method}, {where}: the new run lacks this method")
    return Pairing(pairs, unmatched)


def _partners(old: set[str], new: set[str]) -> dict[str, str]:
    """Which new model takes the place of each old one: that of its name, or the only one left for the only one left."""
    found = {model: model for model in old & new}
    if len(old - new) == len(new - old) == 1:
        found[(old - new).pop()] = (new - old).pop()
    return found


def _digest(run: Run, model: str) -> str | None:
    """What a run says of a model's weights."""
    digest: str | None = run[1].get("models", {}).get(model, {}).get("digest")
    return digest


def _models(found: list[Panel]) -> str:
    return " and ".join(sorted({p.model for p in found})) or "no rows"


def _why(panel: Panel, candidates: list[Panel]) -> str:
    """Why a column has no partner."""
    alike = [p for p in candidates if (p.column.dataset, p.column.metric) == (panel.column.dataset, panel.column.metric)]
    if not alike:
        return "the new run lacks this column"
    if alike[0].column.protocol != panel.column.protocol:
        return f"the protocol differs: it was {panel.column.protocol!r}, now it is {alike[0].column.protocol!r}"
    return "the protocol differs: another revision of the dataset, or other parameters"


def _pair(method: str, old: Panel, new: Panel, retrained: bool) -> Pair:
    items = sorted(set(old.items) & set(new.items))
    sides = []
    for panel in (old, new):
        place = {item: i for i, item in enumerate(panel.items)}
        sides.append((panel, panel.methods.index(method), np.array([place[item] for item in items], dtype=np.intp)))
    (a, m, i), (b, n, j) = sides
    same = a.targets[i] == b.targets[j]
    known = a.scores.known[m, i] & b.scores.known[n, j] & same
    classes = None if a.scores.classes is None else a.scores.classes[i]
    scores = Scores(
        np.stack([a.scores.data[m, i], b.scores.data[n, j]]),
        np.stack([known, known]),
        a.scores.clusters[i],
        a.scores.reduce,
        a.scores.higher,
        classes,
    )
    lost = int((a.scores.known[m, i] & (b.status[n, j] == panels.STATUSES.index("nan"))).sum())
    unpaired = len(set(old.items) ^ set(new.items))
    valued = int(a.scores.known[m].sum())
    return Pair(method, (old.model, new.model), old.column, items, scores, retrained, unpaired, int((~same).sum()), valued, lost)
