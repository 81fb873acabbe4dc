"""Each CAM against the grad-cam library on real photographs and a real network, and against its definition on a tiny one."""

import dataclasses

import numpy as np
import pytest
import torch

from xbench.data.samples import Batch, Item
from xbench.network.model import ModelView
from xbench.plugins.registry import registry

PAIRS = {
    "grad_cam": "GradCAM",
    "grad_cam_plus_plus": "GradCAMPlusPlus",
    "xgrad_cam": "XGradCAM",
    "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
    "eigen_cam_centered": "EigenCAM",
    "eigen_grad_cam": "EigenGradCAM",
}


@pytest.fixture(scope="module")
def model():
    return registry.bind("model", "efficientnet_lite0")()


@pytest.fixture(scope="module")
def batch(model):
    photos = registry.bind("dataset", "photos")()
    entries = photos.entries()[:4]
    inputs = model.inputs([photos.load(e.id).image for e in entries], "crop")
    targets = torch.tensor([e.labels[0] for e in entries])
    return Batch(inputs, targets, tuple(Item(e.id, e.id, None, e.id) for e in entries), seed="0")


@pytest.fixture(scope="module")
def view(model):
    return ModelView(model)


def library_maps(model, batch, name, monkeypatch=None) -> np.ndarray:
    """The library's own maps at the grid, before its resizing: ReLU and min-max scaled."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    targets = [ClassifierOutputTarget(int(t)) for t in batch.targets]
    with getattr(pytorch_grad_cam, name)(model.network, [model.layer]) as cam:
        cam.get_target_width_height = lambda _: (7, 7)
        return cam(batch.images.clone().requires_grad_(), targets)


def scaled(maps: torch.Tensor) -> np.ndarray:
    """The library's scaling, twice as it does: clip, min-max with 1e-7."""
    positive = maps.clamp(min=0).numpy()
    for _ in range(2):
        low = positive.min(axis=(1, 2), keepdims=True)
        positive = positive - low
        positive = positive / (1e-7 + positive.max(axis=(1, 2), keepdims=True))
    return positive


@pytest.mark.parametrize("ours", sorted(PAIRS))
def test_parity_with_the_library(ours, model, view, batch):
    mine = registry.method(ours)(view, batch)
    theirs = library_maps(model, batch, PAIRS[ours])
    for i in range(len(batch)):
        # The library's sign of a principal component is whatever its linear algebra gives; ours is defined.
        options = [scaled(mine[i : i + 1])[0]] + ([scaled(-mine[i : i + 1])[0]] if "eigen" in ours else [])
        assert min(np.abs(option - theirs[i]).max() for option in options) < 1e-5


@pytest.mark.parametrize("ours", [*sorted(PAIRS), "eigen_cam"])
def test_maps_are_whole(ours, view, batch):
    maps = registry.method(ours)(view, batch)
    assert maps.shape == (4, 7, 7)
    assert maps.dtype == torch.float32
    assert torch.isfinite(maps).all()
    assert all(len(m.unique()) > 1 for m in maps)


@pytest.mark.parametrize("ours", [*sorted(PAIRS), "eigen_cam"])
def test_batch_equals_single(ours, model, view, batch):
    together = registry.method(ours)(view, batch)
    images = batch.images[2:3].expand(4, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    alone = Batch(images, batch.targets[2:3].expand(4), batch.items[2:3], seed="0")
    assert torch.equal(registry.method(ours)(ModelView(model), alone)[0], together[2])


def test_eigen_cam_is_the_first_right_singular_vector_and_not_negative(view, batch):
    mine = registry.method("eigen_cam")(view, batch)
    for map_, activations in zip(mine, view.features(batch), strict=True):
        places = activations.flatten(1).T.double().numpy()
        _, _, right = np.linalg.svd(places, full_matrices=False)
        expected = np.abs(places @ right[0])  # Perron-Frobenius: one sign
        assert map_.flatten().numpy() == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert float(map_.min()) >= -1e-6


def test_signs_of_the_centred_variants(view, batch):
    activations, gradients = view.feature_gradients(batch)
    for name, guide in {"eigen_cam_centered": activations.mean(1), "eigen_grad_cam": (activations * gradients).sum(1)}.items():
        maps = registry.method(name)(view, batch)
        for map_, along in zip(maps, guide, strict=True):
            assert np.corrcoef(map_.flatten(), along.flatten())[0, 1] >= 0


def test_a_zero_feature_map_gives_a_zero_map_not_nan(tiny_model, batch):
    dead = dataclasses.replace(tiny_model)
    dead.network.second.bias.data[:] = -1e6  # ReLU kills everything
    small = Batch(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]), batch.items[:2], seed="0")
    for name in [*PAIRS, "eigen_cam"]:
        assert torch.equal(registry.method(name)(ModelView(dead), small), torch.zeros(2, 8, 8)), name


def test_the_whole_family_takes_one_forward_pass(model, batch):
    calls = []
    handle = model.network.register_forward_hook(lambda *_: calls.append(1))
    view = ModelView(model)
    for name in [*PAIRS, "eigen_cam", "gradient", "input_x_gradient"]:
        registry.method(name)(view, batch)
    handle.remove()
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["GradCAM", "FEM", "GradCAMElementWise", "KPCA_CAM"])
def test_the_librarys_classes_run_unmodified(name, model, view, batch):
    view.logits(batch)  # a view counts passes from its first batch on
    with view.account() as cost:
        maps = registry.method(f"gradcam/{name}")(view, batch)
    assert maps.shape == (4, 224, 224)
    assert float(maps.min()) >= 0
    assert cost.forwards >= 1
    assert not any(m._forward_hooks for m in model.network.modules())


def test_unseeded_or_unknown_classes_are_refused():
    from xbench.errors import XbenchError

    with pytest.raises(XbenchError, match="unknown method 'gradcam/RandomCAM'"):
        registry.method("gradcam/RandomCAM")
    with pytest.raises(XbenchError, match="did you mean 'gradcam/GradCAM'"):
        registry.method("gradcam/GradCam")
