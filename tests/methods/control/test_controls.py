import pytest
import torch

from xbench.data.samples import Batch, Item, Truth
from xbench.errors import XbenchError
from xbench.network.model import ModelView
from xbench.plugins.registry import registry


@pytest.fixture
def view(tiny_model):
    return ModelView(tiny_model)


@pytest.fixture
def batch():
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.arange(4), tuple(Item(f"{i}", f"{i}", i, f"{i}") for i in range(3)), seed="0")


def test_grids(view, batch):
    sizes = {
        name: tuple(registry.method(name)(view, batch).shape) for name in ("random", "random_grid", "constant", "center", "sobel")
    }
    assert sizes == {
        "random": (4, 32, 32),
        "random_grid": (4, 8, 8),
        "constant": (4, 32, 32),
        "center": (4, 32, 32),
        "sobel": (4, 32, 32),
    }


def test_all_but_the_wrapper_are_declared_controls():
    for name in ("random", "random_grid", "constant", "center", "sobel", "mean_activation", "oracle", "inverted(random)"):
        assert registry.method(name).info.control


def test_center_peaks_in_the_middle_and_is_symmetric(view, batch):
    map_ = registry.method("center")(view, batch)[0]
    assert torch.allclose(map_, map_.flip(0))
    assert torch.allclose(map_, map_.flip(1))
    assert map_.argmax() in (15 * 32 + 15, 15 * 32 + 16, 16 * 32 + 15, 16 * 32 + 16)
    with pytest.raises(XbenchError, match="sigma must be positive"):
        registry.method("center(sigma=0)")(view, batch)


def test_sobel_finds_an_edge_and_nothing_on_flat_ground(view, batch):
    images = torch.zeros(4, 3, 32, 32)
    images[:, :, :, 16:] = 1
    map_ = registry.method("sobel")(view, Batch(images, batch.targets, batch.items, seed="0"))[0]
    assert torch.equal(map_.nonzero()[:, 1].unique(), torch.tensor([15, 16]))
    assert float(map_[5, 15]) == 4.0


def test_mean_activation_and_inverted(view, batch):
    mean = registry.method("mean_activation")(view, batch)
    assert torch.equal(mean, view.features(batch).mean(dim=1))
    assert torch.equal(registry.method("inverted(mean_activation)")(view, batch), -mean)


def test_oracle_is_the_truth(view, batch):
    import dataclasses

    masks = [torch.rand(32, 32) > 0.5 for _ in range(3)]
    told = dataclasses.replace(batch, truth=tuple(Truth(m) for m in masks))
    maps = registry.method("oracle")(view, told)
    assert len(maps) == 3
    assert all(torch.equal(a, b.float()) for a, b in zip(maps, masks, strict=False))
