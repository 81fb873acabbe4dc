"""Reductions against plain loops."""

import numpy as np
import pytest

from xbench.errors import XbenchError
from xbench.plugins import reductions


def plain_average_precision(positive, negative):
    """Walk down the scores: at each, the precision so far times the share of the positives found there."""
    found = false = area = 0.0
    for p, n in zip(positive[::-1], negative[::-1], strict=True):
        found, false = found + p, false + n
        if p:
            area += found / (found + false) * p / sum(positive)
    return area


def test_average_precision_of_pooled_histograms():
    generator = np.random.default_rng(0)
    counts = generator.integers(0, 9, (12, 2, 16)).astype(float)
    counts[:, :, 3] = 0  # a bin that nobody has
    pooled = counts.sum(axis=0)
    figure = reductions.average_precision(counts.reshape(12, 32).mean(axis=0)[None])
    assert figure == pytest.approx([plain_average_precision(*pooled)])


def test_average_precision_knows_its_ends():
    perfect, worst, none = [[0, 1, 1, 0]], [[1, 0, 0, 1]], [[0, 0, 1, 1]]  # positive by score ascending | negative
    assert reductions.average_precision(np.array(perfect, dtype=float)) == [1.0]
    assert reductions.average_precision(np.array(worst, dtype=float)) == [0.5]
    assert reductions.average_precision(np.array(none, dtype=float)) == [0.0]
    assert reductions.average_precision(np.array([[2.0, 0, 6, 0]])) == [0.25]  # all in one bin: the prevalence


def test_best_is_the_mean_of_each_group_s_best():
    means = np.array([[0.1, 0.7, 0.3, 0.9, 0.2, 0.4]])
    assert reductions.best(means) == [0.9]
    assert reductions.of_vectors("best(2)")(means) == pytest.approx([0.8])
    assert reductions.of_vectors("best(3)")(means) == pytest.approx([(0.7 + 0.9 + 0.4) / 3])


@pytest.mark.parametrize("name", ["worst", "best(0)", "best(1, 2)", "mean(3)", "best(n=2)"])
def test_unknown_reductions_are_refused(name):
    with pytest.raises(XbenchError, match="unknown reduction"):
        reductions.check(name)
