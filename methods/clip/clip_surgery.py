"""CLIP Surgery (Li et al. 2023): similarity maps without training, by other paths through the attention and without what all texts
have in common.

Architecture: each of the last blocks sees its input by what the values say alone: softmax(scale V V^T) V in place of queries and
keys; what these blocks would give is added up beside the network's own stream, which still is what each of them reads. The blocks'
MLPs are left out there. Features: what is alike for all texts is redundant and taken away.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from xbench.plugin import Batch, Block, ModelView, method, min_max

from .itsm import TOKENS, last_blocks

POOL_SCALE = 8.0  # of the cosines of values in a ResNet's attention pool, times the usual scale (the authors' code)


@method("clip_surgery", needs=TOKENS, cite="li2025clipsurgery")
def clip_surgery(model: ModelView, batch: Batch, share: float = 0.5) -> Tensor:
    """Both surgeries. The map of a class depends on all classes of the model; with a single one it is ``clip_surgery_single``.

    With c_jn the cosine of place j and text n, and w_n = p_n / mean(p), p the softmax over the texts of twice the cosine with the
    whole picture: w_n c_jn - mean over m of w_m c_jm, from 0 to 1 over the places. share: of the blocks, the last of which are
    operated on, six of twelve there; a ResNet has its attention pool. [B, h, w], unsigned.
    """
    texts = model.class_texts
    if len(texts) == 1:
        return clip_surgery_single(model, batch, share)
    places = F.normalize(_places(model, batch, share), dim=-1)
    whole = F.normalize(model.seen(batch).embedding, dim=-1)
    probabilities = (2 * whole @ texts.T).softmax(dim=-1)
    weights = probabilities / probabilities.mean(dim=-1, keepdim=True)
    weighted = (places @ texts.T) * weights[:, None, None]
    chosen = batch.targets[:, None, None, None].expand(*weighted.shape[:3], 1)
    return min_max(weighted.gather(3, chosen)[..., 0] - weighted.mean(dim=-1))


@method("clip_surgery_single", needs=TOKENS, cite="li2025clipsurgery")
def clip_surgery_single(model: ModelView, batch: Batch, share: float = 0.5) -> Tensor:
    """Architecture surgery, and of the text what the empty sentence has too is taken away: it depends on no other class.

    The product of each place with (text - empty sentence), all of length 1, from 0 to 1 over the places. share: as of
    ``clip_surgery``. [B, h, w], unsigned.
    """
    places = F.normalize(_places(model, batch, share), dim=-1)
    return min_max((places * (model.texts(batch) - model.sentences([""]))[:, None, None]).sum(dim=-1))


def _places(model: ModelView, batch: Batch, share: float) -> Tensor:
    """What the places are in the joint space after the surgery, ``[B, h, w, D]``."""
    tower, seen = model.tower, model.seen(batch)
    first = len(tower.blocks) - last_blocks("clip_surgery", model, share)
    if not tower.blocks[0].residual:
        pool = tower.blocks[-1]
        return tower.project(_by_values(pool, seen.streams[-1])[:, 1:]).reshape(len(batch), *seen.grid, -1)
    beside = seen.streams[first].clone()
    for block, stream in zip(tower.blocks[first:], seen.streams[first:], strict=False):
        beside += block.out(_by_values(block, stream))
    return tower.project(tower.last(beside)[:, 1:]).reshape(len(batch), *seen.grid, -1)


def _by_values(block: Block, stream: Tensor) -> Tensor:
    """softmax(scale V V^T) V by heads, ``[B, N, width]``; in a pool of V's directions."""
    values = block.parts(stream)[2].reshape(*stream.shape[:2], block.heads, -1).transpose(1, 2)
    alike = values if block.residual else F.normalize(values, dim=-1) * POOL_SCALE**0.5
    weights = (alike @ alike.transpose(-2, -1) * values.shape[-1] ** -0.5).softmax(dim=-1)
    return (weights @ values).transpose(1, 2).flatten(2)
