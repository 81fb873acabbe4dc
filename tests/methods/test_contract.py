"""What every method of the package owes: the model as it was found, and maps that depend on the item alone."""

import contextlib
import copy
import dataclasses
import inspect

import pytest
import timm
import torch
from torch import nn

from xbench.data.classes import ClassList
from xbench.data.samples import Batch, Item, Truth
from xbench.errors import NotApplicable
from xbench.network.model import Model, ModelView, Preprocessing
from xbench.plugins.declarations import Method
from xbench.plugins.registry import registry

CHEAP = {
    "rise": "rise(n=8)",
    "smooth": "smooth(grad_cam, n=2)",
    "smooth_grad": "smooth_grad(n=3)",
    "gradient_shap": "gradient_shap(n=3)",
    "integrated_gradients": "integrated_gradients(steps=3)",
    "occlusion": "occlusion(window=64, stride=32)",
    "convis": "convis(concept=bird.n.01)",
    "convis_stochastic": "convis_stochastic(concept=bird.n.01, draws=10)",
}
GRADCAM = ["AblationCAM", "FullGrad", "GradCAM", "ScoreCAM"]


def specs() -> list[str]:
    """Every method of the package: cheap, wrappers around Grad-CAM, some of each family."""
    found = []
    for id in registry.ids("method"):
        if id == "gradcam/<ClassName>":
            found += [f"gradcam/{name}" for name in GRADCAM]
        elif "<" not in id and not id.startswith("tiny_"):
            found.append(CHEAP.get(id) or id + _inner(id))
    return found


def _inner(id: str) -> str:
    parameters = registry.get("method", id).parameters
    return (
        "(grad_cam)" if any(p.annotation in (Method, "Method") and p.default is inspect.Parameter.empty for p in parameters) else ""
    )


class Block(nn.Module):
    """Batch norm, a ReLU in place that is used twice, dropout, a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8)
        self.relu, self.drop, self.head = nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 5)

    def forward(self, x):
        x = self.relu(self.stem(x))
        x = self.relu(self.norm(self.conv(x)) + x)
        return self.head(self.drop(x.mean(dim=(2, 3))))


class Chain(nn.Sequential):
    """What DeepLIFT holds on."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 5, 3, 1, 1))
        self.extend([nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()])


def a_transformer() -> nn.Module:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=5, **sizes)


NETWORKS = {"block": (Block, "norm"), "chain": (Chain, "4"), "transformer": (a_transformer, "")}


@pytest.fixture(params=[*NETWORKS, "clip"])
def model(request):
    if request.param == "clip":
        clips = request.getfixturevalue("clips")
        return clips.model(clips.vision(), tuple("abcde"))
    make, layer = NETWORKS[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make()
    preprocessing = Preprocessing((32, 32), 1.0, (0.0,) * 3, (1.0,) * 3)
    return Model(request.param, network, preprocessing, ClassList(tuple("abcde")), layer)


@pytest.fixture
def batch():
    """Three items in four rows."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 3, 32, 32, generator=generator)[[0, 1, 2, 2]]
    truth = tuple(Truth(torch.rand(32, 32, generator=generator) > 0.5) for _ in range(3))
    items = tuple(Item(f"{i}", f"{i}", i, f"{i}") for i in range(3))
    return Batch(images, torch.tensor([0, 1, 3, 3]), items, truth, seed="0")


def state(network: nn.Module) -> dict[str, object]:
    """All of a network that a method could change and nobody would see."""
    found: dict[str, object] = {}
    for name, module in network.named_modules():
        for key, value in vars(module).items():
            if "_hooks" in key:
                found[f"{name}.{key}"] = tuple(value or ())
            elif key == "_modules":
                found[f"{name}.{key}"] = [(k, id(v)) for k, v in value.items()]
            elif not isinstance(value, dict | set):
                found[f"{name}.{key}"] = copy.copy(value)
        found[f"{name}.forward"] = module.forward.__func__
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        found[name] = (tensor.detach().clone().flatten().tolist(), tensor.requires_grad, tensor.grad is None, id(tensor))
    return found


def explain(spec, model, batch):
    method = registry.method(spec)
    if method.needs - model.capabilities - {"truth"}:
        pytest.skip(f"{spec} needs {sorted(method.needs)}")
    view = ModelView(model)
    view.logits(batch)
    with view.account():
        return method(view, batch.seeded(spec))


@pytest.mark.parametrize("spec", specs())
def test_the_model_is_left_as_it_was_found(spec, model, batch):
    before, modes = state(model.network), (torch.is_grad_enabled(), torch.get_rng_state().tolist())
    images = batch.images.clone()
    with contextlib.suppress(NotApplicable):
        explain(spec, model, batch)
    after = state(model.network)
    assert {k: (before.get(k), after.get(k)) for k in before.keys() | after.keys() if before.get(k) != after.get(k)} == {}
    assert (torch.is_grad_enabled(), torch.get_rng_state().tolist()) == modes
    assert torch.equal(batch.images, images)
    assert not batch.images.requires_grad


@pytest.mark.parametrize("spec", specs())
def test_a_map_depends_on_its_item_alone_and_comes_again(spec, model, batch):
    try:
        maps = explain(spec, model, batch)
    except NotApplicable:
        pytest.skip("not applicable")
    assert maps.shape[0] in (3, 4)  # items, or all rows
    assert maps.is_floating_point()
    assert not maps.requires_grad
    assert torch.isfinite(maps).all()
    assert all(h <= 32 for h in maps.shape[1:])
    assert torch.equal(explain(spec, model, batch), maps)
    alone = dataclasses.replace(
        batch, images=batch.images[[1] * 4], targets=batch.targets[[1] * 4], items=batch.items[1:2], truth=batch.truth[1:2]
    )
    assert torch.allclose(explain(spec, model, alone)[0], maps[1], rtol=1e-5, atol=1e-5 * max(1e-6, float(maps[1].abs().max())))


def dirty_hook(network):
    network[0].register_forward_hook(lambda *_: None)


def dirty_mode(network):
    network[1].train()


def dirty_place(network):
    network[2].inplace = False


def dirty_gradient(network):
    network[3].weight.grad = torch.zeros_like(network[3].weight)


def dirty_buffer(network):
    network[1].running_mean += 1


def dirty_attribute(network):
    network[2].input = torch.zeros(1)


def dirty_flag(network):
    network[3].weight.requires_grad_()


def dirty_module(network):
    network[2] = nn.ReLU(inplace=True)


DIRTY = [dirty_hook, dirty_mode, dirty_place, dirty_gradient, dirty_buffer, dirty_attribute, dirty_flag, dirty_module]


@pytest.mark.parametrize("soil", DIRTY, ids=lambda f: f.__name__)
def test_what_is_left_behind_would_show(soil):
    network = Chain().eval().requires_grad_(False)
    before = state(network)
    assert state(network) == before
    soil(network)
    assert {k for k in before.keys() | state(network).keys() if before.get(k) is not state(network).get(k)}
    assert state(network).keys() != before.keys() or any(before[k] is not v and before[k] != v for k, v in state(network).items())
