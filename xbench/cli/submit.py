"""``xbench submit``, ``verify`` and ``tables``: published results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xbench.cli.options import Plugins, Submissions


def submit(
    run: Annotated[Path, typer.Argument(help="Run directory: finished, whole tracks, with the suite's controls.")],
    name: Annotated[str, typer.Option(help="Of the submission: lower-case letters, digits, hyphens.")],
    by: Annotated[str, typer.Option(help="Who measured.")],
    link: Annotated[str, typer.Option(help="Where to read more.")] = "",
    note: Annotated[str, typer.Option(help="One line for the leaderboard.")] = "",
    suite: Annotated[str | None, typer.Option(help="The run's suite, where it is a TOML file of your own.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder [results/submissions/SUITE/NAME].")] = None,
    plugin: Plugins = [],
) -> None:
    """Check a finished run and place its rows and tables under results/."""
    from xbench.plugins.registry import registry
    from xbench.store.manifests import Submission
    from xbench.submit import submission

    who = Submission(name=name, by=by, link=link, note=note)
    for module in plugin:
        registry.load(module)
    folder, rows = submission.submit(run, who, suite, out)
    for line in submission.nan_lines(rows):
        print(line)
    print(f"{len(rows)} rows of {rows['method'].nunique()} methods: {folder}")


def verify(folders: Submissions) -> None:
    """Check that submissions are whole, and that their rows give their tables."""
    from xbench.submit import submission

    for folder in folders:
        print(f"{folder}: {submission.verify(folder)} rows give its tables")


def tables(folders: Submissions) -> None:
    """Write the tables of submissions anew from their rows, after a change of xbench's statistics or forms."""
    from xbench.submit import submission

    for folder in folders:
        submission.write_tables(folder)
        print(f"{folder}: tables written")
