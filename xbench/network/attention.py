"""The attention of a transformer's blocks, recorded in the graph of a forward pass.

Libraries compute attention in one fused call that never shows its probabilities. While ``recorded`` is open, that call is replaced
by its definition, in this thread and for the calls inside only: no module, no attribute, no global name is touched. Every softmax
over the tokens is recorded, so networks that spell their attention out are read too. Left out is what mixes other things than the
tokens of the layout: windows, text, pooling heads.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from xbench.network.features import Layout

SOFTMAX = {F.softmax, torch.softmax, torch.Tensor.softmax}


def tokens(layout: Layout) -> int:
    """N: class, register and distillation tokens, then one for each cell of the grid."""
    return layout.extra + math.prod(layout.grid)


@contextmanager
def recorded(pictures: int, layout: Layout) -> Iterator[list[Tensor]]:
    """Record the attention of a network that runs inside, on that many pictures.

    -> what becomes a list of ``[B, heads, N, N]``, in the order of execution; a row is what one token attends to, and sums to one.
    They are part of the graph where gradients are enabled: all that the attention does to the output, it does through them.
    Where a network pools its tokens on the way, only attention after the last change of their number counts.
    """
    maps: list[Tensor] = []
    with _Recorder(pictures, tokens(layout), maps):
        yield maps


def rows_read(network: nn.Module, example: Tensor, layout: Layout) -> tuple[int, ...]:
    """The tokens from which a network reads its logits: those whose row of the last block's attention the logits depend on.

    The class token, ``(0,)``, in most networks; all patches where they are pooled. Tried on noise.

    example: ``[1, 3, H, W]``, only its shape and device count. -> nothing where no attention is over the tokens of the layout.
    """
    generator = torch.Generator().manual_seed(0)
    picture = torch.randn(example.shape, generator=generator).to(example.device).requires_grad_()
    with torch.enable_grad(), recorded(len(picture), layout) as maps:
        logits = network(picture)
    if not maps or not logits.requires_grad:
        return ()
    score = (logits * torch.randn(logits.shape, generator=generator).to(logits.device)).sum()
    (gradient,) = torch.autograd.grad(score, maps[-1], allow_unused=True, materialize_grads=True)
    rows: list[int] = gradient.abs().amax(dim=(0, 1, 3)).nonzero()[:, 0].tolist()
    return tuple(rows)


def read_off(seen: Tensor, layout: Layout, rows: Sequence[int]) -> Tensor:
    """``[..., N, N]`` -> ``[..., h, w]``: the mean of the rows that the output is read from, at the patches."""
    return seen[..., list(rows), layout.extra :].mean(dim=-2).reshape(*seen.shape[:-2], *layout.grid)


class Unfused(TorchFunctionMode):
    """Inside, attention is computed by its definition instead of in one fused call."""

    def __torch_function__(
        self, function: Callable[..., Any], _: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function in OPENED:
            with self:  # which is off in its own handler
                return OPENED[function](*args, **(kwargs or {}))
        return self._seen(function, function(*args, **(kwargs or {})))

    def _seen(self, _: Callable[..., Any], output: Any) -> Any:
        return output


class _Recorder(Unfused):
    def __init__(self, pictures: int, tokens: int, maps: list[Tensor]) -> None:
        super().__init__()
        self.pictures, self.tokens, self.maps = pictures, tokens, maps

    def _seen(self, function: Callable[..., Any], output: Any) -> Any:
        return self._recorded(output) if function in SOFTMAX else output

    def _recorded(self, weights: Tensor) -> Tensor:
        """Weights ``[B, heads, N, N]``, or ``[B * heads, N, N]`` as nn.MultiheadAttention has them where it returns them."""
        apart = weights.ndim == 3 and len(weights) % self.pictures == 0
        maps = weights.reshape(self.pictures, -1, *weights.shape[1:]) if apart else weights
        if maps.ndim != 4 or len(maps) != self.pictures or maps.shape[2] != maps.shape[3]:
            return weights
        if maps.shape[2] == self.tokens:
            self.maps.append(maps)
        else:
            self.maps.clear()  # the network goes on with other tokens: what it did before is not its last word
        return maps.reshape(weights.shape)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What torch's scaled_dot_product_attention is defined as, argument by argument."""
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], dim=-3) for t in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return F.dropout(scores.softmax(dim=-1), dropout_p) @ value


def _transparent(function: Callable[..., Any]) -> types.FunctionType:
    """A copy of a function written in Python that offers what it calls to modes, where the original offers itself as a whole."""
    assert isinstance(function, types.FunctionType)
    globals_ = {**function.__globals__, "has_torch_function": lambda _: False}
    return types.FunctionType(function.__code__, globals_, function.__name__, function.__defaults__, function.__closure__)


OPENED: dict[Callable[..., Any], Callable[..., Any]] = {
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _transparent(F.multi_head_attention_forward),
}
