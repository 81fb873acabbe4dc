"""Variations: what re-explanation metrics change before the methods are asked again. The input, the target, or the network.

A metric plans variations. Equal ones of all metrics are made once for a block of items, and all methods explain them in one view,
so that they share its forward and backward passes. Randomness derives from the run's seed and the item, never from the method:
all methods meet the same noise, the same other class, the same random network.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from xbench.data.samples import Batch, generator
from xbench.maps.saliency import SaliencyMap
from xbench.network.model import Model


@dataclass(frozen=True, eq=False)
class Answer:
    """One item under a variation: the map, the network's input ``[3, H, W]``, its logits ``[classes]``, and the target."""

    map_: SaliencyMap
    input: Tensor
    logits: Tensor
    target: int


class Variation(ABC):
    """A frozen dataclass: equal ones are made once."""

    @abstractmethod
    def apply(self, model: Model, batch: Batch) -> tuple[Model, Batch]:
        """The network and the items as they are under it; of the batch's shape."""


@dataclass(frozen=True)
class Same(Variation):
    """Nothing changes but the seeds of methods that sample."""

    def apply(self, model: Model, batch: Batch) -> tuple[Model, Batch]:
        return model, batch


@dataclass(frozen=True)
class Noisy(Variation):
    """Noise on the network's input, uniform in [-radius, radius]; each number is another draw."""

    radius: float
    number: int

    def apply(self, model: Model, batch: Batch) -> tuple[Model, Batch]:
        noise = batch.seeded("noisy", str(self.number)).rand(*batch.images.shape[1:]) * 2 - 1
        return model, batch.with_images(_like(batch.images + self.radius * noise, batch.images))


@dataclass(frozen=True)
class Retargeted(Variation):
    """Another class, drawn at random among all others."""

    number: int = 0

    def apply(self, model: Model, batch: Batch) -> tuple[Model, Batch]:
        share = batch.seeded("retargeted", str(self.number)).rand(1)[:, 0]
        step = 1 + (share * (len(model.classes) - 1)).long().clamp(max=len(model.classes) - 2)
        return model, dataclasses.replace(batch, targets=(batch.targets + step) % len(model.classes))


@dataclass(frozen=True)
class Moved(Variation):
    """The input mirrored, turned (degrees, clockwise), enlarged and shifted (shares of its sides), in this order, about its centre.

    Pixels that come from beyond the border are the input's reflection.
    """

    mirror: bool = False
    turn: float = 0.0
    zoom: float = 1.0
    right: float = 0.0
    down: float = 0.0

    def apply(self, model: Model, batch: Batch) -> tuple[Model, Batch]:
        return model, batch.with_images(_like(self._resampled(batch.images, "reflection"), batch.images))

    def place(self, map_: Tensor) -> Tensor:
        """Where a map ``[H, W]`` at the input's size is afterwards."""
        return self._resampled(map_[None, None], "border")[0, 0]

    def seen(self, size: tuple[int, int]) -> Tensor:
        """bool ``[H, W]``: pixels that come from inside the input."""
        return (self._grid(size).abs() <= 1).all(dim=-1)

    def _resampled(self, images: Tensor, beyond: str) -> Tensor:
        grid = self._grid((images.shape[-2], images.shape[-1])).to(images).expand(len(images), -1, -1, -1)
        return functional.grid_sample(images, grid, mode="bilinear", padding_mode=beyond, align_corners=False)

    def _grid(self, size: tuple[int, int]) -> Tensor:
        """Where each pixel comes from, ``[H, W, (x, y)]`` in [-1, 1] from edge to edge."""
        height, width = size
        y, x = torch.meshgrid(torch.arange(height) + 0.5 - height / 2, torch.arange(width) + 0.5 - width / 2, indexing="ij")
        x, y = (x - self.right * width) / self.zoom, (y - self.down * height) / self.zoom
        cosine, sine = math.cos(math.radians(self.turn)), math.sin(math.radians(self.turn))
        x, y = cosine * x + sine * y, cosine * y - sine * x
        return torch.stack([(-x if self.mirror else x) / (width / 2), y / (height / 2)], dim=-1)


@dataclass(frozen=True)
class Randomised(Variation):
    """The network with its last layers as if untrained: ``number`` of ``of`` equal parts of them, from the logits down.

    A layer is a module with parameters of its own, in the order of their definition. Its tensors of two or more dimensions are
    drawn from He's normal distribution (fan in), biases become 0, other vectors 1, running statistics those of new layers.
    Nested: a layer gets the same weights whenever it is among them.
    """

    number: int
    of: int

    def apply(self, model: Model, batch: Batch) -> tuple[Model, Batch]:
        network = copy.deepcopy(model.network)
        layers = list(_layers(network))
        chosen = layers[len(layers) - math.ceil(len(layers) * self.number / self.of) :]
        with torch.no_grad():
            for name, layer in chosen:
                _restart(layer, f"{batch.seed}/randomised/{name}")
        return dataclasses.replace(model, network=network), batch


def _layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in network.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            yield name, module


def _restart(layer: nn.Module, seed: str) -> None:
    for name, tensor in layer.named_parameters(recurse=False):
        if tensor.ndim >= 2:
            fan_in = tensor.numel() / tensor.shape[0]
            tensor.copy_(torch.randn(tensor.shape, generator=generator(seed, name)) * math.sqrt(2 / fan_in))
        else:
            tensor.fill_(0.0 if "bias" in name else 1.0)
    for name, buffer in layer.named_buffers(recurse=False):
        if name in ("running_mean", "running_var"):
            buffer.fill_(float(name == "running_var"))


def _like(images: Tensor, model_inputs: Tensor) -> Tensor:
    """In the memory format that the network's inputs have."""
    channels_last = model_inputs.is_contiguous(memory_format=torch.channels_last)
    return images.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
