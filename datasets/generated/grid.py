"""The grid pointing game: 2x2 mosaics of a labelled dataset's pictures; the truth of a target is its picture's cell."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from xbench.plugin import Box, Dataset, Entry, Sample, XbenchError, dataset, digest, geometry


class Grid(Dataset):
    """n mosaics of four pictures of different classes, dealt from shuffled decks, so that every picture is used about equally.

    cell: pixels a side. At the network's input size (mosaics of twice that) maps localize better than with halved pictures.
    """

    def __init__(self, inner: Dataset, n: int, cell: int, seed: int) -> None:
        if n < 1 or cell < 1:
            raise XbenchError(f"dataset grid: n and cell must be positive, not n={n}, cell={cell}")
        self.inner, self.cell = inner, cell
        self.classes, self.files = inner.classes, inner.files
        self.revision = digest(inner.revision, n, cell, seed)
        labels = {entry.id: entry.labels[0] for entry in inner.entries() if entry.labels}
        if len(set(labels.values())) < 4:
            raise XbenchError(f"dataset grid: a mosaic needs four classes, the inner dataset has {len(set(labels.values()))}")
        self.mosaics = {f"mosaic_{number:04d}": chosen for number, chosen in enumerate(_deal(labels, n, seed))}
        self.labels = labels

    def entries(self) -> Sequence[Entry]:
        return [Entry(id, tuple(self.labels[c] for c in chosen), chosen) for id, chosen in self.mosaics.items()]

    def load(self, id: str) -> Sample:
        sources = [self.inner.load(chosen) for chosen in self.mosaics[id]]
        cells = [_square(s.image, self.cell) for s in sources]
        image = torch.cat([torch.cat(cells[:2], dim=2), torch.cat(cells[2:], dim=2)], dim=1)
        boxes, masks = [], {}
        for k, source in enumerate(sources):
            x, y = k % 2 * self.cell, k // 2 * self.cell
            mask = torch.zeros(image.shape[-2:], dtype=torch.bool)
            mask[y : y + self.cell, x : x + self.cell] = True
            masks[source.labels[0]] = mask
            boxes.append(Box(source.labels[0], x, y, x + self.cell, y + self.cell))
        return Sample(id, image, tuple(s.labels[0] for s in sources), tuple(boxes), masks, tuple(sources))


def _square(image: Tensor, side: int) -> Tensor:
    """The centred square of a picture at ``side`` pixels, uint8 [3, side, side]."""
    return geometry.crop(image.shape[-2], image.shape[-1], (side, side), 1.0).image(image)


def _deal(labels: dict[str, int], n: int, seed: int) -> list[tuple[str, ...]]:
    """n hands of four pictures of different classes."""
    source = random.Random(seed)
    deck: list[str] = []
    hands: list[tuple[str, ...]] = []
    for _ in range(n):
        hand: list[str] = []
        while len(hand) < 4:
            taken = {labels[id] for id in hand}
            fitting = next((id for id in deck if labels[id] not in taken), None)
            if fitting is None:
                fresh = sorted(labels)
                source.shuffle(fresh)
                deck += fresh
            else:
                deck.remove(fitting)
                hand.append(fitting)
        hands.append(tuple(hand))
    return hands


@dataset("grid", provides={"mask", "boxes"}, licence="that of the inner dataset", cite="bohle2021convolutional")
def grid(inner: Dataset, n: int = 100, cell: int = 224, seed: int = 0) -> Dataset:
    """Mosaics of four pictures of different classes of any labelled dataset; use the view ``full``."""
    return Grid(inner, n, cell, seed)
