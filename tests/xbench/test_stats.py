import numpy as np
import pytest

from xbench import stats


def estimate(values, clusters):
    return stats.estimate(stats.Sample(values[:, None], clusters))


def difference(a, b, clusters):
    both = np.isfinite(a) & np.isfinite(b)
    return stats.difference(stats.Sample(a[both, None], clusters[both]), stats.Sample(b[both, None], clusters[both]))


def names(n):
    return np.array([f"c{i}" for i in range(n)], dtype=object)


def test_interval_against_a_plain_bootstrap():
    generator = np.random.default_rng(0)
    values, clusters = generator.normal(2, 1, 60), np.repeat(names(20), 3)
    found = estimate(values, clusters)
    means = []
    for _ in range(4000):
        drawn = generator.integers(0, 20, 20)
        means.append(np.concatenate([values[3 * c : 3 * c + 3] for c in drawn]).mean())
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.03)
    assert (found.n, found.clusters) == (60, 20)


def test_clusters_widen_the_interval_of_items_that_go_together():
    repeated = np.repeat(np.random.default_rng(0).normal(0, 1, 25), 8)
    apart = estimate(repeated, names(200))
    together = estimate(repeated, np.repeat(names(25), 8))
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_unequal_clusters_weigh_by_their_items():
    found = estimate(np.array([0.0, 1, 1, 1]), np.array(["a", "b", "b", "b"], dtype=object))
    assert found.mean == 0.75


def test_coverage_on_normal_data():
    generator = np.random.default_rng(1)
    hits = sum((e := estimate(generator.normal(0, 1, 100), names(100))).low <= 0 <= e.high for _ in range(400))
    assert 0.91 <= hits / 400 <= 0.98


def test_differences_pair():
    found = difference(np.array([1.0, 2]), np.array([0.0, 0]), names(2))
    assert (found.mean, found.low, found.high, found.n) == (1.5, 1.0, 2.0, 2)
    assert difference(np.empty(0), np.empty(0), names(0)).n == 0


def test_one_threshold_for_all_is_chosen_anew_in_each_resample():
    """Against a plain bootstrap of the whole figure, and against the mutant that picks each item's own threshold."""
    generator = np.random.default_rng(3)
    hits = (generator.random((40, 6)) < np.linspace(0.2, 0.6, 6)).astype(float)
    clusters = np.repeat(names(20), 2)
    found = stats.estimate(stats.Sample(hits, clusters, "best(2)"))
    plain = lambda rows: (rows[:, :3].mean(axis=0).max() + rows[:, 3:].mean(axis=0).max()) / 2  # noqa: E731
    drawn = [plain(np.concatenate([hits[2 * c : 2 * c + 2] for c in generator.integers(0, 20, 20)])) for _ in range(4000)]
    assert found.mean == pytest.approx(plain(hits))
    assert (found.low, found.high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.02)
    per_item = (hits[:, :3].max(axis=1) + hits[:, 3:].max(axis=1)).mean() / 2
    assert per_item > found.high


def test_classes_count_the_same_however_many_items_they_have():
    values = np.array([1.0, 1, 1, 0])[:, None]
    sample = stats.Sample(values, names(4), "class_mean", np.array([7, 7, 7, 9]))
    assert stats.estimate(sample).mean == 0.5
    assert stats.estimate(sample).low >= 0  # resamples without a class do not count it


def test_differences_of_figures_that_are_not_means():
    generator = np.random.default_rng(4)
    a, b = generator.random((30, 5)), generator.random((30, 5)) * 0.5
    found = stats.difference(stats.Sample(a, names(30), "best"), stats.Sample(b, names(30), "best"))
    assert found.mean == pytest.approx(a.mean(axis=0).max() - b.mean(axis=0).max())
    assert found.low > 0


def test_pairing_removes_what_items_share():
    generator = np.random.default_rng(2)
    shared = generator.normal(0, 5, 50)
    a, b = shared + 0.5 + generator.normal(0, 0.1, 50), shared
    assert difference(a, b, names(50)).low > 0.4
    assert estimate(a, names(50)).low < estimate(b, names(50)).high


def test_ranks_share_places():
    assert stats.ranks(np.array([0.1, 0.9, 0.5, 0.9])).tolist() == [4, 1, 3, 1]
