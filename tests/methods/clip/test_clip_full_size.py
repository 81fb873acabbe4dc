"""The methods for CLIP on open_clip's networks of full size, with random weights: no figure here is a result."""

import functools
import logging

import open_clip
import pytest
import torch
from xbench.models.open_clip_zoo import _encode

from xbench.data.classes import ClassList
from xbench.data.samples import Batch, Item
from xbench.network.model import ModelView, Preprocessing
from xbench.network.zero_shot import Encoder, ZeroShot, classifier, retold
from xbench.plugins.registry import registry

METHODS = ["itsm", "itsm_reversed", "clip_surgery", "clip_surgery_single", "grad_eclip", "mmel"]
GRIDS = {  # cells a side at 224 and 336 pixels
    "ViT-B-32": (7, 10),
    "ViT-B-16": (14, 21),
    "RN50": (7, 10),
}


@pytest.fixture(scope="module", params=GRIDS)
def clip(request):
    """(name, network, text tower); one at a time."""
    logging.disable()  # it warns that the weights are random
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = open_clip.create_model(request.param, pretrained=None)
    finally:
        logging.disable(logging.NOTSET)
    return request.param, network, Encoder(functools.partial(_encode, network, open_clip.SimpleTokenizer()))


@pytest.mark.parametrize("size", [224, 336])
def test_maps_have_the_towers_grid_with_one_text_and_with_a_hundred(clip, size):
    name, network, encode = clip
    how = Preprocessing((size, size), 1.0, (122.8, 116.7, 104.1), (68.5, 66.6, 70.3))
    one = classifier(f"{name} at {size}", network, encode, ClassList(("cat",)), [("a photo of a cat.",)], how)
    numbers = ClassList(tuple(f"number {i}" for i in range(100)))
    many = retold(one, numbers, [(f"a photo of number {i}.",) for i in range(100)])
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    assert isinstance(one.network, ZeroShot)
    assert isinstance(many.network, ZeroShot)
    assert many.network.visual is one.network.visual
    side = GRIDS[name][size > 224]
    for model, target in ((one, 0), (many, 42)):
        view, batch = ModelView(model), Batch(images, torch.tensor([target]), (Item("a", "a", target, "a"),), seed="0")
        assert model.network.texts.shape == (len(model.classes), 1024 if name == "RN50" else 512)
        for method in METHODS:
            found = registry.method(method)(view, batch)
            assert found.shape == (1, side, side)
            assert found.isfinite().all()
            assert not found.requires_grad
            assert method.startswith(("grad_eclip", "mmel")) or (float(found.min()), float(found.max())) == pytest.approx((0, 1))
