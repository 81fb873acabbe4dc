"""``xbench validate-metrics``: metrics put to the test."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xbench.cli.options import Limit, Plugins


def validate_metrics(
    metrics: Annotated[str | None, typer.Option(help="Comma-separated specs instead of all; your own with --plugin.")] = None,
    limit: Limit = None,
    out: Annotated[Path, typer.Option(help="Run directory; continued where it stopped.")] = Path("results/runs/validate"),
    json_: Annotated[Path | None, typer.Option("--json", help="Also write the table here, as JSON.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the table here, as Markdown.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the work.")] = 1,
    plugin: Plugins = [],
) -> None:
    """Put metrics to the test: planted maps on generated scenes, of which it is known which is better."""
    from xbench.cli.progress import Console
    from xbench.plan.suite import listed
    from xbench.report import validations
    from xbench.run import metaevaluation
    from xbench.store.directory import write_text
    from xbench.tables import validation

    with Console() as progress:
        found = metaevaluation.validate(listed(metrics), out, limit=limit, plugins=plugin, workers=workers, progress=progress)
    table = validations.to_markdown(found)
    print(table)
    if json_:
        validation.save(found, json_)
    if markdown:
        write_text(markdown, table)
    wrong = sum(not verdict.valid for verdict in found)
    print(f"{len(found) - wrong} of {len(found)} metrics order all plants rightly")
    if wrong:
        raise typer.Exit(1)
