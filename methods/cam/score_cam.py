"""Score-CAM: what the network says of the input seen through each channel of its own feature layer."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from xbench.plugin import Batch, Blends, ModelView, method, resize

from .._shared import require


@method("score_cam", needs={"feature_maps"}, cite="wang2020scorecam")
def score_cam(model: ModelView, batch: Batch, top: int = 0) -> Tensor:
    """Activations of the feature layer, weighted by the target's score on the input seen through each of them (algorithm 1).

    The paper's variant: weights are the softmax, over the channels, of the score's increase over a baseline; the same baseline for
    all, it cancels. (The authors' code takes the bare scores.) The score is the target's probability, the masks are the upsampled
    channels, min-max scaled. A flat channel shows nothing and has no weight. top: probe only the channels with the largest range
    (max - min), 0 for all, which is the paper's. -> [items, h, w] at the feature layer's grid, unsigned (ReLU).
    """
    require(top >= 0, f"score_cam: top must not be negative, not {top}")
    maps, requests = [], []
    activations = model.features(batch)[: len(batch.items)]
    for row, channels in enumerate(activations):
        ranges = channels.amax(dim=(1, 2)) - channels.amin(dim=(1, 2))
        order = ranges.argsort(descending=True, stable=True)[: min(top or len(ranges), int((ranges > 0).sum()))]
        maps.append(channels[order])
        requests.append(Blends((row,), len(order), functools.partial(_seen_through, channels[order], batch.size)))
    for row, scores in enumerate(model.probe(batch, requests)):
        weights = scores[0].softmax(dim=0).to(activations)
        maps[row] = (weights[:, None, None] * maps[row]).sum(dim=0).relu()
    return torch.stack(maps)


def _seen_through(channels: Tensor, size: tuple[int, int], i: int) -> Tensor:
    """Channel i as a mask ``[H, W]``: upsampled, then scaled to [0, 1]."""
    shown = resize(channels[i], size)
    return (shown - shown.min()) / (shown.max() - shown.min())
