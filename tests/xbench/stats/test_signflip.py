"""The test behind every verdict: against loops over all flips, against t and scipy's permutation test, and simulated rates."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from xbench.stats import signflip


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def lead(values, clusters):
    """t, shortened where it points against the skewness, written as its definition."""
    mean = sum(values) / clusters
    central = [v - mean for v in values] + [0 - mean] * (clusters - len(values))
    spread = max(sum(v**2 for v in central) / clusters, 1e-8 * sum(v**2 for v in values) / clusters)
    if spread == 0:
        return 0.0
    t = mean / math.sqrt(spread / (clusters - 1))
    skewness = sum(v**3 for v in central) / clusters / spread**1.5
    y = -2 / 3 * t * skewness / math.sqrt(clusters)
    sizes = {round(abs(v), 12) for v in values if v}
    return t if y <= 0 or len(sizes) == 1 else t * math.log1p(y) / y


def reference(contributions, side):
    """Step-down max-t by loops over all 2^C flips and, for each difference, over those that are not clearer; ties count half."""
    known = [column[np.isfinite(column)] for column in contributions.T]
    rows = [np.isfinite(column) for column in contributions.T]
    seen = [side(lead(list(values), len(values))) for values in known]
    order = sorted(range(len(seen)), key=lambda k: -seen[k])
    flips = list(itertools.product((1, -1), repeat=len(contributions)))
    p, largest = [0.0] * len(seen), 0.0
    for place, k in enumerate(order):
        rest, above, equal, own = order[place:], 0, 0, 0
        for signs in flips:
            flipped = max(side(lead(list(known[j] * np.array(signs)[rows[j]]), len(known[j]))) for j in rest)
            if abs(flipped - seen[k]) <= 1e-6 * abs(seen[k]):
                if set(signs) == {1} or (set(signs) == {-1} and side(-1) == side(1)):
                    own += 1
                else:
                    equal += 1
            elif flipped > seen[k]:
                above += 1
        largest = max(largest, (above + own + equal / 2) / len(flips))
        p[k] = largest
    return p


@pytest.mark.parametrize("kind", ["smooth", "lopsided", "hits", "gaps"])
def test_against_plain_loops(rng, kind):
    drawn = rng.normal(0.3, 1, (7, 4)) * [1, 3, 0.2, 1]
    if kind == "lopsided":
        drawn = rng.exponential(1, (7, 4)) - 0.3
    if kind == "hits":
        drawn = rng.integers(-1, 2, (7, 4)).astype(float)
    if kind == "gaps":
        drawn[:2, 1] = np.nan
        drawn[4, 3] = np.nan
    assert signflip.differ(drawn) == pytest.approx(reference(drawn, abs))
    assert signflip.below(drawn) == pytest.approx(reference(drawn, lambda t: -t))


def test_of_hits_it_is_mcnemars_mid_p(rng):
    """Of 11 pictures on which one of two methods hits, 9 are the first's (Fagerland et al. 2013); 4 others say nothing."""
    values = np.array([1.0] * 9 + [-1.0] * 2 + [0.0] * 4)
    exact = 2 * scipy.stats.binom.cdf(2, 11, 0.5)
    middle = exact - scipy.stats.binom.pmf(2, 11, 0.5)
    assert signflip.differ(values[:13, None])[0] == pytest.approx(middle, abs=2 / 2**13)
    assert signflip.differ(values[:, None])[0] == pytest.approx(middle, abs=0.01)
    assert middle < signflip.ALPHA < exact


def test_one_difference_is_the_permutation_test(rng):
    values = rng.normal(0.3, 1, 11)
    half = np.concatenate([values, -values]) - 0.0  # symmetric, so that nothing is shortened
    exact = np.mean([abs(np.dot(values, s)) >= abs(values.sum()) - 1e-9 for s in itertools.product((-1, 1), repeat=11)])
    assert signflip.differ(values[:, None])[0] == pytest.approx(exact, rel=0.3)
    assert signflip.differ(half[:, None])[0] > 0.9
    a = rng.normal(0.1, 0.4, 60)
    theirs = scipy.stats.permutation_test((a, 0 * a), lambda x, y, axis: (x - y).mean(axis), permutation_type="samples", rng=1)
    assert signflip.differ(a[:, None])[0] == pytest.approx(theirs.pvalue, abs=0.02)


def test_no_clearer_than_t_for_a_symmetric_sample(rng):
    half = np.abs(rng.normal(0, 1, 100))
    values = 0.15 + np.concatenate([half, -half])
    assert signflip.differ(values[:, None])[0] == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue, rel=0.15)
    assert signflip.below(-values[:, None])[0] == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue / 2, rel=0.3)


def test_many_differences_cost_something_and_copies_of_one_nothing(rng):
    one = rng.normal(0.45, 1, (40, 1))
    alone = signflip.differ(one)[0]
    assert signflip.differ(np.repeat(one, 50, axis=1)) == pytest.approx(np.full(50, alone))
    among = signflip.differ(np.concatenate([one, rng.normal(0, 1, (40, 50))], axis=1))[0]
    assert 10 * alone < among < 60 * alone


def test_differences_without_any_contribution_are_none(rng):
    values = np.stack([np.zeros(9), np.full(9, 0.2), np.full(9, np.nan)], axis=1)
    assert signflip.differ(values).tolist() == [1, 2 / 2**9, 1]
    assert signflip.below(-values).tolist() == [1, 1 / 2**9, 1]
    assert signflip.differ(np.zeros((5, 0))).tolist() == []
    assert signflip.differ(np.ones((1, 1))).tolist() == [1]


def test_the_fewest_clusters_that_can_tell():
    few, enough = (signflip.differ(np.ones((n, 1)))[0] for n in (signflip.FEWEST - 1, signflip.FEWEST))
    assert few >= signflip.ALPHA > enough


def test_overwhelming_evidence_is_not_overruled_by_skewness(rng):
    """Sixteen items with t = 5 and a long tail on the other side, where Hall's cubic is flat and gives p > .02."""
    for _ in range(20_000):
        values = np.where(rng.random(16) < 0.12, -0.3, 0.4) + 0.08 * rng.normal(size=16)
        t, skewness = scipy.stats.ttest_1samp(values, 0).statistic, scipy.stats.skew(values)
        if t > 4.9 and skewness < -1.8:
            break
    gamma = skewness / 4
    cubic = t + gamma * t**2 / 3 + gamma**2 * t**3 / 27 + gamma / 6
    assert 2 * scipy.stats.t.sf(cubic, 15) > 0.02
    assert signflip.differ(values[:, None])[0] < 0.005


def test_more_flips_where_it_is_close(rng, monkeypatch):
    counted = []
    stepped = signflip._stepped
    monkeypatch.setattr(signflip, "_stepped", lambda *given: counted.append(given[-1]) or stepped(*given))
    signflip.differ(rng.normal(1, 0.1, (40, 1)))
    assert counted == [signflip.FLIPS]
    half = np.abs(rng.normal(0, 1, 20))
    close = np.concatenate([half, -half])
    for shift in np.linspace(0.2, 0.4, 41):  # one of them is on the border
        signflip.differ((close + shift)[:, None])
    assert signflip.MORE_FLIPS in counted
    assert counted.count(signflip.MORE_FLIPS) < 10


def test_clusters_of_one_name_flip_together(rng):
    values = rng.normal(0.4, 1, (12, 2))
    parts = [(np.arange(12), values[:, :1]), (np.arange(12), values[:, 1:])]
    assert np.array_equal(signflip.together(parts), values)
    apart = signflip.together([(np.arange(3), values[:3, :1]), (np.arange(2, 4), values[:2, 1:])])
    assert np.array_equal(apart[:, 0], [*values[:3, 0], np.nan], equal_nan=True)
    assert np.array_equal(apart[:, 1], [np.nan, np.nan, *values[:2, 1]], equal_nan=True)


def rate(draw, times, test=signflip.differ):
    return np.mean([test(draw()).min() < signflip.ALPHA for _ in range(times)])


@pytest.mark.parametrize("items", [9, 20, 60])
@pytest.mark.parametrize("kind", ["skewed", "hits"])
def test_equal_methods_are_told_apart_in_five_percent_of_tables(rng, monkeypatch, items, kind):
    monkeypatch.setattr(signflip, "FLIPS", 1000)
    monkeypatch.setattr(signflip, "MORE_FLIPS", 1000)
    a, b = np.triu_indices(6, 1)

    def draw():
        scores = rng.beta(0.5, 2, (items, 6)) if kind == "skewed" else (rng.random((items, 6)) < 0.8).astype(float)
        return scores[:, a] - scores[:, b]

    assert rate(draw, 400) < 0.05 + 3.3 * math.sqrt(0.05 * 0.95 / 400)


def test_one_sided_alarms_where_t_is_too_sure(rng, monkeypatch):
    """A loss in data with a long tail above, whose mean is 0: t finds one far too often."""
    monkeypatch.setattr(signflip, "FLIPS", 1000)
    monkeypatch.setattr(signflip, "MORE_FLIPS", 1000)
    drawn = [rng.exponential(1, 40) ** 1.5 - scipy.special.gamma(2.5) for _ in range(800)]
    ours = np.mean([signflip.below(values[:, None])[0] < 0.05 for values in drawn])
    plain = np.mean([scipy.stats.ttest_1samp(values, 0, alternative="less").pvalue < 0.05 for values in drawn])
    assert ours < 0.08 < plain
