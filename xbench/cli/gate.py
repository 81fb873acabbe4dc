"""``xbench gate``: did explanations get worse?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def gate(
    baseline: Annotated[Path, typer.Argument(help="Run directory or published results that the run is held against.")],
    run: Annotated[Path, typer.Argument(help="Run directory, computed by the code at hand.")],
    margins: Annotated[Path | None, typer.Option(help="How much loss is let pass [gate.toml where there is one].")] = None,
    junit: Annotated[Path | None, typer.Option(help="JUnit XML to write.")] = None,
    summary: Annotated[Path | None, typer.Option(help="Markdown to write, made for a pull request.")] = None,
) -> None:
    """Did explanations get worse? Exit code 0: no; 1: yes; 2: cannot judge, and what would settle it."""
    from xbench.report import verdicts
    from xbench.store.directory import write_text
    from xbench.tables import gate, runs

    report = gate.judge(runs.read(baseline), runs.read(run), gate.standing(margins))
    if junit is not None:
        write_text(junit, verdicts.to_junit(report))
    if summary is not None:
        write_text(summary, verdicts.to_markdown(report))
    print("\n".join(verdicts.to_lines(report)))
    raise typer.Exit(report.exit_code)
