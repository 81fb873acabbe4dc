import numpy as np
import pytest

from xbench import stats


def names(n):
    return np.array([f"c{i}" for i in range(n)], dtype=object)


def test_interval_against_a_plain_bootstrap():
    generator = np.random.default_rng(0)
    values, clusters = generator.normal(2, 1, 60), np.repeat(names(20), 3)
    found = stats.estimate(values, clusters)
    means = []
    for _ in range(4000):
        drawn = generator.integers(0, 20, 20)
        means.append(np.concatenate([values[3 * c : 3 * c + 3] for c in drawn]).mean())
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.03)
    assert (found.n, found.clusters) == (60, 20)


def test_clusters_widen_the_interval_of_items_that_go_together():
    repeated = np.repeat(np.random.default_rng(0).normal(0, 1, 25), 8)
    apart = stats.estimate(repeated, names(200))
    together = stats.estimate(repeated, np.repeat(names(25), 8))
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_unequal_clusters_weigh_by_their_items():
    found = stats.estimate(np.array([0.0, 1, 1, 1]), np.array(["a", "b", "b", "b"], dtype=object))
    assert found.mean == 0.75


def test_coverage_on_normal_data():
    generator = np.random.default_rng(1)
    hits = sum((e := stats.estimate(generator.normal(0, 1, 100), names(100))).low <= 0 <= e.high for _ in range(400))
    assert 0.91 <= hits / 400 <= 0.98


def test_differences_pair_and_leave_out_what_is_missing():
    a, b = np.array([1.0, 2, np.nan, 4]), np.array([0.0, 0, 0, np.nan])
    found = stats.difference(a, b, names(4))
    assert (found.mean, found.n) == (1.5, 2)
    assert stats.difference(a[2:3], b[2:3], names(1)).n == 0


def test_pairing_removes_what_items_share():
    generator = np.random.default_rng(2)
    shared = generator.normal(0, 5, 50)
    a, b = shared + 0.5 + generator.normal(0, 0.1, 50), shared
    assert stats.difference(a, b, names(50)).low > 0.4
    assert stats.estimate(a, names(50)).low < stats.estimate(b, names(50)).high


def test_ranks_share_places():
    assert stats.ranks(np.array([0.1, 0.9, 0.5, 0.9])).tolist() == [4, 1, 3, 1]
