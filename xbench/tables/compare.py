"""Two methods of one run, or two runs, side by side: which is better, by how much, how sure, at what cost, and where they differ.

A comparison has a first and a second side: two methods as they are named, or the new run and then the old one. All differences are
first minus second, oriented so that positive means that the first is better.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from xbench.errors import XbenchError, did_you_mean
from xbench.plugins.specs import parse
from xbench.stats import bootstrap, signflip
from xbench.stats.bootstrap import Comparison, Estimate, Scores, Test
from xbench.store.manifests import Run
from xbench.tables import claims, pairing, panels, runs
from xbench.tables.pairing import Pair
from xbench.tables.panels import Column, Panel
from xbench.tables.query import id_of

WITHOUT = {"missing": "no row", "nan": "NaN", "not_applicable": "not applicable", "unreadable": "picture cannot be read"}

Names = tuple[str, str]  # of the first side and the second
Claim = tuple[Test, int]  # and how many differences were judged together


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

    test: of the difference, among ``together`` that are judged at once: of two methods, what their column of the table claims (see
    claims.py); of two runs, all figures of both. The test of this difference alone is in ``comparison``.
    """

    figure: Figure
    means: tuple[Estimate, Estimate]
    comparison: Comparison
    test: Test
    together: int

    @property
    def better(self) -> int | None:
        """The side that is better for sure, 0 or 1; None where neither is."""
        return self.test.better

    @property
    def better_alone(self) -> int | None:
        """The side that would be, were this the only difference to judge."""
        return self.comparison.test.better


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
        if finding.better is not None:
            return f"{self.names[finding.better]} better"
        if finding.better_alone is not None:
            return f"{self.names[finding.better_alone]} better if judged alone"
        return "cannot be told apart"


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
    figures, notes, tests = [], [], {}
    for panel in panels.of_rows(rows, manifest.columns):
        lacking = [name for name in names if name not in panel.methods]
        if lacking:
            notes.append(f"{panel.column.metric} on {panel.column.dataset}, {panel.model}: {' and '.join(lacking)} not run")
            continue
        figure = _of_panel(panel, names)
        figures.append(figure)
        if (claim := claims.of_panel(panel, manifest.methods).of(*map(panel.methods.index, names))) is not None:
            tests[figure] = claim
    return _report(names, names, (run, run), figures, _from_reference(rows, names) + notes, tests)


def of_folders(run: Path, first: str, second: str | None) -> tuple[Report, tuple[Path, Path]]:
    """Compare two methods of a run, or of the committed reference; or, where ``first`` is one and ``second`` None, two runs, of
    which ``run`` is the old one. -> the comparison, and the run directory of each side.

    Raises:
        XbenchError: as ``of_methods`` and ``of_runs``; no run directory.
    """
    if second is not None:
        return of_methods(runs.beside_reference(runs.read(run)), first, second), (run, run)
    new = Path(first)
    if not new.is_dir():
        raise XbenchError(f"{first} is not a run directory; name a second run, or two methods of {run}")
    return of_runs(runs.read(new), runs.read(run), (first, str(run))), (new, run)


def of_runs(new: Run, old: Run, titles: Names = ("the new run", "the old run")) -> Report:
    """Compare two runs: every method that both have, controls left out. titles: what to call the new run and the old one.

    Raises:
        XbenchError: no item has a value in both runs.
    """
    found = pairing.pair(old, new)
    names = "new", "old"
    titles = f"new ({titles[0]})", f"old ({titles[1]})"
    notes = [*pairing.settings(old, new), *found.unmatched]
    return _report(names, titles, (new, old), [_of_pair(pair) for pair in found.pairs], notes)


def _from_reference(rows: pd.DataFrame, names: Names) -> list[str]:
    """Which of two methods the run lacks, so that the committed reference rows stand for it."""
    if "source" not in rows:
        return []
    sources = rows.groupby("method", observed=True)["source"].first()
    return [f"{name} is not in the run: its rows are the committed reference's" for name in names if sources[name] == "reference"]


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


def _report(
    names: Names,
    titles: Names,
    runs: tuple[Run, Run],
    figures: Sequence[Figure],
    notes: Iterable[str],
    tests: Mapping[Figure, Claim] | None = None,
) -> Report:
    """tests: what a table claims of figures; where it is None, all are judged together."""
    usable = [figure for figure in figures if figure.scores.known.all(axis=0).any()]
    notes = [*_incomplete(names, runs), *notes, *_empty([figure for figure in figures if figure not in usable])]
    if not usable:
        why = f", for one: {notes[0]}" if notes else ""
        raise XbenchError(f"{titles[0]} and {titles[1]} have no values in common to compare{why}")
    costs = [_costs(run[0]) for run in runs]
    sides = dict.fromkeys((figure.methods, figure.models) for figure in usable)
    spendings = [Spending(m, on, (costs[0][on[0], m[0]], costs[1][on[1], m[1]])) for m, on in sides]
    return Report(names, titles, runs, _findings(usable, _tested(usable) if tests is None else tests), spendings, notes)


def _tested(figures: Sequence[Figure]) -> dict[Figure, Claim]:
    """All figures judged together."""
    parts = [(figure.scores.units, figure.scores.contributions([(0, 1)])) for figure in figures]
    contributions = signflip.together(parts)
    found = zip(figures, np.nansum(contributions, axis=0), signflip.differ(contributions), strict=True)
    return {figure: (Test(float(gain), float(p)), len(figures)) for figure, gain, p in found}


def _findings(figures: Sequence[Figure], tests: Mapping[Figure, Claim]) -> list[Finding]:
    """tests: those that are not in it are judged alone."""
    found = []
    for figure in figures:
        scores = _rounded(figure.scores)
        first, second = scores.draws(np.array([0, 1]), np.asarray(scores.known.all(axis=0))).estimates()
        comparison = scores.compare(0, 1)
        found.append(Finding(figure, (first, second), comparison, *tests.get(figure, (comparison.test, 1))))
    return found


def _rounded(scores: Scores) -> Scores:
    """The second's values made the first's where they differ by rounding, so that this neither wins nor loses an item."""
    first, second = scores.data
    same = np.isclose(second, first, rtol=bootstrap.ROUNDING, atol=bootstrap.ROUNDING**2)
    return dataclasses.replace(scores, data=np.stack([first, np.where(same, first, second)]))


def _costs(rows: pd.DataFrame) -> dict[tuple[str, str], Cost]:
    """(model, method) -> its mean cost per item."""
    known = rows[rows["status"].isin(["ok", "nan"])]
    means = known.groupby(["model", "method"], observed=True)[["forwards", "backwards", "seconds"]].mean().astype(float)
    return {(str(model), str(method)): Cost(*cost) for (model, method), cost in zip(means.index, means.to_numpy(), strict=True)}


def _incomplete(names: Names, runs: tuple[Run, Run]) -> list[str]:
    whose = ("the run", "the run") if runs[0] is runs[1] else names
    found = dict.fromkeys(name for name, run in zip(whose, runs, strict=True) if not run[1].complete)
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
    classes = manifest.class_names.get(model, {})
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
    alike = [name for name in known if name == spec] or [name for name in known if id_of(name) == spec]
    if len(alike) == 1:
        return alike[0]
    if alike:
        raise XbenchError(f"{kind} {text!r} may be {' or '.join(alike)}; name one of them")
    raise XbenchError(f"there is no {kind} {text!r} to compare{did_you_mean(text, known)}")
