"""``xbench cite``: BibTeX of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def cite(run: Annotated[Path, typer.Argument(help="Run directory")]) -> None:
    """Print BibTeX of all that a run used."""
    from xbench.tables import citations, runs

    _, manifest = runs.read(run)
    print("\n\n".join(citations.of_run(manifest)))
