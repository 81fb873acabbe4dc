"""A plug-in file with pictures that a tiny network learns in seconds, bars, crosses, frames and dots on noise, and a trainer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch.nn import functional

from xbench.plugin import Box, BrokenSample, ClassList, Dataset, Entry, Sample, Step, Table, TimmNetwork, Trainer, dataset, trainer

CLASSES = ClassList(("bar", "cross", "frame", "dot"))
SIDE = 16


def drawn(label: int) -> torch.Tensor:
    """float [7, 7]."""
    shape = torch.zeros(7, 7)
    if label in (0, 1):
        shape[3] = 1
    if label == 1:
        shape[:, 3] = 1
    if label == 2:
        shape[[0, 6]] = 1
        shape[:, [0, 6]] = 1
    if label == 3:
        shape[2:5, 2:5] = 1
    return shape


class Shapes(Dataset):
    """n pictures from number ``start`` on, each with one shape, or every third with two; two pictures per photograph."""

    classes = CLASSES
    generated = True

    def __init__(self, n: int, start: int, several: bool, broken: int, version: int) -> None:
        self.n, self.start, self.several, self.broken = n, start, several, broken
        self.revision = f"{n}-{start}-{several}-{broken}-{version}"

    def _labels(self, i: int) -> tuple[int, ...]:
        return (i % 4, (i + 1) % 4) if self.several and i % 3 == 0 else (i % 4,)

    def entries(self) -> Sequence[Entry]:
        numbers = range(self.start, self.start + self.n)
        return [Entry(f"shape_{i}", labels := self._labels(i), (f"photo_{i // 2}",) * len(labels)) for i in numbers]

    def load(self, id: str) -> Sample:
        i = int(id.rpartition("_")[2])
        if i == self.broken:
            raise BrokenSample(f"cannot read {id}: truncated")
        generator = torch.Generator().manual_seed(i)
        image = torch.randint(0, 100, (3, SIDE, SIDE), generator=generator)
        x, labels, boxes = int(torch.randint(0, 10, (), generator=generator)), self._labels(i), []
        for place, label in enumerate(labels):
            y = place * 8 + (0 if len(labels) > 1 else int(torch.randint(0, 9, (), generator=generator)))
            image[:, y : y + 7, x : x + 7] += (drawn(label) * 150).long()
            boxes.append(Box(label, x, y, x + 7, y + 7))
        names = " and ".join(f"a {CLASSES.names[label]}" for label in labels)
        return Sample(
            id, image.to(torch.uint8), labels, tuple(boxes), captions=(names, f"a picture of {names}", f"{names} on noise")
        )


@dataset("tiny_shapes", provides={"mask", "boxes"}, licence="generated")
def tiny_shapes(n: int = 256, start: int = 0, several: bool = False, broken: int = -1, version: int = 1) -> Dataset:
    """Shapes on noise."""
    return Shapes(n, start, several, broken, version)


class Labels(Table):
    """Its own table in a recipe."""

    smoothing: float = Field(default=0.0, ge=0, lt=1)


@trainer("tiny_labels", network=TimmNetwork, table=Labels)
class TinyLabels(Trainer):
    """Labels of shapes."""

    def loss(self, module: torch.nn.Module, step: Step) -> torch.Tensor:
        present = self.splits.train.present[step.places.cpu()].float().to(step.pictures.device)
        targets = present / present.sum(dim=1, keepdim=True)
        return functional.cross_entropy(module(step.pictures).float(), targets, label_smoothing=self.recipe.table.smoothing)
