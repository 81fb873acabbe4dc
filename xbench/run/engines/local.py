"""Work units in this process, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from xbench import host
from xbench.evaluate.unit import run_unit
from xbench.plan.units import Result, Unit


def execute(units: Sequence[Unit], progress: Callable[[int], None]) -> Iterator[tuple[Unit, Result]]:
    """Yield (unit, result) as each is done; progress is told of every picture that was evaluated."""
    host.keep_memory()
    for unit in units:
        yield unit, run_unit(unit, progress)
