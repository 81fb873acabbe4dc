"""Controls: rows that a method must beat before its numbers mean anything, and the oracle as a ceiling."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from xbench.plugin import Batch, Method, ModelView, XbenchError, method


@method("random", control=True)
def random(model: ModelView, batch: Batch) -> Tensor:
    """Uniform noise per pixel. As a deletion order it is adversarial: honest maps hardly beat it there."""
    return batch.rand(*batch.size)


@method("random_grid", needs={"feature_maps"}, control=True)
def random_grid(model: ModelView, batch: Batch) -> Tensor:
    """Uniform noise at the grid of the model's feature layer: the floor for class activation maps."""
    return batch.rand(*model.features(batch).shape[2:])


@method("constant", control=True)
def constant(model: ModelView, batch: Batch) -> Tensor:
    """The same value at every pixel: scores are expectations over all orders of the pixels."""
    return torch.ones(len(batch), *batch.size)


@method("center", control=True, grid="any")
def center(model: ModelView, batch: Batch, sigma: float = 0.25) -> Tensor:
    """A Gaussian at the centre, ``sigma`` in shares of each side: where photographers put things.

    Raises:
        XbenchError: sigma is not positive.
    """
    if sigma <= 0:
        raise XbenchError(f"method center: sigma must be positive, not {sigma}")
    axes = [torch.exp(-0.5 * (((torch.arange(n) + 0.5) / n - 0.5) / sigma) ** 2) for n in batch.size]
    return torch.outer(*axes).expand(len(batch), -1, -1)


@method("sobel", control=True)
def sobel(model: ModelView, batch: Batch) -> Tensor:
    """Edge strength of the input's mean over channels (Sobel's operator, replicated borders): an explainer without a model."""
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    kernels = torch.stack([across, across.T])[:, None]
    grey = functional.pad(batch.images.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    return functional.conv2d(grey, kernels).square().sum(dim=1).sqrt()


@method("mean_activation", needs={"feature_maps"}, control=True)
def mean_activation(model: ModelView, batch: Batch) -> Tensor:
    """Activations of the feature layer averaged over channels: what the network sees, whatever the class."""
    return model.features(batch).mean(dim=1)


@method("inverted", control=True)
def inverted(model: ModelView, batch: Batch, inner: Method) -> Tensor:
    """The negated map of another method: what it calls evidence comes last."""
    result: Tensor = -inner(model, batch)
    return result


@method("oracle", needs={"truth"}, control=True, grid="any")
def oracle(model: ModelView, batch: Batch) -> Tensor:
    """The truth's own mask: the ceiling of metrics that compare with it."""
    assert batch.truth is not None
    masks = [truth.mask if truth.mask is not None else torch.zeros(batch.size, dtype=torch.bool) for truth in batch.truth]
    return torch.stack(masks).float()
