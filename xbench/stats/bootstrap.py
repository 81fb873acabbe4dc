"""Figures with honest error bars: what methods score on the same items, resampled by clusters (source photographs).

Within one column of a table: intervals, paired differences and their tests, ranks. Across columns: see tables/consensus.py.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special
from scipy import stats as scipy_stats

from xbench.plugins import reductions
from xbench.stats import roc, signflip

RESAMPLES = 2000
CONFIDENCE = 0.95
FEW_CLUSTERS = 50  # with fewer, an interval is approximate (docs/statistics.md has its coverage)
FEWEST_POOLED = 20  # clusters: with fewer, figures that are no means differ by chance too often for any claim
MOST_UNITS = 200  # of clusters that are left out or flipped together; more tell little more about a figure
MOST_NUMBERS = 2**21  # of one block of resampled sums
ROUNDING = 1e-5  # values that are this close are equal: so much do they differ with the machine and the order of sums
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
class Test:
    """A difference, judged among all of a family. gain: positive where the first is better. p: two-sided, corrected for all."""

    gain: float
    p: float

    @property
    def better(self) -> int | None:
        """Which side is better for sure, 0 or 1; None where that cannot be said."""
        return None if self.p >= signflip.ALPHA or not self.gain else int(self.gain < 0)


@dataclass(frozen=True)
class Comparison:
    """a minus b on the items that both have, oriented so that positive means that a is better.

    test: of this difference alone. superiority: share of items on which a is better, ties counted half. wilcoxon: two-sided p of
    the signed-rank test on cluster means. Both are NaN for figures that are not means.
    """

    difference: Estimate
    superiority: Estimate
    test: Test
    wilcoxon: float


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
    """K figures ``[K]``, the same in each resample ``[R, K]``, and with each unit left out ``[U, K]``.

    units: names ``[U]`` of what is left out in turn: clusters, or groups of them where there are many. shares: of the items
    ``[U]``. smooth: whether figures are smooth functions of the items, such as means; the best of several thresholds is not.
    """

    figures: Array
    resampled: Array
    left_out: Array
    units: NDArray[np.generic]
    shares: Array
    items: int
    clusters: int
    smooth: bool = True

    def minus(self, a: Places, b: Places) -> Draws:
        """The differences of some of the figures from others, from the same resamples."""
        figures, resampled, left_out = (part[..., a] - part[..., b] for part in (self.figures, self.resampled, self.left_out))
        return dataclasses.replace(self, figures=figures, resampled=resampled, left_out=left_out)

    def beside(self, other: Draws) -> Draws:
        """These figures and others of the same items."""
        ours = (self.figures, self.resampled, self.left_out)
        theirs = (other.figures, other.resampled, other.left_out)
        figures, resampled, left_out = (np.concatenate(pair, axis=-1) for pair in zip(ours, theirs, strict=True))
        smooth = self.smooth and other.smooth
        return dataclasses.replace(self, figures=figures, resampled=resampled, left_out=left_out, smooth=smooth)

    def contributions(self) -> Array:
        """What each unit adds to the figures, ``[U, K]``; over the units they sum to them.

        To a mean, the sum of its items over their number. To any other figure, by what changes without the unit: the jackknife's
        pseudo-values (Tukey 1958).
        """
        if len(self.left_out) < 2:
            return self.figures[None]
        added = self.figures - (1 - self.shares[:, None]) * self.left_out
        return added + (self.figures - added.sum(axis=0)) / len(added)

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

    def errors(self) -> Array:
        """Standard errors ``[K]``, by the jackknife."""
        return self._influence()[0]

    def _influence(self) -> tuple[Array, Array]:
        """(standard error, skewness of what each unit adds), ``[K]`` each."""
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
    reduce: how items become a figure (reductions.py). higher: whether more is better. classes: ``[N]``, what ``class_mean``
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

    @property
    def fewest(self) -> int:
        """Clusters that a claim takes at least."""
        return FEWEST_POOLED if reductions.is_vector(self.reduce) else signflip.FEWEST

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

    def tests(self, pairs: Sequence[tuple[int, int]]) -> list[Test]:
        """Whether a and b differ, for pairs (a, b) of methods that are judged together, each on the items of both."""
        contributions = self.contributions(pairs)
        gains = np.nansum(contributions, axis=0)
        return [Test(float(gain), float(p)) for gain, p in zip(gains, signflip.differ(contributions), strict=True)]

    def contributions(self, pairs: Sequence[tuple[int, int]]) -> Array:
        """What each unit of clusters adds to a minus b for pairs (a, b), ``[U, P]``, positive where a is better.

        0 where the two differ by rounding alone, or clusters are too few for a claim; NaN where a pair has no item of a unit.
        """
        found = np.full((len(self.units), len(pairs)), np.nan)
        if not pairs:
            return found
        a, b = np.array(pairs).T
        for items, some in _alike(self.known[a] & self.known[b]):
            if items.any():
                methods, places = np.unique(np.stack([a[some], b[some]]), return_inverse=True)
                draws = self.draws(methods, items)
                ours, theirs = (draws.contributions()[:, side] for side in places.reshape(2, -1))
                same = np.isclose(ours, theirs, rtol=ROUNDING, atol=ROUNDING**2 * np.abs(ours).max(initial=0))
                same |= draws.clusters < self.fewest
                gained = np.where(same, 0.0, self.sign * (ours - theirs))
                found[np.ix_(np.searchsorted(self.units, draws.units), some)] = gained
        return found

    def compare(self, a: int, b: int) -> Comparison:
        """All that is to be said of two methods on the items of both."""
        items = self.known[a] & self.known[b]
        (difference,) = self.differences([(a, b)])
        if not items.any():
            return Comparison(difference, NONE, Test(math.nan, math.nan), math.nan)
        (test,) = self.tests([(a, b)])
        if self.reduce != "mean":
            return Comparison(difference, NONE, test, math.nan)
        gain = self.sign * (self.data[a, :, 0] - self.data[b, :, 0])
        better = Scores(((np.sign(gain) + 1) / 2)[None, :, None], items[None], self.clusters)
        return Comparison(difference, better.estimates()[0], test, _wilcoxon(gain[items], self.clusters[items]))

    def ranks(self, methods: Sequence[int], tests: Mapping[tuple[int, int], Test] | None = None) -> list[Rank]:
        """Ranks among some methods. Places are on the items that all of them have; there must be one.

        tests: of all pairs (a, b) with a before b in ``methods``, where they are known already.
        """
        if not len(methods):
            return []
        pairs = list(itertools.combinations(methods, 2))
        if tests is None:
            tests = dict(zip(pairs, self.tests(pairs), strict=True))
        behind = dict.fromkeys(methods, 0)
        for pair in pairs:
            if (side := tests[pair].better) is not None:
                behind[pair[1 - side]] += 1
        chosen = np.array(methods, dtype=np.intp)
        draws = self.draws(chosen, np.asarray(self.known[chosen].all(axis=0)))
        figures, resampled = self.sign * draws.figures, self.sign * draws.resampled
        places = 1 + (figures[None, :] > figures[:, None]).sum(axis=1)
        drawn = 1 + (resampled[:, None, :] > resampled[:, :, None]).sum(axis=2)
        low, high = np.percentile(drawn, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)], axis=0, method="nearest")
        return [Rank(1 + behind[m], *map(int, found)) for m, *found in zip(methods, places, low, high, strict=True)]

    def gains(self, a: int, b: int) -> Draws:
        """a minus b as one figure, on the items of both, oriented so that positive means that a is better."""
        return self._minus(np.array([a]), np.array([b]), self.known[a] & self.known[b])

    @functools.cached_property
    def _unit_of(self) -> tuple[NDArray[np.generic], Places]:
        """(all clusters ``[C]``, sorted; of which unit each is, 0, 1, ...)."""
        names = np.unique(self.clusters)
        return names, _units(len(names))

    @property
    def units(self) -> NDArray[np.generic]:
        """The units of clusters that are left out and flipped together, each by its first cluster; sorted."""
        names, unit = self._unit_of
        return np.asarray(names[np.unique(unit, return_index=True)[1]])

    def draws(self, methods: Places, items: Mask) -> Draws:
        """The figures of some methods over some items, which all of them must have."""
        names, index = np.unique(self.clusters[items], return_inverse=True)
        every, unit_of = self._unit_of
        there, unit = np.unique(unit_of[np.searchsorted(every, names)], return_inverse=True)
        width = self.data.shape[2] if self.classes is None else int(self.classes.max()) + 1
        many = max(1, MOST_NUMBERS // (RESAMPLES * width))
        kept = self._kept.setdefault(items.tobytes(), {})  # estimates, ranks and differences ask for the same ones
        new = [m for m in methods.tolist() if m not in kept]
        for some in (new[i : i + many] for i in range(0, len(new), many)):
            parts = self._resampled(np.array(some), items, index, unit)
            kept.update({m: (parts[0][..., k], parts[1][..., k], parts[2][..., k]) for k, m in enumerate(some)})
        figures, resampled, left_out = (np.stack([kept[m][i] for m in methods.tolist()], axis=-1) for i in range(3))
        if len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        figures, resampled, left_out = (_rounded(part, resampled) for part in (figures, resampled, left_out))
        shares = np.bincount(unit[index]) / len(index)
        units, clusters, smooth = self.units[there], len(names), reductions.is_smooth(self.reduce)
        if not reductions.is_mean(self.reduce):  # a resample without one of the sides says nothing
            drawable, usable = (np.isfinite(part).all(axis=-1) for part in (resampled, left_out))
            resampled, left_out, units, shares = resampled[drawable], left_out[usable], units[usable], shares[usable]
            clusters = roc.clusters(self.data[methods[0], items], index)
        return Draws(figures, resampled, left_out, units, shares, len(index), clusters, smooth)

    def _minus(self, a: Places, b: Places, items: Mask) -> Draws:
        some, places = np.unique(np.stack([a, b] if self.higher else [b, a]), return_inverse=True)
        return self.draws(some, items).minus(*places.reshape(2, -1))

    def _resampled(self, methods: Places, items: Mask, index: Places, unit: Places) -> tuple[Array, Array, Array]:
        """(figures, resampled, left out), as in Draws. index: of each item's cluster. unit: of each cluster."""
        if not reductions.is_mean(self.reduce):
            vectors = self.data[np.ix_(methods, items)]
            areas = [
                np.stack([roc.areas(v, weights[:, index]) for v in vectors], axis=-1) for weights in _weights(unit, len(index))
            ]
            return areas[0][0], np.concatenate(areas[1:-1]), areas[-1]
        sums, counts = self._sums(methods, items, index)
        with np.errstate(invalid="ignore"):  # of one cluster alone nothing is left
            found = [self._figures(weights @ sums, weights @ counts) for weights in _weights(unit, sums.shape[1])]
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


def may_be(chance: float, hits: NDArray[np.bool_], clusters: NDArray[np.generic]) -> bool:
    """Whether hits cannot be told from chance (5 %, one-sided binomial test over clusters), and are nearer to it than to all.

    Where there are too few for a test to say anything, they are not called chance if most of them are right.
    """
    _, index = np.unique(clusters, return_inverse=True)
    shares = np.bincount(index, weights=hits) / np.bincount(index)
    likely = scipy_stats.binom.sf(math.ceil(shares.sum() - 1e-9) - 1, len(shares), chance)
    return bool(likely >= signflip.ALPHA and shares.mean() < (1 + chance) / 2)


def draws(figures: Callable[[Array], Array], clusters: NDArray[np.generic]) -> Draws:
    """Draws of figures that are no means, such as areas under curves: they are computed anew from how often each item counts.

    figures: ``[R, N]`` -> ``[R, K]``. clusters: ``[N]``, names or numbers.
    """
    names, index = np.unique(clusters, return_inverse=True)
    unit = _units(len(names))
    found = [figures(weights[:, index]) for weights in _weights(unit, len(index))]
    resampled = np.concatenate(found[1:-1])
    seen, resampled, left_out = (_rounded(part, resampled) for part in (found[0][0], resampled, found[-1]))
    shares = np.bincount(unit[index]) / len(index)
    return Draws(seen, resampled, left_out, np.arange(len(shares)), shares, len(index), len(names))


def _units(clusters: int) -> Places:
    """Of which unit each cluster is; units are numbered in the order of their first clusters."""
    if clusters <= MOST_UNITS:
        return np.arange(clusters)
    # In random groups: neighbours by name are often of one class, and groups of them would differ by more than chance.
    group = np.random.Generator(np.random.PCG64(clusters)).permutation(clusters) * MOST_UNITS // clusters
    first = np.unique(group, return_index=True)[1]
    return np.asarray(np.argsort(np.argsort(first))[group])


def _weights(unit: Places, width: int) -> Iterator[Array]:
    """How often each of C clusters counts: in what is seen ``[1, C]``; in the resamples, some at a time ``[r, C]``; and without
    each unit ``[U, C]``. unit: of each cluster. width: numbers that a resample is multiplied with."""
    clusters = len(unit)
    yield np.ones((1, clusters))
    yield from _blocks(_resamples(clusters), max(clusters, width))
    yield 1.0 - (unit == np.arange(unit.max() + 1)[:, None])


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
