"""Small CLIPs of open_clip with random weights, for tests of what looks into them: no number of theirs is a result."""

from __future__ import annotations

import hashlib

import torch

from xbench.data.classes import ClassList
from xbench.data.samples import Batch, Item
from xbench.network.model import Model, Preprocessing
from xbench.network.zero_shot import classifier

HOW = Preprocessing((32, 32), 1.0, (127.5,) * 3, (127.5,) * 3)
NAMES = ("ant", "bee", "cat")
WIDTH = 24


def vision(**changes) -> torch.nn.Module:
    """A CLIP with a vision transformer of 4 blocks and 4 x 4 patches."""
    return _clip({"image_size": 32, "layers": 4, "width": 64, "head_width": 16, "patch_size": 8, **changes})


def resnet() -> torch.nn.Module:
    """A CLIP with a ResNet, 2 x 2 places."""
    return _clip({"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8})


def _clip(table) -> torch.nn.Module:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(0)
    made = CLIP(WIDTH, CLIPVisionCfg(**table), CLIPTextCfg(context_length=8, vocab_size=100, width=16, heads=2, layers=1))
    for name, parameter in made.named_parameters():  # biases and norms of new networks are 0 and 1, and so hide faults
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape)
        elif "positional" not in name and "embedding" not in name:
            parameter.data *= 2
    return made.eval()


def embedding(sentence: str) -> torch.Tensor:
    """A table for a text tower: any sentence has its own vector."""
    seed = int(hashlib.sha256(sentence.encode()).hexdigest()[:8], 16)
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)) * (1 + seed % 5)


def encode(sentences) -> torch.Tensor:
    return torch.stack([embedding(sentence) for sentence in sentences])


def model(clip: torch.nn.Module, names=NAMES, synsets=(), size: int = 0) -> Model:
    """A classifier of these names. size: of the input, the tower's own if 0."""
    side = size or clip.visual.image_size
    side = side[0] if isinstance(side, tuple) else side
    how = Preprocessing((side, side), 1.0, HOW.mean, HOW.std)
    return classifier(
        "tiny-clip", clip, encode, ClassList(tuple(names), tuple(synsets)), [(f"a {n}", f"the {n}") for n in names], how
    )


def batch(of: Model, targets=(0, 2, 1), count: int = 0) -> Batch:
    """Noise. count: rows, those behind the items repeating the last."""
    targets = torch.tensor(targets)
    pictures = torch.randn(len(targets), 3, *of.preprocessing.size, generator=torch.Generator().manual_seed(3))
    items = tuple(Item(f"{i}", f"{i}", int(t), f"{i}") for i, t in enumerate(targets))
    more = max(0, count - len(targets))
    rows = torch.cat([torch.arange(len(targets)), torch.full((more,), len(targets) - 1)])
    return Batch(pictures[rows], targets[rows], items, seed="0")
