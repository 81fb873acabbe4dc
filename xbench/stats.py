"""Figures with honest error bars: what methods score on the same items, resampled by clusters (source photographs).

Within one column of a table: intervals, paired differences and their tests, ranks. Across columns: see agreement.py.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special
from scipy import stats as scipy_stats

from xbench import reductions

RESAMPLES = 2000
FLIPS = 10_000  # of the sign-flip test; all 2^C of them where that is fewer
CONFIDENCE = 0.95
FEW_CLUSTERS = 50  # with fewer, an interval is approximate (docs/statistics.md has its coverage)
MOST_GROUPS = 200  # of clusters that are left out in turn; more tell little more about a figure's skewness
MOST_NUMBERS = 2**21  # of one block of resampled sums
MOST_KEPT = 4  # sets of items whose resampled figures are kept; most tables need one

Array = NDArray[np.float64]
Places = NDArray[np.intp]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Estimate:
    """A figure, such as a mean, with its 95 % interval. n items in ``clusters`` clusters.

    NaN where there are no items; an interval of NaN where all items are of one cluster.
    """

    mean: float
    low: float
    high: float
    n: int
    clusters: int

    @property
    def approximate(self) -> bool:
        return self.clusters < FEW_CLUSTERS


NONE = Estimate(math.nan, math.nan, math.nan, 0, 0)


@dataclass(frozen=True)
class Comparison:
    """a minus b on the items that both have, oriented so that positive means that a is better.

    superiority: share of items on which a is better, ties counted half; NaN for figures that are not means.
    wilcoxon: p of the signed-rank test on cluster means, NaN for figures that are not means. sign_flip: p of the permutation test
    that swaps a and b within whole clusters. Both two-sided.
    """

    difference: Estimate
    superiority: Estimate
    wilcoxon: float
    sign_flip: float


@dataclass(frozen=True)
class Rank:
    """shared: 1 + how many methods are better for sure (95 % for all pairs of the column at once). place: by the figure alone.

    low, high: the place in the middle 95 % of resamples.
    """

    shared: int
    place: int
    low: int
    high: int


@dataclass(frozen=True, eq=False)
class Draws:
    """K figures ``[K]``, the same in each resample ``[R, K]``, and with each group of clusters left out ``[G, K]``.

    smooth: whether they are smooth functions of the items, such as means; the best of several thresholds is not.
    """

    figures: Array
    resampled: Array
    left_out: Array
    items: int
    clusters: int
    smooth: bool = True

    def minus(self, a: Places, b: Places) -> Draws:
        """The differences of some of the figures from others, from the same resamples."""
        figures, resampled, left_out = (part[..., a] - part[..., b] for part in (self.figures, self.resampled, self.left_out))
        return Draws(figures, resampled, left_out, self.items, self.clusters, self.smooth)

    def beside(self, other: Draws) -> Draws:
        """These figures and others of the same items."""
        ours = (self.figures, self.resampled, self.left_out)
        theirs = (other.figures, other.resampled, other.left_out)
        figures, resampled, left_out = (np.concatenate(pair, axis=-1) for pair in zip(ours, theirs, strict=True))
        return Draws(figures, resampled, left_out, self.items, self.clusters, self.smooth and other.smooth)

    def estimates(self) -> list[Estimate]:
        """Bias-corrected and accelerated bootstrap intervals (Efron 1987), a little wider for few clusters (Hesterberg 2015)."""
        low, high = self._limits() if self.clusters > 1 else (np.full_like(self.figures, np.nan),) * 2
        found = zip(self.figures, low, high, strict=True)
        return [Estimate(float(f), float(below), float(above), self.items, self.clusters) for f, below, above in found]

    def _limits(self) -> tuple[Array, Array]:
        edge = 0.5 / len(self.resampled)
        below = ((self.resampled < self.figures).mean(axis=0) + (self.resampled <= self.figures).mean(axis=0)) / 2
        bias = special.ndtri(below.clip(edge, 1 - edge))
        if not self.smooth:  # where thresholds are nearly tied, resamples overstate it: see the coverage in docs/statistics.md
            bias = bias / 2
        skewness = self._influence()[1] / (6 * np.sqrt(len(self.left_out)))
        # Resamples of n clusters spread less than the population does, and normal tails are too short for few of them.
        reach = scipy_stats.t.ppf((1 + CONFIDENCE) / 2, self.clusters - 1) * np.sqrt(self.clusters / (self.clusters - 1))
        ordered = np.sort(self.resampled, axis=0)
        limits = []
        for z in (-reach, reach):
            towards = bias + z
            bent = 1 - skewness * towards
            level = special.ndtr(bias + np.divide(towards, bent, out=np.sign(towards) * 40, where=bent > 0.05))
            limits.append(_quantiles(ordered, level))
        return limits[0], limits[1]

    def worse(self) -> Array:
        """One-sided p-values ``[K]`` that a figure is not below 0: small where it is, for sure.

        By Hall's (1992) transformation of t, which allows for skewness; unlike resamples it reaches the small p-values that a
        correction for many figures asks for.
        """
        error, skewness = self._influence()
        groups = len(self.left_out)
        t = np.divide(self.figures, error, out=np.where(self.figures < 0, -np.inf, np.inf), where=error > 0)
        gamma = skewness / np.sqrt(groups)
        with np.errstate(invalid="ignore"):
            bent = t + gamma * t**2 / 3 + gamma**2 * t**3 / 27 + gamma / 6
        return np.where(np.isfinite(t), scipy_stats.t.cdf(bent, max(1, groups - 1)), np.where(t < 0, 0.0, 1.0))

    def errors(self) -> Array:
        """Standard errors ``[K]``, by the jackknife."""
        return self._influence()[0]

    def _influence(self) -> tuple[Array, Array]:
        """(standard error, skewness of what each group of clusters adds), ``[K]`` each."""
        groups = len(self.left_out)
        if groups < 2:
            return np.full_like(self.figures, np.nan), np.zeros_like(self.figures)
        away = self.left_out.mean(axis=0) - self.left_out
        spread = (away**2).mean(axis=0)
        tiny = spread <= (1e-12 * np.abs(self.figures)) ** 2  # rounding is no spread
        error = np.where(tiny, 0.0, np.sqrt(spread * (groups - 1)))
        return error, np.divide((away**3).mean(axis=0), spread**1.5, out=np.zeros_like(spread), where=~tiny)


@dataclass(frozen=True, eq=False)
class Scores:
    """What M methods score on the same N items.

    data: ``[M, N, 1]`` values or ``[M, N, V]`` vectors. known: ``[M, N]``, where data counts. clusters: ``[N]`` names or numbers.
    reduce: how items become a figure (see reductions.py). higher: whether more is better. classes: ``[N]``, what ``class_mean``
    averages within, and needed by nothing else.
    """

    data: Array
    known: Mask
    clusters: NDArray[np.generic]
    reduce: str = "mean"
    higher: bool = True
    classes: NDArray[np.integer] | None = None
    _kept: dict[bytes, dict[int, tuple[Array, Array, Array]]] = field(default_factory=dict, init=False, repr=False)

    @property
    def sign(self) -> int:
        return 1 if self.higher else -1

    def estimates(self) -> list[Estimate]:
        """Each method's figure over the items that it has."""
        found: list[Estimate] = [NONE] * len(self.data)
        for items, methods in _alike(self.known):
            if items.any():
                for method, estimate in zip(methods, self.draws(methods, items).estimates(), strict=True):
                    found[method] = estimate
        return found

    def differences(self, pairs: Sequence[tuple[int, int]]) -> list[Estimate]:
        """a minus b for pairs (a, b) of methods on the items of both, oriented so that positive means that a is better."""
        found: list[Estimate] = [NONE] * len(pairs)
        if not pairs:
            return found
        a, b = np.array(pairs).T
        for items, some in _alike(self.known[a] & self.known[b]):
            if items.any():
                for pair, estimate in zip(some, self._minus(a[some], b[some], items).estimates(), strict=True):
                    found[pair] = estimate
        return found

    def compare(self, a: int, b: int) -> Comparison:
        """All that is to be said of two methods on the items of both."""
        items = self.known[a] & self.known[b]
        (difference,) = self.differences([(a, b)])
        if not items.any():
            return Comparison(difference, NONE, math.nan, math.nan)
        flip = self._sign_flip(a, b, items)
        if self.reduce != "mean":
            return Comparison(difference, NONE, math.nan, flip)
        gain = self.sign * (self.data[a, :, 0] - self.data[b, :, 0])
        better = Scores(((np.sign(gain) + 1) / 2)[None, :, None], items[None], self.clusters)
        return Comparison(difference, better.estimates()[0], _wilcoxon(gain[items], self.clusters[items]), flip)

    def ranks(self, methods: Sequence[int]) -> list[Rank]:
        """Ranks among some methods, on the items that all of them have; there must be one.

        One method is better than another for sure where its lead is above q standard errors, q being what the largest lead of any
        pair exceeds by chance in 5 % of resamples: so it holds for all pairs at once, and allows for what items share.
        """
        if not len(methods):
            return []
        chosen = np.array(methods, dtype=np.intp)
        draws = self.draws(chosen, np.asarray(self.known[chosen].all(axis=0)))
        figures, resampled = self.sign * draws.figures, self.sign * draws.resampled
        places = 1 + (figures[None, :] > figures[:, None]).sum(axis=1)
        drawn = 1 + (resampled[:, None, :] > resampled[:, :, None]).sum(axis=2)
        low, high = np.percentile(drawn, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)], axis=0, method="nearest")
        a, b = np.triu_indices(len(methods), 1)
        lead = figures[a] - figures[b]
        away = resampled[:, a] - resampled[:, b] - lead
        error = away.std(axis=0)
        error = np.where(error > 1e-12 * np.abs(figures).max(), error, 0.0)  # rounding is no spread
        largest = (np.abs(away) / np.where(error > 0, error, np.inf)).max(axis=1, initial=0.0)
        sure = np.abs(lead) > np.quantile(largest, CONFIDENCE) * error
        behind = np.zeros(len(methods), dtype=int)
        if draws.clusters > 1:
            np.add.at(behind, b[sure & (lead > 0)], 1)
            np.add.at(behind, a[sure & (lead < 0)], 1)
        found = zip(1 + behind, places, low, high, strict=True)
        return [Rank(*map(int, rank)) for rank in found]

    def gains(self, a: int, b: int) -> Draws:
        """a minus b as one figure, on the items of both, oriented so that positive means that a is better."""
        return self._minus(np.array([a]), np.array([b]), self.known[a] & self.known[b])

    def draws(self, methods: Places, items: Mask) -> Draws:
        """The figures of some methods over some items, which all of them must have."""
        names, index = np.unique(self.clusters[items], return_inverse=True)
        width = self.data.shape[2] if self.classes is None else int(self.classes.max()) + 1
        many = max(1, MOST_NUMBERS // (RESAMPLES * width))
        kept = self._kept.setdefault(items.tobytes(), {})  # estimates, ranks and differences ask for the same ones
        new = [m for m in methods.tolist() if m not in kept]
        for some in (new[i : i + many] for i in range(0, len(new), many)):
            parts = self._resampled(np.array(some), items, index, len(names))
            kept.update({m: (parts[0][..., k], parts[1][..., k], parts[2][..., k]) for k, m in enumerate(some)})
        figures, resampled, left_out = (np.stack([kept[m][i] for m in methods.tolist()], axis=-1) for i in range(3))
        if len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        figures, resampled, left_out = (_rounded(part, resampled) for part in (figures, resampled, left_out))
        return Draws(figures, resampled, left_out, int(items.sum()), len(names), reductions.is_smooth(self.reduce))

    def _minus(self, a: Places, b: Places, items: Mask) -> Draws:
        some, places = np.unique(np.stack([a, b] if self.higher else [b, a]), return_inverse=True)
        return self.draws(some, items).minus(*places.reshape(2, -1))

    def _resampled(self, methods: Places, items: Mask, index: Places, size: int) -> tuple[Array, Array, Array]:
        """(figures, resampled, left out), as in Draws. index: of each item's cluster, 0 to size - 1."""
        sums, counts = self._sums(methods, items, index)
        with np.errstate(invalid="ignore"):  # of one cluster alone nothing is left
            found = [self._figures(weights @ sums, weights @ counts) for weights in _weights(size, sums.shape[1])]
        return found[0][0], np.concatenate(found[1:-1]), found[-1]

    def _sums(self, methods: Places, items: Mask, index: Places) -> tuple[Any, Array]:
        """Sums over each cluster's items ``[C, K * V]`` and how many these are ``[C, 1]``; of ``class_mean`` for each class."""
        data = self.data[np.ix_(methods, items)]
        count = len(index)
        if self.classes is not None:
            _, which = np.unique(self.classes[items], return_inverse=True)
            classes = int(which.max()) + 1
            columns = np.arange(len(methods))[:, None] * classes + which
            places = (np.broadcast_to(index, columns.shape).ravel(), columns.ravel())
            # Sparse: most clusters have one class only.
            sums = sparse.csr_array((data[..., 0].ravel(), places), (int(index.max()) + 1, len(methods) * classes))
            counts = sparse.csr_array((np.ones(count), (index, which)), (int(index.max()) + 1, classes)).toarray()
            return sums, counts
        member = sparse.csr_array((np.ones(count), (index, np.arange(count))))
        return member @ data.transpose(1, 0, 2).reshape(count, -1), member @ np.ones((count, 1))

    def _figures(self, sums: Array, counts: Array) -> Array:
        """``[R, K * V]`` sums over ``[R, 1 or classes]`` items -> figures ``[R, K]``."""
        if self.reduce == "mean":
            return np.divide(sums, counts)
        if self.classes is not None:
            cells = sums.reshape(len(sums), -1, counts.shape[1])
            means = np.divide(cells, counts[:, None], out=np.full(cells.shape, np.nan), where=counts[:, None] > 0)
            return np.asarray(np.nanmean(means, axis=2))  # a class that a resample lacks does not count in it
        reduce, vectors = reductions.of_vectors(self.reduce), self.data.shape[2]
        means = (sums / counts).reshape(-1, vectors)
        return reduce(means).reshape(len(sums), -1)

    def _sign_flip(self, a: int, b: int, items: Mask) -> float:
        """Two-sided p of the difference when a and b are swapped within whole clusters at random."""
        names, index = np.unique(self.clusters[items], return_inverse=True)
        size = len(names)
        (ours, counts), (theirs, _) = (self._sums(np.array([m]), items, index) for m in (a, b))
        if 2**size <= FLIPS:
            swaps = (np.arange(2**size)[:, None] >> np.arange(size) & 1).astype(np.uint8)
        else:
            swaps = np.random.Generator(np.random.PCG64(size)).integers(0, 2, (FLIPS, size), dtype=np.uint8)
            swaps[0] = 0  # what was seen is one of them
        total = counts.sum(axis=0)[None]
        gaps = np.concatenate(
            [
                self._figures((1 - swap) @ ours + swap @ theirs, total) - self._figures(swap @ ours + (1 - swap) @ theirs, total)
                for swap in _blocks(swaps, max(size, ours.shape[1]))
            ]
        )[:, 0]
        return float((np.abs(gaps) >= abs(gaps[0]) * (1 - 1e-9) - 1e-15).mean())


def draws(figures: Callable[[Array], Array], clusters: NDArray[np.generic]) -> Draws:
    """Draws of figures that are no means, such as areas under curves: they are computed anew from how often each item counts.

    figures: ``[R, N]`` -> ``[R, K]``. clusters: ``[N]``, names or numbers.
    """
    names, index = np.unique(clusters, return_inverse=True)
    found = [figures(weights[:, index]) for weights in _weights(len(names), len(index))]
    resampled = np.concatenate(found[1:-1])
    seen, resampled, left_out = (_rounded(part, resampled) for part in (found[0][0], resampled, found[-1]))
    return Draws(seen, resampled, left_out, len(index), len(names))


def holm(p: Iterable[float]) -> Array:
    """Holm's (1979) adjusted p-values in the given order, which hold all at once. NaN stay, and count as no test."""
    values = np.array(list(p), dtype=np.float64)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    steps = values[order] * np.arange(len(order), 0, -1)
    values[order] = np.maximum.accumulate(steps).clip(max=1)
    return values


def _weights(clusters: int, width: int) -> Iterator[Array]:
    """How often each of C clusters counts: in what is seen ``[1, C]``; in the resamples, some at a time ``[r, C]``; and without
    each of some groups of clusters ``[G, C]``. width: numbers that a resample is multiplied with."""
    groups = min(clusters, MOST_GROUPS)
    # In random groups: neighbours by name are often of one class, and groups of them would differ by more than chance.
    order = np.random.Generator(np.random.PCG64(clusters)).permutation(clusters)
    yield np.ones((1, clusters))
    yield from _blocks(_resamples(clusters), max(clusters, width))
    yield 1.0 - (order * groups // clusters == np.arange(groups)[:, None])


@functools.lru_cache(maxsize=4)
def _resamples(clusters: int) -> NDArray[np.uint8]:
    """How often each cluster is drawn in each resample, ``[RESAMPLES, clusters]``. The same for all cells of a table, so that their
    intervals move together."""
    generator = np.random.Generator(np.random.PCG64(clusters))
    drawn = (np.bincount(generator.integers(0, clusters, clusters), minlength=clusters) for _ in range(RESAMPLES))
    return np.stack([counts.clip(max=255).astype(np.uint8) for counts in drawn])


def _rounded(values: Array, like: Array) -> Array:
    """Values to 40 bits of the largest of others. The last bits of a sum differ between machines; ranks and intervals count which
    figures are equal, and must not."""
    largest = np.abs(np.nan_to_num(like)).max(initial=2.0**-900)
    unit = 2.0 ** (np.floor(np.log2(largest)) - 40)
    return np.asarray(np.round(values / unit) * unit)


def _alike(known: Mask) -> list[tuple[Mask, Places]]:
    """(items, the methods that have just these), for all methods ``[M, N]``."""
    groups: dict[bytes, list[int]] = {}
    for method, items in enumerate(known):
        groups.setdefault(items.tobytes(), []).append(method)
    return [(known[methods[0]], np.array(methods)) for methods in groups.values()]


def _blocks(weights: NDArray[np.uint8], width: int) -> Iterator[Array]:
    """Some rows at a time, as floats: so many that products of a width stay small."""
    most = max(1, MOST_NUMBERS // width)
    for start in range(0, len(weights), most):
        yield weights[start : start + most].astype(np.float64)


def _quantiles(ordered: Array, levels: Array) -> Array:
    """One quantile of each column of ``[R, K]``, sorted; between two neighbours linearly."""
    place = levels * (len(ordered) - 1)
    down = np.floor(place).astype(np.intp)
    up = np.minimum(down + 1, len(ordered) - 1)
    columns = np.arange(ordered.shape[1])
    low, high = ordered[down, columns], ordered[up, columns]
    return np.asarray(low + (high - low) * (place - down))


def _wilcoxon(gains: Array, clusters: NDArray[np.generic]) -> float:
    _, index = np.unique(clusters, return_inverse=True)
    means = np.bincount(index, weights=gains) / np.bincount(index)
    return float(scipy_stats.wilcoxon(means).pvalue) if means.any() else 1.0
