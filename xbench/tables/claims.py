"""What a table claims of its methods, column by column: which of two is better for sure. Ranks, marks and compare read it here.

Two families of pairs are judged, each with a chance of 5 % that anything wrong is said: all pairs of ranked methods, and all
methods against all controls.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from xbench.stats.bootstrap import Test
from xbench.store.manifests import UNDESCRIBED, Methods
from xbench.tables.panels import Panel

Pair = tuple[int, int]  # of methods, by their place in the panel


@dataclass(frozen=True)
class Claims:
    """ranked: the methods that are ranked. among: tests of all pairs of them, (a, b) with a before b. against: tests of all methods
    (a) against the controls (b) that they are held against."""

    ranked: list[int]
    among: dict[Pair, Test]
    against: dict[Pair, Test]

    def of(self, a: int, b: int) -> tuple[Test, int] | None:
        """(the test of a against b, positive where a is better; how many pairs were judged together); None where none was made."""
        for family in (self.among, self.against):
            if (a, b) in family:
                return family[a, b], len(family)
            if (b, a) in family:
                test = family[b, a]
                return Test(-test.gain, test.p), len(family)
        return None


def of_panel(panel: Panel, methods: Methods) -> Claims:
    """What a column claims. methods: as a manifest describes them.

    Ranked are methods that are no controls and have a value or a reason for each item: none is missing, and none is NaN.
    """
    about = [methods.get(method, UNDESCRIBED) for method in panel.methods]
    if not panel.column.ranked:
        return Claims([], {}, {})
    mine = [m for m, its in enumerate(about) if not its.control]
    floors = [m for m, its in enumerate(about) if its.control and not its.ceiling and panel.column.controlled]
    ranked = [m for m in mine if panel.count(m, "ok") and not panel.count(m, "nan") and not panel.count(m, "missing")]
    among = list(itertools.combinations(ranked, 2))
    known = panel.scores.known
    against = [(m, floor) for m in mine for floor in floors if (known[m] & known[floor]).any()]
    return Claims(ranked, *(dict(zip(pairs, panel.scores.tests(pairs), strict=True)) for pairs in (among, against)))
