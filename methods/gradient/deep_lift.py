"""DeepLIFT by captum, on the networks where it is what it claims to be.

captum replaces the gradients of known activation modules. A functional activation, a reused module or a kind that it does not
know silently keeps its plain gradient: then attributions no longer sum to what they explain. That sum is checked once per model.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xbench.plugin import Attribution, Batch, Model, ModelView, NotApplicable, generator, method

TOLERANCE = 1e-3  # of the logits' change, for the sum of the attributions; a wrong rule misses by tenths
_refused: WeakKeyDictionary[Model, str] = WeakKeyDictionary()  # why, or "" for a model that passed


@method("deep_lift", needs={"gradients"}, cite="shrikumar2017learning")
def deep_lift(model: ModelView, batch: Batch) -> Attribution:
    """Contributions by the Rescale rule against a baseline of zero in the normalised space, summed over the channels. [B, H, W].

    The map sums to S(x) - S(0), S the target's logit; by how much it misses that is measured by two more forward passes. Signed:
    negative = evidence against the target.
    Computed in float32, whatever the run's dtype.

    Raises:
        NotApplicable: on this model they do not sum to that, or captum fails.
    """
    if model.model not in _refused:
        _refused[model.model] = _why_not(model.model, batch.size)
    if why := _refused[model.model]:
        raise NotApplicable(f"deep_lift does not hold on {model.model.id}: {why}")
    maps = _attributions(model.network, batch.images, batch.targets).sum(dim=1)
    after, before = (model.logits(b) for b in (batch, batch.with_images(torch.zeros_like(batch.images))))
    return Attribution.of(maps, (after - before).gather(1, batch.targets[:, None])[:, 0])


class _Bare(nn.Module):
    """A network without the hooks of its outermost module, which count the passes that a method is charged for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network.forward(images)
        return logits


def _why_not(model: Model, size: tuple[int, int]) -> str:
    """What is wrong with DeepLIFT on a model, on noise, and so whatever the items are; empty where nothing is."""
    noise = torch.randn(3, 3, *size, generator=generator("deep_lift")).to(model.device)
    images = torch.stack([noise[0] / 2, noise[1], noise[2].cumsum(dim=1).cumsum(dim=2) / max(size)])  # weak, strong, smooth
    network = _Bare(model.network)
    with torch.no_grad():
        after, before = network(images), network(torch.zeros_like(images))
    targets = (after - before).abs().argmax(dim=1)
    change = (after - before).gather(1, targets[:, None])[:, 0]
    try:
        total = _attributions(network, images, targets).sum(dim=(1, 2, 3))
    except Exception as error:  # anything can fail in there, and says the same
        return f"captum raises {type(error).__name__}: {' '.join(str(error).split())[:120]}"
    miss = float(((total - change).abs() / change.abs().clamp(min=1e-12)).max())
    return "" if miss <= TOLERANCE else f"attributions miss the change of the logit that they explain by {miss:.1%}"


def _attributions(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    from captum.attr import DeepLift

    with _as_found(network), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it sets hooks
        for module in network.modules():
            if getattr(module, "inplace", False):
                vars(module)["inplace"] = False  # captum's hooks do not bear it; the values are the same
        found: Tensor = DeepLift(network).attribute(images.detach().clone(), torch.zeros_like(images), target=targets)
    return found.detach()


@contextmanager
def _as_found(network: nn.Module) -> Iterator[None]:
    """Undo whatever happens to the modules inside: hooks, new attributes, changed ones. (captum leaves all three behind.)"""
    before = []
    for module in network.modules():
        now = vars(module)
        before.append((now, dict(now), {name: set(hooks) for name, hooks in now.items() if "_hooks" in name and hooks is not None}))
    try:
        yield
    finally:
        for now, then, known in before:
            for name, ids in known.items():
                for new in set(now[name]) - ids:
                    del now[name][new]
            for name in set(now) - set(then):
                del now[name]
            now.update(then)
