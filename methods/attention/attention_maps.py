"""Methods for transformers, on the grid of patches; attention A is ``[B, heads, N, N]`` in each block, first the extra tokens.

*Read off* means: the rows of the tokens from which the model reads its logits, at the patches' columns, ``[..., h, w]``. For most
networks that is the class token's row. Where patches are pooled there is no such row, and the mean over the pooled rows is taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xbench.plugin import Batch, ModelView, method, read_off

GRADIENTS = {"attention", "gradients"}


@method("raw_attention", needs={"attention"}, cite="chefer2021transformer")
def raw_attention(model: ModelView, batch: Batch) -> Tensor:
    """The last block's attention, mean over heads, read off (a baseline there, section 4). [B, h, w], unsigned, class-agnostic."""
    return _read_off(model, model.attention(batch)[-1]).mean(dim=1)


@method("attention_rollout", needs={"attention"}, cite="abnar2020quantifying")
def attention_rollout(model: ModelView, batch: Batch) -> Tensor:
    """The product over the blocks of 0.5 A + 0.5 I, A the mean over heads, rows re-normalised, read off (section 3, eq. 1).

    The identity stands for the residual connection. [B, h, w], unsigned, class-agnostic.
    """
    rollout = _identity(maps := model.attention(batch))
    for attention in maps:
        mixed = 0.5 * attention.mean(dim=1) + 0.5 * _identity(maps)
        rollout = mixed / mixed.sum(dim=-1, keepdim=True) @ rollout
    return _read_off(model, rollout)


@method("transformer_attribution", needs=GRADIENTS, cite="chefer2021generic")
def transformer_attribution(model: ModelView, batch: Batch) -> Tensor:
    """Gradient-weighted relevance: R <- R + mean over heads of (gradient * A)^+ R, from I, block by block, read off (eqs. 5 and 6).

    The rule for self-attention of the ICCV 2021 paper, not the CVPR 2021 paper's, which propagates relevance by LRP. The I that R
    starts from is taken away again, which matters only where patches are pooled. [B, h, w], unsigned.
    """
    maps, gradients = model.attention_gradients(batch)
    relevance = _identity(maps).expand(len(batch), -1, -1)
    for attention, gradient in zip(maps, gradients, strict=True):
        relevance = relevance + (gradient * attention).relu().mean(dim=1) @ relevance
    return _read_off(model, relevance - _identity(maps))


@method("attn_grad_cam", needs=GRADIENTS, cite="chefer2021transformer")
def attn_grad_cam(model: ModelView, batch: Batch) -> Tensor:
    """Grad-CAM whose channels are the heads of the last block's attention, read off: ReLU of their mean, weighted by gradients.

    A head's weight is the mean of its gradient, read off too: over the patches, without the class token's column. So it is compared
    with in that paper (section 4, and the authors' code). [B, h, w], unsigned.
    """
    maps, gradients = model.attention_gradients(batch)
    heads, slopes = _read_off(model, maps[-1]), _read_off(model, gradients[-1])
    return (slopes.mean(dim=(2, 3), keepdim=True) * heads).mean(dim=1).relu()


def _identity(maps: list[Tensor]) -> Tensor:
    """``[1, N, N]``."""
    return torch.eye(maps[0].shape[-1], device=maps[0].device)[None]


def _read_off(model: ModelView, seen: Tensor) -> Tensor:
    """``[..., N, N]`` -> ``[..., h, w]``: the mean of the rows that the logits are read from, at the patches."""
    assert model.model.layout is not None
    return read_off(seen, model.model.layout, model.model.attention_rows)
