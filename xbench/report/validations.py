"""What `xbench validate-metrics` says, as a Markdown table that reads well on a terminal too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

from xbench.plugins.declarations import Group
from xbench.tables.validation import Verdict

HEAD = ("group", "metric", "separation", "noise", "agreement", "order of the plants")
NUMBERS = range(2, 5)


def to_markdown(verdicts: Sequence[Verdict]) -> str:
    """A line for each metric, by group."""
    groups = [group for group in get_args(Group) if _of(verdicts, group)]
    rows = [_row(v, first=v is _of(verdicts, group)[0]) for group in groups for v in _of(verdicts, group)]
    widths = [max(len(row[i]) for row in [HEAD, *rows]) for i in range(len(HEAD) - 1)] + [len(HEAD[-1])]
    rule = "|".join("-" * (width + 1) + (":" if i in NUMBERS else "-") for i, width in enumerate(widths))
    lines = [_line(HEAD, widths), f"|{rule}|"]
    return "\n".join([*lines, *(_line(row, widths) for row in rows)]) + "\n"


def _of(verdicts: Sequence[Verdict], group: str) -> list[Verdict]:
    return [v for v in verdicts if v.group == group]


def _row(verdict: Verdict, first: bool) -> tuple[str, ...]:
    order = "right" if verdict.valid else f"WRONG: {'; '.join(verdict.wrong)}"
    numbers = ["" if math.isnan(n) else f"{n:.2f}" for n in (verdict.separation, verdict.noise, verdict.agreement)]
    return verdict.group if first else "", f"`{verdict.metric}`", *numbers, order


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [c.rjust(w) if i in NUMBERS else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
    return "| " + " | ".join(padded) + " |"
