"""How a command ends: its exit code, and one line for whatever goes wrong; a traceback only with --debug.

0    done; of ``gate``: explanations did not get worse
1    of ``gate``: they did; of ``validate-metrics``: a metric is not valid. Nothing else says 1.
2    an error; of ``gate``: it cannot judge; of ``doctor``: a plug-in does not load
130  interrupted, as shells say
141  whoever read the output went away, as shells say
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import typer

from xbench.errors import XbenchError

INTERRUPTED, PIPE = 130, 141
MESSAGE = 300  # letters of an unexpected error that a line shows
_WrongOption: type[Exception] = typer.BadParameter.__mro__[2]  # click's base of such errors, which typer does not export


def leave(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Run a command and end the process."""
    code = safely(app, arguments)
    try:
        sys.stdout.flush()
    except OSError as error:
        code = _said(error, debug=False)
    if code == PIPE:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at exit
    sys.exit(code)


def safely(app: typer.Typer, arguments: Sequence[str]) -> int:
    """Run a command and say in one line what went wrong. -> the exit code."""
    try:
        # Not by calling the app: that makes 1 of a closed pipe, and says nothing of an interruption.
        with typer.main.get_command(app).make_context("xbench", [a for a in arguments if a != "--debug"] or ["--help"]) as context:
            context.command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    except BaseException as error:  # a plug-in may want to exit, too
        return _said(error, debug="--debug" in arguments)  # which is allowed anywhere
    return 0


def _said(error: BaseException, *, debug: bool) -> int:
    """Say in one line what went wrong. -> the exit code."""
    if isinstance(error, BrokenPipeError):  # whoever read has enough
        return PIPE
    if debug:
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        print("\nxbench: interrupted; start the same command again to continue", file=sys.stderr)
        return INTERRUPTED
    text = " ".join(str(error).split())
    if isinstance(error, XbenchError):
        message = text
    elif isinstance(error, _WrongOption):
        command = getattr(getattr(error, "ctx", None), "command_path", "xbench")
        message = f"{getattr(error, 'format_message', error.__str__)().rstrip('.')}; see {command} --help"
    elif isinstance(error, MemoryError):
        message = "out of memory; take fewer pictures a pass with --batch-size, or fewer --workers"
    elif isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        message = f"unexpected error: {type(error).__name__}{text and ': '}{text[:MESSAGE]}; --debug shows where it happened"
    print(f"xbench: {message}", file=sys.stderr)
    return 2
