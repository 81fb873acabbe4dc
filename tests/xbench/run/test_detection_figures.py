"""AUROCs and their intervals: against scikit-learn, a double loop, DeLong's variance and the intervals of means."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from xbench.run.detection import figures
from xbench.stats import roc
from xbench.stats.bootstrap import Scores, draws

# -- the area under the curve ---------------------------------------------------------------------------------------------------


def by_loops(values, inside, weights):
    """One inside and one outside picture at a time."""
    areas = []
    for row in weights:
        won = total = 0.0
        for i in np.flatnonzero(inside):
            for j in np.flatnonzero(~inside):
                won += row[i] * row[j] * (1.0 if values[i] > values[j] else 0.5 if values[i] == values[j] else 0.0)
                total += row[i] * row[j]
        areas.append(won / total if total else np.nan)
    return np.array(areas)


def trials():
    """Scores of every kind, with which are inside and weights."""
    rng = np.random.default_rng(0)
    inside = rng.random(41) < 0.4
    weights = rng.integers(0, 4, (5, 41)).astype(float)
    kinds = {
        "random": rng.random(41),
        "signed": rng.normal(size=41) + inside,
        "tied": rng.integers(0, 5, 41) - 2.0,
        "constant": np.full(41, -0.3),
        "right": inside * 1.0,
        "wrong": 1.0 - 2 * inside,
        "huge": rng.normal(size=41) * 1e300,
        "close": 1 + rng.integers(0, 9, 41) * 2.0**-52,
    }
    return [(values, inside, weights) for values in kinds.values()]


def agrees(auroc):
    values, inside, _ = trials()[0]
    lonely = [(values, inside, np.stack([inside, ~inside]) * 1.0)]
    try:
        return all(np.allclose(auroc(*trial), by_loops(*trial), atol=1e-12, equal_nan=True) for trial in trials() + lonely)
    except (IndexError, ValueError):
        return False


def test_areas_are_those_of_a_double_loop():
    assert agrees(roc.auroc)


@pytest.mark.parametrize("number", range(len(trials())))
def test_areas_are_those_of_scikit_learn(number):
    metrics = pytest.importorskip("sklearn.metrics")
    values, inside, weights = trials()[number]
    wanted = [metrics.roc_auc_score(inside, values, sample_weight=row) for row in weights]
    assert roc.auroc(values, inside, weights) == pytest.approx(wanted, abs=1e-12)


def test_known_areas():
    inside, once = np.array([True, True, False, False]), np.ones((1, 4))
    for values, area in (([3, 4, 1, 2], 1), ([1, 2, 3, 4], 0), ([1, 4, 2, 3], 0.5), ([1, 1, 1, 1], 0.5), ([2, 3, 1, 2], 0.875)):
        assert roc.auroc(np.array(values, dtype=float), inside, once) == pytest.approx(area)
    values = np.array([1.0, 3.0, 2.0, 0.0])
    assert roc.auroc(np.exp(values), inside, once) == roc.auroc(values, inside, once)
    assert roc.auroc(-values, inside, once) == 1 - roc.auroc(values, inside, once)
    assert np.isnan(roc.auroc(values, inside, np.array([[0.0, 0, 1, 2]])))


MUTANTS = [
    ("- theirs / 2", ""),
    ("- theirs / 2", "- theirs"),
    ("- theirs / 2", "+ theirs / 2"),
    ("(inside, ~inside)", "(~inside, inside)"),
    ("(inside, ~inside)", "(inside, inside)"),
    ("weights[:, order] * side[order]", "weights * side[order]"),
    ("weights[:, order] * side[order]", "weights[:, order] * side"),
    ("weights[:, order] * side[order]", "1.0 * side[order] + 0 * weights"),
    ("ranked[1:] != ranked[:-1]", "ranked[1:] == ranked[1:]"),
    ("ranked[1:] != ranked[:-1]", "~np.isclose(ranked[1:], ranked[:-1])"),
    ("ours.sum(axis=1) * theirs.sum(axis=1)", "ours.sum(axis=1) * len(values)"),
    ("argsort(values", "argsort(-values"),
    ("np.full(len(weights), np.nan)", "np.zeros(len(weights))"),
]


@pytest.mark.parametrize(("old", "new"), MUTANTS)
def test_planted_mutants_of_the_area_are_caught(old, new, mutant):
    assert not agrees(mutant(roc, old, new).auroc)


# -- intervals ------------------------------------------------------------------------------------------------------------------


def simulated(rng, n=120, m=80, shift=1.0):
    inside = np.arange(n + m) < n
    return inside, rng.normal(size=n + m) + shift * inside


def de_long(values, inside):
    """The standard error of an area by its structural components (DeLong et al. 1988)."""
    ours, theirs = values[inside], values[~inside]
    won = (ours[:, None] > theirs) + (ours[:, None] == theirs) / 2
    return np.sqrt(won.mean(axis=1).var(ddof=1) / len(ours) + won.mean(axis=0).var(ddof=1) / len(theirs))


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_intervals_are_as_wide_as_de_longs(shift):
    inside, values = simulated(np.random.default_rng(3), shift=shift)
    (one,), mean = figures.measure([figures.Scored(np.arange(200), inside, {"gloss": values})], np.arange(200))
    area = one.areas["gloss"]
    assert mean is None
    assert area.mean == pytest.approx(float(by_loops(values, inside, np.ones((1, 200)))[0]))
    assert area.low < area.mean < area.high
    assert (area.high - area.low) / 2 == pytest.approx(scipy_stats.t.ppf(0.975, 79) * de_long(values, inside), rel=0.12)
    assert (area.n, area.clusters) == (200, 80)


def test_copies_of_a_photograph_make_nothing_surer():
    inside, values = simulated(np.random.default_rng(4), 60, 50)
    one = figures.measure([figures.Scored(np.arange(110), inside, {"gloss": values})], np.arange(110))[0][0].areas["gloss"]
    twice = figures.Scored(np.arange(220), inside.repeat(2), {"gloss": values.repeat(2)})
    two = figures.measure([twice], np.arange(110).repeat(2))[0][0].areas["gloss"]
    assert (two.mean, two.low, two.high) == pytest.approx((one.mean, one.low, one.high), abs=1e-9)
    assert (two.n, two.clusters) == (220, 50)
    alone = figures.measure([twice], np.arange(220))[0][0].areas["gloss"]
    assert alone.high - alone.low < 0.8 * (two.high - two.low)


def test_differences_are_paired():
    """On the same pictures: scores that go together differ more surely than their own intervals tell."""
    rng = np.random.default_rng(5)
    inside, values = simulated(rng)
    alike = values + 0.3 * rng.normal(size=200)
    given = {"max_logit": values, "gloss": alike, "leaf_glosses": values}
    ((found,), _) = figures.measure([figures.Scored(np.arange(200), inside, given)], np.arange(200))
    areas, gap = found.areas, found.differences["gloss", "max_logit"]
    assert gap.mean == pytest.approx(areas["gloss"].mean - areas["max_logit"].mean)
    assert gap.low < gap.mean < gap.high
    assert gap.high - gap.low < 0.6 * (areas["gloss"].high - areas["gloss"].low)
    none = found.differences["leaf_glosses", "max_logit"]
    assert (none.mean, none.low, none.high) == (0, 0, 0)
    assert found.differences["leaf_glosses", "gloss"].mean == pytest.approx(-gap.mean)


def test_the_mean_is_that_of_the_pairs_and_surer_where_they_share_no_pictures():
    rng = np.random.default_rng(6)
    inside, values = simulated(rng, 200, 200)
    halves = [np.flatnonzero(np.arange(400) % 2 == k) for k in (0, 1)]
    pairs = [figures.Scored(half, inside[half], {"gloss": values[half]}) for half in halves]
    each, mean = figures.measure(pairs, np.arange(400))
    assert mean.areas["gloss"].mean == pytest.approx(np.mean([one.areas["gloss"].mean for one in each]))
    widths = [e.areas["gloss"].high - e.areas["gloss"].low for e in (*each, mean)]
    assert widths[2] == pytest.approx(np.hypot(*widths[:2]) / 2, rel=0.1)
    same, mean = figures.measure([pairs[0], pairs[0]], np.arange(400))
    assert mean.areas["gloss"].high == pytest.approx(same[0].areas["gloss"].high, abs=1e-9)


def test_one_photograph_on_a_side_has_no_interval():
    values, inside = np.arange(9.0), np.arange(9) == 4
    ((found,), _) = figures.measure([figures.Scored(np.arange(9), inside, {"gloss": values})], np.arange(9))
    assert found.areas["gloss"].mean == 0.5
    assert np.isnan(found.areas["gloss"].low)


def test_draws_of_a_mean_are_those_of_its_own_rule():
    rng = np.random.default_rng(7)
    values, clusters = rng.beta(0.5, 2, 300), rng.integers(0, 230, 300)
    found = draws(lambda weights: (weights @ values / weights.sum(axis=1))[:, None], clusters).estimates()
    assert found == pytest.approx(Scores(values[None, :, None], np.ones((1, 300), dtype=bool), clusters).estimates())
