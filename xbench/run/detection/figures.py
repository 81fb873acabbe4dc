"""Figures of scores: the area under the ROC curve, exact, with intervals over source photographs, and differences of scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xbench.stats import bootstrap
from xbench.stats.bootstrap import Draws, Estimate
from xbench.stats.roc import auroc

CONTRASTS = (("leaf_glosses", "gloss"), ("leaf_glosses", "max_logit"), ("gloss", "max_logit"))
Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Scored:
    """The pictures of a pair. places: ``[n]``, among all pictures. inside: ``[n]``. values: score -> ``[n]``."""

    places: NDArray[np.intp]
    inside: Mask
    values: Mapping[str, Array]


@dataclass(frozen=True)
class Figures:
    """Of a pair, or of the mean over all: score -> AUROC, and (a, b) of CONTRASTS -> a minus b on the same pictures.

    An estimate's ``clusters`` are those of the smaller side, which decides how sure it is.
    """

    areas: Mapping[str, Estimate]
    differences: Mapping[tuple[str, str], Estimate]


def measure(pairs: Sequence[Scored], clusters: NDArray[np.generic]) -> tuple[list[Figures], Figures | None]:
    """(the figures of each pair, those of the mean over the pairs; None of a single one). All pairs have the same scores.

    clusters: ``[N]``, of all pictures. They are drawn for all pairs at once, for pairs share pictures.
    """
    names = list(pairs[0].values)

    def areas(weights: Array) -> Array:
        """``[R, N]`` -> ``[R, pairs * scores]``."""
        found = [auroc(pair.values[name], pair.inside, weights[:, pair.places]) for pair in pairs for name in names]
        return np.stack(found, axis=1)

    drawn = bootstrap.draws(areas, clusters)
    smaller = [min(len(np.unique(clusters[pair.places[side]])) for side in (pair.inside, ~pair.inside)) for pair in pairs]

    def grid(part: Array) -> Array:
        return part.reshape(*part.shape[:-1], len(pairs), len(names))

    each = [
        _figures(drawn, names, lambda part, k=k: grid(part)[..., k, :], len(pair.places), smaller[k])  # type: ignore[misc]
        for k, pair in enumerate(pairs)
    ]
    if len(pairs) == 1:
        return each, None
    pictures = len(np.unique(np.concatenate([pair.places for pair in pairs])))
    return each, _figures(drawn, names, lambda part: grid(part).mean(axis=-2), pictures, min(smaller))


def _figures(drawn: Draws, names: list[str], take: Callable[[Array], Array], pictures: int, clusters: int) -> Figures:
    figures, resampled, left_out = map(take, (drawn.figures, drawn.resampled, drawn.left_out))
    # A resample without one of the sides says nothing.
    drawable, usable = (np.isfinite(part).all(axis=1) for part in (resampled, left_out))
    units, shares = drawn.units[usable], drawn.shares[usable]
    mine = Draws(figures, resampled[drawable], left_out[usable], units, shares, pictures, clusters)
    contrasts = [pair for pair in CONTRASTS if set(pair) <= set(names)]
    differences: list[Estimate] = []
    if contrasts:
        a, b = (np.array([names.index(pair[side]) for pair in contrasts]) for side in (0, 1))
        differences = mine.minus(a, b).estimates()
    return Figures(dict(zip(names, mine.estimates(), strict=True)), dict(zip(contrasts, differences, strict=True)))
