"""Guided backpropagation against networks whose ReLUs have the rule built in, and against captum where captum is right."""

import copy

import pytest
import torch
from captum.attr import GuidedBackprop
from torch import nn
from torch.nn import functional

from xbench.data.classes import ClassList
from xbench.data.samples import Batch, Item
from xbench.errors import NotApplicable
from xbench.network.model import Model, ModelView, Preprocessing
from xbench.plugins.registry import registry


class Guided(torch.autograd.Function):
    """ReLU, clipped at ``most``, with the rule as its derivative."""

    @staticmethod
    def forward(ctx, x, most):
        ctx.save_for_backward(x)
        ctx.most = most
        return x.clamp(0, most)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient.clamp(min=0) * ((x > 0) & (x < ctx.most)), None


class GuidedModule(nn.Module):
    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = most

    def forward(self, x):
        return Guided.apply(x, self.most)


def with_guided_modules(network: nn.Module) -> nn.Module:
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU | nn.ReLU6):
                setattr(module, name, GuidedModule(6.0 if isinstance(child, nn.ReLU6) else 1e9))
    return network


def gradient_of(network, batch):
    images = batch.images.clone().requires_grad_()
    network(images).gather(1, batch.targets[:, None]).sum().backward()
    return images.grad


def model_of(network, side: int, classes: int = 4) -> Model:
    names = ClassList(tuple(f"class {i}" for i in range(classes)))
    return Model("made_up", network, Preprocessing((side, side), 1.0, (0.0,) * 3, (1.0,) * 3), names)


def batch_of(side: int) -> Batch:
    images = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    return Batch(
        images[[0, 1, 2, 2]], torch.tensor([0, 1, 3, 3]), tuple(Item(f"{i}", f"{i}", i, f"{i}") for i in range(3)), seed="0"
    )


def sequence(activation: nn.Module) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 3, 2), activation, nn.Conv2d(8, 8, 3, 2), copy.deepcopy(activation), nn.Conv2d(8, 4, 3)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def resnet18():
    from torchvision.models import resnet18

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return resnet18(num_classes=4)


def lite():
    return registry.bind("model", "efficientnet_lite0")().network


@pytest.mark.parametrize(("make", "side", "classes"), [(lite, 224, 1000), (resnet18, 64, 4)])
def test_clipped_and_reused_relus_of_real_architectures(make, side, classes):
    network = make().eval()
    model, batch = model_of(network, side, classes), batch_of(side)
    expected = gradient_of(with_guided_modules(network), batch).abs().amax(dim=1)
    view = ModelView(model)
    maps = registry.method("guided_backprop")(view, batch)
    assert maps.shape == (4, side, side)
    assert torch.allclose(maps, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))
    plain = registry.method("gradient")(view, batch)
    assert float((maps - plain).abs().mean()) > 0.1 * float(plain.abs().mean())


@pytest.mark.filterwarnings("ignore::UserWarning:captum")
def test_captum_agrees_on_a_network_of_relu_modules():
    network, batch = sequence(nn.ReLU()), batch_of(32)
    model = model_of(network, 32)
    theirs = GuidedBackprop(network).attribute(batch.images.clone(), batch.targets)
    maps = registry.method("guided_backprop")(ModelView(model), batch)
    assert torch.allclose(maps, theirs.abs().amax(dim=1), atol=1e-7)
    assert float(maps.max()) > 0


class Functional(nn.Module):
    def __init__(self, how) -> None:
        super().__init__()
        self.layers, self.how = sequence(nn.Identity()), how

    def forward(self, x):
        for layer in self.layers:
            x = self.how(x) if isinstance(layer, nn.Identity) else layer(x)
        return x


HOWS = [functional.relu, torch.relu_, lambda x: functional.threshold(x, 0.0, 0.0), lambda x: functional.hardtanh(x, 0.0, 1e9)]


@pytest.mark.parametrize("how", HOWS, ids=["relu", "relu_", "threshold", "hardtanh"])
def test_functional_forms_are_found_too(how):
    batch = batch_of(32)
    expected = registry.method("guided_backprop")(ModelView(model_of(sequence(nn.ReLU()), 32)), batch)
    maps = registry.method("guided_backprop")(ModelView(model_of(Functional(how), 32)), batch)
    assert torch.allclose(maps, expected, atol=1e-7)


def test_the_shared_pass_keeps_its_plain_gradients(tiny_model):
    view, batch = ModelView(tiny_model), batch_of(32)
    before = view.feature_gradients(batch)[1].clone()
    registry.method("guided_backprop")(view, batch)
    images = batch.images.clone().requires_grad_()
    tiny_model.network(images).gather(1, batch.targets[:, None]).sum().backward()
    assert torch.allclose(view.input_gradients(batch), images.grad)
    assert torch.equal(view.feature_gradients(batch)[1], before)


def swish(x):
    class SwishMe(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x.sigmoid()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    return SwishMe.apply(x)


OTHERS = {
    "GELU": nn.GELU(),
    "SiLU": nn.SiLU(),
    "Hardswish": nn.Hardswish(),
    "ELU": nn.ELU(),
    "LeakyReLU": nn.LeakyReLU(),
    "PReLU": nn.PReLU(),
    "Mish": nn.Mish(),
    "Softplus": nn.Softplus(),
    "Tanh": nn.Tanh(),
    "Hardtanh": nn.Hardtanh(),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_activations_are_refused_by_name(name):
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), sequence(OTHERS[name]))
    with pytest.raises(NotApplicable, match=f"^guided_backprop is defined for ReLU; made_up uses {name}$"):
        registry.method("guided_backprop")(ModelView(model_of(network, 32)), batch_of(32))


def test_custom_functions_are_refused_and_so_is_a_network_without_relu():
    with pytest.raises(NotApplicable, match=r"made_up uses Swish$"):
        registry.method("guided_backprop")(ModelView(model_of(Functional(swish), 32)), batch_of(32))
    with pytest.raises(NotApplicable, match=r"made_up has none$"):
        registry.method("guided_backprop")(ModelView(model_of(sequence(nn.Sigmoid()), 32)), batch_of(32))
