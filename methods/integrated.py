"""Gradients of the target's logit S along a path from a baseline to the input; maps [B, H, W], signed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from xbench import Batch, ModelView, method
from xbench.probing import substrate

from ._shared import noisy, require


@method("integrated_gradients", needs={"gradients"}, cite="sundararajan2017axiomatic")
def integrated_gradients(model: ModelView, batch: Batch, steps: int = 50, baseline: str = "zero") -> Tensor:
    """(x - b) times the mean gradient on the straight line from b to x (eq. 1), summed over the channels.

    steps: points of the Gauss-Legendre rule. baseline: a substrate of the input, by default zero in the normalised space, a grey.
    The map sums to S(x) - S(b), up to the rule's error. Signed: negative = evidence against the target.
    """
    require(steps >= 1, f"integrated_gradients: steps must be positive, not {steps}")
    start = substrate(baseline, batch.images)
    way = batch.images - start
    mean = torch.zeros_like(way)
    for node, weight in zip(*np.polynomial.legendre.leggauss(steps), strict=True):  # on [-1, 1]
        mean += float(weight) / 2 * model.input_gradients(batch.with_images(start + (1 + float(node)) / 2 * way))
    return (way * mean).sum(dim=1)


@method("gradient_shap", needs={"gradients"}, cite="lundberg2017unified")
def gradient_shap(model: ModelView, batch: Batch, n: int = 50, sigma: float = 0.1, baseline: str = "zero") -> Tensor:
    """Expected gradients: the mean of (x' - b) times the gradient at a random point between b and x', summed over the channels.

    x' is x with Gaussian noise, sigma in shares of the input's own range; baseline b: a substrate of the input, the only one of its
    background. A Monte Carlo estimate of integrated gradients where sigma is 0, as in the SHAP library's GradientExplainer and
    captum's GradientShap, whose noise and background are the caller's to choose: these defaults are ours. Signed.
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
