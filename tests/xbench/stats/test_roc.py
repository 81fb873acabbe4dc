"""Areas as a reduction: those of an experiment's own figures, with the same intervals; ranks, differences and tests of them."""

import numpy as np
import pytest

from xbench.plugins import reductions
from xbench.run.detection import figures
from xbench.stats import roc
from xbench.stats.bootstrap import Scores


def experiment(seed=0, n=300, pairs=3):
    """(scores of two methods ``[2, P, n]``, sides ``[P, n]``, clusters): the first method is better."""
    rng = np.random.default_rng(seed)
    sides = rng.integers(-1, 2, (pairs, n)).astype(float)
    values = rng.normal(size=(2, pairs, n)) + (sides == 1) * np.array([1.5, 0.5])[:, None, None]
    return values, sides, rng.integers(0, n // 2, n)


def vectors(values, sides):
    """``[M, n, 2 P]`` of scores ``[M, P, n]`` and sides ``[P, n]``."""
    together = np.stack([values, np.broadcast_to(sides, values.shape)], axis=2)  # [M, P, 2, n]
    return together.reshape(len(values), -1, values.shape[2]).transpose(0, 2, 1)


def test_the_mean_over_pairs_has_the_figures_and_intervals_of_an_experiment():
    values, sides, clusters = experiment()
    scored = []
    for pair, side in enumerate(sides):
        places = np.flatnonzero(side >= 0)
        of = {"leaf_glosses": values[0, pair, places], "gloss": values[1, pair, places]}
        scored.append(figures.Scored(places, side[places] == 1, of))
    _, mean = figures.measure(scored, clusters)
    found = Scores(vectors(values, sides), np.ones((2, len(clusters)), bool), clusters, "auroc")
    for mine, name in zip(found.estimates(), ("leaf_glosses", "gloss"), strict=True):
        theirs = mean.areas[name]
        assert (mine.mean, mine.low, mine.high) == pytest.approx((theirs.mean, theirs.low, theirs.high), abs=1e-9)
        assert mine.clusters == theirs.clusters
    (minus,) = found.differences([(0, 1)])
    theirs = mean.differences["leaf_glosses", "gloss"]
    assert (minus.mean, minus.low, minus.high) == pytest.approx((theirs.mean, theirs.low, theirs.high), abs=1e-9)


def test_the_better_method_is_ranked_first():
    values, sides, clusters = experiment()
    found = Scores(vectors(values, sides), np.ones((2, len(clusters)), bool), clusters, "auroc")
    assert [rank.shared for rank in found.ranks([0, 1])] == [1, 2]
    assert found.tests([(0, 1)])[0].better == 0
    assert found.contributions([(0, 1)]).sum() == pytest.approx(found.differences([(0, 1)])[0].mean)


def test_a_resample_without_a_side_says_nothing():
    values, sides, _ = experiment(n=40, pairs=1)
    sides[0] = np.where(np.arange(40) < 2, 1.0, 0.0)  # two inside, of one photograph each
    (found,) = Scores(vectors(values[:1], sides), np.ones((1, 40), bool), np.arange(40), "auroc").estimates()
    assert found.clusters == 2
    assert np.isfinite([found.mean, found.low, found.high]).all()


def test_sides_that_are_missing_make_no_area():
    values, sides, clusters = experiment(n=40, pairs=1)
    (found,) = Scores(vectors(values[:1], sides * 0), np.ones((1, 40), bool), clusters, "auroc").estimates()
    assert np.isnan(found.mean)


def test_the_curve_ends_at_one_and_has_the_area():
    values, sides, _ = experiment()
    tied = np.round(values[0, 0], 1)
    false, true = roc.curve(tied, sides[0])
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    there = sides[0] >= 0
    assert np.trapezoid(true, false) == pytest.approx(roc.auroc(tied[there], sides[0, there] == 1, np.ones((1, there.sum())))[0])


def test_it_is_a_reduction_of_vectors_and_no_mean():
    reductions.check("auroc")
    assert reductions.is_vector("auroc")
    assert not reductions.is_mean("auroc")
