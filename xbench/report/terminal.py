"""The table object for a terminal, by rich."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from xbench.report.heads import column_name, spans
from xbench.report.tables import count, details, figures, footer, has_published, number, short, warnings
from xbench.tables.leaderboard import Cell, Leaderboard, Line, Table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table as RichTable
    from rich.text import Text

TAIL: dict[str, Callable[[Line], str]] = {
    "rank": lambda line: "" if line.mean_rank is None else f"{line.mean_rank:.1f}",
    "fwd": lambda line: count(line.forwards),
    "bwd": lambda line: count(line.backwards),
    "s/item": lambda line: number(line.seconds),
}


def to_terminal(board: Leaderboard, width: int = 160) -> list[RenderableType]:
    """Renderables for rich. A table that is too wide is one for each group; intervals, costs and published figures are left out
    where even that is, never digits.
    """
    from rich.text import Text

    shown: list[RenderableType] = []
    for table in board.tables:
        title = f"{board.title}\n{table.model}"
        shown.extend(Text(text, style="bold red") for text in warnings(table))
        groups = spans(table)
        if groups and not _fits(len(table.columns), list(TAIL), width):
            shown.append(_grid(f"{title}, all groups", table, {}, list(TAIL), width))
            for group, places in groups:
                above = {place: column_name(table.columns[place], table) for place in places}
                shown.append(_grid(f"{table.model}, {group}", table, above, [], width))
        else:
            group_of = {place: f"{group}\n" for group, places in groups for place in places}
            above = {i: group_of.get(i, "") + column_name(column, table) for i, column in enumerate(table.columns)}
            shown.append(_grid(title, table, above, list(TAIL), width))
        shown.extend(Text(text) for text in details(table))
    shown.extend(Text(text) for text in footer(board, "* and bold"))
    return shown


def _fits(columns: int, tail: Sequence[str], width: int) -> bool:
    """Whether columns with their intervals have room, and a tail behind them."""
    return width >= 32 + 14 * columns + 7 * len(tail)


def _grid(title: str, table: Table, above: dict[int, str], tail: Sequence[str], width: int) -> RichTable:
    """above: place of a column -> its head. tail: of TAIL, what stands behind them."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    wide = _fits(len(above), tail, width)
    tail = tail if wide else tail[:1]
    published = wide and bool(tail) and has_published(table)
    grid = RichTable(
        title=title,
        title_justify="left",
        header_style="bold",
        box=box.HEAVY_HEAD if wide else box.SIMPLE_HEAD,
        pad_edge=wide,
        padding=(0, 1) if wide else (0, 1, 0, 0),
    )
    grid.add_column("method", no_wrap=True, max_width=None if wide else 24)
    for name in above.values():
        grid.add_column(name.replace("_", " "), justify="right", overflow="fold", min_width=12 if wide else 6)
    for name in tail:
        grid.add_column(name, justify="right", no_wrap=True)
    if published:
        grid.add_column("published", overflow="fold", min_width=20)
    previous = False
    for line in table.lines:
        if line.control and not previous:
            grid.add_section()
        previous = line.control
        cells = [_cell(line.cells[place], wide) for place in above]
        name = line.method + (" (ref)" if line.source == "reference" else "")
        more = (Text(figures(line, table)),) if published else ()
        grid.add_row(name, *cells, *(TAIL[head](line) for head in tail), *more, style="dim" if line.control else "")
    return grid


def _cell(cell: Cell, wide: bool) -> Text:
    from rich.text import Text

    text = short(cell) if wide else number(cell.estimate.mean) + cell.mark or short(cell)
    return Text(f"*{text}", style="bold") if cell.best else Text(text)  # the star is seen where there are no styles, as in a file
