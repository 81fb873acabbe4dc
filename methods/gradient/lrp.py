"""Layer-wise relevance propagation through CNNs, on an altered copy of the network that is made once per model.

The rules are our own: captum's raise on residual networks, and zennit's want a description of every architecture that adds, gates
or clips. Here one backward pass carries relevance through all of that (see _lrp_network.py), and whether it does so on a network is
not believed but measured: the relevance of all pixels must sum to the logit that it explains.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xbench.plugin import Attribution, Batch, Model, ModelView, NotApplicable, generator, method

from ._lrp_network import with_rules

TOLERANCE = 1e-3  # of the logit, for the sum of the relevance; a wrong rule misses by hundredths or more
_altered: WeakKeyDictionary[Model, nn.Module | str] = WeakKeyDictionary()  # the altered copy, or why there is none


@method("lrp", needs={"gradients"}, cite="bach2015pixel")
def lrp(model: ModelView, batch: Batch) -> Attribution:
    """Relevance of each pixel for the target's logit, summed over the channels. [B, H, W]; the map sums to the logit.

    A composite in the manner of Montavon et al. 2019: the epsilon rule in dense layers and in the last layer, alpha 1 beta 0 in
    convolutions, w squared in the first one. Batch norm is fused into the convolution before it; biases absorb no relevance.
    Signed: negative = evidence against the target. Computed in float32, whatever the run's dtype.

    Raises:
        NotApplicable: on this model the relevance does not sum to the logit, or the copy cannot be made.
    """
    if model.model not in _altered:
        _altered[model.model] = _alter(model.model, batch.size)
    network = _altered[model.model]
    if isinstance(network, str):
        raise NotApplicable(f"lrp does not hold on {model.model.id}: {network}")
    relevance, logits = _relevance(network, batch.images, batch.targets)
    return Attribution.of(relevance.sum(dim=1), logits)


def _relevance(network: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(relevance [B, 3, H, W], the gradient itself by the first layer's rule; the targets' logits [B])."""
    with torch.enable_grad():
        images = images.detach().clone().requires_grad_()
        logits = network(images).gather(1, targets[:, None])
        (relevance,) = torch.autograd.grad(logits.sum(), images)
    return relevance, logits.detach()[:, 0]


def _alter(model: Model, size: tuple[int, int]) -> nn.Module | str:
    """The altered copy, or what is wrong with it, on noise, and so whatever the items are."""
    noise = torch.randn(3, 3, *size, generator=generator("lrp")).to(model.device)
    images = torch.stack([noise[0] / 2, noise[1], noise[2].cumsum(dim=1).cumsum(dim=2) / max(size)])  # weak, strong, smooth
    with torch.no_grad():
        logits = model.network.forward(images)  # past the hooks that count
    targets = logits.abs().argmax(dim=1)
    logits = logits.gather(1, targets[:, None])[:, 0]
    try:
        network = with_rules(model.network, images[:1])
        total = _relevance(network.forward, images, targets)[0].sum(dim=(1, 2, 3))
    except Exception as error:  # a network may need of its layers what rules lack
        return f"its altered copy raises {type(error).__name__}: {' '.join(str(error).split())[:120]}"
    miss = float(((total - logits).abs() / logits.abs().clamp(min=1e-12)).max())
    if not miss <= TOLERANCE:
        return f"relevance misses the logit that it explains by {miss:.1%}"
    network._forward_hooks = model.network._forward_hooks  # the same ones: they count the passes that a method is charged for
    return network
