"""What a max pooling over places would keep: the network's own selection, whatever the class."""

from __future__ import annotations

from torch import Tensor

from xbench import Batch, ModelView, method


@method("max_selection", needs={"feature_maps"}, cite="li2022exploring")
def max_selection(model: ModelView, batch: Batch) -> Tensor:
    """How many channels of the feature layer have their maximum at each place. -> [B, h, w], class-agnostic, unsigned.

    Places that tie for a channel's maximum share it; channels that are the same everywhere select nothing. The relevance mass of
    this map is ECLIP's mean foreground selection ratio (mFSR).
    """
    places = model.features(batch).flatten(2)
    highest = places.amax(dim=2, keepdim=True)
    selected = (places == highest) & (places.amin(dim=2, keepdim=True) < highest)
    shares = selected / selected.sum(dim=2, keepdim=True).clamp(min=1)
    height, width = model.features(batch).shape[2:]
    return shares.sum(dim=1).reshape(-1, height, width)
