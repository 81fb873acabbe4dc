"""What compare says, in several forms: lines for a terminal, Markdown, JSON."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from xbench.report.tables import count, number
from xbench.stats import bootstrap, signflip
from xbench.stats.bootstrap import Estimate
from xbench.tables.compare import Difference, Figure, Finding, Names, Report, Spending
from xbench.tables.panels import ARROWS

if TYPE_CHECKING:
    from rich.console import RenderableType


MOST_NAMED = 6  # figures that a closing sentence names on each side
WIDE = 150  # a terminal's columns
HEADING = 20  # letters in a line of a column's heading
TEXTS = ("method", "dataset", "metric", "verdict")
FURTHER = ("better on", "p alone", "Wilcoxon", "items")


def to_terminal(report: Report, differences: Sequence[Difference], width: int = 160) -> list[RenderableType]:
    """Renderables for rich. Where the terminal is narrow, the columns of FURTHER are left out, never digits."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    wide = width >= WIDE
    shown: list[RenderableType] = [Text(_head(report))]
    names = _columns(report)
    kept = [i for i, name in enumerate(names) if wide or name not in FURTHER]
    for models in report.models:
        title = model_name(models)
        grid = Table(
            title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
        )
        for name in (names[i] for i in kept):
            heading, words = "\n".join(textwrap.wrap(name, HEADING)), name in TEXTS
            # Figures stay on one line while there is room; words are folded.
            grid.add_column(
                heading,
                justify="left" if words else "right",
                overflow="fold",
                no_wrap=wide and not words,
                min_width=10 if words else None,
            )
        for finding in _of(report, models):
            cells = _cells(report, finding)
            texts = [cells[i].replace("_", " ") if names[i] == "metric" else cells[i] for i in kept]
            grid.add_row(*map(Text, texts), style="dim" if finding.better is None else "")
        shown.append(grid)
        shown += [Text(line) for line in _closing(report, models)]
    shown += [Text(note) for note in _notes(report)]
    if differences:
        shown += [Text(""), Text(_where(differences))]
        shown += [Text(f"  {_sentence(report, difference)}") for difference in differences]
    return shown


def to_markdown(report: Report, differences: Sequence[Difference]) -> str:
    """A table for each model, its closing sentences, notes, and the items that differ most."""
    out = [f"# {report.names[0]} and {report.names[1]}", "", _head(report), ""]
    names = _columns(report)
    rule = ["---" if name in TEXTS else "---:" for name in names]
    for models in report.models:
        out += [f"## {model_name(models)}", "", f"| {' | '.join(names)} |", f"|{'|'.join(rule)}|"]
        out += [f"| {' | '.join(_cells(report, finding))} |" for finding in _of(report, models)]
        out += ["", *(f"- {line}" for line in _closing(report, models)), ""]
    out += [f"- {note}" for note in _notes(report)]
    if differences:
        out += ["", f"{_where(differences)}", "", *(f"- {_sentence(report, difference)}" for difference in differences)]
    return "\n".join(out).rstrip() + "\n"


def to_json(report: Report, differences: Sequence[Difference]) -> str:
    """Everything as numbers; NaN becomes null. ``difference`` is first minus second, positive = the first is better."""
    first, second = report.names
    record = {
        "first": {"name": first, "title": report.titles[0]},
        "second": {"name": second, "title": report.titles[1]},
        "figures": [_record(report, finding) for finding in report.findings],
        "costs": [
            {"model": s.models[side], "method": s.methods[side], "side": report.names[side], **_finite(vars(s.costs[side]))}
            for s in report.spendings
            for side in (0, 1)
        ],
        "models": {model_name(models): _closing(report, models) for models in report.models},
        "notes": _notes(report),
        "items": [
            {
                "item": d.item,
                "target": d.target,
                "method": method_name(d.figure),
                "model": model_name(d.figure.models),
                "dataset": d.figure.column.dataset,
                "metric": d.figure.column.metric,
                "values": list(d.values),
                "difference": d.gain,
            }
            for d in differences
        ],
    }
    return json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _of(report: Report, models: Names) -> list[Finding]:
    return [finding for finding in report.findings if finding.figure.models == models]


def _head(report: Report) -> str:
    first, second = report.titles
    return f"{first} minus {second}: a positive difference means that {report.names[0]} is better, whichever way the metric counts"


def _columns(report: Report) -> list[str]:
    first, second = report.names
    method = ["method"] if report.two_runs else []
    figures = [first, second, "difference [95%]", "better on", "p", "p alone", "Wilcoxon", "items"]
    return [*method, "dataset", "metric", *figures, "verdict"]


def _metric(report: Report, figure: Figure) -> str:
    """A metric's label, or all of its spec where others on this dataset have the same label."""
    column = figure.column
    others = {f.figure.column.metric for f in report.findings if f.figure.column.dataset == column.dataset} - {column.metric}
    alone = all(other.partition("(")[0] != column.metric.partition("(")[0] for other in others)
    return column.label if alone else f"{column.metric} {ARROWS[column.direction]}"


def _cells(report: Report, finding: Finding) -> list[str]:
    figure, compared = finding.figure, finding.comparison
    method = [figure.methods[0]] if report.two_runs else []
    share = f"{compared.superiority.mean:.0%}" if compared.superiority.n else ""
    tests = [_p(finding.test.p), _p(compared.test.p), _p(compared.wilcoxon)]
    means = [number(mean.mean) for mean in finding.means]
    names = [*method, figure.column.dataset, _metric(report, figure)]
    n = compared.difference.n
    return [*names, *means, _difference(compared.difference), share, *tests, str(n), report.verdict(finding)]


def _difference(gain: Estimate) -> str:
    between = f"[{gain.low:+.3f}, {gain.high:+.3f}]" if math.isfinite(gain.low) else "[one source picture]"
    return f"{gain.mean:+.3f} {between}"


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else number(value)


def _closing(report: Report, models: Names) -> list[str]:
    """A sentence on what is better on a model, and lines on what it costs."""
    found = _of(report, models)
    parts = []
    for side, name in enumerate(report.names):
        won = [finding.figure for finding in found if finding.better == side]
        named = [f"{method_name(figure)}: {figure.name}" if report.two_runs else figure.name for figure in won]
        named = named[:MOST_NAMED] + ([f"{len(won) - MOST_NAMED} more"] if len(won) > MOST_NAMED else [])
        parts.append(f"{name} is better on {len(won)}" + (f" ({'; '.join(named)})" if named else ""))
    apart = sum(finding.better is None for finding in found)
    total = f"{len(found)} figure" + ("s" if len(found) > 1 else "")
    return [f"{model_name(models)}: of {total}, {parts[0]}, {parts[1]}, and {apart} cannot be told apart", *_costs(report, models)]


def _costs(report: Report, models: Names) -> list[str]:
    """What an item costs: of two methods always, of two runs where it has changed."""
    mine = [s for s in report.spendings if s.models == models]
    if not report.two_runs:
        return [f"cost per item: {_cost(s, report.names)}" for s in mine]
    changed = [s for s in mine if not _same_passes(s)]
    rest = len(mine) - len(changed)
    lines = [f"cost per item of {s.methods[0]}: {_cost(s, report.names)}" for s in changed]
    which = "all methods" if not changed else f"the other {rest}"
    return lines + ([f"cost per item of {which}: as many forward and backward passes in both runs"] if rest else [])


def _cost(spending: Spending, names: Names) -> str:
    parts = []
    for name, cost in zip(names, spending.costs, strict=True):
        if not math.isfinite(cost.passes):
            parts.append(f"{name} not known")
            continue
        time = f", {cost.seconds:.3g} s" if math.isfinite(cost.seconds) else ""
        parts.append(f"{name} {count(cost.forwards)} forward, {count(cost.backwards)} backward{time}")
    first, second = spending.costs
    ratios = [
        f"{ours / theirs:.2g} times the {what}"
        for ours, theirs, what in ((first.passes, second.passes, "passes"), (first.seconds, second.seconds, "time"))
        if math.isfinite(ours) and theirs > 0
    ]
    return "; ".join(parts) + (f"; {names[0]} takes {' and '.join(ratios)}" if ratios else "")


def _same_passes(spending: Spending) -> bool:
    first, second = spending.costs
    return np.array_equal([first.forwards, first.backwards], [second.forwards, second.backwards], equal_nan=True)


def _notes(report: Report) -> list[str]:
    first, _ = report.names
    families = sorted({f.together for f in report.findings})
    span = f"{families[0]}" if len(families) == 1 else f"{families[0]} to {families[-1]}"
    what = "figures of both runs" if report.two_runs else "pairs that the table judges in this column, as its ranks and marks do"
    notes = [
        f"p: of the difference by flipped signs, corrected for all {what} ({span}); better: p is below .05",
        "p alone: without that correction; Wilcoxon: by the signed-rank test, without it too",
        f"better on: fraction of the items on which {first} is better, ties counted half",
    ]
    if any(f.better is None and f.better_alone is not None for f in report.findings):
        notes.append(
            "better if judged alone: p alone is below .05. That counts where it was the one question, asked before the run; among "
            "many differences some are as clear by chance"
        )
    few_for_claims = {(f.comparison.difference.clusters, f.figure.scores.fewest) for f in report.findings}
    for size, fewest in sorted(few_for_claims):
        if size < fewest:
            what = (
                "a verdict"
                if fewest == signflip.FEWEST
                else "a verdict on a figure that is no mean of items, such as one of a threshold"
            )
            notes.append(f"{size} source pictures are too few for {what}; it takes {fewest} at least")
    few = sorted({f.means[0].clusters for f in report.findings if f.means[0].approximate})
    if few:
        span = f"{few[0]}" if len(few) == 1 else f"{few[0]} to {few[-1]}"
        notes.append(f"some intervals rest on {span} source pictures; below {bootstrap.FEW_CLUSTERS} they are approximate")
    gaps = [(f.figure, "; ".join(f"{why} on {n}" for why, n in f.figure.gaps.items())) for f in report.findings if f.figure.gaps]
    for why, some in groupby(sorted(gaps, key=lambda gap: gap[1]), key=lambda gap: gap[1]):
        figures = [figure for figure, _ in some]
        where = _place(figures[0], report.two_runs) + (f" and {len(figures) - 1} more figures" if len(figures) > 1 else "")
        notes.append(f"items without a partner, counted nowhere, in {where}: {why}")
    return notes + report.notes


def _place(figure: Figure, several: bool) -> str:
    return (f"{method_name(figure)}, " if several else "") + f"{figure.name}, {model_name(figure.models)}"


def _where(differences: Sequence[Difference]) -> str:
    return f"Where they differ most in {differences[0].figure.column.label}:"


def _sentence(report: Report, difference: Difference) -> str:
    figure = difference.figure
    first, second = (f"{name} {number(value)}" for name, value in zip(report.names, difference.values, strict=True))
    method = f"{method_name(figure)}, " if report.two_runs else ""
    where = f"{method}{figure.column.dataset}, {model_name(figure.models)}"
    return f"{difference.item} ({difference.target}): {first}, {second}, difference {difference.gain:+.3f}; {where}"


def _record(report: Report, finding: Finding) -> dict[str, Any]:
    figure, compared = finding.figure, finding.comparison
    side = {
        name: {"method": figure.methods[i], "model": figure.models[i], **_finite(vars(finding.means[i]))}
        for i, name in enumerate(("first", "second"))
    }
    tests = {"p": finding.test.p, "p_alone": compared.test.p, "wilcoxon_alone": compared.wilcoxon}
    return {
        "dataset": figure.column.dataset,
        "metric": figure.column.metric,
        "direction": figure.column.direction,
        "protocol_key": figure.column.key,
        **side,
        "difference": _finite(vars(compared.difference)),
        "superiority": _finite(vars(compared.superiority)),
        **_finite(tests),
        "judged_together": finding.together,
        "better": None if finding.better is None else report.names[finding.better],
        "without_partner": figure.gaps,
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()}


def model_name(models: Names) -> str:
    """The model of both sides, or both."""
    return " and ".join(dict.fromkeys(models))


def method_name(figure: Figure) -> str:
    """The method of both sides, or both."""
    return " and ".join(dict.fromkeys(figure.methods))
