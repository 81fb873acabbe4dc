"""``xbench train``: by a recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from xbench.cli.exits import INTERRUPTED
from xbench.cli.options import Plugins, Threads


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or the path of a TOML file")],
    dataset: Annotated[str | None, typer.Option(help="A dataset's spec instead of the recipe's; a part is held out.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the training [results/runs/train-RECIPE].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished training.")] = False,
    plugin: Plugins = [],
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda (all of them), cuda:1 or mps.")] = "auto",
    devices: Annotated[int | None, typer.Option(min=1, help="How many devices [all GPUs, one CPU].")] = None,
    threads: Threads = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what is in the folder.")] = False,
) -> None:
    """Train by a recipe, whose task is a trainer: see xbench list trainers."""
    from xbench.cli.progress import Console
    from xbench.train import session

    try:
        with Console(unit="") as progress:
            done = session.train(
                recipe,
                dataset=dataset,
                out=out,
                resume=resume,
                fresh=fresh,
                plugins=plugin,
                epochs=epochs,
                device=device,
                devices=devices,
                threads=threads,
                progress=progress,
            )
    except KeyboardInterrupt as error:
        print("\nxbench: interrupted; go on after the last whole epoch with --resume", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from error
    if done is None:  # a further process of a training on several devices
        return
    print(done.card.sentence())
    print(f"{'trained in' if done.trained else 'finished before:'} {done.folder}; use it as {done.use}")
