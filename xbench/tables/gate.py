"""The gate: did explanations get worse? A run against a baseline, judged figure by figure, with an answer for a CI job.

regression    the loss is certain for all figures at once (stats/signflip.py), and it exceeds the margin
pass          the 95 % interval of every change lies above minus its margin, and hardly an item is in one run only
cannot judge  neither, and what would settle it; the same where figures have no partner or the run is not of the code at hand
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pydantic
from scipy import stats as scipy_stats

from xbench.errors import XbenchError
from xbench.plan import recording
from xbench.plugins import toml
from xbench.stats import bootstrap, signflip
from xbench.stats.bootstrap import Draws, Estimate
from xbench.store import manifests
from xbench.store.manifests import Run
from xbench.tables import pairing
from xbench.tables.pairing import Pair

# Default margins, in pooled standard deviations of the items of both runs, as Cohen's (1988) d has them. Code that changes nothing
# changes no map at all; but from one training to the next the figures of equally good networks differ by up to 0.3 (docs/gate.md).
SPREAD = 0.05
RETRAINED = 0.5
# Largest shares of items that may lose their value. Code that changes nothing loses none, and one item in a hundred hides less than
# a margin of 0.05 standard deviations, even if each had lost three of them. A network trained anew predicts other classes: two that
# are right on 80 % of the pictures agree on 60 % at least.
LOST = 0.01
MOVED = 0.4
MOST = 3  # reasons, and figures, that a line names
STANDING = Path("gate.toml")
Verdict = Literal["pass", "regression", "cannot judge"]
EXIT: dict[Verdict, int] = {"pass": 0, "regression": 1, "cannot judge": 2}
Share = Annotated[float, pydantic.Field(ge=0, le=1)]


class Margins(pydantic.BaseModel):
    """How much loss is let pass. ``gate.toml``::

    spread = 0.05          # of every metric, in pooled standard deviations of its items, where the network is the same
    retrained = 0.5        # and where it is another one
    lost = 0.01            # largest share of a figure's items that may have a value in one run only
    moved = 0.4            # and of those that may explain another class, where the network is another one
    [margins]              # of some metrics instead, in their own units
    pointing_game = 0.05
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    spread: pydantic.PositiveFloat = SPREAD
    retrained: pydantic.PositiveFloat = RETRAINED
    lost: Share = LOST
    moved: Share = MOVED
    margins: dict[str, pydantic.PositiveFloat] = {}

    def of(self, metric: str, spread: float, *, retrained: bool = False) -> float:
        """The margin of a metric (its spec) whose items have this standard deviation, pooled over both runs."""
        for name in (metric, metric.partition("(")[0]):
            if name in self.margins:
                return self.margins[name]
        return spread * (self.retrained if retrained else self.spread)

    def too_few(self, pair: Pair) -> str:
        """What too many of a figure's items lost, or gained; empty where nearly all have a value in both runs."""
        lost, moved = sum(pair.lost.values()), pair.moved
        if not pair.retrained:  # the same network predicts the same classes
            lost, moved = lost + moved, 0
        gone, more = lost > self.lost * pair.valued, sum(pair.gained.values()) > self.lost * pair.now
        if not (gone or more or moved > self.moved * pair.valued):
            return ""
        allowed = f"moved = {self.moved:g}" if not (gone or more) else f"lost = {self.lost:g}"
        return f"{'; '.join(_unpaired(pair))}; a pass allows {allowed}"


def load(path: Path) -> Margins:
    """Read a ``gate.toml``.

    Raises:
        XbenchError: there is none, or it is wrong.
    """
    if not path.is_file():
        raise XbenchError(f"{path} does not exist; write one with a line such as: spread = {SPREAD}")
    return toml.load(path, Margins, "gate file")


def standing(path: Path | None) -> Margins | None:
    """The margins of a file; by default of the ``gate.toml`` that lies here, None where there is none.

    Raises:
        XbenchError: as ``load``.
    """
    path = path or (STANDING if STANDING.is_file() else None)
    return load(path) if path else None


@dataclass(frozen=True)
class Judgement:
    """One figure. before, now: it in both runs, on the items of both. change: now - before, positive = better.

    p: that there is no loss, corrected for all figures. needed: items that would settle it; None where it is settled or none
    would. too_few: why what both runs have says too little of them; empty where it says enough.
    """

    pair: Pair
    before: Estimate
    now: Estimate
    change: Estimate
    margin: float
    p: float
    verdict: Verdict
    needed: int | None = None
    too_few: str = ""

    def sentence(self) -> str:
        """The judgement in one line."""
        c = self.change
        text = f"{self.pair.name}: {self.before.mean:.3f} -> {self.now.mean:.3f}, "
        text += f"change {c.mean:+.3f} [{c.low:+.3f}, {c.high:+.3f}] (better is positive), margin {self.margin:.3f}"
        if self.verdict == "regression":
            return f"{text}: a loss of {-c.mean:.3f}, p = {self.p:.2g}"
        if self.verdict == "pass":
            return text
        if not self.change.n:
            return f"{self.pair.name}: no item has a value in both runs; {'; '.join(_unpaired(self.pair))}"
        if self.too_few:
            why = self.too_few
        elif self.pair.nan:
            why = f"{self.pair.nan} values became NaN; mend the method"
        elif self.needed is None:
            why = "a change this close to the margin is settled by no number of items; look at it, or move the margin"
        else:
            why = f"about {self.needed} items would settle it, not {c.n}"
        return f"{text}: {why}"


@dataclass(frozen=True)
class Report:
    """What the gate says. problems: why it cannot judge apart from single figures, one line each.

    unmatched: how many of them are of what one run lacks. without: figures of which neither run has a value, and nothing is judged.
    """

    judgements: list[Judgement]
    problems: list[str] = field(default_factory=list)
    unmatched: int = 0
    without: int = 0

    @property
    def verdict(self) -> Verdict:
        found = {j.verdict for j in self.judgements}
        if "regression" in found:
            return "regression"
        return "cannot judge" if self.problems or "cannot judge" in found or not found else "pass"

    @property
    def exit_code(self) -> int:
        return EXIT[self.verdict]

    @property
    def notes(self) -> list[str]:
        """Items that count nowhere, one line per reason, and what else a reader must know."""
        figures: dict[str, list[str]] = {}
        for j in self.judgements:
            pair = j.pair
            for why in [] if j.too_few and j.verdict == "cannot judge" else _unpaired(pair):  # its own line says so
                where = f"{pair.column.dataset}, {pair.models[1]}"
                figures.setdefault(f"{where}: {why}", []).append(f"{pair.method}, {pair.column.metric}")
        lines = [f"{what} in {_some(names)}" for what, names in figures.items()]
        if self.without:
            lines.append(f"{self.without} figures have no value in either run, and are not judged")
        if self.unmatched or any(j.too_few for j in self.judgements):
            lines.append("what only one run has cannot be judged; to accept the run as it is, make it the baseline")
        return lines

    def by(self, verdict: Verdict) -> list[Judgement]:
        """The judgements of one verdict, largest loss in margins first."""
        return sorted((j for j in self.judgements if j.verdict == verdict), key=lambda j: j.change.mean / (j.margin or math.inf))


def judge(baseline: Run, run: Run, margins: Margins | None = None, *, fresh: bool = True) -> Report:
    """Judge a run against a baseline.

    Args:
        baseline: rows and manifest, as ``runs.read`` gives them.
        run: the same of the run.
        margins: how much loss is let pass.
        fresh: refuse a run whose rows are not of the code, libraries, weights and pictures at hand.
    """
    problems = []
    if not run[1].complete:
        problems.append("the run is incomplete; start it again to continue")
    if not baseline[1].complete:
        problems.append("the baseline is incomplete; make it of a finished run")
    seeds = [manifest.seed for _, manifest in (run, baseline)]
    if seeds[0] != seeds[1]:  # else whoever does not pass tries another
        problems.append(f"the run has seed {seeds[0]}, the baseline {seeds[1]}; run it with --seed {seeds[1]}")
    if fresh and (changed := recording.changed_input(run[1])):
        problems.append(f"the run's rows were not computed by what is at hand ({changed}); run it again")
    for name in run[1].local.unlisted if fresh and run[1].local else []:
        problems.append(f"{name} does not name its files, and they may have changed; give it files=..., and run again")
    if problems:
        return Report([], problems)
    margins = margins or Margins()
    rows = manifests.selected(*run)  # a directory may hold rows of earlier requests, which nobody computed anew
    found = pairing.pair(baseline, (rows, run[1]))
    valued = [pair for pair in found.pairs if pair.valued or pair.now]
    judged = [_whole(judgement, margins) for judgement in judge_pairs(valued, margins)]
    return Report(judged, [*_hollow(baseline), *found.unmatched], len(found.unmatched), len(found.pairs) - len(valued))


def _hollow(baseline: Run) -> list[str]:
    """One line for what a baseline's manifest lists and its rows lack: somebody took it out, and nothing guards it."""
    rows, manifest = baseline
    listed = [("protocol_key", key, f"{about.metric} on {about.dataset}") for key, about in manifest.columns.items()]
    listed += [(kind, name, name) for kind, its in (("method", manifest.methods), ("model", manifest.models)) for name in its]
    present = {column: set(rows[column]) for column in ("protocol_key", "method", "model")}
    missing = [name for column, key, name in listed if key not in present[column]]
    return [f"{name}: the baseline lists it and has no rows of it; make the baseline anew" for name in missing]


def _whole(judgement: Judgement, margins: Margins) -> Judgement:
    """No pass where too few items have a value in both runs."""
    too_few = margins.too_few(judgement.pair)
    verdict: Verdict = "cannot judge" if too_few and judgement.verdict == "pass" else judgement.verdict
    return dataclasses.replace(judgement, verdict=verdict, too_few=too_few, needed=None if too_few else judgement.needed)


def _unpaired(pair: Pair) -> list[str]:
    """What is said of items that count in one run only, one line per direction."""
    lost = [*pair.lost.items(), *([("another class explained", pair.moved)] if pair.moved else [])]
    gained = list(pair.gained.items())
    found = []
    if lost:
        found.append(f"{_total(lost)} of {pair.valued} items with a value in the baseline count no more ({_reasons(lost)})")
    if gained:
        found.append(f"{_total(gained)} of {pair.now} items with a value now have none in the baseline ({_reasons(gained)})")
    return found


def _total(counted: Sequence[tuple[str, int]]) -> int:
    return sum(n for _, n in counted)


def _reasons(counted: Sequence[tuple[str, int]]) -> str:
    rest = _total(counted[MOST:])
    return "; ".join([*(f"{why} on {n}" for why, n in counted[:MOST]), *([f"other reasons on {rest}"] if rest else [])])


def _some(names: Sequence[str]) -> str:
    rest = len(names) - MOST
    return "; ".join([*names[:MOST], *([f"{rest} more"] if rest > 0 else [])])


def judge_pairs(pairs: Sequence[Pair], margins: Margins) -> list[Judgement]:
    """Judge figures together: a loss is certain among all of them."""
    draws = [_draws(pair) for pair in pairs]
    losses = [i for i, d in enumerate(draws) if d is not None and d.clusters > 1]
    p = np.full(len(pairs), math.nan)
    if losses:
        parts = [(pairs[i].scores.units, pairs[i].scores.contributions([(1, 0)])) for i in losses]
        p[losses] = signflip.below(signflip.together(parts))
    strictest = scipy_stats.norm.isf(signflip.ALPHA / max(1, len(losses)))
    return [_judge(pair, d, margins, float(corrected), strictest) for pair, d, corrected in zip(pairs, draws, p, strict=True)]


def _draws(pair: Pair) -> Draws | None:
    """The figure before, now, and the change, positive = better; None where no item has both."""
    items = pair.scores.known[0] & pair.scores.known[1]
    if not items.any():
        return None
    both = pair.scores.draws(np.array([0, 1]), items)
    return both.beside(pair.scores.gains(1, 0))


def _judge(pair: Pair, draws: Draws | None, margins: Margins, p: float, strictest: float) -> Judgement:
    """strictest: standard errors that a loss must measure to be certain among all figures."""
    if draws is None:
        return Judgement(pair, bootstrap.NONE, bootstrap.NONE, bootstrap.NONE, math.nan, math.nan, "cannot judge")
    before, now, change = draws.estimates()
    *each, error = map(float, draws.errors())
    # Of both runs: near a metric's end (99 % hits) the old items alone hardly spread, and any loss would exceed their margin.
    spread = math.sqrt(draws.clusters * (each[0] ** 2 + each[1] ** 2) / 2)
    margin = margins.of(pair.column.metric, spread, retrained=pair.retrained)
    if p < signflip.ALPHA and -change.mean > margin:
        return Judgement(pair, before, now, change, margin, p, "regression")
    if change.low >= -margin and not pair.nan:
        return Judgement(pair, before, now, change, margin, p, "pass")
    needed = None if pair.nan else _needed(change, error, margin, strictest)
    return Judgement(pair, before, now, change, margin, p, "cannot judge", needed)


def _needed(change: Estimate, error: float, margin: float, strictest: float) -> int | None:
    """Items at which a change like this one would pass or be a regression."""
    room = change.mean + margin
    z = scipy_stats.norm.ppf((1 + bootstrap.CONFIDENCE) / 2) if room > 0 else strictest
    distance = room if room > 0 else -change.mean
    if not math.isfinite(error) or abs(room) < 0.1 * margin:
        return None
    return max(change.n + 1, math.ceil(change.n * (z * error / distance) ** 2))
