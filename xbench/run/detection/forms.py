"""What an experiment in out-of-distribution detection found: for a terminal, as Markdown, CSV and numbers for JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xbench.report.tables import number
from xbench.stats.bootstrap import Estimate

if TYPE_CHECKING:
    from rich.console import RenderableType

    from xbench.run.detection.boards import Board
    from xbench.run.detection.figures import Figures

NAMES = {"max_logit": "max logit", "gloss": "gloss", "leaf_glosses": "leaf glosses", "random": "random"}
TEXTS = ("pair",)  # heads of columns that are no numbers
MEAN = "mean over pairs"
LEGEND = (
    "AUROC: how likely a picture of the inside family scores above one of the outside family (.5 is chance), with 95 % intervals",
    "max logit: the model's largest over the inside classes; gloss: cosine with the definition of the family's root in WordNet; "
    "leaf glosses: the largest cosine over the definitions of all leaves below it; random: a control",
    "*: the interval is without 0, for this pair by itself; pairs share pictures, so they do not confirm each other",
)
Grid = tuple[list[str], list[list[str]]]


def to_terminal(title: str, boards: Sequence[Board]) -> list[RenderableType]:
    """Renderables for rich."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown: list[RenderableType] = []
    for board in boards:
        for head, (names, rows) in _grids(board):
            grid = Table(title=f"{title}\n{head}", title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
            for name in names:
                grid.add_column(name, justify="left" if name in TEXTS else "right", overflow="fold")
            for row in rows:
                if row[0] == MEAN:
                    grid.add_section()
                grid.add_row(*map(Text, row))
            shown.append(grid)
        shown += [Text(note) for note in board.notes]
    return [*shown, *map(Text, LEGEND)]


def to_markdown(title: str, boards: Sequence[Board]) -> str:
    """Two tables for each board, its notes, and what the words mean."""
    out = [f"# {title}", ""]
    for board in boards:
        for head, (names, rows) in _grids(board):
            out += [f"## {head}", "", f"| {' | '.join(names)} |"]
            out += ["|" + "|".join("---" if name in TEXTS else "---:" for name in names) + "|"]
            out += [f"| {' | '.join(row)} |" for row in rows] + [""]
        out += [f"- {note}" for note in board.notes] + ([""] if board.notes else [])
    return "\n".join([*out, *(f"- {line}" for line in LEGEND), ""])


def to_csv(boards: Sequence[Board]) -> str:
    """A line for each figure: AUROCs, and differences as ``a - b``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    about = ["model", "dataset", "pair", "inside", "outside", "leaves", "inside_pictures", "outside_pictures"]
    writer.writerow([*about, "figure", "value", "low", "high"])
    for board in boards:
        for line in board.lines:
            roots, counts = (line.pair.inside.synset.name, line.pair.outside.synset.name), line.pictures
            head = [board.model, board.dataset, line.pair.name, *roots, len(line.pair.inside.leaves), *counts]
            writer.writerows([*head, *row] for row in _csv_rows(line.figures))
        if board.mean:
            writer.writerows([board.model, board.dataset, MEAN, *[""] * 5, *row] for row in _csv_rows(board.mean))
    return text.getvalue()


def record(board: Board) -> dict[str, Any]:
    """A board as numbers, names and lists."""
    lines = [
        {
            "pair": line.pair.name,
            **{
                side: {"synset": family.synset.name, "classes": list(family.classes), "pictures": count}
                for side, family, count in zip(
                    ("inside", "outside"), (line.pair.inside, line.pair.outside), line.pictures, strict=True
                )
            },
            "leaves": [leaf.name for leaf in line.pair.inside.leaves],
            "figures": _numbers(line.figures),
        }
        for line in board.lines
    ]
    mean = _numbers(board.mean) if board.mean else None
    return {"model": board.model, "dataset": board.dataset, "pairs": lines, "mean": mean, "notes": list(board.notes)}


def _grids(board: Board) -> Iterator[tuple[str, Grid]]:
    """(head, (names of columns, rows)): AUROCs, then differences where there are any."""
    any_line = board.lines[0].figures
    where = f"{board.model} on {board.dataset}"
    names = ["pair", "classes", "leaves", "pictures", *(NAMES[name] for name in any_line.areas)]
    yield f"{where}: AUROC", (names, [*_area_rows(board)])
    if any_line.differences:
        names = ["pair", *(f"{NAMES[a]} - {NAMES[b]}" for a, b in any_line.differences)]
        yield f"{where}: differences of AUROC on the same pictures", (names, [*_difference_rows(board)])


def _area_rows(board: Board) -> Iterator[list[str]]:
    for line in board.lines:
        inside, outside = line.pair.inside, line.pair.outside
        counts = [f"{len(inside.classes)} / {len(outside.classes)}", str(len(inside.leaves)), "{} / {}".format(*line.pictures)]
        yield [line.pair.name, *counts, *map(_area, line.figures.areas.values())]
    if board.mean:
        yield [MEAN, "", "", "", *map(_area, board.mean.areas.values())]


def _difference_rows(board: Board) -> Iterator[list[str]]:
    for line in board.lines:
        yield [line.pair.name, *map(_difference, line.figures.differences.values())]
    if board.mean:
        yield [MEAN, *map(_difference, board.mean.differences.values())]


def _area(e: Estimate) -> str:
    return number(e.mean) + (f" [{number(e.low)}, {number(e.high)}]" if math.isfinite(e.low) else "")


def _difference(e: Estimate) -> str:
    sure = "*" if e.low > 0 or e.high < 0 else ""
    return f"{'+' if e.mean > 0 else ''}{_area(e)}{sure}"


def _csv_rows(figures: Figures) -> Iterator[list[object]]:
    named: Mapping[str, Estimate] = {**figures.areas, **{f"{a} - {b}": e for (a, b), e in figures.differences.items()}}
    for name, e in named.items():
        yield [name, *(f"{value:.6f}" if math.isfinite(value) else "" for value in (e.mean, e.low, e.high))]


def _numbers(figures: Figures) -> dict[str, Any]:
    def plain(e: Estimate) -> list[float | None]:
        return [value if math.isfinite(value) else None for value in (e.mean, e.low, e.high)]

    areas = {name: plain(e) for name, e in figures.areas.items()}
    return {"auroc": areas, "differences": {f"{a} - {b}": plain(e) for (a, b), e in figures.differences.items()}}
