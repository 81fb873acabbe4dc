"""Occlusion against plain loops."""

import dataclasses

import numpy as np
import pytest
import torch

from xbench.errors import XbenchError
from xbench.network.model import ModelView
from xbench.plugins.registry import registry


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
    from xbench.maps.perturbation import substrate

    for row in range(2):
        blurred = substrate("rise_blur", photos.images)[row]
        expected = occlusion_by_loop(lite, photos.images[row], photos.targets[row], 3, 1, blurred)
        assert maps[row].numpy() == pytest.approx(expected, abs=1e-5)


def test_occlusion_finds_exactly_what_the_class_looks_at(batch, quarter):
    here = dataclasses.replace(batch, targets=torch.zeros(4, dtype=torch.int64))
    maps = registry.method("occlusion(window=28, stride=28)")(ModelView(quarter), here)
    assert maps.shape == (3, 8, 8)
    assert float(maps[:, :4, :4].min()) > 0
    assert torch.equal(maps[:, 4:], torch.zeros(3, 4, 8))
    assert torch.equal(maps[:, :4, 4:], torch.zeros(3, 4, 4))


def test_occlusion_of_other_shapes_covers_every_pixel(batch, quarter):
    wide = batch.with_images(torch.randn(4, 3, 30, 50))
    maps = registry.method("occlusion")(ModelView(quarter), dataclasses.replace(wide, targets=torch.zeros(4, dtype=torch.int64)))
    assert maps.shape == (3, 14, 23)
    assert torch.isfinite(maps).all()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("occlusion(window=8, stride=16)", "1 <= stride <= window <= 224"),
        ("occlusion(stride=0)", "1 <= stride"),
        ("occlusion(window=225)", "window <= 224"),
        ("occlusion(substrate=zeros)", "unknown substrate 'zeros'; did you mean 'zero'"),
    ],
)
def test_wrong_parameters_are_named(spec, says, tiny_model, batch):
    with pytest.raises(XbenchError, match=says):
        registry.method(spec)(ModelView(tiny_model), batch)
