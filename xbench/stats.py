"""Figures with honest error bars: bootstrap over clusters (source photographs), paired differences, ranks."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xbench import reductions

RESAMPLES = 2000
CONFIDENCE = 0.95
FEW_CLUSTERS = 50  # with fewer, a percentile interval is approximate (too narrow by some percent)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure, such as a mean, with its 95 % interval. n items in ``clusters`` clusters; NaN where there are no items."""

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


@dataclass(frozen=True, eq=False)
class Sample:
    """What a figure is computed from. data: ``[n, V]`` per-item vectors, or ``[n, 1]`` values, all finite. clusters: ``[n]``.

    reduce: how they become the figure (see reductions.py). classes: ``[n]``, what ``class_mean`` averages within.
    """

    data: Array
    clusters: NDArray[np.object_]
    reduce: str = "mean"
    classes: NDArray[np.int64] | None = None

    def figures(self, drawn: Array, index: NDArray[np.intp]) -> Array:
        """The figure of each resample: drawn ``[R, clusters]`` says how often each cluster counts, index its items' clusters."""
        size = drawn.shape[1]
        if self.reduce == "class_mean":
            assert self.classes is not None
            names, which = np.unique(self.classes, return_inverse=True)
            shape = (size, len(names))
            cells = np.ravel_multi_index((index, which), shape)
            sums = np.bincount(cells, weights=self.data[:, 0], minlength=size * len(names)).reshape(shape)
            counts = np.bincount(cells, minlength=size * len(names)).reshape(shape).astype(np.float64)
            seen = drawn @ counts
            means = np.divide(drawn @ sums, seen, out=np.full(seen.shape, np.nan), where=seen > 0)
            return np.nanmean(means, axis=1)  # a class that a resample lacks does not count in it
        order = np.argsort(index, kind="stable")
        starts = np.searchsorted(index[order], np.arange(size))
        sums = np.add.reduceat(self.data[order], starts, axis=0)
        counts = np.bincount(index, minlength=size).astype(np.float64)
        means = (drawn @ sums) / (drawn @ counts)[:, None]
        return means[:, 0] if self.reduce == "mean" else reductions.of_vectors(self.reduce)(means)


def estimate(sample: Sample) -> Estimate:
    """The figure of a sample with a percentile bootstrap interval that resamples whole clusters."""
    return _interval(sample, None)


def difference(a: Sample, b: Sample) -> Estimate:
    """The figure of a minus that of b with its interval, both from the same resamples. Paired: equal items in equal order."""
    return _interval(a, b)


def _interval(a: Sample, b: Sample | None) -> Estimate:
    if not len(a.data):
        return Estimate(float("nan"), float("nan"), float("nan"), 0, 0)
    names, index = np.unique(a.clusters.astype(str), return_inverse=True)
    drawn = np.vstack([np.ones(len(names)), _resamples(len(names))])  # the first is the sample itself
    figures = a.figures(drawn, index) - (b.figures(drawn, index) if b is not None else 0.0)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(figures[1:], [tail, 100 - tail])
    return Estimate(float(figures[0]), float(low), float(high), len(a.data), len(names))


def ranks(scores: Array) -> NDArray[np.int64]:
    """1 = highest; equal scores share the better rank. scores: ``[n]``, finite."""
    return 1 + (scores[None, :] > scores[:, None]).sum(axis=1)
