"""Pictures to train on and to hold out: read once at the network's size, or anew in every epoch, and moved about."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler
from torch.utils.data import Dataset as TorchDataset

from xbench.data.classes import ClassList
from xbench.data.samples import Dataset, Entry, Relabelled
from xbench.errors import BrokenSample, XbenchError
from xbench.network.model import Preprocessing
from xbench.plugins.registry import Registry
from xbench.progress import Progress
from xbench.train.recipes import Data

READ_AT_ONCE = 32  # pictures that a worker passes on together

T = TypeVar("T")
Batch = tuple[Tensor, Tensor]  # pictures uint8 [B, channels, h, w], and their places in the examples, int64 [B]


class Examples(TorchDataset[Batch]):
    """The pictures of one split at the network's size, with what is known of them.

    spec: where they come from. clusters: source photographs, one for each. captions: of those gathered with ``captions=True``.
    unreadable: how many were left out by ``gather``. masks: whether pictures have a fourth channel, which tells the class of each
    pixel's object: its number + 1, or 0.
    """

    def __init__(self, spec: str, dataset: Dataset, entries: Sequence[Entry], preprocessing: Preprocessing, view: str) -> None:
        self.spec, self.dataset, self.entries = spec, dataset, [e for e in entries if e.labels]
        self.preprocessing, self._view = preprocessing, view
        self.pictures: Tensor | None = None
        self.captions: list[tuple[str, ...]] = []
        self.unreadable, self.masks = 0, False
        if not self.entries:
            raise XbenchError(f"dataset {spec} has no labelled pictures for this split; name another")

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def bytes(self) -> int:
        """What all pictures take in memory."""
        height, width = self.preprocessing.size
        return self.channels * height * width * len(self)

    @property
    def channels(self) -> int:
        return 3 + self.masks

    @property
    def classes(self) -> ClassList:
        return self.dataset.classes

    @property
    def clusters(self) -> list[str]:
        return [entry.clusters[0] for entry in self.entries]

    @property
    def present(self) -> Tensor:
        """Which classes are in which picture, bool ``[n, classes]``."""
        found = torch.zeros(len(self), len(self.classes), dtype=torch.bool)
        for row, entry in zip(found, self.entries, strict=True):
            row[list(entry.labels)] = True
        return found

    def read(self, index: int) -> tuple[Tensor, tuple[str, ...]] | None:
        """A picture at the network's size, uint8 ``[channels, h, w]``, and its captions; None where it is broken.

        Raises:
            XbenchError: masks are wanted, and the picture has none, or more classes than a byte counts.
        """
        try:
            sample = self.dataset.load(self.entries[index].id)
        except BrokenSample:
            return None
        view = self.preprocessing.view("squash" if self._view == "squash" else "crop", *sample.image.shape[-2:])
        picture = view.image(sample.image, self.preprocessing.interpolation)
        if self.masks:
            if not sample.masks or len(self.classes) > 255:
                raise XbenchError(f"the recipe asks for masks of at most 255 classes, which {self.spec} lacks; ask for none")
            owners = torch.zeros(picture.shape[1:], dtype=torch.uint8)
            for label, mask in sample.masks.items():
                owners[view.mask(mask)] = label + 1
            picture = torch.cat([picture, owners[None]])
        return picture, sample.captions

    def gather(self, keep: bool, captions: bool, workers: int, progress: Progress) -> None:
        """Read all pictures once, in several processes: to ``keep`` them in memory, to know their captions, or both.

        Raises:
            XbenchError: none can be read, or one has no caption where they are wanted.
        """
        whole: list[int] = []
        kept = torch.empty((len(self), self.channels, *self.preprocessing.size), dtype=torch.uint8) if keep else None
        progress.start(f"reading {len(self)} pictures of {self.spec}", len(self))
        reader = DataLoader(_Reader(self), batch_size=READ_AT_ONCE, collate_fn=_as_it_is, num_workers=workers)
        done = 0
        for part in reader:
            for found in part:
                if found is not None:
                    if kept is not None:
                        kept[len(whole)] = found[0]
                    if captions:
                        self.captions.append(found[1])
                    whole.append(done)
                done += 1
            progress.advance(len(part))
            progress.finish_unit(done, len(self))
        if not whole:
            raise XbenchError(f"no picture of dataset {self.spec} can be read; check it with xbench items")
        if captions and not all(self.captions):
            raise XbenchError(
                f"a picture of dataset {self.spec} has no caption, and there is nothing to contrast it with; name another dataset"
            )
        self.unreadable = len(self) - len(whole)
        self.entries = [self.entries[i] for i in whole]
        self.pictures = kept[: len(whole)] if kept is not None else None

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        """A batch; broken pictures are left out of it.

        Raises:
            XbenchError: all of it are broken.
        """
        where = torch.tensor(indices)
        if self.pictures is not None:
            return self.pictures[where], where
        read = [(i, found[0]) for i in indices if (found := self.read(i)) is not None]
        if not read:
            raise XbenchError(f"dataset {self.spec}: {len(indices)} pictures in a row cannot be read")
        return torch.stack([picture for _, picture in read]), torch.tensor([i for i, _ in read])

    def shuffled(self, batch_size: int, workers: int, seed: int, replicas: int, rank: int) -> DataLoader[Batch]:
        """Batches in an order that is a function of (seed, epoch, rank); whoever loops over them calls ``set_epoch``."""
        order: DistributedSampler[int] = DistributedSampler(range(len(self)), replicas, rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        return self._loader(BatchSampler(order, batch_size, drop_last=len(order) >= batch_size), workers)

    def in_order(self, batch_size: int, workers: int, every: int = 1) -> Iterator[Batch]:
        """All batches in the order of the dataset, or of every so many pictures one."""
        return iter(self._loader(BatchSampler(range(0, len(self), every), batch_size, drop_last=False), workers))

    def _loader(self, sampler: BatchSampler, workers: int) -> DataLoader[Batch]:
        workers = 0 if self.pictures is not None else workers  # what is in memory needs no other process
        return DataLoader(
            self, batch_sampler=sampler, collate_fn=_as_it_is, num_workers=workers, persistent_workers=False, generator=_unused()
        )


class _Reader(TorchDataset[tuple[Tensor, tuple[str, ...]] | None]):
    """Examples one by one, as they are read."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Tensor, tuple[str, ...]] | None:
        return self.examples.read(index)


@dataclass(frozen=True)
class Splits:
    """What a training reads. test: by name, the main one first. held_out: whether all are parts of one dataset."""

    train: Examples
    validation: Examples
    test: dict[str, Examples]
    held_out: bool

    def named(self) -> dict[str, Examples]:
        """All by name; a test called x as ``test/x``."""
        return {"train": self.train, "validation": self.validation, **{f"test/{name}": e for name, e in self.test.items()}}


def open_splits(data: Data, preprocessing: Preprocessing, registry: Registry) -> Splits:
    """Open the datasets of a recipe.

    Raises:
        XbenchError: one is unknown or has other classes, or nothing is left for a split.
    """
    source: Dataset = registry.dataset(data.train)()
    if data.validation:
        opened = {spec: _alike(spec, registry.dataset(spec)(), source) for spec in (data.validation, *data.tests.values())}

        def examples(spec: str) -> Examples:
            return Examples(spec, opened[spec], opened[spec].entries(), preprocessing, data.view)

        train = Examples(data.train, source, source.entries(), preprocessing, data.view)
        return Splits(train, examples(data.validation), {name: examples(spec) for name, spec in data.tests.items()}, False)
    parts = hold_out(source.entries(), data.holdout)
    train, validation, test = (Examples(data.train, source, part, preprocessing, data.view) for part in parts)
    return Splits(train, validation, {"test": test}, True)


def hold_out(entries: Sequence[Entry], share: float) -> tuple[list[Entry], list[Entry], list[Entry]]:
    """Training, validation and test, of which the last two get about ``share`` each.

    Where a picture goes is a function of its source photograph's id alone: no photograph is on two sides, and pictures that are
    added move no other.

    Raises:
        XbenchError: a picture is composed of several photographs.
    """
    parts: tuple[list[Entry], list[Entry], list[Entry]] = ([], [], [])
    for entry in entries:
        if len(set(entry.clusters)) > 1:
            raise XbenchError(
                f"{entry.id} is composed of several photographs; hold nothing out: name validation and test in [data]"
            )
        digest = hashlib.sha256("/".join(entry.clusters[:1]).encode()).digest()
        place = int.from_bytes(digest[:8], "little") / 2**64
        parts[2 if place < share else 1 if place < 2 * share else 0].append(entry)
    return parts


def augment(pictures: Tensor, generator: torch.Generator, flip: bool, shift: int) -> Tensor:
    """Mirror each picture with probability 1/2, and move it by up to ``shift`` whole pixels each way, its borders repeated.

    pictures: ``[B, channels, h, w]``. generator: on the CPU, so that every device draws the same.
    """
    count, _, height, width = pictures.shape
    mirrored = torch.rand(count, 1, generator=generator) < (0.5 if flip else 0.0)
    moves = torch.randint(-shift, shift + 1, (2, count, 1), generator=generator)
    rows = (torch.arange(height) + moves[0]).clamp(0, height - 1)
    columns = (torch.arange(width) + moves[1]).clamp(0, width - 1)
    columns = torch.where(mirrored, width - 1 - columns, columns)
    rows, columns = rows.to(pictures.device), columns.to(pictures.device)
    which = torch.arange(count, device=pictures.device)[:, None, None]
    moved = pictures.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def worker_count(asked: int | None) -> int:
    """Processes that read pictures: as many as asked for, or one per core where there are several."""
    cores = os.cpu_count() or 1
    return asked if asked is not None else cores if cores > 1 else 0


def _alike(spec: str, dataset: Dataset, source: Dataset) -> Dataset:
    """A dataset with the classes of another, in their order."""
    if dataset.classes.same_as(source.classes):
        return dataset
    translation = dataset.classes.translation(source.classes)
    if translation is None:
        raise XbenchError(f"dataset {spec} has classes that the training data lack; name one of the same classes")
    return Relabelled(dataset, source.classes, translation)


def _as_it_is(found: T) -> T:
    return found


def _unused() -> torch.Generator:
    """For the loader's own seed, which nothing reads: torch's global generator stays as it was."""
    return torch.Generator().manual_seed(0)
