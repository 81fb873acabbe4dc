"""A network that learns from pictures without labels: by contrast of two views of each (SimCLR, Chen et al. 2020, section 2.1)."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from xbench.errors import XbenchError
from xbench.training import views
from xbench.training.examples import Examples, worker_count
from xbench.training.objectives import Objective, Step, soft_targets
from xbench.training.recipes import Recipe, Simclr

PROBED = 5000  # pictures that the linear classifier is fitted to, at most
DECAY = 1e-3  # of its weights, for features of variance 1
ITERATIONS = 100


class Learner(nn.Module):
    """A network of timm, whose own classifier rests, and a projection head, which is only there to learn by."""

    def __init__(self, network: nn.Module, how: Simclr) -> None:
        super().__init__()
        self.network = network
        cast(Any, network).get_classifier().requires_grad_(False)
        width = cast(Any, network).head_hidden_size
        first = (nn.Linear(width, how.hidden, bias=False), nn.BatchNorm1d(how.hidden))
        self.head = nn.Sequential(*first, nn.ReLU(), nn.Linear(how.hidden, how.outputs))

    def forward(self, pictures: Tensor) -> Tensor:
        """Projections, float32 ``[B, outputs]`` of length 1."""
        return functional.normalize(self.head(features(self.network, pictures)).float(), dim=1)


def features(network: nn.Module, pictures: Tensor) -> Tensor:
    """What timm's network gives its classifier, ``[B, width]``; of a vision transformer its class token."""
    timm = cast(Any, network)
    return cast(Tensor, timm.forward_head(timm.forward_features(pictures), pre_logits=True))


def two_view_loss(similar: Tensor) -> Tensor:
    """Which other view is of the same picture: cross-entropy, mean over all views (eq. 1).

    similar: cosines over the temperature, ``[2 * B, 2 * B]``; view i and view i + B show one picture.
    """
    return functional.cross_entropy(_others(similar), _partners(len(similar), similar.device))


def _others(similar: Tensor) -> Tensor:
    return similar.masked_fill(torch.eye(len(similar), dtype=torch.bool, device=similar.device), -torch.inf)


def _partners(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, device=device).roll(count // 2)


def check(network: nn.Module, recipe: Recipe) -> None:
    """Try a network on views.

    Raises:
        XbenchError: it does not read views of this size, or is not one whose features are known.
    """
    side = (recipe.simclr or Simclr()).side
    try:
        with torch.no_grad():
            cast(Any, network).get_classifier()(features(network, torch.zeros(2, 3, side, side)))
    except (AttributeError, AssertionError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:150]
        raise XbenchError(
            f"recipe {recipe.name}: the network does not read views of {side} pixels ({why}); take another side in [simclr], "
            "or dynamic_img_size = true in [network] for vision transformers of timm"
        ) from error


class TwoViews(Objective):
    """SimCLR. What is kept is the last epoch's network: to choose one by its accuracy would be to learn from labels.

    Its classifier is fitted to the labels of training pictures when all else is done, and nothing else sees a label: validation is
    this linear classifier's. ``matched`` is the share of views whose nearest other view in the batch is of the same picture, over
    the epoch. Each device contrasts its own batch.
    """

    def __init__(self, recipe: Recipe, train: Examples) -> None:
        self.how, self.recipe, self.train = recipe.simclr or Simclr(), recipe, train
        self._matched, self._seen = 0, 0

    def module(self, network: nn.Module) -> nn.Module:
        return Learner(network, self.how)

    def views(self, pictures: Tensor, draw: torch.Generator) -> Tensor:
        """Normalised inputs -> two views of each, ``[2 * B, 3, side, side]``: a first one of all, then a second one of all."""
        how, known = self.how, self.train.preprocessing
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
        fit_classifier(cast(Learner, module).network, self.train, self.recipe.training.batch_size, device)
        found = {"matched": self._matched / self._seen}
        self._matched, self._seen = 0, 0
        return found

    def network(self, module: nn.Module) -> nn.Module:
        return cast(Learner, module).network

    def classifiers(self, network: nn.Module) -> dict[str, nn.Module]:
        return {"": network}

    def best(self, main: float, before: object) -> bool:
        return True


def fit_classifier(network: nn.Module, train: Examples, batch_size: int, device: torch.device) -> None:
    """Fit the classifier of timm's network to its frozen features, by logistic regression on up to 5,000 training pictures."""
    found, places, mode = [], [], network.training
    network.eval()
    every = math.ceil(len(train) / PROBED)
    with torch.no_grad():
        for pictures, where in train.in_order(batch_size, worker_count(None), every):
            found.append(features(network, train.preprocessing.normalise(pictures[:, :3]).to(device)).double().cpu())
            places.append(where)
    network.train(mode)
    seen, targets = torch.cat(found), soft_targets(train.present)[torch.cat(places)].double()
    weight, bias = logistic_regression(seen, targets)
    with torch.no_grad():
        classifier = cast(Any, network).get_classifier()
        classifier.weight.copy_(weight)
        classifier.bias.copy_(bias)


@torch.enable_grad()
def logistic_regression(seen: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Weight ``[classes, width]`` and bias ``[classes]`` for features ``[n, width]`` and soft targets ``[n, classes]``.

    Cross-entropy plus half ``DECAY`` times the squared weights, which are those of features of mean 0 and variance 1.
    """
    mean, spread = seen.mean(dim=0), seen.std(dim=0, correction=0).clamp(min=1e-6)
    inputs = (seen - mean) / spread
    weight = torch.zeros(targets.shape[1], seen.shape[1], dtype=seen.dtype, requires_grad=True)
    bias = torch.zeros(targets.shape[1], dtype=seen.dtype, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = functional.cross_entropy(inputs @ weight.T + bias, targets) + DECAY / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    scaled = weight.detach() / spread
    return scaled, bias.detach() - scaled @ mean
