"""What stands over the columns: their names, the groups that they stand in, and what the validation of their metrics found."""

from __future__ import annotations

import itertools
import math

from xbench.tables.leaderboard import Leaderboard, Table
from xbench.tables.panels import ARROWS, Column
from xbench.tables.query import id_of
from xbench.tables.validation import Verdict

NOT_VALID = "§"


def head(column: Column, table: Table) -> str:
    """The column's label, or all of its metric's spec where another column on its dataset has the same label; § if not valid."""
    alike = sum((other.dataset, other.label) == (column.dataset, column.label) for other in table.columns)
    name = column.label if alike == 1 else f"{column.metric} {ARROWS[column.direction]}"
    return name if column.verdict is None or column.verdict.valid else name + NOT_VALID


def column_name(column: Column, table: Table) -> str:
    """The column's head, and its dataset where another column has the same."""
    name = head(column, table)
    alike = sum(head(other, table) == name for other in table.columns)
    return name if alike == 1 else f"{name} on {column.dataset}"


def spans(table: Table) -> list[tuple[str, list[int]]]:
    """(group, the places of its columns) for each group of a table, in its order; nothing where all columns are of one."""
    runs = itertools.groupby(enumerate(table.columns), key=lambda found: found[1].group)
    found = [(group or "other", [place for place, _ in members]) for group, members in runs]
    return found if len(found) > 1 else []


def validation(verdict: Verdict) -> str:
    """What the validation of a metric found, in a phrase."""
    if not verdict.valid:
        return f"NOT validated: {', '.join(verdict.wrong)}"
    figures = (("least separation {:.1f} sd", verdict.separation), ("noise {:.2f}", verdict.noise))
    return ", ".join(["orders all plants rightly", *(text.format(value) for text, value in figures if math.isfinite(value))])


def validations(board: Leaderboard) -> list[str]:
    """A line for each metric that a verdict is known of."""
    columns = [column for table in board.tables for column in table.columns]
    lines = [f"{id_of(column.metric)}: {validation(column.verdict)}" for column in columns if column.verdict]
    return list(dict.fromkeys(lines))


def legend(board: Leaderboard) -> list[str]:
    """What readers must know of the columns' groups and verdicts, where they occur."""
    columns = [column for table in board.tables for column in table.columns]
    verdicts = [column.verdict for column in columns if column.verdict]
    lines = []
    if any(column.group == "complexity" for column in columns):
        lines.append("complexity says how concentrated a map is, not whether it is right: no ranks, no marks, in no agreement")
    if any(column.ranked and not column.controlled for column in columns):
        lines.append("randomisation and robustness have no marks: noise is best at one and the picture's centre at the other")
    if not all(verdict.valid for verdict in verdicts):
        lines.append(f"{NOT_VALID} orders planted maps wrongly: no ranks, no marks, in no agreement")
    if verdicts:
        lines.append(
            "validation: plants are maps of known order; least separation is that of the two told apart least, in standard "
            "deviations (sd) of an item's difference; noise is the spread between two seeds over that between items"
        )
    return lines
