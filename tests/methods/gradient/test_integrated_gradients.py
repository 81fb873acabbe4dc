"""Integrated gradients and gradient SHAP against captum and plain loops."""

import pytest
import torch
from captum.attr import IntegratedGradients
from torch import nn
from xbench.methods.gradient import integrated_gradients

from xbench.data.classes import ClassList
from xbench.data.samples import Batch, Item, generator
from xbench.errors import XbenchError
from xbench.network.model import Model, ModelView, Preprocessing
from xbench.plugins.registry import registry


@pytest.fixture
def smooth_model():
    """Without kinks, so that a rule of few points is exact."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 6, 3, 2), nn.GELU(), nn.Conv2d(6, 8, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 7 * 7, 4)]
    return Model("smooth", nn.Sequential(*layers), Preprocessing((32, 32), 1.0, (0.0,) * 3, (1.0,) * 3), ClassList(tuple("abcd")))


@pytest.mark.parametrize("steps", [3, 20])
def test_parity_with_captum(steps, tiny_model, batch):
    maps = registry.method(f"integrated_gradients(steps={steps})")(ModelView(tiny_model), batch)
    theirs = IntegratedGradients(tiny_model.network).attribute(
        batch.images, torch.zeros_like(batch.images), batch.targets, n_steps=steps
    )
    assert maps.shape == (4, 32, 32)
    assert torch.allclose(maps, theirs.sum(dim=1), atol=1e-6)
    assert float(maps.abs().max()) > 1e-3


def test_completeness_on_a_smooth_network(smooth_model, batch):
    maps = registry.method("integrated_gradients(steps=16)")(ModelView(smooth_model), batch)
    with torch.no_grad():
        change = smooth_model(batch.images) - smooth_model(torch.zeros_like(batch.images))
    assert torch.allclose(maps.sum(dim=(1, 2)), change.gather(1, batch.targets[:, None])[:, 0], rtol=1e-4, atol=1e-5)


@pytest.fixture
def kinked_model():
    """With so many kinks on the way to an input that a rule of 50 points misses."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = [nn.Conv2d(3, 6, 5, 2), nn.ReLU(), nn.Conv2d(6, 4, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 3 * 3, 4)]
        network = nn.Sequential(*layers)
        for layer in (network[0], network[2]):
            nn.init.normal_(layer.bias, std=2.0)
            layer.weight.data *= 8
    return Model("kinked", network, Preprocessing((32, 32), 1.0, (0.0,) * 3, (1.0,) * 3), ClassList(tuple("abcd")))


def attribution(spec, model, batch):
    view = ModelView(model)
    with view.account() as cost:
        found = registry.method(spec).attribute(view, batch)
    return found, cost


def test_the_residual_is_what_is_missing_of_the_sum(smooth_model, kinked_model, batch):
    for model in (smooth_model, kinked_model):
        for steps in (2, 50):
            found, cost = attribution(f"integrated_gradients(steps={steps})", model, batch)
            with torch.no_grad():
                change = (model(batch.images) - model(torch.zeros_like(batch.images))).gather(1, batch.targets[:, None])[:, 0]
            expected = (found.maps.sum(dim=(1, 2)) - change).abs() / change.abs()
            assert torch.allclose(found.residual, expected, rtol=1e-3, atol=1e-5)
            assert (cost.forwards, cost.backwards) == (steps + 2, steps)
            assert torch.equal(registry.method(f"integrated_gradients(steps={steps})")(ModelView(model), batch), found.maps)
    assert float(attribution("integrated_gradients(steps=16)", smooth_model, batch)[0].residual.max()) < 1e-4
    assert float(attribution("integrated_gradients", kinked_model, batch)[0].residual.max()) > 0.01


def test_auto_takes_for_each_item_the_points_that_it_needs(kinked_model, smooth_model, batch):
    found, _ = attribution("integrated_gradients(steps=auto)", kinked_model, batch)
    rungs = [attribution(f"integrated_gradients(steps={n})", kinked_model, batch)[0] for n in integrated_gradients.POINTS]
    for i in range(3):
        first = next((k for k, rung in enumerate(rungs) if rung.residual[i] <= 0.01), len(rungs) - 1)
        assert torch.equal(found.maps[i], rungs[first].maps[i])
        assert found.residual[i] == rungs[first].residual[i]
        taken = sum(integrated_gradients.POINTS[: first + 1])
        assert found.passes[i].tolist() == [taken + 2, taken]
    assert float(found.residual.max()) <= 0.01
    assert found.passes[:3, 1].unique().numel() > 1  # not all alike, or the test says nothing
    smooth, cost = attribution("integrated_gradients(steps=auto)", smooth_model, batch)
    assert smooth.passes.tolist() == [[18, 16]] * 4
    assert (cost.forwards, cost.backwards) == (18, 16)


def test_what_auto_takes_does_not_depend_on_the_companions(kinked_model, batch):
    together, _ = attribution("integrated_gradients(steps=auto)", kinked_model, batch)
    for i in range(3):
        alone = Batch(batch.images[[i] * 4], batch.targets[[i] * 4], (batch.items[i],), seed="0")
        found, _ = attribution("integrated_gradients(steps=auto)", kinked_model, alone)
        assert torch.equal(found.maps[0], together.maps[i])
        assert torch.equal(found.residual[0], together.residual[i])
        assert torch.equal(found.passes[0], together.passes[i])


def test_auto_stops_at_its_last_rung(kinked_model, batch, monkeypatch):
    monkeypatch.setattr(integrated_gradients, "POINTS", (2, 4))
    found, _ = attribution("integrated_gradients(steps=auto)", kinked_model, batch)
    assert found.passes[:, 1].tolist() == [6] * 4
    assert torch.equal(found.maps, attribution("integrated_gradients(steps=4)", kinked_model, batch)[0].maps)


def test_completeness_on_photographs_from_a_blurred_baseline():
    from xbench.maps.perturbation import substrate

    model, data = registry.bind("model", "efficientnet_lite0")(), registry.bind("dataset", "photos")()
    entries = data.entries()[:2]
    inputs = model.inputs([data.load(e.id).image for e in entries], "crop")
    batch = Batch(
        inputs, torch.tensor([e.labels[0] for e in entries]), tuple(Item(e.id, e.id, None, e.id) for e in entries), seed="0"
    )
    maps = registry.method("integrated_gradients(steps=30, baseline=gaussian_blur)")(ModelView(model), batch)
    with torch.no_grad():
        change = (model(inputs) - model(substrate("gaussian_blur", inputs))).gather(1, batch.targets[:, None])[:, 0]
    assert float(change.abs().min()) > 1
    assert torch.allclose(maps.sum(dim=(1, 2)), change, rtol=0.05)


def input_gradient(model, image, target):
    image = image[None].clone().requires_grad_()
    model.network(image)[0, target].backward()
    return image.grad[0]


def test_gradient_shap_is_the_plain_loop(tiny_model, batch):
    maps = registry.method("gradient_shap(n=5, sigma=0.2)")(ModelView(tiny_model), batch)
    for row in range(3):
        image, total = batch.images[row], torch.zeros(3, 32, 32)
        for draw in range(5):
            noise = torch.randn(3, 32, 32, generator=generator("0", f"draw {draw}", "noise", batch.items[row].id))
            point = torch.rand(1, generator=generator("0", f"draw {draw}", "point", batch.items[row].id))
            end = image + 0.2 * (image.max() - image.min()) * noise
            total += end * input_gradient(tiny_model, point * end, batch.targets[row])
        assert torch.allclose(maps[row], total.sum(dim=0) / 5, atol=1e-6)
    assert torch.equal(maps[3], maps[2])


def test_gradient_shap_without_noise_estimates_integrated_gradients(tiny_model, batch):
    view = ModelView(tiny_model)
    exact = registry.method("integrated_gradients(steps=100)")(view, batch)
    few, many = (registry.method(f"gradient_shap(n={n}, sigma=0)")(view, batch) for n in (4, 400))
    assert float((many - exact).abs().mean()) < 0.5 * float((few - exact).abs().mean())
    assert torch.allclose(many, exact, atol=0.1 * float(exact.abs().max()))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("integrated_gradients(steps=0)", "integrated_gradients: steps must be positive, not 0"),
        ("integrated_gradients(steps=all)", "integrated_gradients: steps must be int or auto, not 'all'"),
        ("integrated_gradients(steps=1.5)", "steps must be int or auto, not 1.5"),
        ("integrated_gradients(baseline=blak)", "unknown substrate 'blak'"),
        ("gradient_shap(n=0)", "gradient_shap: n must be positive"),
        ("gradient_shap(sigma=-0.1)", "sigma must not be negative, not -0.1"),
        ("gradient_shap(baseline=blak)", "unknown substrate 'blak'"),
    ],
)
def test_wrong_parameters_are_named(spec, says, tiny_model, batch):
    with pytest.raises(XbenchError, match=says):
        registry.method(spec)(ModelView(tiny_model), batch)
