"""What a max pooling over places would keep: the network's own selection, whatever the class.

The relevance mass of such a map is ECLIP's mean foreground selection ratio (mFSR).
"""

from __future__ import annotations

from torch import Tensor

from xbench.plugin import Batch, ModelView, method


@method("max_selection", needs={"feature_maps"}, cite="li2022exploring")
def max_selection(model: ModelView, batch: Batch) -> Tensor:
    """How many channels of the feature layer have their maximum at each place. -> [B, h, w], class-agnostic, unsigned.

    Places that tie for a channel's maximum share it; channels that are the same everywhere select nothing.
    """
    return selected(model.features(batch))


@method("token_selection", needs={"patch_tokens"}, cite="li2022exploring")
def token_selection(model: ModelView, batch: Batch) -> Tensor:
    """The same of a CLIP's joint space: how many of its dimensions have their maximum at each place. -> [B, h, w], class-agnostic,
    unsigned. ``eclip_selection`` is its like for a projection that was trained by such a pooling."""
    return selected(model.tower.project(model.tower.placed(model.seen(batch))).permute(0, 3, 1, 2))


def selected(features: Tensor) -> Tensor:
    """Features ``[B, K, h, w]`` -> the channels that have their maximum at each place, counted, ``[B, h, w]``."""
    places = features.flatten(2)
    highest = places.amax(dim=2, keepdim=True)
    chosen = (places == highest) & (places.amin(dim=2, keepdim=True) < highest)
    shares = chosen / chosen.sum(dim=2, keepdim=True).clamp(min=1)
    return shares.sum(dim=1).reshape(-1, *features.shape[2:])
