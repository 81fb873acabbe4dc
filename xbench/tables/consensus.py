"""Agreement across the columns of leaderboards.

Within the table of one model: how alike its columns order the methods. Across datasets, one metric at a time: whether the methods
differ at all, and how far apart mean ranks must be to tell two methods apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from xbench.plugins.specs import Spec, parse
from xbench.stats.agreement import FEWEST, concordance, critical_difference, friedman, ranks, taus

if TYPE_CHECKING:
    from xbench.tables.leaderboard import Table


@dataclass(frozen=True)
class Friedman:
    """Friedman's test of one metric under one protocol, over blocks that rank the same methods (Demsar 2006, section 3.2.2).

    blocks: (models, dataset), each dataset once; methods have the mean of their ranks over its models. mean_ranks: method -> mean
    of its ranks over the blocks, 1 is best, best first; ties share their mean. statistic: chi-squared, corrected for ties, and its
    p; somewhat too large for fewer than ten blocks. critical_difference: Nemenyi's; mean ranks that lie further apart differ (5 %,
    all pairs at once).

    The test takes blocks for independent. What two models say of the same pictures is not: counted as two blocks, equal methods
    were told apart in up to half of the tests (benchmarks/claims.py). So a dataset is one block, as are its forms, such as
    ``scenes(n=30)`` and ``scenes(n=90)``, of which the first in the table's order counts, and mosaics of its pictures. One model
    on two datasets makes two blocks: the test then speaks of this model.
    """

    metric: str
    protocol: str
    blocks: list[tuple[tuple[str, ...], str]]
    mean_ranks: dict[str, float]
    statistic: float
    p: float
    critical_difference: float

    @property
    def best(self) -> dict[str, float]:
        """The methods whose mean ranks lie within the critical difference of the best one's."""
        limit = min(self.mean_ranks.values()) + self.critical_difference
        return {method: rank for method, rank in self.mean_ranks.items() if rank <= limit}


@dataclass(frozen=True)
class Agreement:
    """How alike the columns of one model's table order its methods, controls left out.

    tau: ``[columns][columns]`` Kendall's tau-b in [-1, 1], 1 = the same order from best to worst, over the methods that both
    columns rank; NaN for fewer than 3, where all are equal, and for columns that do not count (``Column.counted``). w: Kendall's W
    in [0, 1], 1 = all columns that rank agree, over the methods that all of them rank; NaN for fewer than 3. methods: how many
    these are.
    """

    tau: list[list[float]]
    w: float
    methods: int


def within(table: Table) -> Agreement | None:
    """The agreement of a table's columns; None where fewer than two of them rank."""
    ranked = np.array([column.counted for column in table.columns])
    if ranked.sum() < 2:
        return None
    figures = np.array([list(column.values()) for column in _figures(table)])
    shared = figures[np.ix_(ranked, np.isfinite(figures[ranked]).all(axis=0))]
    return Agreement(taus(figures).tolist(), concordance(shared), shared.shape[1])


def across(tables: Iterable[Table]) -> list[Friedman]:
    """A test for each metric and protocol that ranks at least 3 methods on each of at least 2 datasets."""
    found: dict[tuple[str, str], dict[str, dict[str, tuple[str, dict[str, float]]]]] = {}
    for table in tables:
        for column, figures in zip(table.columns, _figures(table), strict=True):
            of_dataset = found.setdefault((column.metric, column.protocol), {}).setdefault(_pictures(column.dataset), {})
            of_dataset.setdefault(table.model, (column.dataset, figures))
    tests = []
    for (metric, protocol), datasets in found.items():
        known = [
            {method for method, f in figures.items() if math.isfinite(f)} for ms in datasets.values() for _, figures in ms.values()
        ]
        methods = sorted(set.intersection(*known))
        if len(datasets) < 2 or len(methods) < FEWEST:
            continue
        each = [np.array([[figures[m] for m in methods] for _, figures in models.values()]) for models in datasets.values()]
        ranked = -np.stack([ranks(figures).mean(axis=0) for figures in each])
        statistic, p = friedman(ranked)
        mean = ranks(ranked).mean(axis=0)
        ordered = {methods[i]: float(mean[i]) for i in np.argsort(mean, kind="stable")}
        blocks = [(tuple(models), next(iter(models.values()))[0]) for models in datasets.values()]
        tests.append(Friedman(metric, protocol, blocks, ordered, statistic, p, critical_difference(*ranked.shape)))
    return tests


def _pictures(dataset: str) -> str:
    """The id of the dataset whose pictures these are: ``photos`` of ``grid(photos, n=20)``."""
    spec = parse(dataset)
    while inner := next((arg for arg in spec.args if isinstance(arg, Spec)), None):
        spec = inner
    return spec.name


def _figures(table: Table) -> list[dict[str, float]]:
    """For each column its ranked methods' figures, higher = better; NaN for a method that has no rank there."""
    methods = [line for line in table.lines if not line.control]
    return [
        {
            line.method: (1 if column.direction == "higher" else -1) * cell.estimate.mean
            if cell.rank and column.counted
            else math.nan
            for line, cell in ((line, line.cells[i]) for line in methods)
        }
        for i, column in enumerate(table.columns)
    ]
