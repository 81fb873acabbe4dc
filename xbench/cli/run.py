"""``xbench run``: a suite, or an experiment."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from xbench.cli.options import Limit, Models, Plugins, Suite, Threads
from xbench.errors import XbenchError


def run(
    suite: Suite,
    methods: Annotated[str | None, typer.Option(help="Comma-separated specs instead of the suite's.")] = None,
    models: Models = None,
    datasets: Annotated[str | None, typer.Option(help="Which of the suite's datasets; any other takes their place.")] = None,
    metrics: Annotated[str | None, typer.Option(help="Which of the suite's metrics.")] = None,
    limit: Limit = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the suite's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory [results/runs/SUITE].")] = None,
    batch_size: Annotated[str | None, typer.Option(help="Pictures in every forward pass; auto: the measured best.")] = None,
    device: Annotated[str, typer.Option(help="Where models compute, such as cuda:0.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16, -compiled behind it or not; a protocol of its own.")] = "float32",
    shard: Annotated[str | None, typer.Option(help="Only part I/N of the work; see merge.")] = None,
    threads: Threads = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the work and the threads.")] = 1,
    plugin: Plugins = [],
    save_maps: Annotated[bool, typer.Option("--save-maps", help="Keep every map; changed metrics need no new ones.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what is in the run directory.")] = False,
) -> None:
    """Run a suite, or what is left of it, and show the leaderboard; an experiment, from the start, and show its figures."""
    from xbench.cli.progress import Console
    from xbench.cli.screen import show_outcome
    from xbench.plan.suite import Selection, experiment, find, listed, parse_batch_size, parse_dtype, parse_shard
    from xbench.run import pipeline

    if experiment(find(suite)):
        texts = {"--methods": methods, "--metrics": metrics, "--shard": shard}
        fixed = {"--dtype": dtype != "float32", "--workers": workers > 1, "--save-maps": save_maps, "--fresh": fresh}
        if given := [name for name, value in (texts | fixed).items() if value]:
            raise XbenchError(f"{suite} is an experiment without maps, to which {given[0]} does not apply; leave it out")
        _run_experiment(suite, models, datasets, limit, seed, out, batch_size, device, threads, plugin)
        return
    lists = (listed(methods), listed(models), listed(datasets), listed(metrics))
    size, tuned = parse_batch_size(batch_size)
    selection = Selection(*lists, limit, seed, size, parse_shard(shard), device, parse_dtype(dtype))
    start = time.perf_counter()
    with Console() as progress:
        done = pipeline.run(
            suite,
            selection,
            out=out,
            plugins=plugin,
            fresh=fresh,
            save_maps=save_maps,
            tuned=tuned,
            threads=threads,
            workers=workers,
            progress=progress,
        )
    show_outcome(done, start)


def _run_experiment(
    which: str,
    models: str | None,
    datasets: str | None,
    limit: int | None,
    seed: int | None,
    out: Path | None,
    batch_size: str | None,
    device: str,
    threads: int | None,
    plugins: list[str],
) -> None:
    from xbench.cli.progress import Console
    from xbench.cli.screen import show
    from xbench.plan.suite import listed, parse_batch_size

    size, tuned = parse_batch_size(batch_size)
    if tuned:
        raise XbenchError(f"{which} is an experiment, which measures no batch size; give --batch-size a number")

    from xbench.run.detection import forms, session

    start = time.perf_counter()
    with Console(unit=" batches") as progress:
        done = session.run(
            which,
            models=listed(models),
            datasets=listed(datasets),
            limit=limit,
            seed=seed,
            batch_size=size,
            device=device,
            out=out,
            plugins=plugins,
            threads=threads,
            progress=progress,
        )
    show(forms.to_terminal(done.title, done.boards))
    print(f"{len(done.rows)} scored pictures in {time.perf_counter() - start:.0f} s: {done.folder}")
