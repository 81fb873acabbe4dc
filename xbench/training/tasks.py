"""What a recipe's task brings along: how pictures are read, which network learns, and what is minimised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from xbench.modelview import Preprocessing
from xbench.registry import Registry
from xbench.training import networks, objectives, projecting, simclr
from xbench.training.examples import Splits
from xbench.training.objectives import Objective
from xbench.training.recipes import Projection, Recipe


@dataclass(frozen=True)
class Task:
    """preprocessing: how pictures become inputs. captions: splits, of which captions are wanted. network: number of classes -> the
    network that learns, its random weights drawn from torch's global generator, and what it starts from, in words. objective: once
    the pictures are gathered. parts, remarks: see ``Card``.
    """

    preprocessing: Preprocessing
    captions: tuple[str, ...]
    network: Callable[[int], tuple[nn.Module, str]]
    objective: Callable[[Splits], Objective]
    parts: dict[str, str] = field(default_factory=dict)
    remarks: str = ""


def opened(recipe: Recipe, registry: Registry) -> Task:
    """The task of a recipe.

    Raises:
        XbenchError: a model that it builds on is unknown or does not fit.
    """
    if isinstance(recipe.network, Projection):
        return _projection(recipe, projecting.opened(recipe.network, registry))
    objective: dict[str, Callable[[Splits], Objective]] = {
        "classify": lambda splits: objectives.Classification(recipe, splits.train),
        "contrast": lambda splits: objectives.Contrast(recipe, splits.train),
        "simclr": lambda splits: simclr.TwoViews(recipe, splits.train),
    }
    captions = ("train",) if recipe.task == "contrast" else ()

    def network(classes: int) -> tuple[nn.Module, str]:
        assert not isinstance(recipe.network, Projection)
        built = networks.build(recipe.network, classes, recipe.preprocessing.size)
        if recipe.task == "simclr":
            simclr.check(built, recipe)
        return built, networks.start_from(built, recipe.network.init) if recipe.network.init else ""

    return Task(recipe.preprocessing.preprocessing(), captions, network, objective[recipe.task])


def _projection(recipe: Recipe, frozen: projecting.Frozen) -> Task:
    return Task(
        frozen.clip.preprocessing,
        ("train", "validation"),
        lambda _: (projecting.original(frozen.tower), f"the projection of {frozen.table.clip}"),
        lambda splits: projecting.MaskedMax(recipe, frozen, splits),
        frozen.parts(),
        projecting.CHOICES.format(share=frozen.table.share) if frozen.encoder else projecting.UNMASKED,
    )
