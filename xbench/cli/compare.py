"""``xbench compare``: two methods of a run, or two runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from xbench.errors import XbenchError, did_you_mean


def compare(
    run: Annotated[Path, typer.Argument(help="Run directory; of two runs the old one.")],
    first: Annotated[str, typer.Argument(metavar="METHOD|RUN", help="A method of the run or of the reference; or the new run.")],
    second: Annotated[str | None, typer.Argument(metavar="[METHOD]", help="Another method.")] = None,
    metric: Annotated[str | None, typer.Option(help="By which to find the items that differ most [the first].")] = None,
    pictures: Annotated[int, typer.Option(min=1, help="How many items that differ most to show.")] = 6,
    out: Annotated[Path | None, typer.Option(help="PNG or JPEG to write: a sheet of these items with both maps.")] = None,
    format: Annotated[str, typer.Option(help="table, md or json")] = "table",
) -> None:
    """Compare two methods of a run, or two runs: which is better, by how much, how sure, at what cost, where they differ most."""
    from xbench.cli import screen
    from xbench.report import comparisons
    from xbench.tables import compare

    renderers = {"md": comparisons.to_markdown, "json": comparisons.to_json}
    if format != "table" and format not in renderers:
        raise XbenchError(f"unknown format {format!r}{did_you_mean(format, ['table', *renderers])}")
    report, folders = compare.of_folders(run, first, second)
    differences = compare.differing(report, metric)
    if format == "table":
        screen.show(comparisons.to_terminal(report, differences[:pictures], screen.width()))
    else:
        print(renderers[format](report, differences[:pictures]), end="")
    if out is not None:  # apart from the text, which may be JSON
        from xbench.run import side_by_side

        print(side_by_side.to_sheet(report, folders, differences, pictures, out), file=sys.stderr)
