"""The commands by name, in the order of the help, and the console script."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from xbench.cli import (
    catalogue,
    cite,
    compare,
    doctor,
    exits,
    explain,
    gate,
    leaderboard,
    merge,
    run,
    score,
    submit,
    train,
    validate,
)

COMMANDS: dict[str, Callable[..., None]] = {
    "list": catalogue.list_,
    "show": catalogue.show,
    "run": run.run,
    "train": train.train,
    "score": score.score,
    "items": score.items,
    "merge": merge.merge,
    "leaderboard": leaderboard.leaderboard,
    "submit": submit.submit,
    "verify": submit.verify,
    "tables": submit.tables,
    "gate": gate.gate,
    "compare": compare.compare,
    "explain": explain.explain,
    "validate-metrics": validate.validate_metrics,
    "cite": cite.cite,
    "doctor": doctor.doctor,
}

app = typer.Typer(
    pretty_exceptions_enable=False,
    add_completion=False,
    help="How good are this model's explanations, and did they just get worse?",
)
for name, command in COMMANDS.items():
    app.command(name)(command)


@app.callback()
def main(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    """How good are this model's explanations, and did they just get worse?"""


def cli() -> None:
    """The console script. An error is one line and exit code 2, a traceback only with --debug: exit code 1 means "got worse"."""
    exits.leave(app, sys.argv[1:])
