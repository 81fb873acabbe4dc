"""What `xbench validate-metrics` says, as a Markdown table that reads well on a terminal too."""

from __future__ import annotations

import math
from collections.abc import Sequence

from xbench.validation import Verdict

HEAD = ("metric", "order", "separation", "noise", "agreement")


def to_markdown(verdicts: Sequence[Verdict]) -> str:
    """A line for each metric, by group."""
    groups = dict.fromkeys(v.group for v in verdicts)
    rows = [_row(v, first=v is _of(verdicts, group)[0]) for group in groups for v in _of(verdicts, group)]
    head = ("group", *HEAD)
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [_line(head, widths), "|" + "|".join("-" * (w + 1) + (":" if i > 2 else "-") for i, w in enumerate(widths)) + "|"]
    return "\n".join([*lines, *(_line(row, widths) for row in rows)]) + "\n"


def _of(verdicts: Sequence[Verdict], group: str) -> list[Verdict]:
    return [v for v in verdicts if v.group == group]


def _row(verdict: Verdict, first: bool) -> tuple[str, ...]:
    order = "right" if verdict.valid else f"WRONG: {'; '.join(verdict.wrong)}"
    numbers = (f"{verdict.separation:.2f}", f"{verdict.noise:.2f}", f"{verdict.agreement:.2f}")
    return (verdict.group if first else "", f"`{verdict.metric}`", order, *(n if _known(n) else "" for n in numbers))


def _known(number: str) -> bool:
    return not math.isnan(float(number))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [c.rjust(w) if i > 2 else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
    return "| " + " | ".join(padded) + " |"
