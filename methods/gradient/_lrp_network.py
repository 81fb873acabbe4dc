"""A copy of a network in which rules of layer-wise relevance propagation stand in for its layers (see _lrp_rules.py)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ._lrp_rules import Epsilon, Unchanged, WSquare, ZPlus

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Mish, nn.Hardswish)
GATES = {"SqueezeExcite", "SEModule", "EffectiveSEModule", "SqueezeExcitation"}  # timm's and torchvision's


def with_rules(network: nn.Module, image: Tensor) -> nn.Module:
    """A copy with a rule in place of each layer that has one. The others keep their gradient; the sum tells if that is right."""
    network = copy.deepcopy(network)
    order: list[tuple[nn.Module, Tensor, Tensor]] = []  # linear layers as they run, with input and output
    fused: dict[nn.BatchNorm2d, nn.Conv2d] = {}  # batch norm -> the convolution right before it

    def ran(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not isinstance(module, nn.BatchNorm2d):
            order.append((module, inputs[0], output))
        elif order and inputs[0] is order[-1][2] and isinstance(before := order[-1][0], nn.Conv2d):
            fused[module] = before

    handles = []
    for module in network.modules():
        module._forward_hooks.clear()  # whoever set them did not mean the copy
        module._forward_pre_hooks.clear()
        if hasattr(module, "inplace"):
            vars(module)["inplace"] = False  # or it would write over what the rules compare, and over a convolution's output
        if _is_linear(module) or isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_hook(ran))
    with torch.no_grad():
        network(image)
    for handle in handles:
        handle.remove()

    rules: dict[nn.Module, nn.Module] = {}
    with_norm: dict[nn.Module, nn.Module] = {layer: fuse_conv_bn_eval(layer, norm) for norm, layer in fused.items()}
    for layer, seen, _ in order:
        rule = WSquare if seen is image else Epsilon if isinstance(layer, nn.Linear) or layer is order[-1][0] else ZPlus
        rules[layer] = rule(with_norm.get(layer, layer))
    for norm in fused:  # timm's batch norm has its activation inside
        rules[norm] = _replaced(getattr(norm, "act", nn.Identity()), {})
    return _replaced(network, rules)


def _replaced(module: nn.Module, rules: dict[nn.Module, nn.Module]) -> nn.Module:
    if module in rules:
        return rules[module]
    if isinstance(module, ACTIVATIONS) or type(module).__name__ in GATES:
        return Unchanged(module)
    for name, child in module.named_children():
        setattr(module, name, _replaced(child, rules))
    return module


def _is_linear(module: nn.Module) -> bool:
    """Whether a layer is linear in its weights as they are; subclasses that standardise them first, say, are not."""
    return type(module).forward in (nn.Linear.forward, nn.Conv2d.forward) or type(module).__name__ == "Conv2dSame"
