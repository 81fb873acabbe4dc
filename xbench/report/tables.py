"""One table object in several forms: terminal, Markdown, CSV, JSON; and the phrases that they and the HTML page share."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from xbench.leaderboard import LEGEND, MARKS, Cell, Leaderboard, Line, Quality, Table
from xbench.stats import Estimate

if TYPE_CHECKING:
    from rich.console import RenderableType


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
    accuracy = f"accuracy {q.accuracy:.2f} (top-1 among the picture's labels)"
    return f"{q.dataset}: {q.items} items, the model's {accuracy}, mean confidence in the target {q.confidence:.2f}{sources}"


def unbeaten(table: Table) -> list[str]:
    """One line per method and column where a control is not beaten: which, and the paired differences."""
    lines = []
    for line in table.lines:
        for column, cell in zip(table.columns, line.cells, strict=True):
            found = [f"{c.control} {c.gain.mean:+.3f} {interval(c.gain)}{MARKS[c.same_grid]}" for c in cell.against if not c.beaten]
            if found:
                lines.append(f"{line.method}, {column.label}: {'; '.join(found)}")
    return lines


def standing(table: Table) -> list[str]:
    """One line per column: which controls stand unbeaten, and by how many methods they are not beaten."""
    lines = []
    for i, column in enumerate(table.columns):
        cells = [line.cells[i] for line in table.lines if line.cells[i].against]
        times = Counter(c.control for cell in cells for c in cell.against if not c.beaten)
        if times:
            found = ", ".join(f"{control} by {n}" for control, n in times.most_common())
            lines.append(f"{column.label} on {column.dataset}: of {len(cells)} methods, not beaten are {found}")
    return lines


def to_terminal(board: Leaderboard, width: int = 160) -> list[RenderableType]:
    """Renderables for rich. Where the terminal is narrow, intervals and costs are left out, never digits."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    shown: list[RenderableType] = []
    for table in board.tables:
        wide = width >= 60 + 14 * len(table.columns)
        title = f"{board.title}\n{table.model}"
        style = box.HEAVY_HEAD if wide else box.SIMPLE_HEAD
        grid = RichTable(
            title=title,
            title_justify="left",
            header_style="bold",
            box=style,
            pad_edge=wide,
            padding=(0, 1) if wide else (0, 1, 0, 0),
        )
        grid.add_column("method", no_wrap=True, max_width=None if wide else 24)
        for column in table.columns:
            grid.add_column(column.label.replace("_", " "), justify="right", overflow="fold", min_width=12 if wide else 6)
        for name in ("rank", "fwd", "bwd", "s/item") if wide else ("rank",):
            grid.add_column(name, justify="right", no_wrap=True)
        previous = False
        for line in table.lines:
            if line.control and not previous:
                grid.add_section()
            previous = line.control
            cells = [short(c) if wide else number(c.estimate.mean) + c.mark or short(c) for c in line.cells]
            rank = "" if line.mean_rank is None else f"{line.mean_rank:.1f}"
            cost = (count(line.forwards), count(line.backwards), number(line.seconds)) if wide else ()
            name = line.method + (" (ref)" if line.source == "reference" else "")
            grid.add_row(name, *cells, rank, *cost, style="dim" if line.control else "")
        shown.append(grid)
        shown.extend(Text(quality_line(q)) for q in table.quality)
        shown.extend(Text(line) for line in standing(table))
        marks = {cell.mark for line in table.lines for cell in line.cells} - {""}
        shown.extend(Text(f"{mark} {LEGEND[mark]}") for mark in sorted(marks))
    shown.extend(Text(note) for note in board.notes)
    return shown


def to_markdown(board: Leaderboard, seconds: bool = True) -> str:
    """Tables, then what each method does not beat."""
    out = [f"# {board.title}", ""]
    for table in board.tables:
        head = ["method", *(f"{c.label}<br>{c.dataset}" for c in table.columns), "mean rank", "forwards", "backwards"]
        head += ["s/item"] if seconds else []
        out += [f"## {table.model}", "", "| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
        for line in table.lines:
            cells = [f"{number(c.estimate.mean)} {interval(c.estimate)}{c.mark}" if c.estimate.n else short(c) for c in line.cells]
            name = (
                f"`{line.method}`" + (" (control)" if line.control else "") + (" (reference)" if line.source == "reference" else "")
            )
            rank = "" if line.mean_rank is None else f"{line.mean_rank:.1f}"
            cost = [count(line.forwards), count(line.backwards)] + ([number(line.seconds)] if seconds else [])
            out.append("| " + " | ".join([name, *cells, rank, *cost]) + " |")
        out += [
            "",
            *(f"- {quality_line(q)}" for q in table.quality),
            *(f"- {c.label} ({c.dataset}): {c.protocol}" for c in table.columns),
        ]
        out += [f"- {text}" for text in standing(table)]
        out += [f"- {mark} {text}" for mark, text in LEGEND.items()] + [f"- {note}" for note in board.notes]
        against = unbeaten(table)
        if against:
            out += ["", "Not beaten (paired difference, positive = the method is better, 95 % interval):", ""]
            out += [f"- {text}" for text in against]
        out.append("")
    return "\n".join(out)


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
                    "source": line.source,
                    "dataset": column.dataset,
                    "metric": column.metric,
                    "direction": column.direction,
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
    """Everything: cells, comparisons with each control, the model's quality, notes. NaN becomes null."""
    return json.dumps(_plain(board, seconds), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _plain(value: Any, seconds: bool) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        if isinstance(value, Line) and not seconds:
            del fields["seconds"]
        return _plain(fields, seconds)
    if isinstance(value, dict):
        return {k: _plain(v, seconds) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v, seconds) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
