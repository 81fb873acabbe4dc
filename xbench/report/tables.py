"""One table object in several forms: Markdown, CSV, JSON; and the phrases that these, terminal.py, latex.py and html.py share."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from xbench.report import heads
from xbench.report.heads import column_name, head, spans
from xbench.stats.bootstrap import Estimate
from xbench.tables.consensus import Friedman
from xbench.tables.leaderboard import LEGEND, MARKS, Cell, Leaderboard, Line, Origin, Quality, Table
from xbench.tables.panels import Column

WIDEST = 8  # columns: a Markdown table of more than these is one for each group
TEXTS = ("method", "published")  # heads of columns that are no numbers

Tail = dict[str, Callable[[Line], str]]


def number(value: float, digits: int = 3) -> str:
    """``.687``; an empty string for NaN."""
    if not math.isfinite(value):
        return ""
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def count(value: float) -> str:
    """``2``, ``1.5``; an empty string for NaN."""
    return f"{value:g}" if math.isfinite(value) else ""


def interval(e: Estimate) -> str:
    """``[.60, .77]``."""
    return f"[{number(e.low, 2)}, {number(e.high, 2)}]"


def short(cell: Cell) -> str:
    """The mean with half the width of its interval, or why there is none."""
    if not cell.estimate.n:
        return "n/a" if cell.not_applicable else "NaN" if cell.nan else "-"
    return f"{number(cell.estimate.mean)} ±{number((cell.estimate.high - cell.estimate.low) / 2, 2)}{cell.mark}"


def quality_line(q: Quality) -> str:
    """A sentence on how well the model does on the very items."""
    sources = f", all sources right on {q.sources_correct:.0%}" if q.sources_correct is not None else ""
    accuracy = (
        "accuracy is not known" if math.isnan(q.accuracy) else f"accuracy {q.accuracy:.2f} (top-1 among the picture's labels)"
    )
    return f"{q.dataset}: {q.items} items, the model's {accuracy}, mean confidence in the target {q.confidence:.2f}{sources}"


def warnings(table: Table) -> list[str]:
    """What makes a whole table doubtful, and stands above it."""
    return [
        f"WARNING: on {q.dataset} the model guesses: its accuracy {q.accuracy:.2f} on {q.items} items cannot be told from chance "
        f"({q.chance:.2g}), so what is scored here are explanations of guesses"
        for q in table.quality
        if q.guesses
    ]


def unbeaten(table: Table) -> list[str]:
    """One line per method and column where a control is not beaten: which, and the paired differences."""
    lines = []
    for line in table.lines:
        for column, cell in zip(table.columns, line.cells, strict=True):
            found = [f"{c.control} {c.gain.mean:+.3f} {interval(c.gain)}{MARKS[c.same_grid]}" for c in cell.against if not c.beaten]
            if found:
                lines.append(f"{line.method}, {column.label}: {'; '.join(found)}")
    return lines


def figures(line: Line, table: Table) -> str:
    """What papers report of a method: the content of the column ``published``."""
    found = [(c.label, figure.text) for c, cell in zip(table.columns, line.cells, strict=True) for figure in cell.published]
    return "; ".join(f"{label.rpartition(' ')[0]} {text}" for label, text in found)


def has_published(table: Table) -> bool:
    """Whether any cell has a published figure beside it."""
    return any(cell.published for line in table.lines for cell in line.cells)


def details(table: Table) -> list[str]:
    """What stands below a model's table: its items, its columns' protocols, their agreement, and what was left out."""
    lines = [quality_line(q) for q in table.quality]
    lines += [_column_line(table, i, column) for i, column in enumerate(table.columns)]
    return lines + _agreement_line(table) + table.notes


def _column_line(table: Table, place: int, column: Column) -> str:
    """A column's protocol, and which controls stand unbeaten by how many methods."""
    line = f"{column.label} on {column.dataset}: {column.protocol}"
    line += f"; chance: {column.chance}" if column.chance else ""
    cells = [each.cells[place] for each in table.lines if each.cells[place].against]
    times = Counter(c.control for cell in cells for c in cell.against if not c.beaten)
    if times:
        found = ", ".join(f"{control} by {n}" for control, n in times.most_common())
        line += f"; of {len(cells)} methods, not beaten are {found}"
    return line


def _agreement_line(table: Table) -> list[str]:
    """How alike the columns order the methods, in a line; none where it cannot be said."""
    found = table.agreement
    if found is None:
        return []
    pairs = [(tau, i, j) for i, row in enumerate(found.tau) for j, tau in enumerate(row[:i]) if math.isfinite(tau)]
    if not pairs:
        return []
    names = {i: column_name(column, table) for i, column in enumerate(table.columns) if column.counted}
    (low, a, b), (high, c, d) = min(pairs), max(pairs)
    line = f"how alike the {len(names)} columns order the methods (1 = the same order): "
    line += f"Kendall's W {number(found.w, 2)} over {found.methods} methods; " if math.isfinite(found.w) else ""
    line += f"tau-b {number(low, 2)} between {names[b]} and {names[a]}"
    return [line + (f", up to {number(high, 2)} between {names[d]} and {names[c]}" if len(pairs) > 1 else "")]


def legend(board: Leaderboard, best: str) -> list[str]:
    """What the signs mean that occur. best: the sign of the best figures in this form, such as ``bold``."""
    cells = [cell for table in board.tables for line in table.lines for cell in line.cells]
    marks = {cell.mark for cell in cells}
    lines = []
    if any(cell.best for cell in cells):
        lines.append(f"{best}: not told apart from the best of the column (95 %, all pairs at once); rank: the mean over columns")
    lines += [f"{mark} {text}" for mark, text in LEGEND.items() if mark in marks]
    if any(cell.published for cell in cells):
        lines.append("published: figures of papers, on their own models and under their own protocols; in no mean and no rank")
    return lines + heads.legend(board)


def footer(board: Leaderboard, best: str) -> list[str]:
    """What stands once below all tables: what concerns all of them, and where their rows come from."""
    return remarks(board, best) + origins(board)


def remarks(board: Leaderboard, best: str) -> list[str]:
    """What concerns all tables: signs, what validation found, tests across datasets, notes."""
    return legend(board, best) + heads.validations(board) + across(board) + board.notes


def origins(board: Leaderboard) -> list[str]:
    """A line for each run that rows come from, and for the reference: suite, versions, seed, dtype and batch sizes."""
    return list(filter(None, map(_origin_line, board.origins)))


def across(board: Leaderboard) -> list[str]:
    """A line for each test over datasets."""
    return list(map(_across_line, board.across))


def _across_line(test: Friedman) -> str:
    """A test over datasets: its p, and which methods are not told apart from the best."""
    blocks = "; ".join(f"{dataset} by {', '.join(models)}" for models, dataset in test.blocks)
    line = (
        f"{test.metric} over {len(test.blocks)} datasets ({blocks}): Friedman p = {test.p:.2g} for {len(test.mean_ranks)} methods, "
    )
    line += f"Nemenyi's critical difference of mean ranks {test.critical_difference:.1f}: "
    if len(test.best) == len(test.mean_ranks):
        return line + "no method is told apart from the best"
    return line + "not told apart from the best are " + ", ".join(f"{name} ({rank:.1f})" for name, rank in test.best.items())


def _origin_line(origin: Origin) -> str:
    sizes: dict[int, list[str]] = {}
    for dataset, size in origin.batch_size.items():
        sizes.setdefault(size, []).append(dataset)
    batches = [f"batches of {size}" + (f" ({', '.join(names)})" if len(sizes) > 1 else "") for size, names in sizes.items()]
    facts = [
        f"suite {origin.suite} {origin.suite_version}".rstrip() if origin.suite else "",
        f"xbench {origin.xbench}" if origin.xbench else "",
        f"seed {origin.seed}" if origin.seed is not None else "",
        origin.dtype,
        *batches,
    ]
    return ("reference rows (ref): " if origin.source == "reference" else "") + ", ".join(filter(None, facts))


def to_markdown(board: Leaderboard, seconds: bool = True) -> str:
    """Tables, each with what is to be said of it, then what is to be said of all."""
    out = [f"# {board.title}", ""]
    for table in board.tables:
        tail = _tail(table, seconds)
        split = len(table.columns) > WIDEST and len(spans(table)) > 1
        out += [
            f"## {table.model}",
            "",
            *(f"**{text}**\n" for text in warnings(table)),
            *(_by_group(table, tail) if split else _whole(table, tail)),
        ]
        out += ["", *(f"- {text}" for text in details(table))]
        against = unbeaten(table)
        if against:
            out += ["", "Not beaten (paired difference, positive = the method is better, 95 % interval):", ""]
            out += [f"- {text}" for text in against]
        out.append("")
    below = [f"- {text}" for text in footer(board, "bold")]
    return "\n".join([*out, "## Notes", "", *below, ""])


def _tail(table: Table, seconds: bool) -> Tail:
    """What stands behind the figures of a line: heads, and the texts of their cells."""
    tail: Tail = {
        "mean rank": lambda line: "" if line.mean_rank is None else f"{line.mean_rank:.1f}",
        "forwards": lambda line: count(line.forwards),
        "backwards": lambda line: count(line.backwards),
    }
    tail |= {"s/item": lambda line: number(line.seconds)} if seconds else {}
    return tail | ({"published": lambda line: figures(line, table)} if has_published(table) else {})


def _whole(table: Table, tail: Tail) -> list[str]:
    """One table, each column's group over its name."""
    group = {place: f"*{name}*<br>" for name, places in spans(table) for place in places}
    above = [f"{group.get(i, '')}{head(c, table)}<br>{c.dataset}" for i, c in enumerate(table.columns)]
    return _pipes(table, above, range(len(above)), tail)


def _by_group(table: Table, tail: Tail) -> list[str]:
    """A table for each group, below one of what concerns all."""
    out = ["### all groups", "", *_pipes(table, [], [], tail)]
    for group, places in spans(table):
        above = [f"{head(table.columns[i], table)}<br>{table.columns[i].dataset}" for i in places]
        out += ["", f"### {group}", "", *_pipes(table, above, places, {})]
    return out


def _pipes(table: Table, above: Sequence[str], places: Sequence[int], tail: Tail) -> list[str]:
    """Lines of a table of some columns. above: their heads."""
    names = ["method", *above, *tail]
    out = ["| " + " | ".join(names) + " |", "".join("|---" if name in TEXTS else "|---:" for name in names) + "|"]
    for line in table.lines:
        name = f"`{line.method}`" + (" (control)" if line.control else "") + (" (ref)" if line.source == "reference" else "")
        cells = [_markdown_cell(line.cells[place]) for place in places]
        out.append("| " + " | ".join([name, *cells, *(text(line) for text in tail.values())]) + " |")
    return out


def _markdown_cell(cell: Cell) -> str:
    if not cell.estimate.n:
        return short(cell)
    mean = f"**{number(cell.estimate.mean)}**" if cell.best else number(cell.estimate.mean)
    return f"{mean} {interval(cell.estimate)}{cell.mark}"


def to_records(board: Leaderboard, seconds: bool = True) -> list[dict[str, Any]]:
    """One record per (model, method, column)."""
    records = []
    for table in board.tables:
        for line in table.lines:
            for column, cell in zip(table.columns, line.cells, strict=True):
                e = cell.estimate
                record = {
                    "model": table.model,
                    "method": line.method,
                    "control": line.control,
                    "source": cell.source,
                    "dataset": column.dataset,
                    "metric": column.metric,
                    "direction": column.direction,
                    "group": column.group,
                    "validation": heads.validation(column.verdict) if column.verdict else "",
                    "protocol_key": column.key,
                    "mean": e.mean,
                    "low": e.low,
                    "high": e.high,
                    "n": e.n,
                    "clusters": e.clusters,
                    "nan": cell.nan,
                    "not_applicable": cell.not_applicable,
                    "missing": cell.missing,
                    "constant": cell.constant,
                    "rank": cell.rank and cell.rank.shared,
                    "place": cell.rank and cell.rank.place,
                    "place_low": cell.rank and cell.rank.low,
                    "place_high": cell.rank and cell.rank.high,
                    "mark": cell.mark,
                    "published": "; ".join(figure.text for figure in cell.published),
                    "forwards": line.forwards,
                    "backwards": line.backwards,
                }
                records.append(record | ({"seconds": line.seconds} if seconds else {}))
    return records


def to_csv(board: Leaderboard, seconds: bool = True) -> str:
    """The records as CSV; empty where there is no value."""
    records = to_records(board, seconds)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        [{k: "" if v is None or (isinstance(v, float) and not math.isfinite(v)) else v for k, v in r.items()} for r in records]
    )
    return text.getvalue()


def to_json(board: Leaderboard, seconds: bool = True) -> str:
    """Everything: cells, comparisons with each control, agreement, tests, the model's quality, notes. NaN becomes null."""
    return json.dumps(_plain(board, seconds), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _plain(value: Any, seconds: bool) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        if isinstance(value, Line) and not seconds:
            del fields["seconds"]
        return _plain(fields, seconds)
    if isinstance(value, dict):
        return {k: _plain(v, seconds) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, seconds) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
