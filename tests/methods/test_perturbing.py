"""Occlusion, RISE and Score-CAM against plain loops."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from xbench.classes import ClassList
from xbench.data import Batch, Item, generator
from xbench.errors import XbenchError
from xbench.modelview import Model, ModelView, Preprocessing
from xbench.registry import registry


class Quarter(nn.Module):
    """Class 0 looks at the top left quarter and at nothing else; class 1 looks at nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Identity()

    def forward(self, x):
        seen = self.features(x.relu())[:, :, :16, :16].mean(dim=(1, 2, 3))
        return torch.stack([20 * (seen - 0.3), 0 * seen], dim=1)


def quarter():
    return Model("quarter", Quarter(), Preprocessing((32, 32), 1.0, (0.0,) * 3, (1.0,) * 3), ClassList(("a", "b")), "features")


@pytest.fixture(scope="module")
def lite():
    return registry.bind("model", "efficientnet_lite0")()


@pytest.fixture(scope="module")
def photos(lite):
    data = registry.bind("dataset", "photos")()
    entries = data.entries()[:2]
    inputs = lite.inputs([data.load(e.id).image for e in entries], "crop")
    return Batch(
        inputs, torch.tensor([e.labels[0] for e in entries]), tuple(Item(e.id, e.id, None, e.id) for e in entries), seed="0"
    )


@pytest.fixture
def batch():
    """Three items in four rows."""
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Batch(
        images[[0, 1, 2, 2]], torch.tensor([0, 1, 3, 3]), tuple(Item(f"{i}", f"{i}", i, f"{i}") for i in range(3)), seed="0"
    )


def probability(model, image, target) -> float:
    with torch.no_grad():
        return float(model(image[None]).softmax(dim=1)[0, target])


def occlusion_by_loop(model, image, target, cells: int, reach: int, background) -> np.ndarray:
    """Pixel by pixel: each square's drop is given to its cells, and each cell takes the mean."""
    side = image.shape[-1]
    edge = [next(y for y in range(side + 1) if y == side or y * cells // side >= c) for c in range(cells + 1)]
    clean = probability(model, image, target)
    drops: dict[tuple[int, int], list[float]] = {}
    for top in range(cells - reach + 1):
        for left in range(cells - reach + 1):
            hidden = image.clone()
            rows, columns = slice(edge[top], edge[top + reach]), slice(edge[left], edge[left + reach])
            hidden[:, rows, columns] = background[:, rows, columns]
            drop = clean - probability(model, hidden, target)
            for y in range(top, top + reach):
                for x in range(left, left + reach):
                    drops.setdefault((y, x), []).append(drop)
    return np.array([[np.mean(drops[y, x]) for x in range(cells)] for y in range(cells)])


def test_occlusion_is_the_plain_loop(tiny_model, batch):
    maps = registry.method("occlusion(window=96, stride=32)")(ModelView(tiny_model), batch)
    assert maps.shape == (3, 7, 7)
    for row in range(3):
        expected = occlusion_by_loop(tiny_model, batch.images[row], batch.targets[row], 7, 3, torch.zeros(3, 32, 32))
        assert maps[row].numpy() == pytest.approx(expected, abs=1e-6)
        assert np.abs(expected).max() > 1e-3


def test_occlusion_of_photographs(lite, photos):
    maps = registry.method("occlusion(window=112, stride=75, substrate=rise_blur)")(ModelView(lite), photos)
    from xbench.probing import substrate

    for row in range(2):
        blurred = substrate("rise_blur", photos.images)[row]
        expected = occlusion_by_loop(lite, photos.images[row], photos.targets[row], 3, 1, blurred)
        assert maps[row].numpy() == pytest.approx(expected, abs=1e-5)


def test_occlusion_finds_exactly_what_the_class_looks_at(batch):
    here = dataclasses.replace(batch, targets=torch.zeros(4, dtype=torch.int64))
    maps = registry.method("occlusion(window=28, stride=28)")(ModelView(quarter()), here)
    assert maps.shape == (3, 8, 8)
    assert float(maps[:, :4, :4].min()) > 0
    assert torch.equal(maps[:, 4:], torch.zeros(3, 4, 8))
    assert torch.equal(maps[:, :4, 4:], torch.zeros(3, 4, 4))


def test_occlusion_of_other_shapes_covers_every_pixel(batch):
    wide = batch.with_images(torch.randn(4, 3, 30, 50))
    maps = registry.method("occlusion")(ModelView(quarter()), dataclasses.replace(wide, targets=torch.zeros(4, dtype=torch.int64)))
    assert maps.shape == (3, 14, 23)
    assert torch.isfinite(maps).all()


def rise_masks(n: int, cells: int, keep: float, height: int, width: int) -> list[np.ndarray]:
    drawn = torch.rand(n, cells, cells, generator=generator("0", "rise", "cells", height, width)).numpy()
    shifts = torch.rand(n, 2, dtype=torch.float64, generator=generator("0", "rise", "shifts", height, width)).numpy()
    masks = []
    for i in range(n):
        cell = [math.ceil(height / cells), math.ceil(width / cells)]
        offsets = [int(s * c) for s, c in zip(shifts[i], cell, strict=True)]
        places = [
            (np.arange(o, o + side) + 0.5) * cells / ((cells + 1) * c) - 0.5
            for o, c, side in zip(offsets, cell, (height, width), strict=True)
        ]
        grid = (drawn[i] < keep).astype(float)
        down = np.stack([np.interp(places[0], np.arange(cells), column) for column in grid.T], axis=1)
        masks.append(np.stack([np.interp(places[1], np.arange(cells), row) for row in down]))
    return masks


def rise_by_loop(model, image, target, masks, keep) -> np.ndarray:
    seen = [probability(model, image * torch.from_numpy(m).float(), target) for m in masks]
    return sum(p * m for p, m in zip(seen, masks, strict=True)) / (len(masks) * keep)


def test_rise_is_the_plain_loop(tiny_model, batch):
    # The method's own seed is "0/rise": masks come from the run's, so that all methods around RISE share them.
    maps = registry.method("rise(n=20, cells=5, keep=0.3)")(ModelView(tiny_model), batch.seeded("rise"))
    assert maps.shape == (3, 32, 32)
    masks = rise_masks(20, 5, 0.3, 32, 32)
    for row in range(3):
        expected = rise_by_loop(tiny_model, batch.images[row], batch.targets[row], masks, 0.3)
        assert maps[row].numpy() == pytest.approx(expected, abs=1e-5)


def test_rise_of_a_photograph(lite, photos):
    maps = registry.method("rise(n=6)")(ModelView(lite), photos)
    masks = rise_masks(6, 7, 0.5, 224, 224)
    expected = rise_by_loop(lite, photos.images[1], photos.targets[1], masks, 0.5)
    assert maps[1].numpy() == pytest.approx(expected, abs=1e-5)


def test_rise_masks_are_soft_shifted_and_keep_their_share(batch):
    masks = np.stack(rise_masks(400, 7, 0.3, 32, 40))
    assert masks.mean() == pytest.approx(0.3, abs=0.02)
    assert masks.mean(axis=0).std() < 0.03
    assert ((masks > 0.01) & (masks < 0.99)).mean() > 0.3


def test_the_masks_of_fewer_are_the_first_of_more(tiny_model, batch):
    few, many = (registry.method(f"rise(n={n})")(ModelView(tiny_model), batch) for n in (3, 6))
    rest = sum(rise_by_loop(tiny_model, batch.images[0], 0, [m], 0.5) for m in rise_masks(6, 7, 0.5, 32, 32)[3:])
    assert (few[0] * 3).numpy() + rest == pytest.approx(many[0].numpy() * 6, abs=1e-5)


def test_rise_finds_what_the_class_looks_at(batch):
    here = dataclasses.replace(batch, images=0.75 * batch.images.abs(), targets=torch.zeros(4, dtype=torch.int64))
    map_ = registry.method("rise(n=1000)")(ModelView(quarter()), here)[0]
    inside = float(map_[:14, :14].mean())
    assert all(inside > float(other.mean()) + 0.04 for other in (map_[18:, 18:], map_[18:, :14], map_[:14, 18:]))


def score_cam_by_loop(model, image, target, channels) -> np.ndarray:
    """Channel by channel, baseline and all."""
    side = image.shape[-1]
    baseline = probability(model, torch.zeros_like(image), target)
    increases, live = [], []
    for k, channel in enumerate(channels):
        if channel.max() == channel.min():
            continue
        mask = nn.functional.interpolate(channel[None, None], (side, side), mode="bilinear", align_corners=False)[0, 0]
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        increases.append(probability(model, image * mask, target) - baseline)
        live.append(k)
    exponentials = np.exp(increases)
    weights = exponentials / exponentials.sum()
    return np.maximum(sum(w * channels[k].numpy() for w, k in zip(weights, live, strict=True)), 0)


def test_score_cam_is_the_plain_loop_and_flat_channels_have_no_weight(tiny_model, batch):
    tiny_model.network.second.bias.data[:2] = -1e6  # two dead channels
    tiny_model.network.second.weight.data[2] = 0  # a flat one that is not zero
    tiny_model.network.second.bias.data[2] = 5.0
    view = ModelView(tiny_model)
    maps = registry.method("score_cam")(view, batch)
    assert maps.shape == (3, 8, 8)
    for row in range(3):
        expected = score_cam_by_loop(tiny_model, batch.images[row], batch.targets[row], view.features(batch)[row])
        assert maps[row].numpy() == pytest.approx(expected, abs=1e-5)
        assert expected.max() > 0.1


def test_score_cam_of_a_dead_layer_is_zero(tiny_model, batch):
    tiny_model.network.second.bias.data[:] = -1e6
    assert torch.equal(registry.method("score_cam")(ModelView(tiny_model), batch), torch.zeros(3, 8, 8))


def test_score_cam_top_takes_the_channels_with_the_largest_range(lite, photos):
    view = ModelView(lite)
    maps = registry.method("score_cam(top=3)")(view, photos)
    for row in range(2):
        channels = view.features(photos)[row]
        ranges = channels.flatten(1).max(dim=1).values - channels.flatten(1).min(dim=1).values
        best = sorted(range(len(ranges)), key=lambda k: -float(ranges[k]))[:3]
        expected = score_cam_by_loop(lite, photos.images[row], photos.targets[row], channels[best])
        assert maps[row].numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("occlusion(window=8, stride=16)", "1 <= stride <= window <= 224"),
        ("occlusion(stride=0)", "1 <= stride"),
        ("occlusion(window=225)", "window <= 224"),
        ("occlusion(substrate=zeros)", "unknown substrate 'zeros'; did you mean 'zero'"),
        ("rise(n=0)", "rise: n must be positive, not 0"),
        ("rise(cells=0)", "cells must be positive"),
        ("rise(keep=0)", "keep must be in"),
        ("rise(keep=1.1)", "keep must be in"),
        ("score_cam(top=-1)", "top must not be negative"),
    ],
)
def test_wrong_parameters_are_named(spec, says, tiny_model, batch):
    with pytest.raises(XbenchError, match=says):
        registry.method(spec)(ModelView(tiny_model), batch)
