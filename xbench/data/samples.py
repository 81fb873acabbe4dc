"""The nouns of data: Sample, Truth, Item, Batch, and the contract of a dataset.

Coordinates are pixels of the *image frame* (the picture as stored); x grows to the right, y downwards.
"""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from xbench.data.classes import ClassList
from xbench.errors import XbenchError

TargetPolicy = Literal["label", "prediction", "present"]


@dataclass(frozen=True)
class Box:
    """A labelled box: x0 <= x < x1 and y0 <= y < y1. ``difficult`` as PASCAL VOC marks objects."""

    label: int
    x0: float
    y0: float
    x1: float
    y1: float
    difficult: bool = False


@dataclass(frozen=True)
class Sample:
    """One picture with all that is known of it.

    image: uint8 ``[3, H, W]``. labels: the classes present, the main one first; none where nobody knows. A negative label is a
    class of the dataset that the model does not have: see Relabelled.
    masks: class -> bool ``[H, W]``. Where a dataset has no masks, boxes stand for them.
    outlined: whether the dataset has masks. Then they alone are its masks: a class with no more than a box has none.
    ignore: bool ``[H, W]``, pixels that belong to nobody knows what, such as PASCAL VOC's 255.
    sources: the pictures that it was composed of (a mosaic's photographs), each with its label.
    instances: bool ``[H, W]``, the visible pixels of each box's object, in the order of the boxes.
    attributes: per box, what is true of its object in words, such as ``striped``.
    parts: name -> bool ``[H, W]``, the visible pixels of the main label's object's parts, such as ``beak``.
    captions: sentences that are true of the picture.
    """

    id: str
    image: Tensor
    labels: tuple[int, ...]
    boxes: tuple[Box, ...] = ()
    masks: Mapping[int, Tensor] = field(default_factory=dict)
    sources: tuple[Sample, ...] = ()
    ignore: Tensor | None = None
    instances: tuple[Tensor, ...] = ()
    attributes: tuple[tuple[str, ...], ...] = ()
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    captions: tuple[str, ...] = ()
    outlined: bool = False


@dataclass(frozen=True)
class Entry:
    """What a dataset knows of a sample without opening its picture.

    labels: as the sample's. clusters: per label, the id of the photograph that items of that label stem from, and one where there
    are no labels; intervals resample clusters.
    """

    id: str
    labels: tuple[int, ...]
    clusters: tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """One (sample, target): what every value belongs to. ``target`` is None until a prediction fills it."""

    id: str
    sample: str
    target: int | None
    cluster: str


@dataclass(frozen=True)
class Truth:
    """What is known of one item's target, in the frame of the map that it is compared with.

    mask: bool ``[H, W]``, the target's pixels, None where they are not known. boxes: the target's boxes.
    visible: share of the target's pixels, or of its boxes' where it has no mask (in the image frame), that the model can see.
    lacking: why there is no mask, where there is none.
    ignore: bool ``[H, W]``, pixels of which nobody knows whose they are: no metric counts them, for or against. Apart from mask.
    difficult: whether the target covers less than a quarter of the whole picture and another class is there too (Zhang et al. 2016;
    not what PASCAL VOC says of a Box).
    parts: name -> bool ``[H, W]``, the target's parts; all False where the model does not see one. Only of the main label's object.
    """

    mask: Tensor | None = None
    boxes: tuple[Box, ...] = ()
    visible: float = 1.0
    ignore: Tensor | None = None
    difficult: bool = False
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    lacking: str = ""


@dataclass(frozen=True)
class Score:
    """What a faithfulness metric says of one map. vector: fixed length for the metric, such as its curve.

    not_applicable: why there is no value, where there is none.
    """

    value: float = float("nan")
    vector: tuple[float, ...] | None = None
    not_applicable: str = ""


class Dataset(ABC):
    """Pictures with truth. Reading is lazy: ``entries`` lists them, ``load`` opens one.

    Attributes:
        classes: what labels stand for.
        revision: changes whenever a picture, a label or the truth does.
        files: every file that is read, so that a finished run can tell whether its inputs changed.
        generated: whether pictures are made by code alone, without files.
        notes: what is amiss with the data, one line each, such as ``3 boxes reach beyond their pictures and were clipped``;
            the leaderboard shows them.
    """

    xbench_kind = "dataset"
    classes: ClassList
    revision: str
    files: tuple[Path, ...] = ()
    generated: bool = False
    notes: tuple[str, ...] = ()

    @abstractmethod
    def entries(self) -> Sequence[Entry]:
        """All samples in their order, opened or not."""

    @abstractmethod
    def load(self, id: str) -> Sample:
        """The sample of that id.

        Raises:
            BrokenSample: it cannot be read; the run counts it and goes on.
        """

    def size(self, id: str) -> tuple[int, int]:
        """(height, width) of a sample's picture, as ``load`` gives it; override it where that needs no decoding.

        Raises:
            BrokenSample: it cannot be read.
        """
        height, width = self.load(id).image.shape[-2:]
        return height, width

    def items(self, policy: TargetPolicy) -> list[Item]:
        """One item per sample (its main label, or the model's prediction), or one per present class. A sample whose label is not
        known, or no class of the model, has only its prediction."""
        found = []
        for entry in self.entries():
            if policy == "present":
                for label, cluster in zip(entry.labels, entry.clusters, strict=False):
                    if label >= 0:
                        found.append(Item(f"{entry.id}#{label}", entry.id, label, cluster))
            elif policy == "prediction":
                found.append(Item(entry.id, entry.id, None, entry.clusters[0]))
            elif entry.labels and entry.labels[0] >= 0:
                found.append(Item(entry.id, entry.id, entry.labels[0], entry.clusters[0]))
        return found


class Relabelled(Dataset):
    """A dataset whose labels are translated into the classes of a model.

    translation: for each class of the dataset its index in the model's, None where the model does not have it. Such a label i
    becomes ~i, which is negative: it is still there, and still another class than the target, but no target itself.
    """

    def __init__(self, inner: Dataset, classes: ClassList, translation: Sequence[int | None]) -> None:
        self.inner, self.classes, self.translation = inner, classes, tuple(translation)
        self.revision, self.files, self.notes = inner.revision, inner.files, inner.notes
        self.generated = inner.generated

    def entries(self) -> Sequence[Entry]:
        return [dataclasses.replace(e, labels=tuple(self._new(x) for x in e.labels)) for e in self.inner.entries()]

    def load(self, id: str) -> Sample:
        return self._translated(self.inner.load(id))

    def size(self, id: str) -> tuple[int, int]:
        return self.inner.size(id)

    def _translated(self, sample: Sample) -> Sample:
        return dataclasses.replace(
            sample,
            labels=tuple(self._new(x) for x in sample.labels),
            boxes=tuple(dataclasses.replace(b, label=self._new(b.label)) for b in sample.boxes),
            masks={self._new(label): mask for label, mask in sample.masks.items()},
            sources=tuple(self._translated(source) for source in sample.sources),
        )

    def _new(self, label: int) -> int:
        if label >= len(self.translation):
            raise XbenchError(f"a label is {label}, but the dataset has {len(self.translation)} classes; correct the label")
        translated = self.translation[label]
        return ~label if translated is None else translated


@dataclass(frozen=True, eq=False)
class Batch:
    """What a method explains: model inputs with their targets, padded to the run's one batch shape.

    images: float ``[B, 3, H, W]``, preprocessed. targets: int64 ``[B]``. items: the n <= B real ones; rows from n on repeat
    the last item, and what a method returns for them is dropped. truth: one per item, or None for methods that do not
    declare ``needs={"truth"}``. seed: of the run and the plug-in; randomness goes through ``generators``.
    """

    images: Tensor
    targets: Tensor
    items: tuple[Item, ...]
    truth: tuple[Truth, ...] | None = None
    seed: str = ""

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the model's input."""
        return self.images.shape[-2], self.images.shape[-1]

    def generators(self) -> list[torch.Generator]:
        """A fresh random generator per row, derived from (seed, plug-in, item): companions and order change nothing."""
        ids = [item.id for item in self.items] + [self.items[-1].id] * (len(self) - len(self.items))
        return [generator(self.seed, id) for id in ids]

    def rand(self, *shape: int) -> Tensor:
        """Uniform noise in [0, 1), ``[B, *shape]``, drawn per item."""
        return torch.stack([torch.rand(shape, generator=g) for g in self.generators()]).to(self.images.device)

    def randn(self, *shape: int) -> Tensor:
        """Standard normal noise, ``[B, *shape]``, drawn per item."""
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators()]).to(self.images.device)

    def with_images(self, images: Tensor) -> Batch:
        """The same items and targets with other inputs ``[B, 3, h, w]``, such as noisy or resized ones."""
        return dataclasses.replace(self, images=images)

    def seeded(self, *parts: str) -> Batch:
        """The same batch, with randomness derived from these parts too."""
        return dataclasses.replace(self, seed="/".join((self.seed, *parts)))


def generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded by a digest of the parts."""
    bytes_ = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(bytes_[:8], "little") >> 1)
