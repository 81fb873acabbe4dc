"""How often tables claim what is not so, and how often they find what is: simulated methods of which it is known who is better.

    python benchmarks/claims.py [--times N] [--claims ranks,gate] [--kinds hits] [--items 20,50] [--methods 2,5,13,30]

``python benchmarks/intervals.py`` runs it too.

Error: the fraction of simulated columns with any false claim, where all methods are equal. It should be 5 % at most; from 1,000
columns it is known to 0.7 %, that of rivals from 125 to 2 %. Power: half of the methods are better, and the fraction of the true
differences that are found.

Claims: *ranks*, all pairs of the methods; *marks*, all methods against three controls; *compare*, all methods in two runs; *gate*,
a loss of any method from one run to the next. Each is judged by xbench's test and, on the same numbers, by rivals: what xbench did
before (bootstrap max-t for ranks, uncorrected intervals for marks, for compare the larger p of Hall's t and flipped signs with
Holm's correction, for the gate Hall's t with Holm's correction), and tests that everybody knows (Holm's correction of paired
t-tests and of Wilcoxon's, and max-t in one step). The power of the best rival stands beside ours, if its error is 6 % at most.

Methods differ in nothing but chance: their scores are exchangeable, except in ``unlike``, where their means alone are equal.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

import xbench.stats.bootstrap
from xbench.stats import agreement, signflip
from xbench.stats.bootstrap import Scores

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
ITEMS, METHODS = (9, 20, 50, 100, 200), (2, 5, 13, 30)
CONTROLS = 3
KINDS = ("independent", "correlated", "skewed", "hits", "thresholds", "unlike")
CLAIMS = ("across", "ranks", "marks", "compare", "gate")
RESAMPLES = 499  # of flips and of the bootstrap rivals: p is as honest from few, only coarser
RIVALS = 8  # one column in so many is judged by rivals, and for power
GRID = np.linspace(0, 1, 2049)
TOGETHER = 0.65  # correlation of the normal numbers behind the scores of one item
THRESHOLDS = np.linspace(0, 1, 8)
FIRST = {"independent": 1.6, "correlated": 1.0, "skewed": 1.0, "hits": 2.2, "thresholds": 4.0, "unlike": 1.0}  # loss at one item


def quantiles(u: Array, a: float, b: float) -> Array:
    """Beta-distributed numbers from uniform ones."""
    return np.interp(u, GRID, stats.beta.ppf(GRID, a, b))


def draw(random: np.random.Generator, kind: str, methods: int, items: int) -> Array:
    """Scores of equally good methods, ``[M, N]``, or hits at thresholds, ``[M, N, V]``."""
    shared = 0.0 if kind == "independent" else TOGETHER
    u = special.ndtr(np.sqrt(shared) * random.normal(size=(1, items)) + np.sqrt(1 - shared) * random.normal(size=(methods, items)))
    if kind == "skewed":
        return quantiles(u, 0.5, 2)
    if kind == "hits":
        return (u < 0.8).astype(float)
    if kind == "thresholds":
        centre = quantiles(u, 3, 4)[..., None]
        return (np.abs(THRESHOLDS - centre) < random.beta(1.5, 3, (methods, items, 1)) * 0.6).astype(float)
    if kind == "unlike":
        return np.where(np.arange(methods)[:, None] % 2 == 0, quantiles(u, 0.5, 2), quantiles(u, 4, 16))
    return quantiles(u, 2, 3)


def worsened(random: np.random.Generator, kind: str, scores: Array, items: int) -> Array:
    """Scores with a loss that one comparison of two methods finds in some four of five columns."""
    loss = FIRST[kind] / np.sqrt(items)
    if kind in ("hits", "thresholds"):
        return scores * (random.random((*scores.shape[:2], *[1] * (scores.ndim - 2))) >= loss)
    return scores - loss * random.gamma(2, 0.5, scores.shape)


def judged(claim: str, methods: int) -> tuple[int, NDArray[np.intp]]:
    """(how many rows of scores a claim needs, its pairs ``[P, 2]``)."""
    if claim == "ranks":
        return methods, np.stack(np.triu_indices(methods, 1), axis=1)
    if claim == "marks":
        pairs = [(m, methods + c) for m in range(methods) for c in range(CONTROLS)]
        return methods + CONTROLS, np.array(pairs)
    return 2 * methods, np.stack([np.arange(methods), methods + np.arange(methods)], axis=1)


def truly(claim: str, methods: int, pairs: NDArray[np.intp]) -> tuple[NDArray[np.intp], Mask]:
    """(which rows are worse where there are differences, the pairs ``[P]`` that then differ)."""
    half = methods // 2
    worse = {"ranks": np.arange(half, methods), "marks": np.r_[half:methods, methods : methods + CONTROLS]}
    lost = worse.get(claim, methods + np.arange(half))
    return lost, np.isin(pairs[:, 0], lost) != np.isin(pairs[:, 1], lost)


def holm(p: Array) -> Array:
    order = np.argsort(p, kind="stable")
    found = np.empty(len(p))
    found[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return found


def hall(d: Array) -> Array:
    """One-sided p that means are not below 0, by Hall's transformation of t, as xbench had it."""
    count, error = len(d), d.std(axis=0, ddof=1) / np.sqrt(len(d))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(error > 0, d.mean(axis=0) / error, np.where(d.mean(axis=0) < 0, -np.inf, np.inf))
        gamma = np.nan_to_num(stats.skew(d, axis=0)) / np.sqrt(count)
        bent = t + gamma * t**2 / 3 + gamma**2 * t**3 / 27 + gamma / 6
    return np.where(np.isfinite(t), stats.t.cdf(bent, count - 1), np.where(t < 0, 0.0, 1.0))


def flipped(random: np.random.Generator, d: Array) -> Array:
    signs = np.where(random.random((RESAMPLES, len(d))) < 0.5, -1.0, 1.0)
    return (np.abs(signs @ d) >= np.abs(d.sum(axis=0)) * (1 - 1e-9)).mean(axis=0)


def bootstrap_max_t(random: np.random.Generator, d: Array) -> Mask:
    """What ranks did before: a lead counts where it is above what the largest exceeds in 5 % of resamples."""
    weights = random.multinomial(len(d), np.full(len(d), 1 / len(d)), RESAMPLES)
    lead = d.mean(axis=0)
    away = weights @ d / len(d) - lead
    error = away.std(axis=0)
    error = np.where(error > 1e-12, error, 0.0)
    largest = (np.abs(away) / np.where(error > 0, error, np.inf)).max(axis=1, initial=0)
    return np.abs(lead) > np.quantile(largest, 0.95) * error


def one_step(random: np.random.Generator, d: Array) -> Array:
    """p of the largest lead of any difference, by flipped signs."""
    signs = np.where(random.random((RESAMPLES, len(d))) < 0.5, -1.0, 1.0)
    size = np.sqrt((d**2).sum(axis=0))
    size = np.where(size > 0, size, np.inf)
    largest = np.abs(signs @ (d / size)).max(axis=1)
    return (largest[:, None] >= np.abs(d.sum(axis=0)) / size * (1 - 1e-9)).mean(axis=0)


def quietly(test: Callable[[Array], Array], d: Array) -> Array:
    """p of a test in each column; 1 where it gives none."""
    with np.errstate(all="ignore"):
        return np.nan_to_num(np.asarray(test(d)), nan=1.0)


def ours(claim: str, found: Array) -> Mask:
    """The pairs that xbench tells apart, of what items contribute to their differences."""
    sure = (signflip.below if claim == "gate" else signflip.differ)(found) < signflip.ALPHA
    return sure & ((found.sum(axis=0) > 0) | (claim != "marks"))  # whether a method is worse than a control, no mark says


def rivals(random: np.random.Generator, claim: str, found: Array, scores: Scores, pairs: list[tuple[int, int]]) -> dict[str, Mask]:
    """Rule -> the pairs that it tells apart."""
    d = found * len(found)
    way = (found.sum(axis=0) > 0) | (claim != "marks")
    if claim == "gate":
        return {
            "before": holm(hall(d)) < 0.05,
            "Holm, t": holm(quietly(lambda d: stats.ttest_1samp(d, 0, alternative="less").pvalue, d)) < 0.05,
        }
    if claim == "ranks":
        before = bootstrap_max_t(random, d)
    elif claim == "marks":
        before = np.array([gain.low > 0 for gain in scores.differences(pairs)])
    else:
        low = hall(d)
        before = holm(np.maximum(2 * np.minimum(low, 1 - low), flipped(random, d))) < 0.05
    done = {"before": before, "Holm, t": (holm(quietly(lambda d: stats.ttest_1samp(d, 0).pvalue, d)) < 0.05) & way}
    if len(pairs) <= 100:
        done["Holm, Wilcoxon"] = (holm(quietly(lambda d: stats.wilcoxon(d, axis=0, method="asymptotic").pvalue, d)) < 0.05) & way
    return done | {"one step": (one_step(random, d) < 0.05) & way}


def simulate(claim: str, kind: str, items: int, methods: int, times: int, seed: int) -> tuple[dict[str, list], dict[str, list]]:
    """(rule -> whether each column has a false claim; rule -> the fraction of true differences that it found in each)."""
    signflip.FLIPS = signflip.MORE_FLIPS = xbench.stats.bootstrap.RESAMPLES = RESAMPLES
    random = np.random.default_rng([CLAIMS.index(claim), KINDS.index(kind), items, methods, seed])
    rows, places = judged(claim, methods)
    pairs = [(int(a), int(b)) for a, b in places]
    lost, differ = truly(claim, methods, places)
    wrong: dict[str, list] = {}
    right: dict[str, list] = {}
    for place in range(times):
        equal = draw(random, kind, rows, items)
        scores, found = contributed(claim, equal, pairs)
        done = {"xbench": ours(claim, found)}
        if place % RIVALS == 0:
            done |= rivals(random, claim, found, scores, pairs)
        for rule, sure in done.items():
            wrong.setdefault(rule, []).append(bool(sure.any()))
        if place % RIVALS == 0:
            equal[lost] = worsened(random, kind, equal[lost], items)
            scores, found = contributed(claim, equal, pairs)
            for rule, sure in ({"xbench": ours(claim, found)} | rivals(random, claim, found, scores, pairs)).items():
                right.setdefault(rule, []).append(float(sure[differ].mean()))
    return wrong, right


def contributed(claim: str, data: Array, pairs: list[tuple[int, int]]) -> tuple[Scores, Array]:
    """(scores, what their items contribute to the differences of pairs; of the gate, from the first run to the second)."""
    values = data if data.ndim == 3 else data[..., None]
    scores = Scores(values, np.ones(values.shape[:2], bool), np.arange(values.shape[1]), "best" if data.ndim == 3 else "mean")
    found = scores.contributions(pairs)
    return scores, -found if claim == "gate" else found


def across(methods: int, datasets: int, models: int, times: int) -> tuple[float, float]:
    """Per cent of Friedman's tests of equal methods that find some better, or by Nemenyi's difference tell two apart.

    With a dataset as one block, and with each model on it as one, as xbench did before.
    """
    random = np.random.default_rng([methods, datasets, models])
    wrong = np.zeros(2)
    for _ in range(times):
        figures = random.normal(size=(datasets, 1, methods)) + random.normal(size=(datasets, models, methods))
        ranked = agreement.ranks(figures.reshape(-1, methods)).reshape(figures.shape)
        for i, blocks in enumerate((-ranked.mean(axis=1), figures.reshape(-1, methods))):
            mean = agreement.ranks(blocks).mean(axis=0)
            apart = np.ptp(mean) > agreement.critical_difference(*blocks.shape)
            wrong[i] += apart or agreement.friedman(blocks)[1] < signflip.ALPHA
    return float(100 * wrong[0] / times), float(100 * wrong[1] / times)


def run(times: int, claims: list[str], kinds: list[str], items: list[int], methods: list[int]) -> None:
    if "across" in claims:
        print("tests across datasets, two models on each: error in %, before -> now")
        for m in (3, 5, 13, 30):
            each = [(n, *across(m, n, 2, times)) for n in (2, 3, 5, 10)]
            print(f"{m:3} methods: " + ", ".join(f"{n} datasets {before:.1f} -> {now:.1f}" for n, now, before in each), flush=True)
    parts = 4
    with ProcessPoolExecutor(2) as pool:
        for claim in (claim for claim in claims if claim != "across"):
            jobs = {
                (kind, n, m): [pool.submit(simulate, claim, kind, n, m, times // parts, part) for part in range(parts)]
                for kind in kinds
                for n in items
                for m in methods
            }
            cells = {}
            for place, job in jobs.items():
                cells[place] = cell([part.result() for part in job])
                print(f"\r{claim}: {len(cells)} of {len(jobs)}", end="", file=sys.stderr, flush=True)
            heads = "".join(f"{f'{m} methods':>16}" for m in methods)
            for what, texts in (
                ("error in %, before -> now", {place: f"{was:5.1f} -> {now:4.1f}" for place, (was, now, *_) in cells.items()}),
                (
                    "power, in brackets of the best rival",
                    {place: f"{power:.2f} {rival}" for place, (*_, power, rival) in cells.items()},
                ),
            ):
                print(f"\n{f'{claim}: {what}':44}items{heads}")
                for kind in kinds:
                    for n in items:
                        print(f"{kind:44}{n:5}" + "".join(f"{texts[kind, n, m]:>16}" for m in methods), flush=True)


def cell(done: list[tuple[dict[str, list], dict[str, list]]]) -> tuple[float, float, float, str]:
    """(error before and now in %, power, that of the best rival which holds its error, in brackets)."""
    rules = list(done[0][1])
    error = {rule: 100 * float(np.mean(np.concatenate([wrong[rule] for wrong, _ in done]))) for rule in rules}
    power = {rule: float(np.mean(np.concatenate([right[rule] for _, right in done]))) for rule in rules}
    valid = [power[rule] for rule in rules if rule != "xbench" and error[rule] <= 6]
    return error["before"], error["xbench"], power["xbench"], f"({max(valid):.2f})" if valid else "(none)"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=1000, help="simulated columns per figure")
    for name, default in (("claims", CLAIMS), ("kinds", KINDS), ("items", ITEMS), ("methods", METHODS)):
        parser.add_argument(f"--{name}", default=",".join(map(str, default)), help="comma-separated")
    options = parser.parse_args()
    items, methods = ([int(n) for n in text.split(",")] for text in (options.items, options.methods))
    run(options.times, options.claims.split(","), options.kinds.split(","), items, methods)


if __name__ == "__main__":
    main()
