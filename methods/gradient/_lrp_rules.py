"""Rules of layer-wise relevance propagation, as layers that stand in for those of a network.

Each gives the values of its layer, but has another gradient: one such that activation times gradient *is* the relevance R by the
rule. One ordinary backward pass then carries relevance through a whole network, and where tensors are added, joined, averaged or
max-pooled between the layers, autograd splits it as LRP does: in proportion to what each part contributed.

For a layer with input a, weights w, bias b and output y, R_k arrives at y_k. Biases are left out of every denominator, so that
they absorb nothing: R_j = sum over k of c_jk / sum_j(c_jk) R_k, the contributions c_jk being what distinguishes the rules.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

SILENT = 1e-6  # what an activation of zero counts as: relevance can only be carried where the activation is not zero
ROUNDING = 1e-5  # of a sum's absolute terms: below it there is nothing in the sum but float32's rounding


class Rule(nn.Module):
    """A layer (``nn.Linear``, ``nn.Conv2d`` or an activation) with the rule as its gradient."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def linear(self, weight: Tensor, inputs: Tensor) -> Tensor:
        """The layer with other weights and no bias; stride, padding and groups are its own."""
        parameters = {"weight": weight}
        if self.layer.bias is not None:
            parameters["bias"] = torch.zeros_like(self.layer.bias)  # type: ignore[arg-type]
        result: Tensor = functional_call(self.layer, parameters, (inputs,))
        return result

    def values(self, inputs: Tensor) -> Tensor:
        """The layer itself, for which autograd sees no cause."""
        with torch.no_grad():
            result: Tensor = self.layer(inputs)
        return result

    @property
    def weight(self) -> Tensor:
        """The layer's own weights."""
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        return weight


class Epsilon(Rule):
    """c = a w, and epsilon is added to the size of the denominator (Bach et al. 2015, eq. 58). As small as it is by default it
    absorbs nothing, and is but a guard against dividing by zero."""

    def __init__(self, layer: nn.Module, epsilon: float = 1e-12) -> None:
        super().__init__(layer)
        self.epsilon = epsilon

    def forward(self, a: Tensor) -> Tensor:
        z = self.linear(self.weight, a)
        return _carry(self.values(a), z, torch.where(z < 0, z - self.epsilon, z + self.epsilon).detach())


class ZPlus(Rule):
    """c = the positive part of a w (alpha 1, beta 0: Bach et al. 2015, eq. 60), a of either sign.

    Where y is negative, as it can be in front of an addition, c = the negative part: what made it so. (Both are the limit of the
    gamma rule as Andeol et al. 2021 extend it.) Where no input contributes with y's sign, but a bias alone, c = a w.
    """

    def forward(self, a: Tensor) -> Tensor:
        y, net, gross = self.values(a), self.linear(self.weight, a), self.linear(self.weight.abs(), a.abs())
        same = net + gross.copysign(y)  # twice the contributions of y's sign: the others cancel out
        z = torch.where(same.detach().abs() > ROUNDING * gross.detach(), same, net)
        return _carry(y, z, z.detach())


class WSquare(Rule):
    """c = w squared, whatever the inputs (Montavon et al. 2019, table 1): for the layer that sees the picture.

    Here the gradient alone is the relevance.
    """

    def forward(self, a: Tensor) -> Tensor:
        z = self.linear(self.weight**2, torch.ones_like(a) + (a - a.detach()))
        return _carry(self.values(a), z, z.detach())


class Unchanged(Rule):
    """Relevance passes as it is: through an activation function f with f(0) = 0, and through a gate that scales its own input,
    where the scale counts as a constant (the signal takes it all: Arras et al. 2017)."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.values(x)
        y = y.abs().clamp(min=SILENT).copysign(y)
        return _carry(y, x, x.detach())


def _carry(values: Tensor, z: Tensor, denominator: Tensor) -> Tensor:
    """The values, with the gradient of z times values / denominator; where that is nothing, they have no cause."""
    carried = z * (values / denominator).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return carried + (values - carried).detach()
