"""Methods on the gradient of the target's logit with respect to the input, [B, 3, H, W]; maps at pixel resolution."""

from __future__ import annotations

import torch
from torch import Tensor

from xbench.plugin import Batch, ModelView, method

from .._shared import noisy, require


@method("gradient", needs={"gradients"}, cite="simonyan2014deep")
def gradient(model: ModelView, batch: Batch) -> Tensor:
    """Largest absolute gradient over the channels (section 3.1). Unsigned."""
    return model.input_gradients(batch).abs().amax(dim=1)


@method("input_x_gradient", needs={"gradients"}, cite="shrikumar2016not")
def input_x_gradient(model: ModelView, batch: Batch) -> Tensor:
    """Normalised input times gradient, summed over the channels. Signed: negative = evidence against the target."""
    return (batch.images * model.input_gradients(batch)).sum(dim=1)


@method("smooth_grad", needs={"gradients"}, cite="smilkov2017smoothgrad")
def smooth_grad(model: ModelView, batch: Batch, n: int = 25, sigma: float = 0.15) -> Tensor:
    """The mean of the gradients at n noisy inputs, then its absolute values summed over the channels, as the authors' code has it.

    sigma: of the noise, in shares of the input's own range (the paper: .1 to .2). Unsigned. Signs cancel in the mean before the
    absolute value is taken; ``smooth(gradient)`` averages absolute values.
    """
    require(n >= 1, f"smooth_grad: n must be positive, not {n}")
    require(sigma >= 0, f"smooth_grad: sigma must not be negative, not {sigma}")
    total = torch.zeros_like(batch.images)
    for draw in range(n):
        total += model.input_gradients(noisy(batch, sigma, draw))
    return (total / n).abs().sum(dim=1)
