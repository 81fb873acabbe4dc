"""A plug-in file with birds and hounds as coloured noise, and a CLIP whose text tower is a table, for tests of the detection."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from xbench import BrokenSample, ClassList, Dataset, Entry, Model, Preprocessing, Sample, dataset, model
from xbench.network.zero_shot import Encoder, classifier

NAMES = ("robin", "beagle", "stork", "gizmo", "borzoi", "basset", "oddity")
SYNSETS = (
    "n01558993",
    "n02088364",
    "n02002556",
    "",
    "n02090622",
    "n02088238",
    "n99999999",
)  # WordNet's, none, and not a noun of it
CLASSES = ClassList(NAMES, SYNSETS)
WIDTH, SIDE, WORDS = 6, 16, 12
HOW = Preprocessing((SIDE, SIDE), 1.0, (127.0,) * 3, (64.0,) * 3)


class Zoo(Dataset):
    """n pictures, two of each source; every ``both``-th has a second class, of the next name."""

    generated, revision, notes = True, "1", ("one note",)

    def __init__(self, n: int, both: int, broken: int, named: bool) -> None:
        self.n, self.both, self.broken = n, both, broken
        self.classes = CLASSES if named else ClassList(NAMES)

    def entries(self) -> Sequence[Entry]:
        found = []
        for i in range(self.n):
            label = i * 3 % len(NAMES)
            labels = (label, (label + 1) % len(NAMES)) if self.both and i % self.both == 0 else (label,)
            found.append(Entry(f"p{i}", labels, (f"source{i // 2}",) * len(labels)))
        return found

    def load(self, id: str) -> Sample:
        i = int(id[1:])
        if i == self.broken:
            raise BrokenSample(f"cannot read {id}: truncated")
        generator = torch.Generator().manual_seed(i)
        noise = torch.randint(0, 256, (3, SIDE, SIDE), generator=generator)
        tint = torch.randint(0, 256, (3, 1, 1), generator=generator)
        return Sample(id, ((noise + 3 * tint) // 4).to(torch.uint8), self.entries()[i].labels)


@dataset("tiny_zoo")
def tiny_zoo(n: int = 70, both: int = 0, broken: int = -1, named: bool = True) -> Dataset:
    """Birds, hounds, and what is neither."""
    return Zoo(n, both, broken, named)


class Tower(nn.Module):
    """Means and spreads of the colours, mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(6, WIDTH, bias=False)
        self.mix.weight.data = torch.randn(WIDTH, 6, generator=torch.Generator().manual_seed(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3))], dim=1))


class Clip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = Tower()
        self.logit_scale = nn.Parameter(torch.as_tensor(2.5))


def embedding(sentence: str) -> Tensor:
    """A table for a text tower: any sentence has its own vector."""
    seed = int(hashlib.sha256(sentence.encode()).hexdigest()[:8], 16)
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)) * (1 + seed % 5)


def encode(sentences: Sequence[str]) -> Tensor:
    return torch.stack([embedding(sentence) for sentence in sentences])


@model("tiny_reader")
def tiny_reader(fewer: int = 0) -> Model:
    """Knows the classes in another order, and leaves the first ones out."""
    order = [6, 5, 4, 3, 2, 1, 0][: len(NAMES) - fewer]
    classes = ClassList(tuple(NAMES[i] for i in order), tuple(SYNSETS[i] for i in order))
    encoder = Encoder(encode, lambda sentence: len(sentence.split()) + 2, WORDS)
    return classifier("tiny_reader", Clip(), encoder, classes, [(f"a {name}",) for name in classes.names], HOW)


class Head(nn.Module):
    def __init__(self, nan: bool) -> None:
        super().__init__()
        self.tower, self.nan = Tower(), nan

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.cat([self.tower(x), x.mean(dim=(1, 2, 3))[:, None]], dim=1)
        return logits / 0 * 0 if self.nan else logits


@model("tiny_head")
def tiny_head(nan: bool = False) -> Model:
    """A classifier of the very classes, without text."""
    return Model("tiny_head", Head(nan), HOW, CLASSES, capabilities=frozenset({"gradients"}))
