"""Plants against plain numpy: what they do to a map, and that companions change nothing."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from xbench.data.samples import Batch, Item
from xbench.errors import XbenchError
from xbench.network.model import ModelView
from xbench.plugins.registry import registry


@pytest.fixture
def batch():
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    items = tuple(Item(f"i{n}", f"i{n}", n, f"i{n}") for n in range(3))
    return Batch(images, torch.arange(3), items, seed="0")


@pytest.fixture
def explain(tiny_model):
    return lambda spec, batch: registry.method(spec)(ModelView(tiny_model), batch)


def test_shifted_moves_right_and_down_and_around(explain, batch):
    map_ = explain("sobel", batch)
    moved = explain("shifted(sobel, share=0.25)", batch)
    assert torch.equal(moved[:, 8:, 8:], map_[:, :-8, :-8])
    assert torch.equal(moved[:, :8, :8], map_[:, -8:, -8:])
    assert torch.equal(explain("shifted(sobel, share=0)", batch), map_)


def test_blurred_is_a_gaussian(explain, batch):
    map_ = explain("sobel", batch).double().numpy()
    wanted = np.stack([gaussian_filter(m, 0.1 * 32, mode="mirror", radius=10) for m in map_])
    assert explain("blurred(sobel, share=0.1)", batch).numpy() == pytest.approx(wanted, abs=1e-4)


def test_scrambled_keeps_the_values_and_not_their_places(explain, batch):
    map_, other = explain("sobel", batch), explain("scrambled(sobel)", batch)
    for a, b in zip(map_, other, strict=True):
        assert torch.equal(a.flatten().sort().values, b.flatten().sort().values)
        assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 0.15
    some = Batch(batch.images[[2]], batch.targets[[2]], (batch.items[2],), seed="0")
    assert torch.equal(explain("scrambled(sobel)", some)[0], other[2])


def test_noisy_is_a_mixture(explain, batch):
    map_, mixed = explain("sobel", batch), explain("noisy(sobel, share=0.25)", batch)
    rest = (mixed - 0.75 * map_ / map_.amax(dim=(1, 2), keepdim=True)) / 0.25
    assert rest.min() >= -1e-5
    assert rest.max() <= 1 + 1e-5
    assert rest.mean() == pytest.approx(0.5, abs=0.03)
    assert abs(np.corrcoef(rest.flatten(), map_.flatten())[0, 1]) < 0.06


@pytest.mark.parametrize("spec", ["shifted(sobel, share=2.0)", "blurred(sobel, share=0.0)", "noisy(sobel, share=-0.1)"])
def test_wrong_shares_are_named(explain, batch, spec):
    with pytest.raises(XbenchError, match="share must be"):
        explain(spec, batch)
