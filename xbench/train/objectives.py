"""What trainers share: targets, captions and their prompts; and how well it went, as figures of classifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from xbench.data.classes import ClassList
from xbench.data.samples import generator
from xbench.errors import XbenchError
from xbench.network import zero_shot
from xbench.train.examples import Examples
from xbench.train.recipes import Recipe

RESAMPLES = 200  # of a bootstrap: enough for a standard error

Logits = dict[str, Tensor]  # by the name of a prompt set, "" for the main one: float32 [n, classes]


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
