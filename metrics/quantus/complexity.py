"""quantus's measures of how concentrated a map is, unmodified: docs/metrics.md says what each is equal to here."""

from __future__ import annotations

import math

from torch import Tensor

from xbench.plugin import Truth, XbenchError, metric

from ._adapter import CITE, without_truth


@metric("quantus/Sparseness", kind="ground_truth", version="1", direction="higher", group="complexity", cite=CITE)
def sparseness(maps: Tensor, truth: Truth) -> Tensor:
    """Gini index of the absolute saliency, plus 1e-7 of its largest value at every pixel. maps float [M, H, W] -> [M] in [0, 1).

    NaN for maps of one absolute value.
    """
    return without_truth("Sparseness", maps)


@metric(
    "quantus/Complexity",
    kind="ground_truth",
    version="1",
    direction="lower",
    range=(0, math.inf),
    group="complexity",
    cite=CITE,
)
def complexity(maps: Tensor, truth: Truth) -> Tensor:
    """Entropy of the absolute saliency, in nats. maps float [M, H, W] -> [M] in [0, ln(H W)].

    NaN for maps of one absolute value.
    """
    return without_truth("Complexity", maps)


@metric(
    "quantus/EffectiveComplexity",
    kind="ground_truth",
    version="1",
    direction="lower",
    range=(0, math.inf),
    group="complexity",
    cite=CITE,
)
def effective_complexity(maps: Tensor, truth: Truth, eps: float = 1e-5) -> Tensor:
    """How many pixels have an absolute value above eps of the largest. maps float [M, H, W] -> [M], from 1.

    Not what its paper (Nguyen and Martinez 2020) calls so: how many pixels a network needs. NaN for maps of one absolute value.

    Raises:
        XbenchError: eps is not in [0, 1).
    """
    if not 0 <= eps < 1:
        raise XbenchError(f"eps must be at least 0 and less than 1, not {eps}")
    return without_truth("EffectiveComplexity", maps, eps=eps)
