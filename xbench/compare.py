"""Two methods of one run, or two runs, side by side: which is better, by how much, how sure, at what cost, and where they differ.

A comparison has a first and a second side: two methods as they are named, or the new run and then the old one. All differences are
first minus second, oriented so that positive means that the first is better.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from xbench import pairing, panels, stats
from xbench.errors import XbenchError, did_you_mean
from xbench.pairing import Pair, Run
from xbench.panels import Column, Panel
from xbench.specs import parse
from xbench.stats import Comparison, Draws, Estimate, Scores

ALPHA = 0.05  # chance of any wrong "better" in one comparison
ROUNDING = 1e-5  # values that are this close are equal: so much do they differ with the machine and the order of sums
WITHOUT = {"missing": "no row", "nan": "NaN", "not_applicable": "not applicable", "unreadable": "picture cannot be read"}

Names = tuple[str, str]  # of the first side and the second


@dataclass(frozen=True, eq=False)
class Figure:
    """What both sides score in one column. scores: the first is method 0, the second 1, on the N ``items``.

    gaps: why items have no partner and count nowhere -> how many.
    """

    methods: Names
    models: Names
    column: Column
    items: list[str]
    scores: Scores
    gaps: dict[str, int]

    @property
    def name(self) -> str:
        """The column in one line."""
        return f"{self.column.metric} on {self.column.dataset}"


@dataclass(frozen=True, eq=False)
class Finding:
    """One figure compared. means: of both sides, on the items of both.

    p: of the difference, two-sided: the larger of Hall's t (see Draws.worse) and the sign-flip test's. p, wilcoxon and sign_flip
    are after Holm's correction over all findings; those in ``comparison`` are not.
    """

    figure: Figure
    means: tuple[Estimate, Estimate]
    comparison: Comparison
    p: float
    wilcoxon: float
    sign_flip: float

    @property
    def better(self) -> int | None:
        """The side that is better for sure, 0 or 1: p is small and the 95 % interval excludes 0; None where neither is."""
        gain = self.comparison.difference
        if not (self.p < ALPHA and gain.low * gain.high > 0):
            return None
        return 0 if gain.mean > 0 else 1


@dataclass(frozen=True)
class Cost:
    """What explaining one item takes on average, standing alone. NaN where it is not known."""

    forwards: float
    backwards: float
    seconds: float

    @property
    def passes(self) -> float:
        return self.forwards + self.backwards


@dataclass(frozen=True)
class Spending:
    """The costs of both sides of a method on a model."""

    methods: Names
    models: Names
    costs: tuple[Cost, Cost]


@dataclass(frozen=True)
class Difference:
    """An item's values on both sides. gain: first minus second, positive = the first is better. target: the explained class."""

    figure: Figure
    item: str
    target: str
    values: tuple[float, float]
    gain: float


@dataclass(frozen=True, eq=False)
class Report:
    """What compare says.

    names: of the sides, short. titles: the same in full. runs: rows and manifest of each side. notes: what else a reader must know.
    """

    names: Names
    titles: Names
    runs: tuple[Run, Run]
    findings: list[Finding]
    spendings: list[Spending]
    notes: list[str] = field(default_factory=list)

    @property
    def models(self) -> list[Names]:
        """The models of both sides, in order."""
        return list(dict.fromkeys(finding.figure.models for finding in self.findings))

    @property
    def two_runs(self) -> bool:
        """Whether the sides are runs, so that a figure is also one of a method."""
        return self.runs[0] is not self.runs[1]

    def verdict(self, finding: Finding) -> str:
        return "cannot be told apart" if finding.better is None else f"{self.names[finding.better]} better"


def of_methods(run: Run, first: str, second: str) -> Report:
    """Compare two methods of a run, controls too; specs as they stand in its table, or the plug-in's id alone where that is clear.

    Raises:
        XbenchError: the run has no such method, both are the same, or no item has a value of both.
    """
    rows, manifest = run
    known = sorted(set(rows["method"]))
    names = _named(first, known, "method"), _named(second, known, "method")
    if names[0] == names[1]:
        raise XbenchError(f"{names[0]} is compared with itself; name two methods of the run")
    figures, notes = [], []
    for panel in panels.of_rows(rows, manifest["columns"]):
        lacking = [name for name in names if name not in panel.methods]
        if lacking:
            notes.append(f"{panel.column.metric} on {panel.column.dataset}, {panel.model}: {' and '.join(lacking)} not run")
        else:
            figures.append(_of_panel(panel, names))
    return _report(names, names, (run, run), figures, notes)


def of_runs(new: Run, old: Run, titles: Names = ("the new run", "the old run")) -> Report:
    """Compare two runs: every method that both have, controls left out. titles: what to call the new run and the old one.

    Raises:
        XbenchError: no item has a value in both runs.
    """
    found = pairing.pair(old, new)
    names = "new", "old"
    titles = f"new ({titles[0]})", f"old ({titles[1]})"
    return _report(names, titles, (new, old), [_of_pair(pair) for pair in found.pairs], found.unmatched)


def differing(report: Report, metric: str | None = None) -> list[Difference]:
    """All items whose values differ, those that differ most first.

    metric: one with values per item, as a spec or its id alone; by default the report's first one.

    Raises:
        XbenchError: no such metric was compared, or it has no values per item (its figure is one of vectors, such as a curve's).
    """
    compared = list(dict.fromkeys(finding.figure.column.metric for finding in report.findings))
    figures = [finding.figure for finding in report.findings if finding.figure.scores.data.shape[2] == 1]
    single = list(dict.fromkeys(figure.column.metric for figure in figures))
    if metric is None and not single:
        return []
    wanted = single[0] if metric is None else _named(metric, compared, "metric")
    if wanted not in single:
        raise XbenchError(f"metric {wanted} has no values per item{did_you_mean(wanted, single)}")
    found = [d for figure in figures if figure.column.metric == wanted for d in _differences(figure, report.runs[0])]
    return sorted(found, key=lambda d: -abs(d.gain))


def _of_panel(panel: Panel, names: Names) -> Figure:
    both = [panel.methods.index(name) for name in names]
    gaps = {
        f"{name}: {words}": count
        for m, name in zip(both, names, strict=True)
        for status, words in WITHOUT.items()
        if (count := panel.count(m, status))
    }
    scores = dataclasses.replace(panel.scores, data=panel.scores.data[both], known=panel.scores.known[both])
    return Figure(names, (panel.model, panel.model), panel.column, panel.items, scores, gaps)


def _of_pair(pair: Pair) -> Figure:
    scores = dataclasses.replace(pair.scores, data=pair.scores.data[::-1], known=pair.scores.known[::-1])
    without = int((~scores.known[0]).sum()) - pair.moved - pair.nan
    gaps = {
        "in one run only": pair.unpaired,
        "another class explained": pair.moved,
        "became NaN": pair.nan,
        "no value in one run or both": without,
    }
    found = {why: count for why, count in gaps.items() if count > 0}
    return Figure((pair.method, pair.method), (pair.models[1], pair.models[0]), pair.column, pair.items, scores, found)


def _report(names: Names, titles: Names, runs: tuple[Run, Run], figures: Sequence[Figure], notes: Iterable[str]) -> Report:
    usable = [figure for figure in figures if figure.scores.known.all(axis=0).any()]
    notes = [*_incomplete(names, runs), *notes, *_empty([figure for figure in figures if figure not in usable])]
    if not usable:
        why = f", for one: {notes[0]}" if notes else ""
        raise XbenchError(f"{titles[0]} and {titles[1]} have no values in common to compare{why}")
    costs = [_costs(run[0]) for run in runs]
    sides = dict.fromkeys((figure.methods, figure.models) for figure in usable)
    spendings = [Spending(m, on, (costs[0][on[0], m[0]], costs[1][on[1], m[1]])) for m, on in sides]
    return Report(names, titles, runs, _judged(usable), spendings, notes)


def _judged(figures: Sequence[Figure]) -> list[Finding]:
    means: list[tuple[Estimate, Estimate]] = []
    comparisons: list[Comparison] = []
    p: list[float] = []
    ours, theirs = np.array([0, 1]), np.array([1, 0])
    for figure in figures:
        scores = _rounded(figure.scores)
        draws = scores.draws(ours, np.asarray(scores.known.all(axis=0)))
        first, second = draws.estimates()
        means.append((first, second))
        comparisons.append(scores.compare(0, 1))
        p.append(_p(draws.minus(ours, theirs), comparisons[-1].sign_flip))
    wilcoxon, sign_flip = (stats.holm(test) for test in ([c.wilcoxon for c in comparisons], [c.sign_flip for c in comparisons]))
    tests = (stats.holm(p).tolist(), wilcoxon.tolist(), sign_flip.tolist())
    return [Finding(*found) for found in zip(figures, means, comparisons, *tests, strict=True)]


def _p(gains: Draws, sign_flip: float) -> float:
    """The p-value that decides. gains: of the first side and of the second.

    The sign-flip test assumes nothing of how items spread, so that neither a handful of them nor rare large differences decide too
    early. But one that is sampled says no more than "at most 1 / FLIPS", which a correction for many figures makes large: there
    Hall's t stands alone.
    """
    if gains.clusters < 2:
        return math.nan
    hall = min(1.0, 2 * float(gains.worse().min()))
    return max(hall, sign_flip) if sign_flip > 1 / stats.FLIPS else hall


def _rounded(scores: Scores) -> Scores:
    """The second's values made the first's where they differ by rounding, so that this neither wins nor loses an item."""
    first, second = scores.data
    same = np.isclose(second, first, rtol=ROUNDING, atol=ROUNDING**2)
    return dataclasses.replace(scores, data=np.stack([first, np.where(same, first, second)]))


def _costs(rows: pd.DataFrame) -> dict[tuple[str, str], Cost]:
    """(model, method) -> its mean cost per item."""
    known = rows[rows["status"].isin(["ok", "nan"])]
    means = known.groupby(["model", "method"], observed=True)[["forwards", "backwards", "seconds"]].mean().astype(float)
    return {(str(model), str(method)): Cost(*cost) for (model, method), cost in zip(means.index, means.to_numpy(), strict=True)}


def _incomplete(names: Names, runs: tuple[Run, Run]) -> list[str]:
    whose = ("the run", "the run") if runs[0] is runs[1] else names
    found = dict.fromkeys(name for name, run in zip(whose, runs, strict=True) if not run[1].get("complete"))
    return [f"{name} is incomplete; start it again to continue" for name in found]


def _empty(figures: Sequence[Figure]) -> list[str]:
    """One line for each column, and methods in it, without a single item that both sides have."""
    methods: dict[tuple[str, str], list[str]] = {}  # by place and reason
    for figure in figures:
        where = f"{figure.name}, {' and '.join(dict.fromkeys(figure.models))}"
        methods.setdefault((where, "; ".join(figure.gaps)), []).append(" and ".join(dict.fromkeys(figure.methods)))
    places: dict[tuple[str, str], list[str]] = {}  # by methods and reason
    for (where, why), names in methods.items():
        places.setdefault((", ".join(names), why), []).append(where)
    return [
        f"{names}: no item with a value on both sides ({why}) in {'; '.join(wheres)}" for (names, why), wheres in places.items()
    ]


def _differences(figure: Figure, run: Run) -> Iterable[Difference]:
    rows, manifest = run
    method, model = figure.methods[0], figure.models[0]
    mine = rows[(rows["protocol_key"] == figure.column.key) & (rows["model"] == model) & (rows["method"] == method)]
    targets = dict(zip(mine["item"], mine["target"], strict=True))
    classes = manifest.get("class_names", {}).get(model, {})
    first, second = _rounded(figure.scores).data[:, :, 0]
    for i in np.flatnonzero(figure.scores.known.all(axis=0) & (first != second)):
        item = figure.items[i]
        target = str(int(targets[item]))
        gain = figure.scores.sign * float(first[i] - second[i])
        yield Difference(figure, item, classes.get(target, target), (float(first[i]), float(second[i])), gain)


def _named(text: str, known: Sequence[str], kind: str) -> str:
    """The one of the known specs that a text means: it wholly, or the only one of this plug-in.

    Raises:
        XbenchError: none, or several.
    """
    if text in known:
        return text
    spec = str(parse(text))
    alike = [name for name in known if name == spec] or [name for name in known if parse(name).name == spec]
    if len(alike) == 1:
        return alike[0]
    if alike:
        raise XbenchError(f"{kind} {text!r} may be {' or '.join(alike)}; name one of them")
    raise XbenchError(f"there is no {kind} {text!r} to compare{did_you_mean(text, known)}")
