"""A network that teaches itself from pictures without labels: DINO (Caron et al. 2021, sections 3.1 and 5.3).

A student learns to say of every view of a picture what a teacher says of its two large views; the teacher is an average of the
students so far. Its outputs are centred, against one output winning everywhere, and sharpened, against all being equal.
"""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from xbench.errors import XbenchError
from xbench.training import views
from xbench.training.examples import Examples, worker_count
from xbench.training.objectives import Objective, Step, soft_targets
from xbench.training.recipes import Distill, Recipe

PROBED = 5000  # pictures that the linear classifier is fitted to, at most
DECAY = 1e-3  # of its weights, for features of variance 1
ITERATIONS = 100


class Head(nn.Module):
    """The projection head: three layers to a bottleneck of length 1, then cosines with ``outputs`` directions, ``[B, outputs]``."""

    def __init__(self, width: int, how: Distill) -> None:
        super().__init__()
        layers = (nn.Linear(width, how.hidden), nn.Linear(how.hidden, how.hidden), nn.Linear(how.hidden, how.bottleneck))
        self.mlp = nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2])
        self.directions = nn.Parameter(torch.empty(how.outputs, how.bottleneck))
        for weight in (*(layer.weight for layer in layers), self.directions):
            nn.init.trunc_normal_(weight, std=0.02)
        for layer in layers:
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        return functional.normalize(self.mlp(features), dim=1) @ functional.normalize(self.directions, dim=1).T


class Pair(nn.Module):
    """Student and teacher, each a network of timm and a projection head; the networks' own classifiers rest.

    centre: of the teacher's outputs, ``[outputs]``.
    """

    centre: Tensor

    def __init__(self, network: nn.Module, how: Distill) -> None:
        super().__init__()
        self.student, self.teacher = network, copy.deepcopy(network).requires_grad_(False)
        cast(Any, network).get_classifier().requires_grad_(False)
        self.student_head = Head(cast(Any, network).head_hidden_size, how)
        self.teacher_head = copy.deepcopy(self.student_head).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(how.outputs))

    def train(self, mode: bool = True) -> Pair:
        super().train(mode)
        self.teacher.eval()  # what the student drops, the teacher sees
        return self

    def studied(self, pictures: Tensor) -> Tensor:
        """The student's outputs, ``[B, outputs]``."""
        return cast(Tensor, self.student_head(features(self.student, pictures))).float()

    @torch.no_grad()
    def taught(self, pictures: Tensor) -> Tensor:
        """The teacher's outputs, ``[B, outputs]``; no gradient passes."""
        return cast(Tensor, self.teacher_head(features(self.teacher, pictures))).float()

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * student."""
        for student, teacher in ((self.student, self.teacher), (self.student_head, self.teacher_head)):
            for average, learned in zip(teacher.parameters(), student.parameters(), strict=True):
                if learned.requires_grad:
                    average.mul_(momentum).add_(learned, alpha=1 - momentum)
            for kept, seen in zip(teacher.buffers(), student.buffers(), strict=True):
                kept.copy_(seen)


def features(network: nn.Module, pictures: Tensor) -> Tensor:
    """What timm's network gives its classifier, ``[B, width]``; of a vision transformer its class token."""
    timm = cast(Any, network)
    return cast(Tensor, timm.forward_head(timm.forward_features(pictures), pre_logits=True))


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy between what the teacher says of one view and the student of another, mean over pairs and pictures (eq. 3).

    student: outputs ``[views, B, outputs]``, of the teacher's views first. teacher: probabilities ``[2, B, outputs]``. temperature:
    the student's.
    """
    said = (student / temperature).log_softmax(dim=-1)
    pairs = [-(teacher[i] * said[j]).sum(dim=-1).mean() for i in range(len(teacher)) for j in range(len(said)) if i != j]
    return torch.stack(pairs).mean()


def momentum(first: float, done: float) -> float:
    """The teacher's decay: from ``first`` to 1 along a half cosine (section 3.1). done: share of all steps."""
    return 1 - (1 - first) * (1 + math.cos(math.pi * done)) / 2


def check(network: nn.Module, recipe: Recipe) -> None:
    """Try a network on crops.

    Raises:
        XbenchError: it does not read crops of these sizes, or is not one whose features are known.
    """
    how = recipe.distill or Distill()
    for side in (how.large, how.small):
        try:
            with torch.no_grad():
                cast(Any, network).get_classifier()(features(network, torch.zeros(2, 3, side, side)))
        except (AttributeError, AssertionError, RuntimeError, ValueError) as error:
            why = " ".join(str(error).split())[:150]
            raise XbenchError(
                f"recipe {recipe.name}: the network does not read crops of {side} pixels ({why}); take other sizes in [distill], "
                "or dynamic_img_size = true in [network] for vision transformers of timm"
            ) from error


class Distillation(Objective):
    """DINO. What is kept is the last epoch's teacher: to choose one by its accuracy would be to learn from labels.

    Its classifier is fitted to the labels of training pictures when all else is done, and nothing else sees a label: validation is
    this linear classifier's. ``entropy_of_mean`` near 0 or ``mean_entropy`` near 1, both in shares of the highest, is collapse.
    """

    def __init__(self, recipe: Recipe, train: Examples) -> None:
        self.how, self.recipe, self.train = recipe.distill or Distill(), recipe, train
        self._sum, self._entropy, self._count = torch.zeros(self.how.outputs, dtype=torch.float64), 0.0, 0
        self._mean = torch.zeros(self.how.outputs)

    def module(self, network: nn.Module) -> nn.Module:
        return Pair(network, self.how)

    def views(self, pictures: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Normalised inputs -> two large views of each, ``[2 * B, 3, large, large]``, and the small ones, one after another."""
        how, known = self.how, self.train.preprocessing
        mean, std = (torch.tensor(v, device=pictures.device).reshape(3, 1, 1) / 255 for v in (known.mean, known.std))
        plain = pictures * std + mean

        def several(count: int, side: int, scale: tuple[float, float]) -> Tensor:
            seen = views.crops(plain.repeat(count, 1, 1, 1), side, scale, self.recipe.training.flip, draw)
            seen = views.blurred(views.coloured(seen, how.colour, draw), how.blur, draw)
            return ((seen - mean) / std).contiguous(memory_format=torch.channels_last)

        return several(2, how.large, how.large_scale), several(how.crops, how.small, how.small_scale)

    def loss(self, module: nn.Module, step: Step) -> Tensor:
        pair, how = cast(Pair, module), self.how
        large, small = self.views(step.pictures, step.draw)
        teacher = pair.taught(large)
        student = torch.cat([pair.studied(large), pair.studied(small)] if how.crops else [pair.studied(large)])
        with torch.autocast(step.pictures.device.type, enabled=False):
            wanted = ((teacher - pair.centre) / how.teacher).softmax(dim=1)
            self._note(wanted, teacher)
            apart = (-1, len(step.pictures), how.outputs)
            return distillation_loss(student.reshape(apart), wanted.reshape(apart), how.student)

    def _note(self, wanted: Tensor, teacher: Tensor) -> None:
        self._mean = teacher.mean(dim=0)
        self._sum += wanted.double().sum(dim=0).cpu()
        self._entropy += float(torch.special.entr(wanted.double()).sum())
        self._count += len(wanted)

    def after_step(self, module: nn.Module, done: float) -> None:
        """The teacher follows, and so does the centre of its outputs (eq. 4)."""
        pair = cast(Pair, module)
        pair.follow(momentum(self.how.momentum, done))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self._mean)
            self._mean /= torch.distributed.get_world_size()
        pair.centre.mul_(self.how.centre).add_(self._mean, alpha=1 - self.how.centre)

    def after_epoch(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        fit_classifier(cast(Pair, module).teacher, self.train, self.recipe.training.batch_size, device)
        highest = math.log(self.how.outputs)
        mean = float(torch.special.entr(self._sum / self._count).sum()) / highest
        found = {"entropy_of_mean": mean, "mean_entropy": self._entropy / self._count / highest}
        self._sum, self._entropy, self._count = torch.zeros_like(self._sum), 0.0, 0
        return found

    def network(self, module: nn.Module) -> nn.Module:
        return cast(Pair, module).teacher

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
