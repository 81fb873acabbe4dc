"""The dataset that class folders and their annotations make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from xbench.plugin import Box, BrokenSample, Dataset, Entry, Sample, digest, file_digest, images

from .masks import Region, read_mask, union
from .tree import Picture, Tree
from .values import BACKGROUND, OWN, VOID, Nonzero, Reading

READING = 2  # raised when the same files come to mean something else
THREADS = 4  # hashing waits for the disk, and leaves Python free


@dataclass(frozen=True)
class Known:
    """What annotations say of one picture.

    regions: label -> outlines of its objects. crowds: regions that belong to nobody knows what.
    mask: its file. others: labels present beside the main one; all of them, the main one first, where there is no class folder.
    """

    boxes: tuple[Box, ...] = ()
    regions: Mapping[int, list[Region]] | None = None
    crowds: Sequence[Region] = ()
    mask: Path | None = None
    others: tuple[int, ...] = ()


class Labelled(Dataset):
    """Pictures, and what is known of some of them.

    reading: of the masks' values. outlined: whether truth is masks, as Sample says. how: what says how files were read.
    annotations: kind -> picture id -> the file that it was read from; extra: files that all pictures share. Both are part of the
    revision by their bytes, pictures also by class folder and name; where the folders stand and when files were written is not.
    """

    def __init__(
        self,
        tree: Tree,
        known: Mapping[str, Known],
        annotations: Mapping[str, Mapping[str, Path]],
        extra: Mapping[str, Path],
        reading: Reading | None = None,
        outlined: bool = False,
        how: Sequence[str] = (),
    ) -> None:
        self.classes, self.upright = tree.classes, tree.upright
        self.reading, self.outlined, self.index = reading or Nonzero(), outlined, tree.index
        self.pictures = {picture.id: picture for picture in tree.pictures}
        self.known = known
        if tree.upright:
            _count_turned(tree, known)
        self.notes = tree.notes.lines()
        beside = [path for files in annotations.values() for path in files.values()]
        self.files = (*(picture.path for picture in tree.pictures), *beside, *extra.values())
        digests = _digests(self.files)
        self.revision = digest(
            [READING, tree.upright, tree.classes.names, tree.classes.synsets, list(how)],
            [(picture.place, picture.label, digests[picture.path]) for picture in tree.pictures],
            [(kind, id, digests[path]) for kind, files in sorted(annotations.items()) for id, path in sorted(files.items())],
            [(kind, digests[path]) for kind, path in sorted(extra.items())],
        )

    def entries(self) -> Sequence[Entry]:
        labels = {id: self._labels(picture) for id, picture in self.pictures.items()}
        return [Entry(id, found, (id,) * max(1, len(found))) for id, found in labels.items()]

    def size(self, id: str) -> tuple[int, int]:
        return images.size(self.pictures[id].path, self.upright)

    def load(self, id: str) -> Sample:
        picture, known = self.pictures[id], self.known.get(id, Known())
        image = images.read(picture.path, self.upright)
        height, width = image.shape[-2:]
        masks = {label: _painted(some, height, width) for label, some in (known.regions or {}).items()}
        ignore = _painted(known.crowds, height, width) if known.crowds else None
        if known.mask is not None:
            for name, mask in read_mask(known.mask, self.reading).items():
                if mask.shape != (height, width):
                    raise BrokenSample(f"mask {known.mask} is not of its picture's size any more; start anew")
                label = picture.label if name == OWN else self.index.get(name)
                if name == VOID:
                    ignore = torch.from_numpy(mask)
                elif label is not None and name != BACKGROUND:
                    masks[label] = masks.get(label, torch.zeros(height, width, dtype=torch.bool)) | torch.from_numpy(mask)
        return Sample(id, image, self._labels(picture), known.boxes, masks, ignore=ignore, outlined=self.outlined)

    def _labels(self, picture: Picture) -> tuple[int, ...]:
        others = self.known.get(picture.id, Known()).others
        return others if picture.label is None else (picture.label, *(label for label in others if label != picture.label))


def _painted(regions: Sequence[Region], height: int, width: int) -> Tensor:
    return torch.from_numpy(union(list(regions), height, width))


def _count_turned(tree: Tree, known: Mapping[str, Known]) -> None:
    """Sizes tell a quarter turn of a picture that is not square from none, but no other turn: there the reader has to check."""
    for picture in tree.pictures:
        if picture.id in known and images.turned(picture.path):
            kind = "annotated pictures that EXIF turns, their truth taken to be of the upright picture"
            tree.notes.add(kind, picture.place)


def _digests(files: Iterable[Path]) -> dict[Path, str]:
    paths = list(dict.fromkeys(files))
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(paths, pool.map(_digest, paths), strict=True))


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:  # loading it says so; the run goes on without it
        return "unreadable"
