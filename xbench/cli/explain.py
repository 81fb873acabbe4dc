"""``xbench explain``: overlays of one picture, or of some of a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xbench.cli.options import Plugins


def explain(
    image: Annotated[str, typer.Argument(help="A picture file, or with --pictures a dataset")],
    model: Annotated[str, typer.Option(help="A model")] = "efficientnet_lite0",
    method: Annotated[str, typer.Option(help="One or more methods, comma-separated")] = "grad_cam",
    target: Annotated[str | None, typer.Option(help="Class by index, name or WordNet id [the prediction; or the label]")] = None,
    text: Annotated[list[str] | None, typer.Option(help="What to look for, for a CLIP; may be repeated, a row each.")] = None,
    concept: Annotated[list[str] | None, typer.Option(help="The same by WordNet synset, such as bird.n.01.")] = None,
    pictures: Annotated[int | None, typer.Option(min=1, help="So many of a dataset's pictures, a row each.")] = None,
    out: Annotated[Path | None, typer.Option(help="PNG or JPEG to write [IMAGE-explained.png]")] = None,
    plugin: Plugins = [],
) -> None:
    """Explain a picture, or some of a dataset: a sheet with an overlay per method."""
    from xbench.plan.suite import listed
    from xbench.run import explain

    sentence = explain.explain(
        image,
        pictures,
        model=model,
        methods=listed(method) or [],
        target=target,
        texts=text or [],
        concepts=concept or [],
        out=out,
        plugins=plugin,
    )
    print(sentence)
