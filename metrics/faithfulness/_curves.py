"""What the metrics along a curve share: how many pixels are replaced at each point, and the area under it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xbench.plugin import Spec, XbenchError, generator

AXES = ("share of pixels", "mean probability of the target")
RISE_STEPS = Spec("exact", (28,))  # about 224 * 8 pixels each at 224 px


def check_steps(steps: Spec, *names: str) -> None:
    """Raises XbenchError for anything but ``name(n)`` with one of the names and n >= 1."""
    number = steps.args[0] if len(steps.args) == 1 and not steps.kwargs else None
    if steps.name not in names or not isinstance(number, int) or isinstance(number, bool) or number < 1:
        examples = " or ".join(f"steps={name}({28 if name == 'exact' else 8})" for name in names)
        raise XbenchError(f"steps={steps} is not a protocol of a curve; write {examples}")


def number(steps: Spec) -> int:
    """The n of ``exact(n)``."""
    return int(steps.args[0])  # type: ignore[arg-type]


def counts(steps: Spec, pixels: int, seed: str) -> tuple[int, ...]:
    """How many pixels are replaced at each point, both ends included: all curves of an item share the ends."""
    n = number(steps)
    if steps.name == "exact":
        return tuple(round(i * pixels / n) for i in range(n + 1))
    shift = float(torch.rand(1, generator=generator(seed, "strata"), dtype=torch.float64))
    return (0, *(int((i + shift) * pixels / n) for i in range(n)), pixels)


def mean_curve(responses: Sequence[Tensor]) -> Tensor:
    """The expectation over the orders of a constant map; the curve itself for any other."""
    return torch.stack(list(responses)).mean(dim=0)


def area(steps: Spec, curve: Tensor, replaced: Sequence[int]) -> float:
    """Under a curve over [0, 1], from its values at the ``counts`` replaced.

    The places of a stratified curve lie to one side of their strata's middles. What that changes in the mean of a straight line
    between the end points is taken away: its expectation is zero, so the area stays unbiased, and what remains varies less.
    """
    if steps.name == "exact":
        return float((curve.sum() - curve[0] / 2 - curve[-1] / 2) / (len(curve) - 1))
    aside = sum(replaced[1:-1]) / (len(replaced) - 2) / replaced[-1] - 0.5
    return float(curve[1:-1].mean() + (curve[0] - curve[-1]) * aside)
