"""What a trainer is: what it asks of a training, what it minimises, and how what it made is opened again.

A trainer is a class below ``Trainer``, made from a recipe whose ``task`` is its id. A training goes through it from top to bottom:
the recipe, the network that learns, the pictures, each step, each epoch, and what is kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from xbench.network.model import Preprocessing
from xbench.network.zero_shot import Encoder
from xbench.train import networks, weights
from xbench.train.cards import Card
from xbench.train.examples import Splits
from xbench.train.recipes import ClipNetwork, Recipe, TimmNetwork


@dataclass(frozen=True)
class Step:
    """What one step learns from.

    pictures: normalised inputs, float32 ``[B, 3, h, w]``. places: theirs in the training examples, ``[B]``. owners: the class of
    each pixel's object + 1, or 0, uint8 ``[B, 1, h, w]``; ``[B, 0, h, w]`` where nobody asked for it. epoch: from 0. done: the
    share of all steps that lie behind. draw: for all that is random; on the CPU, so that every device draws the same.
    """

    pictures: Tensor
    places: Tensor
    owners: Tensor
    epoch: int
    done: float
    draw: torch.Generator


@dataclass(frozen=True)
class Opened:
    """What a training made, as a model. network: inputs -> logits of the card's classes ``[B, classes]``, or a CLIP. encoder:
    sentences -> embeddings, of a CLIP; None for all else."""

    network: nn.Module
    encoder: Encoder | None = None


class Trainer(ABC):
    """A training's own part. The *module* is what learns: the network that is asked for, or one that holds it and more.

    captions: splits ("train", "validation") of which captions are wanted, in ``Examples.captions``. masks: whether steps have
    ``owners``. Both may be set in ``__init__``, where they depend on the recipe. parts, remarks: see ``Card``.
    """

    captions: tuple[str, ...] = ()
    masks: bool = False
    parts: Mapping[str, str] = {}
    remarks: str = ""
    splits: Splits  # since ``begin``

    def __init__(self, recipe: Recipe) -> None:
        """Begin with a recipe, whose tables are valid; no picture is read yet.

        Raises:
            XbenchError: a model that it builds on is unknown or does not fit.
        """
        self.recipe = recipe

    @property
    def preprocessing(self) -> Preprocessing:
        """How pictures become inputs."""
        return self.recipe.preprocessing.preprocessing()

    def build(self, classes: int) -> tuple[nn.Module, str]:
        """The network that is asked for, its random weights drawn from torch's global generator, and what it starts from, in words.

        Raises:
            XbenchError: it cannot be built, or what it should start from does not fit.
        """
        table = self.recipe.network
        assert isinstance(table, TimmNetwork | ClipNetwork)
        return networks.begun(table, classes, self.recipe.preprocessing.size)

    def begin(self, splits: Splits) -> None:
        """Note what is read, once the pictures and captions are gathered."""
        self.splits = splits

    def module(self, network: nn.Module) -> nn.Module:
        """What learns, made around a network."""
        return network

    @abstractmethod
    def loss(self, module: nn.Module, step: Step) -> Tensor:
        """What is minimised, a scalar."""

    def after_step(self, module: nn.Module, done: float) -> None:
        """What follows a step of the optimiser, such as what it may have moved out of its range. done: as in the next Step."""
        return

    def after_epoch(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """What follows an epoch, before validation. -> figures in 0..1 that are reported beside those of the classifiers."""
        return {}

    def kept(self, module: nn.Module) -> nn.Module:
        """The network whose state dict is kept, as far as it has come."""
        return module

    def classifiers(self, network: nn.Module) -> dict[str, nn.Module]:
        """A network that is kept as classifiers, inputs -> logits ``[B, classes]``, by name; "" is the main one."""
        return {"": network}

    def best(self, main: float, before: Sequence[float]) -> bool:
        """Whether an epoch's weights take the place of those kept so far, by the main figure of it and of the epochs before it."""
        return main >= max(before, default=main)  # of equal ones the later

    @classmethod
    def open(cls, card: Card, file: Path) -> Opened:
        """What it made, as a model, in evaluation mode. file: the weights. Here a network of ``networks.build``; what ``build``
        makes otherwise is filled by ``weights.fill``.

        Raises:
            XbenchError: the weights are not those that the card is about, do not fit, or are no model.
        """
        return Opened(weights.network(card, file))
