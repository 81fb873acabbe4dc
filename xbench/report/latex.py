"""The table object as LaTeX: a table environment per model, which needs the package booktabs and no other."""

from __future__ import annotations

from xbench.report.heads import head, spans
from xbench.report.tables import count, details, figures, has_published, interval, number, origins, remarks, short, warnings
from xbench.tables.leaderboard import Cell, Leaderboard, Line, Table

SPECIAL: dict[str, str | int | None] = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "§": r"\S{}",
}


def to_latex(board: Leaderboard) -> str:
    """A table for each model: methods, then controls below a rule; notes below the table."""
    return "% \\usepackage{booktabs}\n" + "\n".join(_environment(board, table) for table in board.tables)


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return text.translate(str.maketrans(SPECIAL))


def _environment(board: Leaderboard, table: Table) -> str:
    published = has_published(table)
    heads = ["method", *(head(c, table).replace("_", " ") for c in table.columns), "rank", "fwd", "bwd"]
    heads += ["published"] if published else []
    datasets = ["", *(c.dataset for c in table.columns), *[""] * (len(heads) - len(table.columns) - 1)]
    columns = "l" + "r" * (len(table.columns) + 3) + (r"p{0.2\linewidth}" if published else "")
    methods, controls = ([_row(line, table) for line in table.lines if line.control is control] for control in (False, True))
    items = ", ".join(f"{quality.items} items of {quality.dataset}" for quality in table.quality)
    caption = "; ".join(filter(None, [f"{board.title}: {table.model}", items, *origins(board)]))
    body = [
        r"\begin{table}",
        r"\centering\small\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{escaped(caption)}.}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *_groups(table, len(heads)),
        " & ".join(map(escaped, heads)) + r" \\",
        " & ".join(rf"{{\scriptsize {escaped(name)}}}" if name else "" for name in datasets) + r" \\",
        r"\midrule",
        *methods,
        *([r"\midrule"] if methods and controls else []),
        *controls,
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\medskip",
        r"\begin{minipage}{\linewidth}\footnotesize\raggedright",
        *(escaped(text) + r"\par" for text in warnings(table) + details(table) + remarks(board, "bold")),
        r"\end{minipage}",
        r"\end{table}",
        "",
    ]
    return "\n".join(body)


def _groups(table: Table, width: int) -> list[str]:
    """A head over the columns of each group, with a rule below it; nothing where there is one group. width: all columns."""
    found = spans(table)
    if not found:
        return []
    names = [rf"\multicolumn{{{len(places)}}}{{c}}{{{escaped(group)}}}" for group, places in found]
    rest = [""] * (width - len(table.columns) - 1)
    rules = "".join(rf"\cmidrule(lr){{{places[0] + 2}-{places[-1] + 2}}}" for _, places in found)
    return [" & ".join(["", *names, *rest]) + r" \\", rules]


def _row(line: Line, table: Table) -> str:
    name = line.method + (" (ref)" if line.source == "reference" else "")
    rank = "" if line.mean_rank is None else f"{line.mean_rank:.1f}"
    # A bracket at the beginning of a row would be an optional argument of the line break before it.
    cells = [
        f"{{{escaped(name)}}}" if name.startswith("[") else escaped(name),
        *map(_cell, line.cells),
        rank,
        count(line.forwards),
        count(line.backwards),
    ]
    return " & ".join(cells + ([escaped(figures(line, table))] if has_published(table) else [])) + r" \\"


def _cell(cell: Cell) -> str:
    if not cell.estimate.n:
        return escaped(short(cell))
    mean = number(cell.estimate.mean)
    mean = rf"\textbf{{{mean}}}" if cell.best else mean
    return rf"{mean} {{\scriptsize {interval(cell.estimate)}}}{escaped(cell.mark)}"
