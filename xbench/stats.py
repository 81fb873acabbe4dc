"""Means with honest error bars: bootstrap over clusters (source photographs), paired differences, ranks."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95
FEW_CLUSTERS = 50  # with fewer, a percentile interval is approximate (too narrow by some percent)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval. n items in ``clusters`` clusters; NaN where there are no items."""

    mean: float
    low: float
    high: float
    n: int
    clusters: int


@functools.lru_cache(maxsize=8)
def _resamples(clusters: int) -> Array:
    """How often each cluster is drawn in each resample, ``[RESAMPLES, clusters]``. The same for all cells of a table, so
    their intervals move together."""
    generator = np.random.Generator(np.random.PCG64(clusters))
    return generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=RESAMPLES).astype(np.float64)


def estimate(values: Array, clusters: NDArray[np.object_]) -> Estimate:
    """Mean of per-item values with a percentile bootstrap interval that resamples whole clusters.

    values: ``[n]``, all finite. clusters: ``[n]``, the cluster of each item.
    """
    if not len(values):
        return Estimate(float("nan"), float("nan"), float("nan"), 0, 0)
    names, index = np.unique(clusters.astype(str), return_inverse=True)
    sums = np.bincount(index, weights=values, minlength=len(names))
    counts = np.bincount(index, minlength=len(names)).astype(np.float64)
    drawn = _resamples(len(names))
    means = (drawn @ sums) / (drawn @ counts)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Estimate(float(values.mean()), float(low), float(high), len(values), len(names))


def difference(a: Array, b: Array, clusters: NDArray[np.object_]) -> Estimate:
    """Mean of a - b over the items where both are finite, with its interval. a, b: ``[n]``, paired by position."""
    both = np.isfinite(a) & np.isfinite(b)
    return estimate(a[both] - b[both], clusters[both])


def ranks(scores: Array) -> NDArray[np.int64]:
    """1 = highest; equal scores share the better rank. scores: ``[n]``, finite."""
    return 1 + (scores[None, :] > scores[:, None]).sum(axis=1)
