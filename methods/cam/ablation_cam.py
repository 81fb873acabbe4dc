"""Ablation-CAM: what the target's logit loses without each channel of the feature layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from xbench.plugin import Batch, Model, ModelView, generator, method

from .._shared import require

TOGETHER = 128  # ablated feature maps in one pass, where the layers before them run only once


@method("ablation_cam", needs={"feature_maps"}, cite="desai2020ablationcam")
def ablation_cam(model: ModelView, batch: Batch, top: int = 0) -> Tensor:
    """Activations weighted by (S - S_k) / |S|, S_k the target's logit with channel k of the feature layer set to zero.

    The paper divides by S, which turns the map over where the logit is negative. [items, h, w], unsigned (ReLU). Class and register
    tokens stay as they are. A channel that is zero already has no weight and costs nothing. top: ablate only the channels with the
    largest mean size of their activations, 0 for all, which is the paper's.
    """
    require(top >= 0, f"ablation_cam: top must not be negative, not {top}")
    activations = model.features(batch)[: len(batch.items)]
    apart = _apart(model.model, batch.size)
    weights = torch.zeros(activations.shape[:2], device=activations.device)
    for i, features in enumerate(activations):
        sizes = features.abs().mean(dim=(1, 2))
        alive = sizes.argsort(descending=True, stable=True)[: min(top or len(sizes), int((sizes > 0).sum()))].sort().values
        scores = _scores(model.model, batch.images[i : i + 1], features, alive, TOGETHER if apart else len(batch), apart)
        scores = scores[:, batch.targets[i]]
        weights[i, alive] = (scores[0] - scores[1:]) / scores[0].abs().clamp(min=1e-12)
    return (weights[:, :, None, None] * activations).sum(dim=1).relu()


def _scores(model: Model, image: Tensor, features: Tensor, channels: Tensor, size: int, apart: bool) -> Tensor:
    """Logits ``[1 + n, classes]``: untouched, then without each of the n channels; every pass has the same shape."""
    found = []
    for chunk in torch.split(torch.cat([channels.new_tensor([-1]), channels]), size):
        ablated = features.repeat(size, 1, 1, 1)
        touched = (chunk >= 0).nonzero()[:, 0]
        ablated[touched, chunk[touched]] = 0
        with _replaced(model, ablated), torch.no_grad():
            found.append(model(image if apart else image.expand(size, -1, -1, -1))[: len(chunk)])
    return torch.cat(found)


def _apart(model: Model, size: tuple[int, int]) -> bool:
    """Whether the logits depend on the feature layer's output alone: the same output within another input gives the same logits.

    It does not behind a residual connection around the layer. Tried on noise: the answer is the network's, not the items'.
    """
    noise = torch.randn(2, 1, 3, *size, generator=generator("ablation_cam")).to(model.device)
    outputs: list[Tensor] = []
    with torch.no_grad():
        handle = model.layer.register_forward_hook(lambda _, __, output: outputs.append(output.clone()))
        try:
            logits = model(noise[0])
        finally:
            handle.remove()
        handle = model.layer.register_forward_hook(lambda _, __, ___: torch.cat(outputs * 2))
        try:
            again = model(noise[1])
        except (RuntimeError, ValueError, AssertionError):  # it counts on as many pictures as went in
            return False
        finally:
            handle.remove()
    return again.shape[0] == 2 and bool((again - logits).abs().max() <= 1e-5 * logits.abs().max())


@contextmanager
def _replaced(model: Model, grids: Tensor) -> Iterator[None]:
    """Inside, the feature layer's output holds these feature maps, ``[n, K, h, w]``."""
    layout = model.layout
    assert layout is not None

    def replace(_: object, __: object, output: Tensor) -> Tensor:
        return layout.from_grid(grids, output.expand(len(grids), *output.shape[1:])).to(output.dtype)

    handle = model.layer.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
