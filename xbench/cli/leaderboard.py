"""``xbench leaderboard``: the tables of runs, in any format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xbench.errors import XbenchError, did_you_mean


def leaderboard(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories; rows of equal protocol share a table.")],
    format: Annotated[str, typer.Option(help="table, csv, md, latex, json or html")] = "table",
    models: Annotated[str | None, typer.Option(help="Which models: comma-separated specs, or ids for all their specs.")] = None,
    datasets: Annotated[str | None, typer.Option(help="Which datasets.")] = None,
    metrics: Annotated[str | None, typer.Option(help="Which metrics.")] = None,
    methods: Annotated[str | None, typer.Option(help="Which methods; controls stay.")] = None,
    group: Annotated[str | None, typer.Option(help="Metrics of one group, such as localization or complexity.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write to a file instead of the screen.")] = None,
) -> None:
    """Show the leaderboard of one or more runs, finished or not, beside the reference rows of the same suite and protocol."""
    from xbench.cli.screen import show_board
    from xbench.plan.suite import listed
    from xbench.report import latex, tables
    from xbench.store.directory import write_text
    from xbench.submit import submission
    from xbench.tables import runs
    from xbench.tables.query import Filter

    asked = Filter(listed(models), listed(datasets), listed(metrics), listed(methods), group)
    board, (rows, manifest) = submission.board(folders, asked)
    renderers = {"csv": tables.to_csv, "md": tables.to_markdown, "latex": latex.to_latex, "json": tables.to_json}
    if format == "table" and out is None:
        show_board(board)
        return
    if format == "html":
        from xbench.report import html

        text = html.render(board, rows, manifest, runs.gallery(folders))
    elif format in renderers:
        text = renderers[format](board)
    else:
        raise XbenchError(f"unknown format {format!r}{did_you_mean(format, ['table', 'html', *renderers])}")
    if out is None:
        print(text)
    else:
        write_text(out, text)
