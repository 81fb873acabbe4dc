"""What `xbench validate-metrics` found: does a metric order planted maps rightly, how far apart, and how noisy is it?"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

SHIPPED = "validation.json"


@dataclass(frozen=True)
class Verdict:
    """Of one metric, under the parameters of the test, and its version.

    wrong: the pairs of plants in the wrong order, as ``better < worse``; none where all are right. separation: of the pair of
    plants that it tells apart least, in standard deviations of one item's difference. noise: standard deviation of one item's
    value between two seeds, over that between items. agreement: mean Kendall's tau with the other metrics of its group.
    """

    metric: str
    version: str
    group: str
    wrong: tuple[str, ...]
    separation: float
    noise: float
    agreement: float

    @property
    def valid(self) -> bool:
        """Whether all plants are in the right order."""
        return not self.wrong


def load() -> dict[tuple[str, str], Verdict]:
    """(metric id, version) -> what the shipped validation says of it; empty where none ships."""
    with resources.as_file(resources.files("xbench.results") / SHIPPED) as path:
        return read(path) if path.is_file() else {}


def read(path: Path) -> dict[tuple[str, str], Verdict]:
    """The same of a file that ``save`` wrote."""
    found = [Verdict(**{**entry, "wrong": tuple(entry["wrong"])}) for entry in json.loads(path.read_text(encoding="utf-8"))]
    return {(verdict.metric.partition("(")[0], verdict.version): verdict for verdict in found}


def save(verdicts: list[Verdict], path: Path) -> None:
    """As JSON."""
    path.write_text(json.dumps([asdict(verdict) for verdict in verdicts], indent=1) + "\n", encoding="utf-8")
