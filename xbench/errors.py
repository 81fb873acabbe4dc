"""The one exception that reaches users: a single line that names the thing and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class XbenchError(Exception):
    """Something the user can mend. The command line prints it as one line and exits with code 2."""


class BrokenSample(XbenchError):
    """One sample cannot be used, such as a truncated picture: the run goes on without it, and counts it."""


class NotApplicable(XbenchError):
    """A method does not apply to this model, or a metric to this truth: the cells say why instead of a number."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for an unknown word: the nearest known one, else the whole list when it is short, else nothing."""
    known = sorted(set(known))
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    if 0 < len(known) <= 12:
        return f"; known: {', '.join(known)}"
    return ""
