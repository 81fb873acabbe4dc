"""How a small transformer's weights begin, where there are too few pictures to learn from that near patches belong together.

Mimetic initialisation (Trockman and Kolter 2023): queries and keys agree from the start, so that with sinusoidal positions a token
attends to what is near it and looks like it; values and projection undo a part of the token itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from xbench.errors import XbenchError

QUERY_KEY = (0.7, 0.7)  # weights of noise and identity in W_Q W_K^T, section 4
VALUE_PROJECTION = (0.4, -0.4)  # and in W_V W_proj


def mimetic(network: nn.Module) -> None:
    """Begin all blocks of timm's vision transformer, or of the image tower of open_clip's CLIP, that way.

    Noise comes from torch's global generator.

    Raises:
        XbenchError: the network is neither.
    """
    tower = getattr(network, "visual", network)
    positions = getattr(tower, "pos_embed", getattr(tower, "positional_embedding", None))
    blocks = getattr(tower, "blocks", None) or getattr(getattr(tower, "transformer", None), "resblocks", None)
    if not isinstance(positions, Tensor) or blocks is None:
        raise XbenchError("init = 'mimetic' is for vision transformers of timm and open_clip; leave it out")
    with torch.no_grad():
        for block in blocks:
            _begin(block.attn)
        patches = positions.shape[-2] - 1
        side = math.isqrt(patches)
        if side * side != patches:
            raise XbenchError(
                f"init = 'mimetic' needs a class token and a square grid, not {positions.shape[-2]} tokens; leave it out"
            )
        positions.zero_()
        positions[..., 1:, :] = sinusoids(side, positions.shape[-1])


def sinusoids(side: int, width: int) -> Tensor:
    """Positions of a square grid, ``[side * side, width]``: a quarter each of sines and cosines of the column and of the row."""
    rates = 10000 ** (-torch.arange(width // 4) / (width // 4))
    turns = torch.arange(side)[:, None] * rates
    axis = torch.cat([turns.sin(), turns.cos()], dim=1)
    across, down = axis.repeat(side, 1), axis.repeat_interleave(side, dim=0)
    return torch.cat([across, down], dim=1)


def _begin(attention: nn.Module) -> None:
    """timm's Attention, or torch's MultiheadAttention."""
    found = getattr(attention, "qkv", None)
    packed = found.weight if found is not None else attention.in_proj_weight
    projection = attention.proj.weight if found is not None else attention.out_proj.weight  # type: ignore[union-attr]
    assert isinstance(packed, Tensor)
    assert isinstance(projection, Tensor)
    heads = attention.num_heads
    assert isinstance(heads, int)
    query, key, value = packed.chunk(3)
    for q, k in zip(query.chunk(heads), key.chunk(heads), strict=True):
        left, right = _factors(*QUERY_KEY, packed.shape[1], len(q))
        q.copy_(left.T)
        k.copy_(right.T)
    left, right = _factors(*VALUE_PROJECTION, packed.shape[1], packed.shape[1])
    value.copy_(left.T)  # a token x becomes x W_V W_proj, and both are stored transposed
    projection.copy_(right)


def _factors(noise: float, identity: float, width: int, rank: int) -> tuple[Tensor, Tensor]:
    """L, R ``[width, rank]`` whose product L R^T is nearest to noise Z + identity I, Z of variance 1 / width."""
    wanted = noise * torch.randn(width, width) / math.sqrt(width) + identity * torch.eye(width)
    left, sizes, right = torch.linalg.svd(wanted)
    root = sizes[:rank].sqrt()
    return left[:, :rank] * root, right[:rank].T * root
