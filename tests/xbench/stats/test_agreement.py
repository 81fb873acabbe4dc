"""Friedman, Nemenyi, Kendall: against hand-made ranks, Demsar's example, and plain loops."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from xbench.stats import agreement
from xbench.stats.bootstrap import Estimate, Rank
from xbench.tables import consensus
from xbench.tables.leaderboard import Cell, Line, Table
from xbench.tables.panels import Column

# Table 6 of Demsar (2006): AUC of C4.5 with and without two parameters on 14 datasets. On `voting` the last two figures are printed
# alike, yet ranked apart.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)


def table(model, columns, skipped=()):
    """columns: (dataset, metric, direction) -> {method: figure}."""
    made = [
        Column(f"{d} {m}", d, m, direction, 9, protocol="label" if "label" in m else "prediction") for d, m, direction in columns
    ]
    names = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    lines = []
    for name in names:
        cells = []
        for figures in columns.values():
            known = name in figures and name not in skipped
            estimate = Estimate(figures.get(name, math.nan), 0, 1, 9, 9)
            cells.append(Cell(estimate, rank=Rank(1, 1, 1, 1) if known else None))
        lines.append(Line(name, False, "run", cells, 1, 1, 1))
    control = Line("random", True, "run", [Cell(Estimate(9, 9, 9, 9, 9)) for _ in columns], 1, 1, 1)
    return Table(model, made, [*lines, control], [])


def test_ranks_share_their_mean():
    assert agreement.ranks(np.array([[0.5, 0.9, 0.5, 0.1]])).tolist() == [[2.5, 1, 2.5, 4]]
    assert agreement.ranks(np.array([[0.3, 0.1 + 0.2]])).tolist() == [[1.5, 1.5]]  # the last digit is no difference


def test_demsars_example():
    mean = agreement.ranks(DEMSAR).mean(axis=0)
    assert mean == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    uncorrected = 12 * 14 / (4 * 5) * ((mean**2).sum() - 4 * 5**2 / 4)
    assert uncorrected == pytest.approx(9.28, abs=0.005)
    # The paper leaves ties uncorrected; their correction divides by this.
    ties = sum(count**3 - count for row in DEMSAR for count in np.unique(row, return_counts=True)[1])
    statistic, p = agreement.friedman(DEMSAR)
    assert statistic == pytest.approx(uncorrected / (1 - ties / (14 * 4 * 15)))
    assert p == pytest.approx(scipy.stats.chi2.sf(statistic, 3))
    assert agreement.critical_difference(14, 4) == pytest.approx(1.25, abs=0.005)


@pytest.mark.parametrize(("methods", "q"), [(3, 2.343), (4, 2.569), (7, 2.949), (10, 3.164)])  # table 5 (a) of Demsar (2006)
def test_critical_difference(methods, q):
    assert agreement.critical_difference(6, methods) == pytest.approx(q * math.sqrt(methods * (methods + 1) / 36), rel=1e-3)


def test_figures_that_are_all_equal_show_no_difference():
    assert agreement.friedman(np.full((4, 3), 0.3)) == (0.0, 1.0)


def test_tau_against_a_plain_loop_and_scipys():
    rng = np.random.default_rng(0)
    figures = rng.integers(0, 5, (4, 9)).astype(float)
    figures[2, :3] = np.nan
    found = agreement.taus(figures)
    for i, j in itertools.product(range(4), repeat=2):
        a, b = figures[i], figures[j]
        agree, ties_a, ties_b, pairs = 0, 0, 0, 0
        for m, n in itertools.combinations(np.flatnonzero(np.isfinite(a) & np.isfinite(b)), 2):
            agree += np.sign(a[m] - a[n]) * np.sign(b[m] - b[n])
            ties_a, ties_b, pairs = ties_a + (a[m] == a[n]), ties_b + (b[m] == b[n]), pairs + 1
        assert found[i, j] == pytest.approx(agree / math.sqrt((pairs - ties_a) * (pairs - ties_b)))
        assert found[i, j] == pytest.approx(scipy.stats.kendalltau(a, b, nan_policy="omit").statistic)
    assert np.isnan(agreement.taus(np.array([[1.0, 1, 1], [1, 2, 3]]))).tolist() == [[True, True], [True, False]]


def test_concordance_from_rank_sums():
    figures = np.random.default_rng(1).random((5, 6))
    sums = np.argsort(np.argsort(-figures, axis=1), axis=1).sum(axis=0)
    squares = ((sums - sums.mean()) ** 2).sum()
    assert agreement.concordance(figures) == pytest.approx(12 * squares / (5**2 * (6**3 - 6)))
    assert agreement.concordance(np.tile(figures[:1], (3, 1))) == pytest.approx(1)
    assert math.isnan(agreement.concordance(figures[:, :2]))


def test_columns_agree_where_their_directions_are_allowed_for():
    up, down = ("d", "up", "higher"), ("d", "down", "lower")
    found = consensus.within(table("net", {up: {"a": 0.9, "b": 0.5, "c": 0.1}, down: {"a": 0.1, "b": 0.2, "c": 0.3}}))
    assert found.tau == [[1, 1], [1, 1]]
    assert (found.w, found.methods) == (pytest.approx(1), 3)  # the control is not among them
    assert consensus.within(table("net", {up: {"a": 0.9, "b": 0.5, "c": 0.1}})) is None


def test_unranked_methods_do_not_count():
    up, down = ("d", "up", "higher"), ("d", "down", "lower")
    found = consensus.within(
        table("net", {up: {"a": 0.9, "b": 0.5, "c": 0.1}, down: {"a": 0.1, "b": 0.2, "c": 0.3}}, skipped=("c",))
    )
    assert np.isnan(found.tau).all()
    assert found.methods == 2


def test_a_block_for_each_dataset():
    """Its forms, its mosaics and all models on it share pictures: one block, with the mean of the models' ranks."""
    figures, others = {"a": 0.9, "b": 0.5, "c": 0.1}, {"a": 0.7, "b": 0.8, "c": 0.2}
    tables = [
        table("one", {("d", "m", "higher"): figures | {"only here": 1.0}, ("d(n=3)", "m", "higher"): others}),
        table("two", {("d", "m", "higher"): others, ("grid(d, n=2)", "m", "higher"): others, ("e", "m label", "higher"): figures}),
        table("three", {("d", "m", "higher"): figures, ("e", "m", "higher"): others}),
    ]
    (test,) = consensus.across(tables)  # another protocol is another test
    assert (test.metric, test.blocks) == ("m", [(("one", "two", "three"), "d"), (("three",), "e")])
    assert test.mean_ranks == {"a": 1.5, "b": 1.5, "c": 3.0}
    assert test.statistic == pytest.approx(scipy.stats.friedmanchisquare([3, 2], [2, 3], [1, 1]).statistic)
    assert set(test.best) == {"a", "b", "c"}


def test_equal_methods_are_told_apart_in_at_most_five_percent_of_tests_though_models_share_pictures():
    rng, wrong, names = np.random.default_rng(0), 0, "abcdefgh"
    for _ in range(300):
        shared = rng.normal(size=(4, 8))  # what a dataset's pictures do to methods, on any model
        tables = [
            table(f"net{k}", {(f"d{i}", "m", "higher"): dict(zip(names, row, strict=True)) for i, row in enumerate(drawn)})
            for k, drawn in enumerate(shared + 0.7 * rng.normal(size=(3, 4, 8)))
        ]
        (test,) = consensus.across(tables)
        wrong += test.p < 0.05 or len(test.best) < 8
    assert wrong / 300 < 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / 300)


def test_no_test_of_one_block_or_two_methods():
    figures = {"a": 0.9, "b": 0.5, "c": 0.1}
    up = ("d", "m", "higher")
    assert consensus.across([table("one", {up: figures}), table("two", {up: figures})]) == []
    few = {"a": 0.9, "b": 0.5}
    assert consensus.across([table("one", {up: few, ("e", "m", "higher"): few})]) == []


def test_the_best_lie_within_the_critical_difference():
    blocks = {(f"d{i}", "m", "higher"): {"a": 0.9, "b": 0.8, "c": 0.1, "e": 0.0} for i in range(8)}
    (test,) = consensus.across([table("one", blocks)])
    assert test.critical_difference == pytest.approx(2.569 * math.sqrt(20 / 48), rel=1e-3)
    assert test.best == {"a": 1.0, "b": 2.0}
