"""``xbench score`` and ``xbench items``: maps that were made elsewhere, and what they are to explain."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from xbench.cli.options import Datasets, Limit, Metrics, Models, Plugins, Suite, Threads


def score(
    maps: Annotated[Path, typer.Argument(help="Folder of maps by item id: .npy, or .safetensors that hold many")],
    suite: Annotated[str, typer.Option(help="The suite whose protocol and metrics score them.")],
    name: Annotated[str, typer.Option(help="Their row on the leaderboard.")],
    models: Models = None,
    datasets: Datasets = None,
    metrics: Metrics = None,
    limit: Limit = None,
    out: Annotated[Path | None, typer.Option(help="Run directory, that of a run to stand beside [results/runs/SUITE].")] = None,
    threads: Threads = None,
    plugin: Plugins = [],
) -> None:
    """Put maps that were made elsewhere on a suite's leaderboard."""
    from xbench.cli.progress import Console
    from xbench.cli.screen import show_outcome
    from xbench.plan.suite import Selection, listed
    from xbench.run import pipeline

    selection = Selection(None, listed(models), listed(datasets), listed(metrics), limit)
    start = time.perf_counter()
    with Console() as progress:
        done = pipeline.score(maps, name, suite, selection, out=out, plugins=plugin, threads=threads, progress=progress)
    show_outcome(done, start)


def items(
    suite: Suite,
    out: Annotated[Path, typer.Option(help="CSV file to write.")],
    models: Models = None,
    datasets: Datasets = None,
    limit: Limit = None,
    plugin: Plugins = [],
) -> None:
    """List what a suite explains: every item with its target class and the window of the picture that the model sees."""
    from xbench.plan.suite import Selection, listed
    from xbench.run import pipeline
    from xbench.store.directory import write_text

    table = pipeline.items(suite, Selection(None, listed(models), listed(datasets), None, limit), plugins=plugin)
    write_text(out, table.to_csv(index=False))
    print(f"{len(table)} items: {out}")
