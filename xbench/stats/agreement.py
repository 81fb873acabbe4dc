"""How alike orders are: Friedman's test with Nemenyi's critical difference, Kendall's W and tau-b.

Of figures ``[B, K]``: B blocks that order the same K methods, higher = better.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats as scipy_stats

from xbench.stats.bootstrap import CONFIDENCE, Array

FEWEST = 3  # methods: the order of two is no pattern


def ranks(figures: Array) -> Array:
    """``[B, K]`` figures, higher = better -> ranks within each block, 1 is best; ties share their mean rank."""
    return np.asarray(scipy_stats.rankdata(-_rounded(figures), axis=1))


def friedman(figures: Array) -> tuple[float, float]:
    """``[B, K]`` figures of 3 or more methods -> (chi-squared corrected for ties, its p); 0 and 1 where all are equal."""
    rounded = _rounded(figures)
    if (rounded == rounded[:, :1]).all():
        return 0.0, 1.0
    statistic, p = scipy_stats.friedmanchisquare(*rounded.T)
    return float(statistic), float(p)


def critical_difference(blocks: int, methods: int) -> float:
    """How far apart mean ranks of two methods must be to differ by Nemenyi's (1963) test: q sqrt(K (K + 1) / (6 B))."""
    q = scipy_stats.studentized_range.ppf(CONFIDENCE, methods, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(methods * (methods + 1) / (6 * blocks)))


def concordance(figures: Array) -> float:
    """``[B, K]`` figures -> Kendall's W (Kendall & Babington Smith 1939), corrected for ties; NaN for K < 3 methods."""
    blocks, methods = figures.shape
    return friedman(figures)[0] / (blocks * (methods - 1)) if methods >= FEWEST else math.nan


def taus(figures: Array) -> Array:
    """``[B, K]`` figures, NaN where there is none -> ``[B, B]`` Kendall's tau-b of each pair of rows (Kendall 1945).

    Over pairs of methods, of which both rows must have both: those ordered alike less those ordered otherwise, divided by the
    geometric mean of how many each row orders at all.
    """
    rounded, has = _rounded(figures), np.isfinite(figures).astype(np.float64)
    a, b = np.triu_indices(figures.shape[1], 1)
    known = has[:, a] * has[:, b]
    order = np.nan_to_num(np.sign(rounded[:, a] - rounded[:, b]))
    ordered = order**2 @ known.T
    some = (has @ has.T >= FEWEST) & (ordered * ordered.T > 0)
    return np.divide(order @ order.T, np.sqrt(ordered * ordered.T), out=np.full(some.shape, np.nan), where=some)


def _rounded(figures: Array) -> Array:
    """Figures of equal maps are equal, whatever their last digits say."""
    return np.asarray(np.round(figures, 9))
