"""What is minimised, and how well it went: what a task is, the tasks that learn from labels and captions, and pure functions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from xbench import zero_shot
from xbench.classes import ClassList
from xbench.data import generator
from xbench.errors import XbenchError
from xbench.training import networks
from xbench.training.examples import Examples
from xbench.training.recipes import ClipNetwork, Recipe

RESAMPLES = 200  # of a bootstrap: enough for a standard error

Logits = dict[str, Tensor]  # by the name of a prompt set, "" for the main one: float32 [n, classes]


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


class Objective(ABC):
    """A task. The *module* is what learns: the network that is asked for, or one that holds it and more."""

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

    def network(self, module: nn.Module) -> nn.Module:
        """The network that is kept, as far as it has come."""
        return module

    @abstractmethod
    def classifiers(self, network: nn.Module) -> dict[str, nn.Module]:
        """A network that is kept as classifiers, inputs -> logits ``[B, classes]``, by name; "" is the main one."""

    def best(self, main: float, before: Sequence[float]) -> bool:
        """Whether an epoch's weights take the place of those kept so far, by the main figure of it and of the epochs before it."""
        return main >= max(before, default=main)  # of equal ones the later


class Classification(Objective):
    """Labels of pictures, by soft-target cross-entropy: a picture with three classes in it has a third of each.

    With token labels the classifier must know each patch too, as far as an object covers it.
    """

    def __init__(self, recipe: Recipe, train: Examples) -> None:
        self.targets, self.label_smoothing = soft_targets(train.present), recipe.training.label_smoothing
        self.recipe, self.token_labels = recipe.name, recipe.training.token_labels

    def loss(self, module: nn.Module, step: Step) -> Tensor:
        pictures = step.pictures
        targets = self.targets[step.places.cpu()].to(pictures.device)
        if not self.token_labels:
            return functional.cross_entropy(module(pictures).float(), targets, label_smoothing=self.label_smoothing)
        transformer = cast(Any, module)
        if not all(hasattr(module, name) for name in ("forward_features", "patch_embed", "num_prefix_tokens", "fc_norm", "head")):
            raise XbenchError(f"recipe {self.recipe}: token_labels needs a vision transformer of timm; set it to 0")
        tokens = transformer.forward_features(pictures)
        logits = transformer.forward_head(tokens).float()
        of_tokens = transformer.head(transformer.fc_norm(tokens[:, transformer.num_prefix_tokens :])).float()
        whole = functional.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        shares = cover(step.owners, transformer.patch_embed.grid_size, self.targets.shape[1])
        return whole + self.token_labels * token_loss(of_tokens, shares)

    def classifiers(self, network: nn.Module) -> dict[str, nn.Module]:
        return {"": network}


class Captions:
    """The captions of examples that were gathered with them. sentences: each distinct one, once."""

    def __init__(self, examples: Examples, seed: int) -> None:
        self.seed, known = seed, dict[str, int]()
        for captions in examples.captions:
            for caption in captions:
                known.setdefault(caption, len(known))
        self.sentences = list(known)
        self._counts = torch.tensor([len(captions) for captions in examples.captions])
        self._first = self._counts.cumsum(0) - self._counts
        self._which = torch.tensor([known[caption] for captions in examples.captions for caption in captions])

    def drawn(self, places: Tensor, epoch: int) -> Tensor:
        """The caption of each of these pictures in an epoch, by (seed, epoch, picture): rows of ``sentences``, ``[B]``."""
        places = places.cpu()
        chance = torch.rand(len(self._counts), generator=generator(self.seed, "captions", epoch))[places]
        which = (chance * self._counts[places]).long().clamp(max=self._counts[places] - 1)
        return self._which[self._first[places] + which]


class Contrast(Objective):
    """Which caption belongs to which picture (Radford et al. 2021), where one caption may be true of several pictures.

    In each epoch each picture has one of its captions. Validation is zero-shot.
    """

    def __init__(self, recipe: Recipe, train: Examples) -> None:
        assert isinstance(recipe.network, ClipNetwork)
        self._tokenize = networks.tokenizer(recipe.network)
        self.captions = Captions(train, recipe.seed)
        self.tokens = self._tokenize(self.captions.sentences).to(torch.int32)
        self.prompts = prompt_sets(recipe, train.classes)

    def loss(self, module: nn.Module, step: Step) -> Tensor:
        clip, device = cast(Any, module), step.pictures.device
        distinct, which = torch.unique(self.captions.drawn(step.places, step.epoch), return_inverse=True)  # a sentence is read once
        which = which.to(device)
        texts = clip.encode_text(self.tokens[distinct].long().to(device), normalize=True)[which]
        images = clip.encode_image(step.pictures, normalize=True)
        with torch.autocast(device.type, enabled=False):  # the scale is up to 100, and bfloat16 has three digits
            return contrastive_loss(images.float(), texts.float(), which, clip.logit_scale.exp())

    def classifiers(self, network: nn.Module) -> dict[str, nn.Module]:
        encode = networks.text_encoder(network, self._tokenize)
        return {
            name: zero_shot.ZeroShot(network, zero_shot.text_embeddings(encode, prompts)) for name, prompts in self.prompts.items()
        }

    def after_step(self, module: nn.Module, done: float) -> None:
        with torch.no_grad():
            cast(Any, module).logit_scale.clamp_(0, torch.tensor(100.0).log())


def prompt_sets(recipe: Recipe, classes: ClassList) -> dict[str, tuple[tuple[str, ...], ...]]:
    """The prompts of each class, by the name of their set; the recipe's template is the main one, "".

    Raises:
        XbenchError: a list has not one sentence for each class, or a template no ``{}``.
    """
    found = {}
    for name, given in {"": recipe.template, **recipe.prompts}.items():
        if isinstance(given, str):
            found[name] = zero_shot.fill([given], classes.names)
        elif len(given) != len(classes):
            raise XbenchError(f"recipe {recipe.name}: prompts.{name} has {len(given)} sentences for {len(classes)} classes")
        else:
            found[name] = tuple((sentence,) for sentence in given)
    return found


def soft_targets(present: Tensor) -> Tensor:
    """bool ``[n, classes]`` -> float32, uniform over the classes that are present."""
    return present.float() / present.sum(dim=1, keepdim=True)


def cover(owners: Tensor, grid: tuple[int, int], classes: int) -> Tensor:
    """uint8 ``[B, 1, h, w]`` of class + 1, or 0 -> the share of each cell of a grid that each class covers, float32
    ``[B, N, classes]``."""
    one_hot = functional.one_hot(owners[:, 0].long(), classes + 1)[..., 1:].permute(0, 3, 1, 2).float()
    return functional.adaptive_avg_pool2d(one_hot, grid).flatten(2).transpose(1, 2)


def token_loss(logits: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy of tokens, each as far as it is covered, over all that is. logits, shares: ``[B, N, classes]``."""
    return -(shares * logits.log_softmax(dim=-1)).sum() / shares.sum().clamp(min=1)


def contrastive_loss(images: Tensor, texts: Tensor, captions: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE in which every text that reads the same is a positive.

    images, texts: embeddings of length 1, ``[B, D]``. captions: int64 ``[B]``, equal where the texts are. scale: of the cosines.
    The target is uniform over the positives, so its lowest value is their entropy and not 0 where texts repeat.
    """
    same = (captions[:, None] == captions[None, :]).float()
    targets = same / same.sum(dim=1, keepdim=True)
    logits = scale * images @ texts.T
    return (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)) / 2


def accuracy(logits: Tensor, present: Tensor) -> float:
    """The share of pictures whose highest logit is of a class that is there. logits: ``[n, classes]``; present: bool, alike."""
    return float(present.gather(1, logits.argmax(dim=1, keepdim=True)).double().mean())


def mean_average_precision(logits: Tensor, present: Tensor) -> float:
    """Average precision of each class over the pictures, ranked by its logit, averaged over the classes that there are.

    Pictures of equal logits come in together. logits: ``[n, classes]``; present: bool, alike.
    """
    precisions = []
    for scores, positive in zip(logits.T, present.T, strict=True):
        wanted = scores[positive].contiguous()
        if not len(wanted):
            continue
        hits = len(wanted) - torch.searchsorted(wanted.sort().values, wanted)
        retrieved = len(scores) - torch.searchsorted(scores.contiguous().sort().values, wanted)
        precisions.append((hits.double() / retrieved).mean())
    return float(torch.stack(precisions).mean())


@dataclass(frozen=True)
class Figure:
    """A held-out figure in 0..1. standard_error: by bootstrap over source photographs. n: pictures."""

    value: float
    standard_error: float
    n: int


def figures(logits: Logits, present: Tensor) -> dict[str, float]:
    """All figures by name, the main one first: accuracy, and the mean average precision where pictures have several classes."""
    several = bool((present.sum(dim=1) > 1).any())
    found = {}
    for name, of_set in logits.items():
        end = f"/{name}" if name else ""
        found[f"accuracy{end}"] = accuracy(of_set, present)
        if several:
            found[f"mean_average_precision{end}"] = mean_average_precision(of_set, present)
    return found


def with_errors(logits: Logits, present: Tensor, clusters: Sequence[str]) -> dict[str, Figure]:
    """All figures with their standard errors: the spread when source photographs are drawn anew, with replacement."""
    members: dict[str, list[int]] = {}
    for row, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(row)
    groups, draw = list(members.values()), generator("bootstrap", len(members))
    drawn: dict[str, list[float]] = {name: [] for name in figures(logits, present)}
    for _ in range(RESAMPLES):
        chosen = torch.randint(len(groups), (len(groups),), generator=draw).tolist()
        rows = torch.tensor([row for i in chosen for row in groups[i]])
        for name, value in figures({k: v[rows] for k, v in logits.items()}, present[rows]).items():
            drawn[name].append(value)
    errors = {name: float(torch.tensor(values, dtype=torch.float64).std(correction=0)) for name, values in drawn.items() if values}
    return {n: Figure(value, errors.get(n, float("nan")), len(present)) for n, value in figures(logits, present).items()}


@torch.no_grad()
def evaluate(
    classifiers: Mapping[str, nn.Module], examples: Examples, batch_size: int, workers: int, device: torch.device
) -> tuple[Logits, Tensor]:
    """Every classifier over the m pictures that can be read, in float32. -> logits ``[m, classes]``, and the pictures' places."""
    logits: dict[str, list[Tensor]] = {name: [] for name in classifiers}
    places: list[Tensor] = []
    before = {id(module): module.training for c in classifiers.values() for module in c.modules()}
    for classifier in classifiers.values():
        classifier.eval()
    for pictures, where in examples.in_order(batch_size, workers):
        inputs = examples.preprocessing.normalise(pictures).to(device)
        for name, classifier in classifiers.items():
            logits[name].append(classifier(inputs).float().cpu())
        places.append(where)
    for classifier in classifiers.values():
        for module in classifier.modules():
            module.training = before[id(module)]
    return {name: torch.cat(parts) for name, parts in logits.items()}, torch.cat(places)
