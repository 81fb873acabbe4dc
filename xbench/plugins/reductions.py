"""How rows become a table's figure: the mean of values, or a function of the mean of per-item vectors.

A threshold that is one for the whole dataset cannot be chosen per item. So such a metric stores a vector per item (its hits at
every threshold), and the reduction picks the best entry of the *mean* vector: in each bootstrap resample anew, so that intervals
are honest.

    mean               the mean of values
    class_mean         values averaged within each explained class, then over the classes, each class counting the same
    best               the largest entry of the mean vector
    best(g)            the same for each of g equal parts of the vector, then their mean
    average_precision  the area under precision over recall of pooled histograms: half of the vector counts the positive pixels
                       by score, ascending, the other half the negative ones
    auroc              the area under the ROC curve, of vectors as roc.py has them; no function of the mean vector
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from xbench.errors import XbenchError, did_you_mean
from xbench.plugins.specs import parse

Array = NDArray[np.float64]
Reduction = Callable[[Array], Array]  # mean vectors [R, V] -> figures [R]


def best(means: Array, groups: int = 1) -> Array:
    """``[R, groups * T]`` -> ``[R]``: the best threshold of each group, averaged over the groups.

    >>> best(np.array([[0.25, 0.5, 0.75, 0.0]]), groups=2).tolist()
    [0.625]
    """
    return means.reshape(len(means), groups, -1).max(axis=2).mean(axis=1)


def average_precision(means: Array) -> Array:
    """``[R, 2 * bins]`` -> ``[R]``: sum over score thresholds, highest first, of precision times the recall gained."""
    positive, precision, _ = _pooled(means)
    total = positive.sum(axis=1)
    return np.divide((precision * positive).sum(axis=1), total, out=np.zeros_like(total), where=total > 0)


def precision_recall(mean: Array) -> tuple[Array, Array]:
    """``[2 * bins]`` -> (recall, precision) at each score threshold, highest first, ``[bins]`` each."""
    positive, precision, found = _pooled(mean[None])
    recall = positive[0].cumsum() / max(positive.sum(), np.finfo(float).tiny)
    return recall[found[0] > 0], precision[0][found[0] > 0]


def _pooled(means: Array) -> tuple[Array, Array, Array]:
    """(positive pixels per bin, precision down to it, pixels found down to it), highest scores first, ``[R, bins]`` each."""
    negative, positive = np.split(means[:, ::-1], 2, axis=1)
    hits = positive.cumsum(axis=1)
    found = hits + negative.cumsum(axis=1)
    return positive, np.divide(hits, found, out=np.zeros_like(hits), where=found > 0), found


def is_vector(name: str) -> bool:
    """Whether rows carry vectors for this reduction, and no value of their own."""
    return name not in ("mean", "class_mean")


def is_mean(name: str) -> bool:
    """Whether the figure is a function of the mean over the items."""
    return name != "auroc"


def is_smooth(name: str) -> bool:
    """Whether the figure is a smooth function of the items; that of the best threshold has a kink where two are equally good."""
    return parse(name).name != "best"


def groups(name: str) -> int:
    """How many equal parts of the vector have a best entry each: 3 for ``best(3)``."""
    spec = parse(name)
    return int(spec.args[0]) if spec.args else 1  # type: ignore[arg-type]


def of_vectors(name: str) -> Reduction:
    """The reduction of that name."""
    return average_precision if name == "average_precision" else functools.partial(best, groups=groups(name))


def check(name: str) -> None:
    """Raises XbenchError for a name that is not a reduction."""
    spec = parse(name)
    known = ("mean", "class_mean", "best", "average_precision", "auroc")
    valid = spec.name == "best" and len(spec.args) == 1 and isinstance(spec.args[0], int) and spec.args[0] > 0
    if spec.name not in known or (not valid and (spec.args or spec.kwargs)):
        raise XbenchError(f"unknown reduction {name!r}{did_you_mean(spec.name, known)}")
