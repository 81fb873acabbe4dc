"""The test behind every verdict: ranks, marks, compare and gate ask it, and nothing else.

If two methods are alike, a source photograph favours the one as often as the other. So the signs of what each photograph adds to a
difference are flipped at random, many times, and p is how often the difference is then as clear as it was. All differences that are
judged together are flipped by the same signs, and each is compared with the clearest of those that are not clearer than itself: the
step-down max-t method (Westfall and Young 1993, section 2.6). So p allows for how many there are, and for what they have in common.

Exact, up to ties, where two methods could change places within each photograph. Where they have equal means but scores of another
shape, differences are lopsided, and t is too large on one side: there it is shortened by a monotone form of Hall's (1992)
correction for skewness.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.05  # chance of any wrong verdict among all that are judged together
FEWEST = 6  # clusters: where 5 agree, so do 5 by chance once in 16 times
FLIPS = 10_000  # all 2^C of them where that is fewer
AT_ONCE = 1000  # flips that are drawn together
MORE_FLIPS = 50_000  # where a p-value is so close to ALPHA that other flips might decide otherwise
CLOSE = 3  # standard errors of p
MOST_NUMBERS = 2**16  # of one block of flipped sums, which so stays in the processor's cache
ROUNDING = 1e-6  # leads that are this close are equal
FLATTEST = 1e-8  # share of squares that is spread; less is rounding
TINY = 1e-12  # y for no shortening

Array = NDArray[np.float64]


def differ(contributions: Array) -> Array:
    """Two-sided p-values ``[K]``, corrected for all K, that differences are not 0; see ``below``."""
    return _adjusted(contributions, np.abs)


def below(contributions: Array) -> Array:
    """One-sided p-values ``[K]``, corrected for all K, that differences are below 0: small where they are, for sure.

    contributions: ``[C, K]``, what each cluster (source photograph) adds to each difference; NaN where a difference has none of its
    items. A difference without any contribution that is not 0 has p = 1.
    """
    return _adjusted(contributions, np.negative)


def together(parts: Sequence[tuple[NDArray[np.generic], Array]]) -> Array:
    """Contributions of several tables as one ``[C, K]``. parts: names of clusters ``[c]`` and contributions ``[c, k]``; clusters of
    the same name are the same, and flipped together."""
    names = np.unique(np.concatenate([units for units, _ in parts]))
    found = np.full((len(names), sum(values.shape[1] for _, values in parts)), np.nan)
    start = 0
    for units, values in parts:
        found[np.searchsorted(names, units), start : start + values.shape[1]] = values
        start += values.shape[1]
    return found


def _adjusted(contributions: Array, side: np.ufunc) -> Array:
    values = np.nan_to_num(contributions)
    values = np.where(np.abs(values) > 1e-9 * np.abs(values).max(axis=0, initial=0), values, 0.0)  # what rounding left
    some = np.flatnonzero(values.any(axis=0))
    p = np.ones(contributions.shape[1])
    if not len(some):
        return p
    values, clusters = values[:, some], np.isfinite(contributions[:, some]).sum(axis=0)
    seen = side(_Differences.of(values, clusters).leads(np.ones((1, len(values)))))[0]
    order = np.argsort(-seen, kind="stable")
    differences, seen = _Differences.of(values[:, order], clusters[order]), seen[order]
    found = _stepped(differences, seen, side, FLIPS)
    error = np.sqrt(ALPHA * (1 - ALPHA) / FLIPS)
    if 2 ** len(values) > FLIPS and (np.abs(found - ALPHA) < CLOSE * error).any():
        found = _stepped(differences, seen, side, MORE_FLIPS)
    p[some[order]] = found
    return p


def _stepped(differences: _Differences, seen: Array, side: np.ufunc, count: int) -> Array:
    """p-values of differences in the order of their leads, the clearest first. seen: these leads ``[K]``.

    Flips that are as clear as what was seen count half, but for those that flip all or nothing: so hits, of which many flips give
    the same difference, are judged at nearly 5 % and not far below (mid-p, Lancaster 1961).
    """
    above, equal, own, flips = np.zeros(len(seen)), np.zeros(len(seen)), 0, 0
    margin = ROUNDING * np.abs(seen)
    for signs in _signs(len(differences.values), count, len(seen)):
        leads = side(differences.leads(signs))
        clearest = np.maximum.accumulate(leads[:, ::-1], axis=1)[:, ::-1]
        above += (clearest > seen + margin).sum(axis=0)
        equal += (np.abs(clearest - seen) <= margin).sum(axis=0)
        alike = np.abs(signs.sum(axis=1)) == signs.shape[1]
        own += int((side(signs[alike, 0]) == side(1.0)).sum())
        flips += len(signs)
    return np.maximum.accumulate((above + (equal + np.minimum(own, equal)) / 2) / flips)


@dataclass(frozen=True, eq=False)
class _Differences:
    """K differences, and what of them no flip changes. values, cubes: ``[C, K]`` over the number of clusters; the others ``[K]``.

    squares: the mean square. freedom: the root of the number of clusters less 1. against: what turns t times the third moment over
    the cubed spread into y; see ``leads``.
    """

    values: Array
    cubes: Array
    squares: Array
    freedom: Array
    against: Array

    @classmethod
    def of(cls, values: Array, clusters: NDArray[np.intp]) -> _Differences:
        total = (values**2).sum(axis=0)
        skewed = np.abs((values**4).sum(axis=0) * (values != 0).sum(axis=0) - total**2) > ROUNDING * total**2
        against = np.where(skewed, -2 / 3 / np.sqrt(clusters), 0)
        return cls(values / clusters, values**3 / clusters, total / clusters, np.sqrt(np.maximum(clusters - 1, 1)), against)

    def leads(self, signs: Array) -> Array:
        """``[F, K]``: t of each difference under each row of signs ``[F, C]``, shortened where it points against the skewness.

        With g the skewness over the root of C and y = -2/3 g t, Hall's cubic shortens t by the factor 1 - y / 2 while y is small.
        But it is flat near y = 2, where all evidence would count the same; log(1 + y) / y begins alike, and t times it keeps
        rising. A difference that is 0 or of one size everywhere, as that of hits, has no skewness if its mean is 0, and is left
        alone.
        """
        mean = signs @ self.values
        spread = self.squares - mean**2
        np.maximum(spread, FLATTEST * self.squares, out=spread)
        root = np.sqrt(spread)
        t = mean * self.freedom
        t /= root
        if self.against.any():
            y = signs @ self.cubes
            y -= mean * (3 * self.squares - 2 * mean**2)
            y *= t * self.against
            y /= spread * root
            np.maximum(y, TINY, out=y)
            t *= np.log1p(y) / y
        return t


def _signs(clusters: int, count: int, width: int) -> Iterator[Array]:
    """Rows of 1 and -1 ``[f, C]``, some at a time: all 2^C where these are fewer than count, else the seen one and random ones.

    They depend on the number of clusters alone.
    """
    most = max(1, MOST_NUMBERS // width)
    if clusters < 63 and 2**clusters <= count:
        for start in range(0, 2**clusters, most):
            rows = np.arange(start, min(start + most, 2**clusters))
            yield np.where(rows[:, None] >> np.arange(clusters) & 1, -1.0, 1.0)
        return
    random = np.random.Generator(np.random.PCG64(clusters))
    for drawn in range(0, count, AT_ONCE):
        flipped = random.integers(0, 2, (min(AT_ONCE, count - drawn), clusters), dtype=np.int8)
        flipped[0] *= drawn > 0  # what was seen is one of them
        for start in range(0, len(flipped), most):
            yield np.where(flipped[start : start + most], -1.0, 1.0)
