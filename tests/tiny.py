"""A plug-in file with a model, a dataset, methods and metrics small enough to test the whole harness in a second.

Loaded as users load theirs (``--plugin tests/tiny.py``), so that the core's tests need none of the families that ship.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from xbench.maps.saliency import Ranking
from xbench.plugin import (
    Answer,
    Attribution,
    Batch,
    Box,
    BrokenSample,
    ClassList,
    Curve,
    Dataset,
    Entry,
    Method,
    Model,
    ModelView,
    Noisy,
    Preprocessing,
    Randomised,
    Retargeted,
    SaliencyMap,
    Same,
    Sample,
    Score,
    Truth,
    Variation,
    dataset,
    method,
    metric,
    model,
)

CLASSES = ClassList(("ant", "bee", "cat", "dog", "elk"))
SIDE = 32


class Net(nn.Module):
    """Two strided convolutions, [B, 12, 8, 8] features, global average, linear."""

    def __init__(self, seed: int = 7) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.features = nn.ReLU()
        self.head = nn.Linear(12, len(CLASSES))
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(self.second(self.first(x).relu())).mean(dim=(2, 3)))


@model("tiny_net")
def tiny_net(seed: int = 7) -> Model:
    """Fixed pseudo-random weights: for tests of the harness only."""
    preprocessing = Preprocessing((SIDE, SIDE), 1.0, (127.0,) * 3, (64.0,) * 3)
    return Model("tiny_net", Net(seed), preprocessing, CLASSES, "features", files=(Path(__file__),))


class Pictures(Dataset):
    """n noisy pictures with a bright square on each; two pictures per cluster."""

    classes = CLASSES
    generated = True

    def __init__(self, n: int, bad_label: bool, uneven: bool, broken: int) -> None:
        self.n, self.bad_label, self.uneven, self.broken, self.revision = n, bad_label, uneven, broken, "1"
        self.notes = ("one note",) if broken >= 0 else ()

    def entries(self) -> Sequence[Entry]:
        found = []
        for i in range(self.n):
            label = 99 if self.bad_label and i == self.n - 1 else i % len(CLASSES)
            found.append(Entry(f"picture_{i}", (label, (label + 1) % 5), (f"cluster_{i // 2}",) * 2))
        return found

    def load(self, id: str) -> Sample:
        i = int(id.rpartition("_")[2])
        if i == self.broken:
            raise BrokenSample(f"cannot read {id}: truncated")
        generator = torch.Generator().manual_seed(i)
        height = SIDE + 8 * (i % 3) if self.uneven else SIDE
        image = torch.randint(0, 128, (3, height, SIDE), generator=generator).to(torch.uint8)
        x, y = 2 + i % 7, 3 + i % 5
        image[:, y : y + 12, x : x + 10] += 100
        labels = self.entries()[i].labels
        return Sample(id, image, labels, tuple(Box(label, x, y, x + 10, y + 12) for label in labels))


@dataset("tiny_pictures", provides={"mask", "boxes"})
def tiny_pictures(n: int = 6, bad_label: bool = False, uneven: bool = False, broken: int = -1) -> Dataset:
    """Squares on noise."""
    return Pictures(n, bad_label, uneven, broken)


@method("tiny_cam", needs={"feature_maps", "gradients"})
def tiny_cam(model: ModelView, batch: Batch) -> Tensor:
    """Grad-CAM, spelled out."""
    activations, gradients = model.feature_gradients(batch)
    return (gradients.mean(dim=(2, 3), keepdim=True) * activations).sum(dim=1).relu()


@method("tiny_gradient", needs={"gradients"})
def tiny_gradient(model: ModelView, batch: Batch) -> Tensor:
    """Absolute input gradient."""
    return model.input_gradients(batch).abs().sum(dim=1)


@method("tiny_noise", control=True)
def tiny_noise(model: ModelView, batch: Batch, size: int = 8) -> Tensor:
    """Noise."""
    return batch.rand(size, size)


@method("tiny_negated")
def tiny_negated(model: ModelView, batch: Batch, inner: Method) -> Tensor:
    """A wrapper."""
    return -inner(model, batch)


@method("tiny_truth", needs={"truth"}, control=True, grid="any")
def tiny_truth(model: ModelView, batch: Batch) -> Tensor:
    """The mask."""
    masks = [truth.mask for truth in batch.truth]
    return torch.stack(masks).float()


@method("tiny_attention", needs={"attention"})
def tiny_attention(model: ModelView, batch: Batch) -> Tensor:
    """Needs what no tiny model has."""
    raise AssertionError("never called")


@method("tiny_broken")
def tiny_broken(model: ModelView, batch: Batch, how: str = "nan") -> Tensor:
    """Returns what a method must not."""
    good = batch.rand(4, 4)
    if how == "nan":
        return torch.where(torch.arange(len(batch))[:, None, None] == 0, float("nan"), good)
    return {"shape": good[0], "integers": good.int(), "list": good.tolist(), "large": batch.rand(99, 99)}[how]


@method("tiny_complete")
def tiny_complete(model: ModelView, batch: Batch, wrong: bool = False) -> Attribution:
    """Says of the i-th picture's map that it misses its sum by i tenths, and took i + 1 forward passes."""
    numbers = torch.tensor([float(i.sample.rpartition("_")[2]) for i in batch.items] + [0.0] * (len(batch) - len(batch.items)))
    passes = torch.stack([numbers + 1, torch.zeros(len(batch))], dim=1)
    return Attribution(batch.rand(4, 4), numbers[: 1 if wrong else None] / 10, passes)


@method("tiny_probe")
def tiny_probe(model: ModelView, batch: Batch) -> Tensor:
    """Two halves, each worth what the target loses when it goes: a method that perturbs."""
    height, width = batch.size
    top = torch.arange(height * width, dtype=torch.int32).reshape(height, width)
    orders = [[Ranking(i, top), Ranking(i, top.flip(0))] for i in range(len(batch.items))]
    half = height * width // 2
    curves = [Curve(ranking, (0, half), "image", "zero") for pair in orders for ranking in pair]
    return torch.stack([answer[0] - answer[1] for answer in model.probe(batch, curves)]).reshape(-1, 2, 1).float()


@metric("tiny_wrong", kind="ground_truth", version="1", direction="higher", needs={"mask"})
def tiny_wrong(maps: Tensor, truth: Truth, how: str = "shape") -> Tensor:
    """Breaks its contract."""
    if how == "shape":
        return maps.sum()
    if how == "vectors":
        return maps[:, 0]
    raise ValueError("no value")


@metric("tiny_mass", kind="ground_truth", version="1", direction="higher", needs={"mask"})
def tiny_mass(maps: Tensor, truth: Truth) -> Tensor:
    """Share of the positive map inside the mask."""
    positive = maps.clamp(min=0)
    return (positive * truth.mask).sum(dim=(1, 2)) / positive.sum(dim=(1, 2)).clamp(min=1e-6)


@metric("tiny_threshold", kind="ground_truth", version="1", direction="higher", needs={"mask"}, frame="image", reduce="best")
def tiny_threshold(maps: Tensor, truth: Truth) -> Tensor:
    """IoU with the mask at four thresholds of the map's own maximum, in the window frame: [M, 4]."""
    tops = maps.amax(dim=(1, 2), keepdim=True)
    above = torch.stack([maps > t * tops for t in (0.2, 0.4, 0.6, 0.8)], dim=1)
    return (above & truth.mask).sum(dim=(2, 3)) / (above | truth.mask).sum(dim=(2, 3))


@metric("tiny_single", kind="ground_truth", version="1", direction="higher", needs={"mask"}, reduce="best")
def tiny_single(maps: Tensor, truth: Truth) -> Tensor:
    """The positive map's share inside the mask, as a vector of one threshold: [M, 1]."""
    return tiny_mass(maps, truth)[:, None]


@metric("tiny_deletion", kind="faithfulness", version="1", direction="lower", axes=("share of pixels", "mean probability"))
@dataclass(frozen=True)
class TinyDeletion:
    """Mean response over a few points."""

    steps: int = 4

    def plan(self, map_: SaliencyMap) -> list[Curve]:
        counts = tuple(i * map_.size[0] * map_.size[1] // self.steps for i in range(self.steps + 1))
        return [Curve(ranking, counts, "image", "zero") for ranking in map_.rankings]

    def score(self, map_: SaliencyMap, responses: list[Tensor]) -> Score:
        curve = torch.stack(responses).mean(dim=0)
        return Score(float(curve.mean()), tuple(curve.tolist()))


@metric("tiny_again", kind="re_explanation", version="1", direction="lower", range=(0, float("inf")))
@dataclass(frozen=True)
class TinyAgain:
    """How far maps go from the given one when noise, a class or a network comes between; the vector is each change."""

    radius: float = 0.2

    def plan(self) -> list[Variation]:
        return [Same(), Noisy(self.radius, 0), Retargeted(), Randomised(1, 1)]

    def score(self, before: Answer, after: list[Answer]) -> Score:
        changes = [float((other.map_.native - before.map_.native).norm()) for other in after]
        return Score(sum(changes), tuple(changes))
