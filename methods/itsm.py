"""Image-text similarity: how near each place of the picture is to a text, in the space that a CLIP's two towers share."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from xbench import Batch, ModelView, method
from xbench.maps import min_max

TOKENS = {"patch_tokens", "text"}


@method("itsm", needs=TOKENS, cite="li2022exploring")
def itsm(model: ModelView, batch: Batch) -> Tensor:
    """Cosine between each place's token, projected into the joint space, and the text (ITSM), from 0 to 1 over the places.

    CLIP was trained on the pooled token alone, and the paper found these maps to prefer the background: see ``itsm_reversed``.
    [B, h, w], unsigned.
    """
    return similarity(model, batch, model.tower.project(model.tower.placed(model.seen(batch))))


@method("itsm_reversed", needs=TOKENS, cite="li2022exploring")
def itsm_reversed(model: ModelView, batch: Batch) -> Tensor:
    """1 - ``itsm``: a baseline of the paper. [B, h, w], unsigned."""
    return 1 - itsm(model, batch)


def similarity(model: ModelView, batch: Batch, tokens: Tensor) -> Tensor:
    """Cosines of tokens in the joint space, ``[B, h, w, D]``, with each target's text. -> [B, h, w], from 0 to 1."""
    return min_max((F.normalize(tokens, dim=-1) * model.texts(batch)[:, None, None]).sum(dim=-1))
