"""Image-text similarity: how near each place of the picture is to a text, in the space that a CLIP's two towers share."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from xbench.plugin import Batch, ModelView, method, min_max

from .._shared import require

TOKENS = {"patch_tokens", "text"}


@method("itsm", needs=TOKENS, cite="li2022exploring")
def itsm(model: ModelView, batch: Batch, text: str = "") -> Tensor:
    """Cosine between each place's token, projected into the joint space, and the text (ITSM), from 0 to 1 over the places.

    CLIP was trained on the pooled token alone, and the paper found these maps to prefer the background: see ``itsm_reversed``.
    text: what to look for in every picture, such as ``itsm(text="a photo of a bird.")``; the target's own prompts where it is
    empty. [B, h, w], unsigned.
    """
    return similarity(model, batch, model.tower.project(model.tower.placed(model.seen(batch))), text)


@method("itsm_reversed", needs=TOKENS, cite="li2022exploring")
def itsm_reversed(model: ModelView, batch: Batch, text: str = "") -> Tensor:
    """1 - ``itsm``: a baseline of the paper. text: as of ``itsm``. [B, h, w], unsigned."""
    return 1 - itsm(model, batch, text)


def last_blocks(name: str, model: ModelView, share: float) -> int:
    """How many of the tower's last blocks a share of them is, one at least.

    Raises:
        XbenchError: it is no share.
    """
    require(0 < share <= 1, f"{name}: share must be above 0 and at most 1, not {share}")
    return max(1, round(share * len(model.tower.blocks)))


def similarity(model: ModelView, batch: Batch, tokens: Tensor, text: str = "") -> Tensor:
    """Cosines of tokens in the joint space, ``[B, h, w, D]``, with a text or each target's. -> [B, h, w], from 0 to 1."""
    texts = model.sentences([text]) if text else model.texts(batch)
    return min_max((F.normalize(tokens, dim=-1) * texts[:, None, None]).sum(dim=-1))
