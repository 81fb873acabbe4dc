"""``xbench merge``: run directories into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories, such as the shards of one run.")],
    out: Annotated[Path, typer.Option(help="Where the merged run goes.")],
) -> None:
    """Merge run directories; the shards of a run together are the undivided run."""
    from xbench.cli.screen import show_board
    from xbench.report import html
    from xbench.store.directory import write_text
    from xbench.tables import leaderboard, runs

    rows, manifest = runs.merge(folders, out)
    board = leaderboard.build(rows, manifest, runs.reference(*runs.suites(manifest)))
    write_text(out / "leaderboard.html", html.render(board, rows, manifest, runs.gallery([out])))
    show_board(board)
    print(f"{len(rows)} rows of {len(folders)} runs: {out}")
