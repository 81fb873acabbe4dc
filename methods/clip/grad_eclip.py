"""Grad-ECLIP (Zhao et al. 2024): gradients of the picture's similarity with a text, at the values that the class token collects."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from xbench.plugin import Batch, ModelView, NotApplicable, method

from .itsm import TOKENS, last_blocks


@method("grad_eclip", needs=TOKENS | {"gradients"}, cite="zhao2024gradeclip")
def grad_eclip(model: ModelView, batch: Batch) -> Tensor:
    """ReLU of sum_d g_d v_jd l_j in the last block: the gradient at what the class token collects, times each place's values.

    g is the gradient of the cosine with the text at the attention's output for the class token, v_j the value of a place, l_j the
    cosine of its key with the class token's query, both behind the output projection, scaled to [0, 1] over the places.

    The last block is computed as if its attention had one head, as the authors do; so what is explained is not quite the network
    that classifies. In a ResNet the attention pool is the last block and its mean the class token. [B, h, w], unsigned.

    Raises:
        NotApplicable: the tower pools its places, so that no class token collects anything.
    """
    return _summed(model, batch, 1)


@method("mmel", needs=TOKENS | {"gradients"}, cite="zhao2024gradeclip")
def mmel(model: ModelView, batch: Batch, share: float = 0.33) -> Tensor:
    """The sum of the maps of ``grad_eclip`` over the last blocks, all of them with one head.

    A reconstruction without training: MMEL's own aggregation of layers is not public in detail. share: of the blocks, four of
    twelve. [B, h, w], unsigned.

    Raises:
        NotApplicable: as ``grad_eclip``.
    """
    return _summed(model, batch, last_blocks("mmel", model, share))


def _summed(model: ModelView, batch: Batch, count: int) -> Tensor:
    tower, seen = model.tower, model.seen(batch)
    if not tower.reads_class_token:
        raise NotApplicable(f"grad_eclip: {model.model.id} reads the mean of its places, not a class token; use grad_cam or itsm")
    first = len(tower.blocks) - count
    attended, weighted = [], []
    with torch.enable_grad():
        stream = seen.streams[first].detach().requires_grad_()
        for block in tower.blocks[first:]:
            q, k, v = block.parts(stream)
            mixed = (q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(dim=-1) @ v
            attended.append(mixed)
            weighted.append((v * _nearness(block.out(q), block.out(k))[..., None]).detach())
            stream = block.after(stream, block.out(mixed))
        cosine = F.normalize(tower.embedding(stream), dim=-1) * model.texts(batch)
        gradients = torch.autograd.grad(cosine.sum(), attended)
    share = count / len(tower.blocks)
    model.charge(share, share)
    maps = [(v[:, 1:] * g[:, :1]).sum(dim=-1).relu() for v, g in zip(weighted, gradients, strict=True)]
    return torch.stack(maps).sum(dim=0).reshape(-1, *seen.grid)


def _nearness(q: Tensor, k: Tensor) -> Tensor:
    """Cosines of the class token's query with all keys, the places' from 0 to 1 (1 where all are alike), ``[B, N]``."""
    cosines = (F.normalize(q[:, :1], dim=-1) * F.normalize(k, dim=-1)).sum(dim=-1)
    low, high = (f(cosines[:, 1:], dim=1, keepdim=True) for f in (torch.amin, torch.amax))
    return torch.where(high > low, (cosines - low) / (high - low), 1.0)
