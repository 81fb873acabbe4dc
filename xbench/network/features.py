"""Where a network keeps its feature map: finding the layer that CAMs explain by, and reading its output as a grid.

A convolutional network gives ``[B, K, h, w]``, some give ``[B, h, w, K]``, a transformer a row of tokens ``[B, extra + h * w, K]``.
The layer is the last one in a forward pass whose output is a map of the picture and moves the logits: behind a class token that is
the input of the last block's attention, since the patches' own outputs are thrown away. Three things are asserted, not believed:
the grid has the picture's proportions, a change in one corner of the picture shows in that corner of the grid, and the logits'
gradient on the grid is not zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from xbench.errors import XbenchError, did_you_mean

POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)  # their outputs are summaries, not features
MOST_EXTRA = 16  # tokens before the patches: one class token, a distillation token, a few registers
LEAST_CORRELATION = 0.3  # of where a change is in the grid with where it was in the picture; 0.5 and more where all is well
SMALLEST = 2  # cells a side: below, there is nothing to localize with


@dataclass(frozen=True)
class Layout:
    """How a layer's output is laid out. grid: (h, w) of tokens. extra: class, register and distillation tokens before them."""

    kind: Literal["nchw", "nhwc", "tokens"] = "nchw"
    grid: tuple[int, int] = (0, 0)
    extra: int = 0

    def to_grid(self, output: Tensor) -> Tensor:
        """The output, or its gradient -> ``[B, K, h, w]``, extra tokens dropped."""
        if self.kind == "nchw":
            return output
        if self.kind == "nhwc":
            return output.permute(0, 3, 1, 2)
        patches = output[:, self.extra :].transpose(1, 2)
        return patches.reshape(*patches.shape[:2], *self.grid)

    def from_grid(self, grid: Tensor, output: Tensor) -> Tensor:
        """The inverse: an output whose features are replaced by ``[B, K, h, w]``; extra tokens stay those of ``output``."""
        if self.kind == "nchw":
            return grid
        if self.kind == "nhwc":
            return grid.permute(0, 2, 3, 1)
        return torch.cat([output[:, : self.extra], grid.flatten(2).transpose(1, 2)], dim=1)


def find(network: nn.Module, example: Tensor, name: str = "") -> tuple[str, Layout] | None:
    """Find the feature layer of a network in evaluation mode, or check the one that is named.

    example: ``[1, 3, H, W]``, only its shape and device count. -> (name, layout); None where no layer is given and none fits.

    Raises:
        XbenchError: the named layer does not exist, or its output is not a map of the picture; the network gives no logits.
    """
    if name and name not in (known := dict(network.named_modules())):
        raise XbenchError(f"the network has no layer {name!r}{did_you_mean(name, filter(None, known))}")
    trace = _Trace(network, example)
    if name:
        fault = trace.fault(name, {name})
        if fault:
            raise XbenchError(f"layer {name!r} gives no map of the picture that moves the logits: {fault}; name another layer")
        return name, trace.layouts[name]
    candidates = trace.candidates()
    found = next((one for one in reversed(candidates) if not trace.fault(one, candidates)), None)
    return (found, trace.layouts[found]) if found else None


class _Trace:
    """One forward pass of noise: which module gave what, and what of it can be a map of the picture."""

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        self.network, self.modules = network, dict(network.named_modules())
        self.picture = torch.randn(example.shape, generator=generator).to(example.device)
        self.outputs: dict[str, Tensor] = {}
        self.runs: Counter[str] = Counter()  # a layer that runs more than once has no one output
        self._ordered: dict[str, bool] = {}

        def keep(name: str, output: object) -> None:
            self.runs[name] += 1
            if isinstance(output, Tensor) and output.requires_grad:
                self.outputs[name] = output

        with _watched(network, self.modules, keep), torch.enable_grad():
            logits = network(self.picture.clone().requires_grad_())
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise XbenchError("the network must return logits, one tensor [B, classes]; wrap it in a module that picks them")
        self.score = (logits * torch.randn(logits.shape, generator=generator).to(logits.device)).sum()
        grids = {(o.shape[2], o.shape[3]) for o in self.outputs.values() if o.ndim == 4}
        found = {name: _layout(output, example, grids) for name, output in self.outputs.items() if self.runs[name] == 1}
        self.layouts = {name: layout for name, layout in found.items() if layout is not None}

    def candidates(self) -> list[str]:
        """The modules that may be the feature layer, in the order in which they end.

        No pooling; nothing right inside an attention, where queries and values are; of modules that return the same tensor the
        outermost; of tokens the usual width of their grid, which is the residual stream's.
        """
        pooled = {id(self.outputs[name]) for name in self.layouts if isinstance(self.modules[name], POOLING)}
        outermost: dict[int, str] = {}
        for name in self.layouts:
            tensor = id(self.outputs[name])
            if name and tensor not in pooled and "att" not in self._parent(name):
                outermost.pop(tensor, None)  # what changes a tensor in place comes after all that ran in between
                outermost[tensor] = name
        widths: dict[tuple[int, int], Counter[int]] = {}
        for name in outermost.values():
            widths.setdefault(self.layouts[name].grid, Counter())[self.outputs[name].shape[-1]] += 1
        usual = {grid: counts.most_common(1)[0][0] for grid, counts in widths.items()}
        return [
            name
            for name in outermost.values()
            if self.layouts[name].kind != "tokens" or self.outputs[name].shape[-1] == usual[self.layouts[name].grid]
        ]

    def fault(self, name: str, asked: Collection[str]) -> str:
        """Why a module is no feature layer, or nothing. asked: all that may be asked about."""
        if self.runs[name] != 1:
            return f"it runs {self.runs[name]} times a pass"
        if name not in self.outputs:
            return "its output is not one tensor with a gradient"
        if name not in self.layouts:
            return f"its output {tuple(self.outputs[name].shape)} has no grid of the picture's proportions"
        if not self.score.requires_grad or not self._moves(name):
            return "the logits do not depend on its grid"
        if name not in self._ordered:  # mostly the first that is looked at will do
            self._ordered |= self._compare(asked if self._ordered else {name})
        return "" if self._ordered[name] else "a change in a corner of the picture does not show in that corner of its grid"

    def _parent(self, name: str) -> str:
        """The kind of the module that a module is in; open_clip calls a whole block ResidualAttentionBlock."""
        return (
            type(self.modules[name.rpartition(".")[0]]).__name__.lower().replace("attentionblock", "block") if "." in name else ""
        )

    def _moves(self, name: str) -> bool:
        """Whether the gradient of the logits reaches the grid. The later the layer, the shorter the way back."""
        (gradient,) = torch.autograd.grad(self.score, self.outputs[name], retain_graph=True, allow_unused=True)
        return gradient is not None and bool(self.layouts[name].to_grid(gradient).any())

    def _compare(self, names: Collection[str]) -> dict[str, bool]:
        """For each layer whether new noise in the top right or bottom left of the picture shows there in its grid.

        Any turned, mirrored or shuffled order of the cells fails one of the two.
        """
        height, width = (side // 3 for side in self.picture.shape[-2:])
        pictures = self.picture.repeat(3, 1, 1, 1)
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn((pictures.shape[1], height, width), generator=generator).to(pictures.device)
        pictures[1, :, :height, -width:] = noise
        pictures[2, :, -height:, :width] = noise
        found: dict[str, bool] = {}

        def compare(name: str, output: object) -> None:
            assert isinstance(output, Tensor)
            grid = self.layouts[name].to_grid(output).detach()
            # The root keeps single cells from outweighing all others: some transformers have tokens of a hundred times the norm.
            change = (grid[1:] - grid[:1]).abs().sum(dim=1).cpu().double().sqrt()
            lower_left = change[1] / change[1].mean() - change[0] / change[0].mean()
            down, right = (torch.linspace(-1, 1, side).double() for side in lower_left.shape)
            across = torch.stack([lower_left, down[:, None].expand_as(lower_left), -right.expand_as(lower_left)]).flatten(1)
            found[name] = bool((torch.corrcoef(across)[0, 1:] > LEAST_CORRELATION).all())  # NaN: nothing changed

        with _watched(self.network, names, compare), torch.no_grad():
            self.network(pictures)
        return found


def _layout(output: Tensor, example: Tensor, grids: set[tuple[int, int]]) -> Layout | None:
    """How an output is laid out if it can be a map of the picture at all. grids: those that 4-d outputs of the same pass have."""
    if output.shape[0] != example.shape[0]:
        return None
    if output.ndim == 4:
        if _fits(output.shape[2:], example):
            return Layout("nchw")
        return Layout("nhwc") if _fits(output.shape[1:3], example) else None
    if output.ndim == 3:
        return _tokens(output.shape[1], grids, example) or _tokens(output.shape[1], _patchings(example), example)
    return None


def _tokens(count: int, grids: set[tuple[int, int]], example: Tensor) -> Layout | None:
    extras = {count - h * w: (h, w) for h, w in grids if _fits((h, w), example) and 0 <= count - h * w <= MOST_EXTRA}
    return Layout("tokens", extras[min(extras)], min(extras)) if extras else None


def _patchings(example: Tensor) -> set[tuple[int, int]]:
    """The grids of all square patches that cut the picture evenly: for networks that cut it without a convolution."""
    height, width = example.shape[2:]
    return {(height // side, width // side) for side in range(1, min(height, width)) if height % side == width % side == 0}


def _fits(grid: Sequence[int], example: Tensor) -> bool:
    """Whether a grid has the picture's proportions, to one cell, and enough cells."""
    h, w = grid
    height, width = example.shape[2:]
    return min(h, w) >= SMALLEST and h <= height and w <= width and abs(h * width - w * height) < max(height, width)


@contextmanager
def _watched(network: nn.Module, names: Iterable[str], see: Callable[[str, object], None]) -> Iterator[None]:
    """Show every output of the named modules, in the order in which they end."""
    handles = [
        network.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: see(name, output)) for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
