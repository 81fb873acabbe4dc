"""Guided backpropagation, on the autograd graph rather than on modules: functional, reused and clipped ReLUs are all found."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.graph import Node

from xbench.plugin import Batch, ModelView, NotApplicable, method

# Activations for which the rule says nothing, by what the names of their graph nodes contain (those of custom functions too).
OTHERS = {
    "hardtanh": "Hardtanh",
    "gelu": "GELU",
    "silu": "SiLU",
    "hardswish": "Hardswish",
    "swish": "Swish",
    "mish": "Mish",
    "softplus": "Softplus",
    "leakyrelu": "LeakyReLU",
    "prelu": "PReLU",
    "rrelu": "RReLU",
    "elu": "ELU",
    "glu": "GLU",
    "tanh": "Tanh",
}


@method("guided_backprop", needs={"gradients"}, cite="springenberg2015striving")
def guided_backprop(model: ModelView, batch: Batch) -> Tensor:
    """The gradient of the target's logit when every ReLU passes back positive gradients only. Largest absolute value over
    the channels, as for ``gradient``. [B, H, W], unsigned.

    ReLU6, ReLU's clipped form, counts as one. Gates (sigmoid) and softmax are differentiated as they are.

    Raises:
        NotApplicable: the network has no ReLU, or another activation too.
    """
    with torch.enable_grad():
        images = batch.images.detach().requires_grad_()
        logits = model.model(images)
        score = logits.gather(1, batch.targets[:, None]).sum()
    nodes = list(_nodes(score.grad_fn))
    rectifiers = [node for node in nodes if _rectifies(node)]
    others = {_other(node.name().lower()) for node in nodes if not _rectifies(node)} - {""}
    if others or not rectifiers:
        uses = f"uses {' and '.join(sorted(others))}" if others else "has none"
        raise NotApplicable(f"guided_backprop is defined for ReLU; {model.model.id} {uses}")
    for node in rectifiers:  # the graph is this call's own and is dropped with its hooks
        node.register_hook(_positive)
    (gradient,) = torch.autograd.grad(score, images)
    return gradient.abs().amax(dim=1)


def _positive(into: tuple[Tensor | None, ...], _: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(None if gradient is None else gradient.clamp(min=0) for gradient in into)


def _nodes(last: Node | None) -> Iterator[Node]:
    """Every node of the graph, once."""
    waiting, seen = [last], {last, None}
    while waiting:
        node = waiting.pop()
        if node is not None:
            yield node
            new = {n for n, _ in node.next_functions} - seen
            seen |= new
            waiting.extend(new)


def _rectifies(node: Node) -> bool:
    """Whether a node is a ReLU: zero below zero; clipped above or not."""
    name = node.name()
    if name.startswith("HardtanhBackward"):
        return getattr(node, "_saved_min_val", None) == 0
    return name.startswith(("ReluBackward", "ThresholdBackward"))


def _other(name: str) -> str:
    return next((nice for part, nice in OTHERS.items() if part in name), "")
