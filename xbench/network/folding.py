"""Batch norms folded into the convolutions before them: the same function in fewer passes over memory, for inference alone.

Whoever looks at layers or gradients (CAMs, LRP, guided backprop) needs the network as it is; who asks for probabilities does not.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

TOLERANCE = 1e-5  # of a softmax probability


def folded(network: nn.Module, example: Tensor) -> nn.Module:
    """A network in evaluation mode with its batch norms folded, for passes without gradients.

    example: an input ``[1, 3, H, W]`` on the network's device. The copy shares all weights but those of folded convolutions, and
    has no hooks. The network itself comes back where nothing can be folded, where the copy fails, and where a probability of a
    batch of seeded noise differs by more than TOLERANCE.

    Raises:
        MemoryError: there is no memory for the copy, or for the noise.
        OutOfMemoryError: the same on a device.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return network
    noise = torch.randn(2, *example.shape[1:], generator=torch.Generator().manual_seed(0)).to(example)
    try:
        with torch.inference_mode():
            pairs = _pairs(network, example)
            made = _copy(network, pairs) if pairs else network
            difference = (made(noise).softmax(dim=1) - network(noise).softmax(dim=1)).abs().max()
    except (MemoryError, torch.OutOfMemoryError):  # that says nothing of the network
        raise
    except Exception:  # a network may do anything with its layers; it then runs as it is
        return network
    return made if float(difference) <= TOLERANCE else network


def _pairs(network: nn.Module, example: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions and batch norms that run once each, the second on what the first gives and nobody else reads."""
    reads = _Reads()
    outputs: list[tuple[nn.Conv2d, Tensor]] = []
    inputs: list[tuple[nn.BatchNorm2d, Tensor]] = []
    handles = []

    def leave(module: nn.Conv2d, _: object, output: Tensor) -> None:
        outputs.append((module, output))

    def enter(module: nn.BatchNorm2d, arguments: tuple[Tensor, ...]) -> None:
        inputs.append((module, arguments[0]))
        reads.paused = True  # a batch norm may read its input as often as it likes

    def exit_(*_: object) -> None:
        reads.paused = False

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(leave))
        elif _foldable(module):
            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(exit_)]
    try:
        with reads:
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    return [
        (conv, norm)
        for conv, output in outputs
        for norm, input_ in inputs
        if input_ is output and id(output) not in reads.seen and _once(conv, outputs) and _once(norm, inputs)
    ]


class _Reads(TorchDispatchMode):
    """Notes every tensor that an operation reads, views and changes in place included."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.paused = False
        self.seen: dict[int, Tensor] = {}  # held, so that no other tensor gets the same id

    def __torch_dispatch__(self, func: Callable[..., Any], types: object, args: Any = (), kwargs: Any = None) -> Any:
        if not self.paused:
            self.seen |= {id(leaf): leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        return func(*args, **(kwargs or {}))


def _once(module: nn.Module, calls: Sequence[tuple[nn.Module, Tensor]]) -> bool:
    return sum(called is module for called, _ in calls) == 1


def _foldable(module: nn.Module) -> bool:
    """A batch norm with statistics of its own, alone or, as timm's BatchNormAct2d, with what it does afterwards."""
    known = type(module) is nn.BatchNorm2d or (isinstance(module, nn.BatchNorm2d) and _afterwards(module) is not None)
    return known and not module.training and module.running_mean is not None


def _afterwards(norm: nn.BatchNorm2d) -> tuple[nn.Module, nn.Module] | None:
    drop, act = getattr(norm, "drop", None), getattr(norm, "act", None)
    return (drop, act) if isinstance(drop, nn.Module) and isinstance(act, nn.Module) else None


def _copy(network: nn.Module, pairs: Sequence[tuple[nn.Conv2d, nn.BatchNorm2d]]) -> nn.Module:
    shared = {id(tensor): tensor for tensor in itertools.chain(network.parameters(), network.buffers())}
    made = copy.deepcopy(network, shared)
    twins = dict(zip(network.modules(), made.modules(), strict=True))
    for module in made.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            hooks.clear()
    put: dict[nn.Module, nn.Module] = {}
    for conv, norm in pairs:
        twin = twins[conv]
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None, "checked by _foldable"
        assert variance is not None, "it goes with the mean"
        weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias)
        # In the very strides of the old one, which a product of broadcast tensors need not have.
        twin.weight = nn.Parameter(torch.empty_like(conv.weight).copy_(weight), requires_grad=False)
        twin.bias = nn.Parameter(bias, requires_grad=False)
        after = _afterwards(norm) if type(norm) is not nn.BatchNorm2d else None
        put[twins[norm]] = nn.Sequential(*after) if after else nn.Identity()
    for parent in list(made.modules()):
        for name, child in parent._modules.items():
            if child in put:
                parent._modules[name] = put[child]
    return made
