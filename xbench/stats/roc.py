"""The area under the ROC curve, exact: how often what is inside a family scores above what is outside of it.

An image's vector holds two numbers for each of P pairs of families, ``[2 P]``: its score, and its side (1 inside, 0 outside, -1 in
neither). A figure is the mean of the areas over the pairs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def auroc(values: Array, inside: Mask, weights: Array) -> Array:
    """How likely an inside image scores above an outside one, a tie counting half: the area under the ROC curve (Hanley and
    McNeil 1982), from ranks, without thresholds.

    values, inside: ``[n]``. weights: ``[R, n]``, how often each image counts. -> ``[R]``, in [0, 1]; .5 is chance. NaN where one
    side has no weight.
    """
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))  # of runs of equal values
    ours, theirs = (np.add.reduceat(weights[:, order] * side[order], starts, axis=1) for side in (inside, ~inside))
    below = theirs.cumsum(axis=1) - theirs / 2
    pairs = ours.sum(axis=1) * theirs.sum(axis=1)
    return np.divide((ours * below).sum(axis=1), pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def areas(vectors: Array, weights: Array) -> Array:
    """The mean area over the pairs: ``[n, 2 P]``, ``[R, n]`` -> ``[R]``. NaN where a pair has a side without weight."""
    found = []
    for scores, sides in zip(vectors.T[::2], vectors.T[1::2], strict=True):
        there = sides >= 0
        if len(set(sides[there])) < 2:
            return np.full(weights.shape[0], np.nan)
        found.append(auroc(scores[there], sides[there] > 0, weights[:, there]))
    return np.asarray(np.mean(found, axis=0))


def clusters(vectors: Array, index: NDArray[np.intp]) -> int:
    """How many clusters the smallest side of any pair has: they decide how sure an area is. index: ``[n]``, of each image's."""
    return min(len(np.unique(index[sides == side])) for sides in vectors.T[1::2] for side in (0, 1))


def curve(scores: Array, sides: Array) -> tuple[Array, Array]:
    """(fraction of the outside images, of the inside ones) that score at least as much as each threshold, highest first, from 0."""
    there = sides >= 0
    order = np.argsort(-scores[there], kind="stable")
    ranked, inside = scores[there][order], sides[there][order] > 0
    last = np.append(np.diff(ranked) != 0, True)  # of runs of equal scores
    true, false = (np.append(0, side.cumsum()[last]) / max(side.sum(), 1) for side in [inside, ~inside])
    return false, true
