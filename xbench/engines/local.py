"""Work units in this process, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from xbench.runner import Unit, run_unit

Result = tuple[Unit, list[dict[str, Any]], dict[str, np.ndarray]]


def execute(units: Sequence[Unit], progress: Callable[[int], None]) -> Iterator[Result]:
    """Yield (unit, rows, gallery) as each is done; progress is told of every picture that was evaluated."""
    for unit in units:
        rows, gallery = run_unit(unit, progress)
        yield unit, rows, gallery
