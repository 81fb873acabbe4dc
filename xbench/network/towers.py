"""The image tower of a CLIP, opened: what each block reads, and every place of the picture in the space that it shares with text.

A CLIP answers with one embedding of the whole picture. Methods for CLIP look at the tokens behind it: the residual stream before
each block, the queries, keys and values of a block's attention, and each place's own way through the last layers. Two kinds of
towers of open_clip can be opened, vision transformers and ResNets with an attention pool; all here is computed beside the network,
whose parameters and outputs stay as they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Size = tuple[int, int]


@dataclass(frozen=True)
class Block:
    """An attention block. residual: whether what it adds is added to the stream; an attention pool replaces it.

    Streams are ``[B, 1 + h * w, width]``: the class token (of a pool the mean), then the places by rows.
    """

    module: Any
    heads: int
    residual: bool

    def parts(self, stream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a stream that enters, ``[B, N, width]`` each, heads side by side."""
        if self.residual:
            own = self.module.attn
            q, k, v = F.linear(self.module.ln_1(stream), own.in_proj_weight, own.in_proj_bias).chunk(3, dim=-1)
            return q, k, v
        return self.module.q_proj(stream), self.module.k_proj(stream), self.module.v_proj(stream)

    def out(self, mixed: Tensor) -> Tensor:
        """What attention gives for mixed values ``[..., width]``: its output projection, ``[..., width or D]``."""
        projection = self.module.attn.out_proj if self.residual else self.module.c_proj
        found: Tensor = projection(mixed)
        return self.module.ls_1(found) if self.residual else found

    def after(self, stream: Tensor, attended: Tensor) -> Tensor:
        """The stream behind the block, where ``out`` gave ``attended``."""
        if not self.residual:
            return attended
        own = self.module
        stream = stream + attended
        found: Tensor = stream + own.ls_2(own.mlp(own.ln_2(stream)))
        return found


@dataclass(frozen=True)
class Seen:
    """A pass through a tower.

    streams: what enters each block, and what leaves the last one of a transformer. embedding: the tower's answer, ``[B, D]``, of
    any length. grid: (h, w).
    """

    streams: tuple[Tensor, ...]
    embedding: Tensor
    grid: Size


class Tower(ABC):
    """A tower. blocks: its attention blocks, the first one first. reads_class_token: whether the picture's embedding is the class
    token's, and not the mean of all places. stride: pixels a place."""

    blocks: tuple[Block, ...]
    reads_class_token: bool
    stride: Size
    positions: str  # the name of the parameter that says where places are

    def __init__(self, visual: nn.Module) -> None:
        self.visual: Any = visual

    @contextmanager
    def watched(self) -> Iterator[list[Tensor]]:
        """What becomes the streams, then the embedding, of one pass that happens inside, by whomever, in its graph."""
        found: list[Tensor] = []

        def leave(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
            found.append(output[0] if isinstance(output, tuple) else output)

        handles = [*self._watch(found), self.visual.register_forward_hook(leave)]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()

    def seen(self, images: Tensor) -> Seen:
        """A pass of one's own. images: ``[B, 3, H, W]`` of any size that holds a place."""
        size = (images.shape[-2], images.shape[-1])
        with self.watched() as found:
            torch.func.functional_call(self.visual, self.resized(size), (images,))
        return Seen(tuple(found[:-1]), found[-1], self.grid(size))

    def grid(self, size: Size) -> Size:
        """Places of an input of (height, width)."""
        return size[0] // self.stride[0], size[1] // self.stride[1]

    def resized(self, size: Size) -> dict[str, Tensor]:
        """Position embeddings for an input of another size than the tower's own, by parameter; nothing where it is the own one.

        Interpolated as open_clip does when it loads weights: bicubic, antialiased, the class token's as it is.
        """
        own, grid = self._own_grid(), self.grid(size)
        if own == grid:
            return {}
        embedding = self.visual.get_parameter(self.positions)
        places = embedding[1:].reshape(1, *own, -1).permute(0, 3, 1, 2)
        moved = F.interpolate(places, grid, mode="bicubic", antialias=True, align_corners=False)
        return {self.positions: torch.cat([embedding[:1], moved.flatten(2)[0].T])}

    def places(self, images: Tensor) -> Tensor:
        """The last tokens before the projection into the joint space, ``[B, h, w, width]``."""
        return self.placed(self.seen(images))

    def placed(self, seen: Seen) -> Tensor:
        """The same of a pass that is known."""
        last = self.last(seen.streams[-1])[:, 1:]
        return last.reshape(len(last), *seen.grid, -1)

    def project(self, places: Tensor) -> Tensor:
        """``[..., width]`` -> the joint space, ``[..., D]``."""
        weight, bias = self.projection
        return F.linear(places, weight, bias)

    @property
    @abstractmethod
    def projection(self) -> tuple[Tensor, Tensor | None]:
        """Weight ``[D, width]`` and bias ``[D]`` of the last linear layer."""

    @abstractmethod
    def last(self, stream: Tensor) -> Tensor:
        """The last stream ``[B, N, width]`` -> what ``project`` takes, for each token by itself."""

    @abstractmethod
    def embedding(self, stream: Tensor) -> Tensor:
        """The stream behind the last block ``[B, N, ...]`` -> the picture's embedding in the joint space, ``[B, D]``."""

    @abstractmethod
    def _watch(self, found: list[Tensor]) -> Sequence[Any]: ...

    @abstractmethod
    def _own_grid(self) -> Size: ...


class VisionTower(Tower):
    """open_clip's VisionTransformer. A place is a patch; its embedding is its own token behind the last block, norm and
    projection, which a CLIP that reads its class token never uses."""

    positions = "positional_embedding"

    def __init__(self, visual: nn.Module) -> None:
        super().__init__(visual)
        self.blocks = tuple(Block(block, block.attn.num_heads, True) for block in self.visual.transformer.resblocks)
        self.reads_class_token = self.visual.pool_type == "tok"
        self.stride = self.visual.patch_size

    @property
    def projection(self) -> tuple[Tensor, Tensor | None]:
        return self.visual.proj.T, None

    def last(self, stream: Tensor) -> Tensor:
        found: Tensor = self.visual.ln_post(stream)
        return found

    def embedding(self, stream: Tensor) -> Tensor:
        if self.reads_class_token:
            return self.project(self.last(stream[:, 0]))
        if self.visual.final_ln_after_pool:
            return self.project(self.last(stream[:, 1:].mean(dim=1)))
        return self.project(self.last(stream[:, 1:]).mean(dim=1))

    def _watch(self, found: list[Tensor]) -> Sequence[Any]:
        enter = [block.module.register_forward_pre_hook(lambda _, given: found.append(given[0])) for block in self.blocks]
        leave = self.blocks[-1].module.register_forward_hook(lambda _, __, output: found.append(output))
        return [*enter, leave]

    def _own_grid(self) -> Size:
        height, width = self.visual.grid_size
        return height, width


class ResNetTower(Tower):
    """open_clip's ModifiedResNet. A place is a cell of the last feature map with its position; its embedding goes through the
    values and the output of the attention pool, as if the pool looked there alone."""

    positions = "attnpool.positional_embedding"
    reads_class_token = True

    def __init__(self, visual: nn.Module) -> None:
        super().__init__(visual)
        self.blocks = (Block(self.visual.attnpool, self.visual.attnpool.num_heads, False),)
        self.stride = (32, 32)

    @property
    def projection(self) -> tuple[Tensor, Tensor | None]:
        return self.visual.attnpool.c_proj.weight, self.visual.attnpool.c_proj.bias

    def last(self, stream: Tensor) -> Tensor:
        found: Tensor = self.visual.attnpool.v_proj(stream)
        return found

    def embedding(self, stream: Tensor) -> Tensor:
        return stream[:, 0]

    def _watch(self, found: list[Tensor]) -> Sequence[Any]:
        def enter(pool: Any, given: tuple[Tensor, ...]) -> None:
            places = given[0].flatten(2).transpose(1, 2)
            found.append(torch.cat([places.mean(dim=1, keepdim=True), places], dim=1) + pool.positional_embedding)

        return [self.visual.attnpool.register_forward_pre_hook(enter)]

    def _own_grid(self) -> Size:
        side = round((len(self.visual.attnpool.positional_embedding) - 1) ** 0.5)
        return side, side


def of(visual: Any) -> Tower | None:
    """A tower to look into; None where it is of another kind: of timm, or one that pools its tokens by further attention."""
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", ())
    if blocks and all(type(block).__name__ == "ResidualAttentionBlock" and block.attn.batch_first for block in blocks):
        whole = getattr(visual, "attn_pool", None) is None and getattr(visual, "proj", None) is not None
        return VisionTower(visual) if whole and visual.pool_type in ("tok", "avg") else None
    pool = getattr(visual, "attnpool", None)
    return ResNetTower(visual) if all(hasattr(pool, f"{one}_proj") for one in "qkvc") else None
