"""What tests of metrics share: a network that adds up its pixels, the answers that it gives, and mutants of a metric's source."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from xbench.maps.perturbation import Prober
from xbench.maps.saliency import SaliencyMap
from xbench.plugins.registry import registry


class Linear(nn.Module):
    """p(class 0) = sum(w x), within (0, 1), through the logs that a softmax undoes."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = (x * self.weights).sum(dim=(1, 2, 3)).clamp(1e-12, 1 - 1e-12)
        return torch.stack([p, 1 - p], dim=1).log()


@pytest.fixture
def linear_network():
    """Weights ``[3, H, W]`` -> the network."""
    return Linear


@pytest.fixture
def signed():
    """A picture whose pixels speak for the class and against it, p = .4: (network, picture, what each pixel adds)."""
    picture = 0.5 + torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    adds = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0)).double() / 100
    adds += (0.4 - adds.sum()) / adds.numel()
    return Linear(adds / picture[0]), picture, adds.sum(dim=0)


@pytest.fixture
def probed():
    """(spec, network, picture, native map, seed) -> the Score."""

    def run(spec, network, picture, native, seed="0/i"):
        metric, map_ = registry.metric(spec)(), SaliencyMap(native, tuple(picture.shape[-2:]), 0, seed)
        return metric.score(map_, Prober(network, picture, torch.tensor([0]), 4).run(metric.plan(map_)))

    return run


@pytest.fixture
def kinds():
    """name -> (what each pixel adds -> a map): true, wrong, random, tied, signed, constant and extreme ones."""
    drawn = {name: torch.randn(16, 16, generator=torch.Generator().manual_seed(i)) for i, name in enumerate(("signed", "huge"))}
    return {
        "evidence": lambda share: share.float(),
        "against": lambda share: -share.float(),
        "random": lambda share: drawn["signed"].sigmoid(),
        "signed": lambda share: drawn["signed"],
        "huge": lambda share: drawn["huge"] * 1e30,
        "tied": lambda share: torch.eye(16),
        "coarse": lambda share: share.float()[::4, ::4].contiguous(),
        "ones": lambda share: torch.ones(16, 16),
        "zeros": lambda share: torch.zeros(16, 16),
        "negative": lambda share: -torch.ones(16, 16),
    }


@pytest.fixture
def plant(tmp_path):
    """(prefix, source files below metrics/, what to replace, by what): loads them as one, changed, its metrics under other ids."""

    def load(prefix: str, names: tuple[str, ...], old: str, new: str) -> None:
        folder = registry.get("metric", "pxap").path.parents[1]
        source = "\n".join((folder / name).read_text(encoding="utf-8") for name in names)
        assert old in source, old
        source = source.replace(old, new)
        source = re.sub(r"^from (\.+\w+|__future__) import .*\n", "", source, flags=re.MULTILINE)
        source = re.sub(r'(@metric\(\s*")', rf"\g<1>{prefix}", source)
        (tmp_path / "mutant.py").write_text("from __future__ import annotations\n" + source, encoding="utf-8")
        registry.load(str(tmp_path / "mutant.py"))

    return load
