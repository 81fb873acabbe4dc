"""Arguments and options that several commands share, each with its help text once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Suite = Annotated[str, typer.Argument(help="A suite's name or the path of a TOML file")]
Models = Annotated[str | None, typer.Option(help="Comma-separated specs instead of the suite's.")]
Datasets = Annotated[str | None, typer.Option(help="Which of the suite's datasets.")]
Metrics = Annotated[str | None, typer.Option(help="Which of the suite's metrics.")]
Limit = Annotated[int | None, typer.Option(min=1, help="The first N items of each dataset.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of torch [all cores].")]
Plugins = Annotated[list[str], typer.Option("--plugin", help="A plug-in file or module to load first; may be repeated.")]
Submissions = Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Submissions.")]
