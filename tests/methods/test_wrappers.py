"""Wrappers against plain loops over the method that they wrap."""

import pytest
import torch
from torch.nn import functional

from xbench.data.samples import generator
from xbench.errors import NotApplicable, XbenchError
from xbench.network.model import Model, ModelView
from xbench.plugins.registry import registry


@pytest.mark.parametrize("inner", ["gradient", "grad_cam", "occlusion(window=112, stride=56)"])
def test_smooth_is_the_plain_loop(inner, tiny_model, batch):
    maps = registry.method(f"smooth({inner}, n=3, sigma=0.3)")(ModelView(tiny_model), batch)
    total = 0
    for draw in range(3):
        images = []
        for row in range(4):
            image, id = batch.images[row], batch.items[min(row, 2)].id
            noise = torch.randn(3, 32, 32, generator=generator("0", f"draw {draw}", "noise", id))
            images.append(image + 0.3 * (image.max() - image.min()) * noise)
        total = total + registry.method(inner)(ModelView(tiny_model), batch.with_images(torch.stack(images)))
    assert torch.allclose(maps, total / 3, atol=1e-6)
    assert torch.equal(maps[-1], maps[2])


def test_each_draw_is_new_for_the_inner_method_too(tiny_model, batch):
    maps = registry.method("smooth(random, n=400, sigma=0)")(ModelView(tiny_model), batch)
    assert float(maps.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(maps.std()) == pytest.approx(0.289 / 20, rel=0.2)


def test_smooth_without_noise_and_absolute(tiny_model, batch):
    view = ModelView(tiny_model)
    plain = registry.method("input_x_gradient")(view, batch)
    assert torch.allclose(registry.method("smooth(input_x_gradient, n=2, sigma=0)")(view, batch), plain, atol=1e-6)
    assert float(plain.min()) < 0
    assert torch.equal(registry.method("absolute(input_x_gradient)")(view, batch), plain.abs())


def test_multi_scale_is_the_plain_mean_of_scaled_maps(tiny_model, batch):
    maps = registry.method("multi_scale(grad_cam, low=0.5, high=1.5)")(ModelView(tiny_model), batch)
    assert maps.shape == (4, 12, 12)  # the finest grid of 4, 8 and 12
    total = 0
    for side in (16, 32, 48):
        images = functional.interpolate(batch.images, (side, side), mode="bilinear", antialias=True)
        inner = registry.method("grad_cam")(ModelView(tiny_model), batch.with_images(images))
        inner = torch.stack([m / m.abs().max() if m.abs().max() > 0 else m for m in inner])
        total = total + functional.interpolate(inner[None], (12, 12), mode="bilinear")[0]
    assert torch.allclose(maps, total / 3, atol=1e-5)
    assert float(maps.max()) <= 1 + 1e-6


def test_multi_scale_stays_within_the_input_and_shares_its_own_size(tiny_model, batch):
    view = ModelView(tiny_model)
    view.input_gradients(batch)
    passes = []
    handle = tiny_model.network.register_forward_hook(lambda _, inputs, __: passes.append(tuple(inputs[0].shape[::2])))
    maps = registry.method("multi_scale(input_x_gradient)")(view, batch)
    handle.remove()
    assert maps.shape == (4, 32, 32)
    assert float(maps.min()) < 0
    assert passes == [(1, 24), (4, 24), (4, 40)]


def test_multi_scale_of_a_perturbing_and_of_a_silent_method(tiny_model, batch):
    assert registry.method("multi_scale(rise(n=4), n=2)")(ModelView(tiny_model), batch).shape == (3, 32, 32)
    tiny_model.network.second.bias.data[:] = -1e6
    assert torch.equal(registry.method("multi_scale(grad_cam)")(ModelView(tiny_model), batch), torch.zeros(4, 10, 10))


@pytest.mark.parametrize(("inner", "dynamic"), [("gradient", False), ("grad_cam", False), ("grad_cam", True)])
def test_networks_of_one_input_size_are_refused(inner, dynamic, tiny_model, batch):
    from timm.models.vision_transformer import VisionTransformer

    network = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=12, depth=2, num_heads=2, num_classes=5, dynamic_img_size=dynamic
    )
    vit = Model("vit", network, tiny_model.preprocessing, tiny_model.classes, "blocks.1.norm1")
    with pytest.raises(NotApplicable, match="multi_scale: vit accepts inputs of 32 x 32 only"):
        registry.method(f"multi_scale({inner})")(ModelView(vit), batch)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("smooth(gradient, n=0)", "smooth: n must be positive, not 0"),
        ("smooth(gradient, sigma=-1)", "smooth: sigma must not be negative"),
        ("multi_scale(gradient, n=1)", "multi_scale: n must be at least 2"),
        ("multi_scale(gradient, low=0)", "0 < low < high must hold"),
        ("multi_scale(gradient, low=2)", "0 < low < high must hold, not 2.0 and 1.25"),
        ("multi_scale(absolute(smooth(gradient, n=-1)))", "smooth: n must be positive"),
    ],
)
def test_wrong_parameters_are_named(spec, says, tiny_model, batch):
    with pytest.raises(XbenchError, match=says):
        registry.method(spec)(ModelView(tiny_model), batch)


def test_running_out_of_memory_is_not_taken_for_a_fixed_input_size(tiny_model, batch, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr(Model, "__call__", full)
    with pytest.raises(MemoryError):
        registry.method("multi_scale(gradient)")(ModelView(tiny_model), batch)
