"""Gradients of the target's logit S along a path from a baseline to the input; maps [B, H, W], signed."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from xbench.plugin import Attribution, Batch, ModelView, method, substrate

from .._shared import noisy, require

POINTS = (16, 32, 64, 128, 256, 512)  # that steps=auto tries one after another
TOLERANCE = 0.01  # of S(x) - S(b), at which it is content


@method("integrated_gradients", needs={"gradients"}, cite="sundararajan2017axiomatic")
def integrated_gradients(model: ModelView, batch: Batch, steps: int | Literal["auto"] = 50, baseline: str = "zero") -> Attribution:
    """(x - b) times the mean gradient on the straight line from b to x (eq. 1), summed over the channels.

    steps: points of the Gauss-Legendre rule; auto: for each item 16, then twice as many up to 512, until its map misses its sum by
    1 % at most. baseline: a substrate of the input, by default zero in the normalised space, a grey.
    The map sums to S(x) - S(b), up to the rule's error, which is large where the network has many kinks between b and x: it is
    measured by two more forward passes, and recorded as the rows' ``residual``. Signed: negative = evidence against the target.
    """
    require(steps == "auto" or steps >= 1, f"integrated_gradients: steps must be positive, not {steps}")
    start = substrate(baseline, batch.images)
    change = _scores(model, batch) - _scores(model, batch.with_images(start))
    if steps != "auto":
        return Attribution.of(_integral(model, batch, start, steps), change)
    found = Attribution.of(_integral(model, batch, start, POINTS[0]), change)
    taken = torch.full_like(change, POINTS[0])
    for points in POINTS[1:]:
        again = ~(found.residual <= TOLERANCE)  # NaN too
        if not again.any():
            break
        finer = Attribution.of(_integral(model, batch, start, points), change)
        maps = torch.where(again[:, None, None], finer.maps, found.maps)
        found = Attribution(maps, torch.where(again, finer.residual, found.residual))
        taken += points * again
    return Attribution(found.maps, found.residual, torch.stack([taken + 2, taken], dim=1))


def _integral(model: ModelView, batch: Batch, start: Tensor, points: int) -> Tensor:
    """The map, [B, H, W], by the Gauss-Legendre rule of so many points."""
    way = batch.images - start
    mean = torch.zeros_like(way)
    for node, weight in zip(*np.polynomial.legendre.leggauss(points), strict=True):  # on [-1, 1]
        mean += float(weight) / 2 * model.input_gradients(batch.with_images(start + (1 + float(node)) / 2 * way))
    return (way * mean).sum(dim=1)


def _scores(model: ModelView, batch: Batch) -> Tensor:
    """S of each item, [B]."""
    return model.logits(batch).gather(1, batch.targets[:, None])[:, 0]


@method("gradient_shap", needs={"gradients"}, cite="lundberg2017unified")
def gradient_shap(model: ModelView, batch: Batch, n: int = 50, sigma: float = 0.1, baseline: str = "zero") -> Tensor:
    """Expected gradients: the mean of (x' - b) times the gradient at a random point between b and x', summed over the channels.

    x' is x with Gaussian noise, sigma in shares of the input's own range; baseline b: a substrate of the input, the only one of its
    background. A Monte Carlo estimate of integrated gradients where sigma is 0, as in the SHAP library's GradientExplainer and
    captum's GradientShap, whose noise and background are the caller's to choose: these defaults are ours. Signed.
    The map sums to the mean of S(x') - S(b) in expectation only, so that no residual is recorded.
    """
    require(n >= 1, f"gradient_shap: n must be positive, not {n}")
    require(sigma >= 0, f"gradient_shap: sigma must not be negative, not {sigma}")
    start = substrate(baseline, batch.images)
    total = torch.zeros_like(start)
    for draw in range(n):
        end = noisy(batch, sigma, draw)
        way = end.images - start
        total += way * model.input_gradients(batch.with_images(start + end.seeded("point").rand(1, 1, 1) * way))
    return (total / n).sum(dim=1)
