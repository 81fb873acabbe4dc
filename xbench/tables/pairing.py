"""Two runs side by side: which figures belong together, and why some have no partner. What compare and gate judge.

Rows pair where protocol, method and item are equal and the explained class is the same. The model may differ: that is what two runs
of a retrained one are for. Whatever has no partner is counted, on either side, for a comparison of what is left says nothing of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from xbench.stats.bootstrap import Scores
from xbench.store.manifests import UNDESCRIBED, Run
from xbench.tables import panels
from xbench.tables.panels import Column, Panel

WITHOUT = {"missing": "no row", "nan": "NaN", "not_applicable": "not applicable", "unreadable": "picture cannot be read"}


@dataclass(frozen=True, eq=False)
class Pair:
    """One method's scores in one column of two runs. scores: the old run's are method 0, the new one's 1, on the items of both.

    retrained: whether the networks differ. unpaired: items that only one run has a row of. valued, now: items of which the old run
    has a value, and the new one. Of the old run's: moved, those that explain another class in the new run; lost, why others have no
    value there -> how many; nan, how many of these became NaN. gained: why items with a value in the new run have none in the old
    one -> how many.
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
    now: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)
    gained: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What is judged, in one line."""
        return f"{self.method}, {self.column.metric} on {self.column.dataset}, {self.models[1]}"


@dataclass(frozen=True)
class Pairing:
    """All pairs of two runs, and one line for each figure of either run that has no partner."""

    pairs: list[Pair]
    unmatched: list[str]


def pair(old: Run, new: Run) -> Pairing:
    """Pair the methods of two runs, controls left out: what both runs call one."""
    olds, news = (list(panels.of_rows(rows, manifest.columns)) for rows, manifest in (old, new))
    partners = _partners({p.model for p in olds}, {p.model for p in news})
    by_key = {(p.model, p.column.key): p for p in news}
    pairs: list[Pair] = []
    unmatched: list[str] = []
    for panel in olds:
        partner = partners.get(panel.model)
        where = _where(panel)
        if partner is None:
            unmatched.append(f"{where}: the new run has {_models(news)}, and it is not clear which of them takes its place")
            continue
        other = by_key.pop((partner, panel.column.key), None)
        if other is None:
            unmatched.append(f"{where}: {_why(panel, [p for p in news if p.model == partner])}")
            continue
        retrained = _digest(old, panel.model) != _digest(new, partner)
        for method in dict.fromkeys([*panel.methods, *other.methods]):
            if all(_control(run, method) for run, its in ((old, panel), (new, other)) if method in its.methods):
                continue
            if why := _apart(method, panel, other, old, new):
                unmatched.append(f"{method}, {where}: {why}")
            else:
                pairs.append(_pair(method, panel, other, retrained, old, new))
    return Pairing(pairs, unmatched + _new_only(olds, list(by_key.values()), partners, new))


def settings(old: Run, new: Run) -> list[str]:
    """A line for each setting in which two runs differ although they pair: what it changes is no change of a method."""
    settings: list[tuple[str, object, object, str]] = [
        ("seed", old[1].seed, new[1].seed, "whatever is drawn at random differs too"),
        ("device", old[1].device, new[1].device, "values differ by rounding too"),
    ]
    return [
        f"the old run has {name} {was}, the new one {now}: {what}"
        for name, was, now, what in settings
        if was != now and None not in (was, now) and "" not in (was, now)  # which older manifests do not say
    ]


def _new_only(olds: list[Panel], left: list[Panel], partners: Mapping[str, str], new: Run) -> list[str]:
    """A line for each column that only the new run has; where just the protocol differs, the old run's line says so."""
    known = {(partners.get(p.model), p.column.dataset, p.column.metric) for p in olds}
    return [
        f"{_where(panel)}: the old run lacks this {'column' if panel.model in partners.values() else 'model'}"
        for panel in left
        if (panel.model, panel.column.dataset, panel.column.metric) not in known
        and not all(_control(new, method) for method in panel.methods)
    ]


def _where(panel: Panel) -> str:
    return f"{panel.column.metric} on {panel.column.dataset}, {panel.model}"


def _control(run: Run, method: str) -> bool:
    return run[1].methods.get(method, UNDESCRIBED).control


def _partners(old: set[str], new: set[str]) -> dict[str, str]:
    """Which new model takes the place of each old one: that of its name, or the only one left for the only one left."""
    found = {model: model for model in old & new}
    if len(old - new) == len(new - old) == 1:
        found[(old - new).pop()] = (new - old).pop()
    return found


def _digest(run: Run, model: str) -> str:
    """What a run says of a model's weights; empty where it says nothing."""
    about = run[1].models.get(model)
    return about.digest if about else ""


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


def _apart(method: str, panel: Panel, other: Panel, old: Run, new: Run) -> str:
    """Why a method of two columns makes no pair; empty where it does."""
    for run, its in (("old", panel), ("new", other)):
        if method not in its.methods:
            return f"the {run} run lacks this method"
    was, now = ("control" if _control(run, method) else "method" for run in (old, new))
    if was != now:
        return f"it was a {was} in the old run, and is a {now} in the new one"
    lengths = [p.scores.data.shape[2] for p in (panel, other) if p.scores.known.any()]
    return f"its vectors had {lengths[0]} numbers, and have {lengths[1]} now" if len(set(lengths)) > 1 else ""


def _pair(method: str, old: Panel, new: Panel, retrained: bool, olds: Run, news: Run) -> Pair:
    items = sorted(set(old.items) & set(new.items))
    sides = []
    for panel in (old, new):
        place = {item: i for i, item in enumerate(panel.items)}
        sides.append((panel, panel.methods.index(method), np.array([place[item] for item in items], dtype=np.intp)))
    (a, m, i), (b, n, j) = sides
    same = a.targets[i] == b.targets[j]
    before, after = a.scores.known[m, i], b.scores.known[n, j]
    known = before & after & same
    classes = None if a.scores.classes is None else a.scores.classes[i]
    length = max(a.scores.data.shape[2], b.scores.data.shape[2])  # of vectors: 1 where a run has none
    data = np.stack([_widened(a.scores.data[m, i], length), _widened(b.scores.data[n, j], length)])
    scores = Scores(data, np.stack([known, known]), a.scores.clusters[i], a.scores.reduce, a.scores.higher, classes)
    lost, gained = _without(old, m, new, n, news), _without(new, n, old, m, olds)
    return Pair(
        method,
        (old.model, new.model),
        old.column,
        items,
        scores,
        retrained,
        unpaired=len(set(old.items) ^ set(new.items)),
        moved=int((before & after & ~same).sum()),
        valued=int(a.scores.known[m].sum()),
        nan=sum(count for why, count in lost.items() if why == WITHOUT["nan"]),
        now=int(b.scores.known[n].sum()),
        lost=lost,
        gained=gained,
    )


def _widened(data: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """``[N, length]`` of ``[N, V]``: zeros where there are no vectors at all."""
    return data if data.shape[1] == length else np.zeros((len(data), length))


def _without(panel: Panel, m: int, other: Panel, n: int, run: Run) -> dict[str, int]:
    """Why items of which a method (m) has a value have none in the other run (there it is n), commonest first -> how many."""
    place = {item: i for i, item in enumerate(other.items)}
    reasons = run[0]["reason"]
    found: Counter[str] = Counter()
    for item in (panel.items[i] for i in np.flatnonzero(panel.scores.known[m])):
        at = place.get(item)
        status = "missing" if at is None else panels.STATUSES[other.status[n, at]]
        if status != "ok":
            reason = reasons.iloc[other.rows[n, at]] if status == "not_applicable" else None
            found[f"{WITHOUT[status]}: {reason}" if isinstance(reason, str) else WITHOUT[status]] += 1
    return dict(found.most_common())
