"""How often the 95 % intervals contain the truth: simulated scores whose population mean is known. And how often claims are wrong.

    python benchmarks/intervals.py [--draws N] [--figure FILE] [--only intervals]

What is claimed of methods (ranks, marks, compare, gate) is simulated by claims.py, which runs after the intervals.

Scores are bounded and skewed, as metrics are, and independent, or in clusters (2 to 5 items of one picture, whose scores correlate
by 0.3 to 0.6). For each distribution and number of clusters 2,000 data sets are drawn, and the share of those is printed whose
interval contains the truth: for single figures (``Scores.estimates``), for paired differences of two methods on the same items
(``Scores.differences``), and, to compare, for plain percentile intervals of the same resamples. Such a share has a standard error
of 0.5 %.

Data sets stand side by side as the methods of one Scores object, and so share their resamples. That is no short cut: resamples
depend on the number of clusters alone, so a user's intervals rest on the very same ones. Cluster sizes are drawn anew for each 100
data sets.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import claims  # beside this script
import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from xbench.stats.bootstrap import CONFIDENCE, Estimate, Scores

Array = NDArray[np.float64]
CLUSTERS = (20, 50, 100, 200, 1000)
AT_ONCE = 100  # data sets of equal cluster sizes
TOGETHER = 0.65  # correlation of the normal numbers behind items of one cluster; that of their scores is lower
PAIRED = 0.15  # what two methods share on an item beyond its cluster
GRID = np.linspace(0, 1, 4097)
THRESHOLDS = np.linspace(0, 1, 16)
GOAL = (93.0, 97.0)


@dataclass(frozen=True)
class Population:
    """Scores of items. draw: standard normal numbers ``[2, ...]`` -> scores ``[..., V]``. truth: the figure of the population."""

    draw: Callable[[Array], Array]
    truth: float
    reduce: str = "mean"


def values(quantiles: Array) -> Population:
    """Scores by their quantiles on GRID, linear in between, so that their mean is exact."""
    return Population(lambda z: np.interp(special.ndtr(z[0]), GRID, quantiles)[..., None], float(np.trapezoid(quantiles, GRID)))


def beta(a: float, b: float) -> Population:
    return values(stats.beta.ppf(GRID, a, b))


def often_zero(share: float, a: float, b: float) -> Population:
    """Zero for a share of the items, and Beta(a, b) for the others."""
    return values(stats.beta.ppf(((GRID - share) / (1 - share)).clip(0), a, b))


def hits(p: float) -> Population:
    """1 with probability p, else 0."""
    return Population(lambda z: (special.ndtr(z[0]) < p)[..., None].astype(float), p)


def best_hits(widest: float) -> Population:
    """Hits at each threshold, as box accuracy has them: of an item in an interval around a centre of its own, up to ``widest``."""
    centre, width = stats.beta(3, 4), stats.beta(1.5, 3, scale=widest)
    centres, widths = centre.ppf(GRID), width.ppf(GRID)

    def draw(z: Array) -> Array:
        where, reach = (
            np.interp(special.ndtr(part), GRID, table)[..., None] for part, table in zip(z, (centres, widths), strict=True)
        )
        return (np.abs(THRESHOLDS - where) < reach).astype(float)

    exact = [np.trapezoid(width.sf(np.abs(t - centres)), GRID) for t in THRESHOLDS]
    return Population(draw, float(max(exact)), "best")


def best_overlap(steep: float) -> Population:
    """An overlap at each threshold, as mask IoU has them: of an item highest at a threshold of its own, and lower away from it."""
    peaks, heights = stats.beta.ppf(GRID, 2, 5), stats.beta.ppf(GRID, 6, 2)

    def draw(z: Array) -> Array:
        where, height = (
            np.interp(special.ndtr(part), GRID, table)[..., None] for part, table in zip(z, (peaks, heights), strict=True)
        )
        return np.asarray(height * np.exp(-steep * np.abs(THRESHOLDS - where)))

    exact = [np.trapezoid(heights, GRID) * np.trapezoid(np.exp(-steep * np.abs(t - peaks)), GRID) for t in THRESHOLDS]
    return Population(draw, float(max(exact)), "best")


METHODS = {  # a method and another, better or worse
    "Beta(0.5, 2)": (beta(0.5, 2), beta(0.8, 2)),
    "Beta(5, 0.7)": (beta(5, 0.7), beta(5, 1)),
    "zero for 60 %, else Beta(2, 3)": (often_zero(0.6, 2, 3), often_zero(0.5, 2, 3)),
    "hit or miss, 85 % hits": (hits(0.85), hits(0.78)),
    "best of 16 thresholds, overlaps": (best_overlap(3), best_overlap(4)),
    "best of 16 thresholds, hits": (best_hits(0.5), best_hits(0.4)),
}


def simulate(random: np.random.Generator, pair: tuple[Population, Population], count: int, clustered: bool) -> tuple[Scores, int]:
    """AT_ONCE data sets of one method as methods 0, 1, ... and of the other, on the same items, after them; and how many items."""
    sizes = random.integers(2, 6, count) if clustered else np.ones(count, dtype=int)
    cluster = np.repeat(np.arange(count), sizes)
    shared = np.sqrt(TOGETHER) * random.normal(size=(2, AT_ONCE, count))[..., cluster]
    alike = shared + np.sqrt(PAIRED) * random.normal(size=(2, AT_ONCE, len(cluster)))
    own = np.sqrt(1 - TOGETHER - PAIRED)
    data = np.concatenate([method.draw(alike + own * random.normal(size=alike.shape)) for method in pair])
    return Scores(data, np.ones(data.shape[:2], dtype=bool), cluster, pair[0].reduce), len(cluster)


def contained(estimates: list[Estimate], truth: float) -> int:
    return sum(e.low <= truth <= e.high for e in estimates)


def coverage(random: np.random.Generator, pair: tuple[Population, Population], count: int, clustered: bool, draws: int) -> Array:
    """Per cent of the intervals that contain the truth: single figures, paired differences, single figures by percentiles."""
    found = np.zeros(3)
    (ours, theirs), first = pair, np.arange(AT_ONCE)
    for _ in range(draws // AT_ONCE):
        scores, items = simulate(random, pair, count, clustered)
        drawn = scores.draws(first, np.ones(items, dtype=bool))
        low, high = np.percentile(drawn.resampled, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)], axis=0)
        gains = scores.differences([(k, k + AT_ONCE) for k in range(AT_ONCE)])
        found += (
            contained(scores.estimates()[:AT_ONCE], ours.truth),
            contained(gains, ours.truth - theirs.truth),
            ((low <= ours.truth) & (ours.truth <= high)).sum(),
        )
    return 100 * found / (draws // AT_ONCE * AT_ONCE)


def show(title: str, rows: dict[str, Array]) -> None:
    print(f"\n{title:49}" + "".join(f"{count:>8}" for count in CLUSTERS) + "  clusters")
    for name, shares in rows.items():
        outside = [share for share, count in zip(shares, CLUSTERS, strict=True) if count >= 100 and not GOAL[0] <= share <= GOAL[1]]
        print(f"{name:49}" + "".join(f"{share:8.1f}" for share in shares) + ("  outside 93 to 97" if outside else ""))


def plot(path: Path, ours: dict[str, Array], percentile: dict[str, Array]) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "xbench"  # the same file from the same figures
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, title, rows in zip(axes, ("percentile bootstrap", "the intervals of xbench"), (percentile, ours), strict=True):
        axis.axhspan(*GOAL, color="0.9")
        for i, (name, shares) in enumerate(rows.items()):
            style = "-" if i % 2 == 0 else "--"
            axis.plot(
                range(len(CLUSTERS)),
                shares,
                style,
                color=f"C{i // 2}",
                label=name.rpartition(",")[0] if i % 2 == 0 else None,
                linewidth=1.3,
            )
        axis.set(title=title, xlabel="clusters", xticks=range(len(CLUSTERS)), xticklabels=CLUSTERS, ylim=(80, 100))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("intervals with the truth, %")
    axes[1].legend(
        fontsize=7, frameon=False, loc="lower right", title="solid: independent items\ndashed: in clusters", title_fontsize=7
    )
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draws", type=int, default=2000, help=f"data sets per figure, a multiple of {AT_ONCE}")
    parser.add_argument("--figure", type=Path, help="SVG or PNG to draw")
    parser.add_argument("--only", choices=("intervals", "claims"), help="one of the two [both]")
    options = parser.parse_args()
    if options.only != "claims":
        intervals(options.draws, options.figure)
    if options.only != "intervals":
        print()
        claims.run(options.draws // 2, list(claims.CLAIMS), list(claims.KINDS), list(claims.ITEMS), list(claims.METHODS))


def intervals(draws: int, figure: Path | None) -> None:
    random = np.random.default_rng(0)
    found = {
        f"{name}, {'in clusters' if clustered else 'independent'}": np.array(
            [coverage(random, pair, count, clustered, draws) for count in CLUSTERS]
        )
        for name, pair in METHODS.items()
        for clustered in (False, True)
    }
    single, paired, percentile = ({name: shares[:, i] for name, shares in found.items()} for i in range(3))
    print(f"per cent of 95 % intervals that contain the truth, {draws} data sets each; goal: 93 to 97 from 100 clusters on")
    show("single figures", single)
    show("paired differences", paired)
    show("single figures, percentile bootstrap", percentile)
    if figure:
        plot(figure, single, percentile)


if __name__ == "__main__":
    main()
