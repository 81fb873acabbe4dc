"""ECLIP: places of the picture in the joint space by a projection that was trained to be looked at (`xbench train eclip`)."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from xbench.plugin import (
    Batch,
    Card,
    Model,
    ModelView,
    NotApplicable,
    XbenchError,
    cards,
    file_digest,
    method,
    weights,
    weights_digest,
)

from ..clip.itsm import TOKENS, similarity
from ..clip.selection import selected

SHIPPED = Path(__file__).parent / "weights"


def _files(projection: str) -> Iterable[Path]:
    return cards.find(Path(projection).expanduser()) if projection else sorted(SHIPPED.glob("*.*"))


@method("eclip", needs=TOKENS, cite="li2022exploring", files=_files)
def eclip(model: ModelView, batch: Batch, projection: str = "") -> Tensor:
    """ITSM through a projection that was trained by masked max pooling: a reconstruction of ECLIP, whose code is unpublished.

    projection: what `xbench train eclip` made for this CLIP, its folder, card or weights; where none is named, one that ships. Its
    card says which choices are xbench's own. There is no mask when it explains. [B, h, w], unsigned, from 0 to 1 as ``itsm``.

    Raises:
        NotApplicable: no projection that ships is for this CLIP.
        XbenchError: the projection that is named is for another one.
    """
    return similarity(model, batch, _tokens(model, batch, projection))


@method("eclip_selection", needs={"patch_tokens"}, cite="li2022exploring", files=_files)
def eclip_selection(model: ModelView, batch: Batch, projection: str = "") -> Tensor:
    """How many dimensions have their maximum at each place, by the projection of ``eclip``: what its pooling would keep without the
    mask. The relevance mass is ECLIP's mFSR; ``token_selection`` is the same of CLIP's own. [B, h, w], class-agnostic, unsigned.

    projection, errors: as of ``eclip``.
    """
    return selected(_tokens(model, batch, projection).permute(0, 3, 1, 2))


def _tokens(model: ModelView, batch: Batch, projection: str) -> Tensor:
    """The places in the joint space by the projection, ``[B, h, w, D]``."""
    weight, bias = _projection(model.model, projection)
    places = model.tower.placed(model.seen(batch))
    return F.linear(places, weight.to(places), None if bias is None else bias.to(places))


@functools.lru_cache(maxsize=8)
def _projection(model: Model, projection: str) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the projection that is named, or of the one that ships and fits."""
    for place in [Path(projection).expanduser()] if projection else sorted(SHIPPED.glob("*.json")):
        path, file = cards.find(place)
        card = cards.read(path)
        if fits(card, model):
            found = weights.tensors(card, file)
            return found["weight"], found.get("bias")
        if projection:
            made = f"a projection for {card.parts['clip']}" if card.parts else f"a model of the task {card.task}"
            raise XbenchError(f"eclip: {place} is {made} and does not fit {model.id}; train one for it: xbench train eclip")
    raise NotApplicable(f"eclip: no projection for {model.id} ships; train one, xbench train eclip, and name it: projection=FOLDER")


def fits(card: Card, model: Model) -> bool:
    """Whether a card is of a projection for a CLIP: by the file of the CLIP's weights, which copies with other weights name too, or
    else by the weights of its image tower."""
    if card.task != "masked_max":
        return False
    if card.parts["file"] in (file_digest(path) for path in model.files):
        return True
    return card.parts["tower"] == weights_digest(cast(nn.Module, model.network.visual))
