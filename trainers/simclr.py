"""A network that learns from pictures without labels: by contrast of two views of each (SimCLR, Chen et al. 2020, section 2.1)."""

from __future__ import annotations

from typing import Any, cast

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional

from xbench.plugin import Recipe, Step, Table, TimmNetwork, Trainer, XbenchError, networks, trainer

from . import _views as views
from ._linear import features, fit_classifier


class Views(Table):
    """How views are made, and told apart.

    hidden, outputs: widths of the projection head. side: of the views in pixels. scale: the share of the picture that a view shows,
    drawn from that range. temperature: of the cosines. colour: strength of changes of colour, 0 for none, 1 for those of BYOL.
    blur: how many of the views are blurred. clouds: strength of smooth random colours that are added to each view, 0 for none as in
    the paper: where backgrounds are soft, and would tell pictures apart better than what stands before them.
    """

    hidden: int = Field(default=512, ge=1)
    outputs: int = Field(default=64, ge=1)
    side: int = Field(default=96, ge=1)
    scale: tuple[float, float] = (0.4, 1.0)
    temperature: float = Field(default=0.2, gt=0)
    colour: float = Field(default=1.0, ge=0, le=1)
    blur: float = Field(default=0.5, ge=0, le=1)
    clouds: float = Field(default=0.0, ge=0, le=2)

    @field_validator("scale")
    @classmethod
    def _range(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale is a range of shares of the picture, such as [0.4, 1.0], not {list(scale)}")
        return scale


class Learner(nn.Module):
    """A network of timm, whose own classifier rests, and a projection head, which is only there to learn by."""

    def __init__(self, network: nn.Module, how: Views) -> None:
        super().__init__()
        self.network = network
        cast(Any, network).get_classifier().requires_grad_(False)
        width = cast(Any, network).head_hidden_size
        first = (nn.Linear(width, how.hidden, bias=False), nn.BatchNorm1d(how.hidden))
        self.head = nn.Sequential(*first, nn.ReLU(), nn.Linear(how.hidden, how.outputs))

    def forward(self, pictures: Tensor) -> Tensor:
        """Projections, float32 ``[B, outputs]`` of length 1."""
        return functional.normalize(self.head(features(self.network, pictures)).float(), dim=1)


def check(network: nn.Module, side: int, recipe: str) -> None:
    """Try a network on views of a side in pixels. recipe: its name.

    Raises:
        XbenchError: it does not read views of this size, or is not one whose features are known.
    """
    try:
        with torch.no_grad():
            cast(Any, network).get_classifier()(features(network, torch.zeros(2, 3, side, side)))
    except (AttributeError, AssertionError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:150]
        raise XbenchError(
            f"recipe {recipe}: the network does not read views of {side} pixels ({why}); take another side in [simclr], "
            "or dynamic_img_size = true in [network] for vision transformers of timm"
        ) from error


def two_view_loss(similar: Tensor) -> Tensor:
    """Which other view is of the same picture: cross-entropy, mean over all views (eq. 1).

    similar: cosines over the temperature, ``[2 * B, 2 * B]``; view i and view i + B show one picture.
    """
    return functional.cross_entropy(_others(similar), _partners(len(similar), similar.device))


def _others(similar: Tensor) -> Tensor:
    return similar.masked_fill(torch.eye(len(similar), dtype=torch.bool, device=similar.device), -torch.inf)


def _partners(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, device=device).roll(count // 2)


@trainer("simclr", network=TimmNetwork, table=Views, cite="chen2020simple")
class Simclr(Trainer):
    """Which two views are of one picture, without labels (SimCLR).

    What is kept is the last epoch's network: to choose one by its accuracy would be to learn from labels. Its classifier is fitted
    to the labels of training pictures when all else is done, and nothing else sees a label: validation is this linear
    classifier's. ``matched`` is the share of views whose nearest other view in the batch is of the same picture, over the epoch.
    Each device contrasts its own batch.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.how: Views = recipe.table
        self._matched, self._seen = 0, 0

    def build(self, classes: int) -> tuple[nn.Module, str]:
        table, size = self.recipe.network, self.recipe.preprocessing.size
        assert isinstance(table, TimmNetwork)
        built = networks.build(table, classes, size)
        check(built, self.how.side, self.recipe.name)
        return built, networks.start_from(built, table.init) if table.init else ""

    def module(self, network: nn.Module) -> nn.Module:
        return Learner(network, self.how)

    def views(self, pictures: Tensor, draw: torch.Generator) -> Tensor:
        """Normalised inputs -> two views of each, ``[2 * B, 3, side, side]``: a first one of all, then a second one of all."""
        how, known = self.how, self.splits.train.preprocessing
        mean, std = (torch.tensor(v, device=pictures.device).reshape(3, 1, 1) / 255 for v in (known.mean, known.std))
        plain = (pictures * std + mean).repeat(2, 1, 1, 1)
        seen = views.coloured(views.crops(plain, how.side, how.scale, self.recipe.training.flip, draw), how.colour, draw)
        seen = views.clouded(views.blurred(seen, how.blur, draw), how.clouds, draw)
        return ((seen - mean) / std).contiguous(memory_format=torch.channels_last)

    def loss(self, module: nn.Module, step: Step) -> Tensor:
        found = module(self.views(step.pictures, step.draw))
        with torch.autocast(step.pictures.device.type, enabled=False):
            similar = found @ found.T / self.how.temperature
            partners = _partners(len(similar), similar.device)
            self._matched += int((_others(similar.detach()).argmax(dim=1) == partners).sum())
            self._seen += len(similar)
            return two_view_loss(similar)

    def after_epoch(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        fit_classifier(cast(Learner, module).network, self.splits.train, self.recipe.training.batch_size, device)
        found = {"matched": self._matched / self._seen}
        self._matched, self._seen = 0, 0
        return found

    def kept(self, module: nn.Module) -> nn.Module:
        return cast(Learner, module).network

    def best(self, main: float, before: object) -> bool:
        return True
