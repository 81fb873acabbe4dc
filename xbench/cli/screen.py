"""The screen, and what several commands show there."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from xbench.run.pipeline import Outcome
    from xbench.tables.leaderboard import Leaderboard


def width() -> int:
    """Columns: those of the terminal, or many where the output is no terminal."""
    return _console().width


def show(parts: Iterable[RenderableType]) -> None:
    """Print tables and lines, in colour on a terminal."""
    console = _console()
    for part in parts:
        console.print(part)


def show_board(board: Leaderboard) -> None:
    """Print a leaderboard."""
    from xbench.report import terminal

    show(terminal.to_terminal(board, width()))


def show_outcome(done: Outcome, start: float) -> None:
    """Print the leaderboard of a run, and write it as a page. start: when the command began, by ``time.perf_counter``.

    Raises:
        XbenchError: a method returned NaN.
    """
    from xbench import api

    found = api.Outcome.of(done)
    board = found.leaderboard()
    found.write_page(board)
    show_board(board)
    what = f"{done.computed} values computed" if done.computed else "nothing left to compute"
    print(f"{what} in {time.perf_counter() - start:.0f} s; rows, pictures and curves: {done.folder}/leaderboard.html")
    done.check_finite()


def _console() -> Console:
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=160, color_system=None)
