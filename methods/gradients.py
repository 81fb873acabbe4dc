"""Methods on the gradient of the target's logit with respect to the input, [B, 3, H, W]; maps at pixel resolution."""

from __future__ import annotations

from torch import Tensor

from xbench import Batch, ModelView, method


@method("gradient", needs={"gradients"}, cite="simonyan2014deep")
def gradient(model: ModelView, batch: Batch) -> Tensor:
    """Largest absolute gradient over the channels (section 3.1). Unsigned."""
    return model.input_gradients(batch).abs().amax(dim=1)


@method("input_x_gradient", needs={"gradients"}, cite="shrikumar2016not")
def input_x_gradient(model: ModelView, batch: Batch) -> Tensor:
    """Normalised input times gradient, summed over the channels. Signed: negative = evidence against the target."""
    return (batch.images * model.input_gradients(batch)).sum(dim=1)
