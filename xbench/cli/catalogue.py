"""``xbench list`` and ``xbench show``: what there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from xbench.cli.options import Plugins


def list_(
    kind: Annotated[str, typer.Argument(help="methods, metrics, datasets, models, trainers, suites, recipes or published")],
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    plugin: Plugins = [],
) -> None:
    """List what there is."""
    from xbench.run import catalogue

    found = catalogue.listing(kind, plugin)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    width = max(map(len, found), default=0)
    for name, summary in found.items():
        print(f"{name:{width}}  {summary.replace('``', '')}".rstrip())


def show(
    spec: Annotated[str, typer.Argument(help="A spec such as grad_cam or insertion(steps=exact(10))")],
    out: Annotated[Path | None, typer.Option(help="Of a dataset: draw its first pictures with their truth, as PNG or SVG.")] = None,
    pictures: Annotated[int, typer.Option(min=1, help="How many pictures --out shows.")] = 12,
    plugin: Plugins = [],
) -> None:
    """Show what a plug-in is, its parameters and what it declares; of a dataset also a sheet of pictures."""
    from xbench.plugins.registry import registry
    from xbench.run import catalogue

    for name in plugin:
        registry.load(name)
    if out is not None:
        from xbench.report.sheets import sheet

        sheet(registry.dataset(spec)(), pictures, out)
        print(out)
        return
    for line in catalogue.described(spec):
        print(line)
