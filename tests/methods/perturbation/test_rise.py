"""RISE against plain loops."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from xbench.data.samples import generator
from xbench.errors import XbenchError
from xbench.network.model import ModelView
from xbench.plugins.registry import registry


def probability(model, image, target) -> float:
    with torch.no_grad():
        return float(model(image[None]).softmax(dim=1)[0, target])


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


def test_rise_finds_what_the_class_looks_at(batch, quarter):
    here = dataclasses.replace(batch, images=0.75 * batch.images.abs(), targets=torch.zeros(4, dtype=torch.int64))
    map_ = registry.method("rise(n=1000)")(ModelView(quarter), here)[0]
    inside = float(map_[:14, :14].mean())
    assert all(inside > float(other.mean()) + 0.04 for other in (map_[18:, 18:], map_[18:, :14], map_[:14, 18:]))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("rise(n=0)", "rise: n must be positive, not 0"),
        ("rise(cells=0)", "cells must be positive"),
        ("rise(keep=0)", "keep must be in"),
        ("rise(keep=1.1)", "keep must be in"),
    ],
)
def test_wrong_parameters_are_named(spec, says, tiny_model, batch):
    with pytest.raises(XbenchError, match=says):
        registry.method(spec)(ModelView(tiny_model), batch)
