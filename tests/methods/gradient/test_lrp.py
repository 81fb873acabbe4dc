"""LRP: each rule against the paper's formula on the layer's dense matrix, networks by hand, and conservation on architectures."""

import copy
import dataclasses
import gc

import numpy as np
import pytest
import timm
import torch
import torchvision
from timm.layers import Conv2dSame, ScaledStdConv2d, SqueezeExcite
from torch import nn
from torch.nn import functional

from xbench.data.classes import ClassList
from xbench.data.samples import Batch, Item
from xbench.errors import NotApplicable
from xbench.network.model import Model, ModelView, Preprocessing
from xbench.plugins.declarations import Method
from xbench.plugins.registry import registry


@pytest.fixture(scope="module")
def lrp() -> Method:
    return registry.method("lrp")


@pytest.fixture(scope="module")
def rules(lrp):
    from xbench.methods.gradient import _lrp_rules

    return _lrp_rules


def model_of(network, size=(64, 64), classes: int = 1000) -> Model:
    names = ClassList(tuple(f"class {i}" for i in range(classes)))
    preprocessing = Preprocessing(size, 1.0, (0.0,) * 3, (1.0,) * 3)
    return Model("made_up", network, preprocessing, names, capabilities=frozenset({"gradients"}))


def batch_of(images, targets) -> Batch:
    return Batch(images, torch.tensor(targets), tuple(Item(f"{i}", f"{i}", t, f"{i}") for i, t in enumerate(targets)), seed="0")


def noise(*shape: int):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def randomised(network: nn.Module) -> nn.Module:
    """Weights that keep the scale, biases that are not zero, and batch norms for which it matters that they are fused."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data = torch.randn(module.weight.shape, generator=generator) * (2 / module.weight[0].numel()) ** 0.5
            if module.bias is not None:
                module.bias.data = torch.randn(module.bias.shape, generator=generator) * 0.1
        elif isinstance(module, nn.BatchNorm2d):
            for tensor, scale, least in ((module.running_var, 1, 0.5), (module.weight, 1, 0.5), (module.bias, 0.6, -0.3)):
                tensor.data = torch.rand(tensor.shape, generator=generator) * scale + least
            module.running_mean = torch.randn(module.num_features, generator=generator) * 0.1
    return network.eval().requires_grad_(False)


def created(make, *args, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomised(make(*args, **kwargs))


# -- each rule, in float64, on dense matrices ------------------------------------------------------------------------------


def contributions(layer: nn.Module, a):
    """c[k, j] = w[k, j] a[j] for one input, by the layer's Jacobian."""
    matrix = torch.autograd.functional.jacobian(layer, a[None]).reshape(-1, a.numel()).numpy()
    return matrix * a.numpy().reshape(-1)


def epsilon_by_matrix(layer, a, y, relevance):
    c = contributions(layer, a)
    z = c.sum(axis=1)
    return (c * (relevance / (z + 0.3 * np.where(z < 0, -1, 1)))[:, None]).sum(axis=0)


def z_plus_by_matrix(layer, a, y, relevance):
    c = contributions(layer, a)
    for k in range(len(c)):
        same = np.maximum(c[k], 0) if y[k] >= 0 else np.minimum(c[k], 0)
        kept = same if same.any() else c[k]
        c[k] = kept / kept.sum() if kept.any() else 0
    return relevance @ c


def w_square_by_matrix(layer, a, y, relevance):
    squares = contributions(layer, torch.ones_like(a)) ** 2
    return relevance @ (squares / squares.sum(axis=1, keepdims=True))


LAYERS = {
    "dense": lambda: nn.Linear(12, 7),
    "no bias": lambda: nn.Linear(12, 7, bias=False),
    "strided": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "dilated": lambda: nn.Conv2d(4, 6, (3, 2), dilation=2, bias=False),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1),
    "same": lambda: Conv2dSame(4, 6, 3, stride=2),
}


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "rectified"])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("rule", ["Epsilon", "ZPlus", "WSquare"])
def test_rules_against_dense_matrices(rule, name, signed, rules):
    layer = created(LAYERS[name]).double()
    a = noise(2, 12).double() if isinstance(layer, nn.Linear) else noise(2, 4, 6, 5).double()
    a = a if signed else a.relu()
    made = rules.Epsilon(layer, 0.3) if rule == "Epsilon" else getattr(rules, rule)(layer)
    a.requires_grad_()
    y = made(a)
    assert torch.allclose(y, layer(a), rtol=1e-12)
    relevance = noise(*y.shape).double()
    (gradient,) = torch.autograd.grad(y, a, relevance / y)
    found = gradient if rule == "WSquare" else (a * gradient).detach()
    reference = {"Epsilon": epsilon_by_matrix, "ZPlus": z_plus_by_matrix, "WSquare": w_square_by_matrix}[rule]
    for row in range(2):
        expected = reference(layer, a[row].detach(), y[row].detach().flatten().numpy(), relevance[row].flatten().numpy())
        np.testing.assert_allclose(found[row].flatten().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_an_output_that_only_its_bias_keeps_positive_is_shared_out_too(rules):
    layer = nn.Linear(3, 1)
    layer.weight.data, layer.bias.data = torch.tensor([[-1.0, -2.0, -1.0]]), torch.tensor([9.0])
    a = torch.tensor([[1.0, 2.0, 0.0]], requires_grad=True)
    y = rules.ZPlus(layer)(a)
    (gradient,) = torch.autograd.grad(y, a)
    assert y.tolist() == [[4.0]]
    assert (a * gradient).detach().numpy() == pytest.approx(np.array([[0.8, 3.2, 0.0]]))


GATE = SqueezeExcite(6)
UNCHANGED = [nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(), nn.ELU(), nn.SiLU(), nn.GELU(), nn.Mish(), nn.Hardswish(), GATE]


@pytest.mark.parametrize("layer", UNCHANGED, ids=lambda layer: type(layer).__name__)
def test_relevance_passes_activations_and_gates_unchanged(layer, rules):
    x = (8 * noise(2, 6, 5, 5)).requires_grad_()
    y = rules.Unchanged(layer)(x)
    assert torch.allclose(y, layer(x), atol=1.1e-6)
    relevance = noise(2, 6, 5, 5)
    (gradient,) = torch.autograd.grad(y, x, relevance / y)
    assert torch.allclose(x * gradient, relevance, rtol=1e-5)


# -- whole networks --------------------------------------------------------------------------------------------------------


def test_two_layers_by_hand(lrp):
    network = nn.Sequential(nn.Conv2d(3, 1, (1, 2)), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(2, 2))
    network[0].weight.data.zero_()
    network[0].weight.data[0, 0, 0] = torch.tensor([1.0, 2.0])
    network[0].bias.data.zero_()
    network[3].weight.data, network[3].bias.data = torch.tensor([[1.0, -0.5], [1.0, 1.0]]), torch.tensor([1.0, 0.0])
    images = torch.zeros(2, 3, 1, 3)
    images[:, 0, 0] = torch.tensor([1.0, 2.0, 3.0])  # -> 5, 8 -> 5 - 4 + 1 = 2 and 13
    maps = lrp(ModelView(model_of(network, (1, 3), 2)), batch_of(images, [0, 1]))
    # Logit 2 from contributions 5 and -4, whose sum is 1: 10 and -8. Squares 1 and 4 give their shares to the pixels.
    assert maps[0, 0].tolist() == pytest.approx([10 * 0.2, 10 * 0.8 - 8 * 0.2, -8 * 0.8], rel=1e-4)
    assert maps[1, 0].tolist() == pytest.approx([5 * 0.2, 5 * 0.8 + 8 * 0.2, 8 * 0.8], rel=1e-4)


def test_a_convolution_in_the_last_place_counts_as_a_dense_layer(lrp):
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, (1, 2)), nn.Flatten())
    network[0].weight.data = torch.tensor([1.0, -1.0])[:, None, None, None].repeat(1, 3, 1, 1)  # the sum, and its negative
    network[2].weight.data = torch.tensor([[[[3.0, -1.0]], [[1.0, 1.0]]], [[[1.0, 1.0]], [[1.0, 1.0]]]])
    network[0].bias.data.zero_()
    network[2].bias.data.zero_()
    images = torch.tensor([[[[1.0, 2.0]]]]).repeat(1, 3, 1, 1)  # -> 3, 6 and 0, 0 -> 9 - 6 = 3
    maps = lrp(ModelView(model_of(network, (1, 2), 2)), batch_of(images, [0]))
    assert maps[0, 0].tolist() == pytest.approx([9, -6], rel=1e-4)


class Residual(nn.Module):
    """Batch norm, an addition, ReLU6, both kinds of pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1, self.relu = nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.conv2, self.norm2, self.relu6 = nn.Conv2d(4, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU6(inplace=True)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(4, 3)

    def forward(self, x):
        x = self.relu(self.norm1(self.conv1(x)))
        return self.head(self.pool(self.relu6(x + self.norm2(self.conv2(x)))).mean(dim=(2, 3)))


def scaled(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    conv = copy.deepcopy(conv)
    conv.weight.data *= (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None, None]
    return conv


def test_a_residual_network_layer_by_layer(lrp):
    network = created(Residual)
    images = 3 * noise(1, 3, 8, 8)
    (found,) = lrp(ModelView(model_of(network, (8, 8), 3)), batch_of(images, [2]))
    one = network.relu(network.norm1(network.conv1(images)))
    two = network.norm2(network.conv2(one))
    clipped = (one + two).clamp(0, 6)
    assert (clipped == 6).any()
    pooled, winners = functional.max_pool2d(clipped, 2, return_indices=True)
    mean = pooled.mean(dim=(2, 3))
    logit = float(network.head(mean)[0, 2])
    shares = (network.head.weight[2] * mean[0]) / (network.head.weight[2] * mean[0]).sum()
    relevance = (logit * shares)[:, None, None] * pooled[0] / pooled[0].sum(dim=(1, 2), keepdim=True)
    spread = torch.zeros(4, 16).scatter_(1, winners[0].flatten(1), relevance.flatten(1)).reshape(4, 4, 4)
    branch, skip = spread * (two / (one + two))[0], spread * (one / (one + two))[0]
    back = z_plus_by_matrix(
        scaled(network.conv2, network.norm2), one[0].clamp(min=1e-6), two[0].flatten().numpy(), branch.flatten().numpy()
    )
    under = skip.flatten().numpy() + back
    expected = w_square_by_matrix(scaled(network.conv1, network.norm1), images[0], None, under).reshape(3, 8, 8).sum(axis=0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


ARCHITECTURES = {
    "resnet18": lambda: created(timm.create_model, "resnet18"),
    "narrow resnet18": lambda: created(timm.create_model, "resnet18", channels=(16, 32, 48, 64)),
    "resnet50": lambda: created(timm.create_model, "resnet50"),
    "seresnet": lambda: created(timm.create_model, "legacy_seresnet18"),
    "torchvision resnet18": lambda: created(torchvision.models.resnet18),
    "vgg11": lambda: created(vgg, torchvision.models.vgg11),
    "vgg11_bn": lambda: created(vgg, torchvision.models.vgg11_bn),
    "squeezenet": lambda: created(torchvision.models.squeezenet1_1),
    "mobilenetv2": lambda: created(timm.create_model, "mobilenetv2_100"),
    "mobilenetv3": lambda: created(timm.create_model, "mobilenetv3_large_100"),
    "torchvision mobilenetv3": lambda: created(torchvision.models.mobilenet_v3_small),
    "efficientnet_lite0": lambda: created(timm.create_model, "efficientnet_lite0"),
    "efficientnet_b0": lambda: created(timm.create_model, "efficientnet_b0"),
    "regnety": lambda: created(timm.create_model, "regnety_002"),
}


def vgg(make):
    """With a fifth of the first dense layer, to be quick."""
    network = make(init_weights=False)
    network.avgpool, network.classifier[0] = nn.AdaptiveAvgPool2d(3), nn.Linear(512 * 9, 4096)
    return network


def assert_conserved(maps, model, batch):
    with torch.no_grad():
        logits = model(batch.images).gather(1, batch.targets[:, None])[:, 0]
    assert maps.shape == (len(batch), *batch.size)
    miss = (maps.sum(dim=(1, 2)) - logits).abs() / logits.abs()
    assert float(miss.max()) < 1e-3


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_relevance_sums_to_the_logit(name, lrp):
    model = model_of(ARCHITECTURES[name]())
    images = noise(2, 3, 64, 64)
    with torch.no_grad():
        targets = model(images).argmax(dim=1)
    batch = batch_of(images, targets.tolist())
    assert_conserved(lrp(ModelView(model), batch), model, batch)


def test_what_it_misses_of_the_logit_is_recorded(tiny_model):
    batch = batch_of(noise(2, 3, 32, 32), [0, 3])
    found = registry.method("lrp").attribute(ModelView(tiny_model), batch)
    with torch.no_grad():
        logits = tiny_model(batch.images).gather(1, batch.targets[:, None])[:, 0]
    expected = (found.maps.sum(dim=(1, 2)) - logits).abs() / logits.abs()
    assert torch.allclose(found.residual, expected, atol=1e-5)
    assert float(found.residual.max()) < 1e-3


@pytest.fixture(scope="module")
def lite() -> Model:
    return registry.bind("model", "efficientnet_lite0")()


@pytest.fixture(scope="module")
def photographs(lite) -> Batch:
    photos = registry.bind("dataset", "photos")()
    entries = photos.entries()[:2]
    return batch_of(lite.inputs([photos.load(e.id).image for e in entries], "crop"), [e.labels[0] for e in entries])


def test_real_weights_on_photographs(lite, photographs, lrp):
    view = ModelView(lite)
    maps = lrp(view, photographs)
    assert_conserved(maps, lite, photographs)
    # Little cancels out: all relevance is of the logit's order, where plain gradient times input comes to thousands of times it.
    assert float((maps.abs().sum(dim=(1, 2)) / maps.sum(dim=(1, 2))).max()) < 3
    plain = registry.method("input_x_gradient")(view, photographs)
    for ours, theirs in zip(maps, plain, strict=True):
        assert abs(float(torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1])) < 0.3


def test_a_map_does_not_depend_on_its_companions(lite, photographs, lrp):
    maps = lrp(ModelView(lite), photographs)
    for row in range(2):
        alone = batch_of(photographs.images[row : row + 1], [int(photographs.targets[row])])
        assert torch.allclose(lrp(ModelView(lite), alone)[0], maps[row], rtol=1e-3, atol=1e-3 * float(maps[row].abs().max()))


# -- where it does not apply, and what it leaves behind --------------------------------------------------------------------


class Functional(nn.Module):
    """An activation that no rule can stand in for."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(functional.silu(self.first(x)).mean(dim=(2, 3)))


class Peeking(Functional):
    """Reads the weights of a layer that a rule stands in for."""

    def forward(self, x):
        return super().forward(x) + self.first.bias.sum()


def standardised():
    """A layer that is not linear in the weights that it stores."""
    middle = ScaledStdConv2d(8, 8, 3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), middle, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )


MISSES = r"relevance misses the logit that it explains by [1-9][\d.]*%"
REFUSED = {
    "batch norm first": (lambda: created(timm.create_model, "densenet121"), MISSES),
    "layer norm": (lambda: created(timm.create_model, "convnext_atto"), MISSES),
    "standardised weights": (lambda: created(standardised), MISSES),
    "attention": (lambda: created(timm.create_model, "vit_tiny_patch16_224", img_size=64, depth=2), MISSES),
    "functional": (lambda: created(Functional), MISSES),
    "peeking": (lambda: created(Peeking), "its altered copy raises AttributeError: 'WSquare' object has no attribute 'bias'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_networks_on_which_it_does_not_hold_are_refused(name, lrp):
    make, says = REFUSED[name]
    model = model_of(make())
    for _ in range(2):
        with pytest.raises(NotApplicable, match=f"^lrp does not hold on made_up: {says}$"):
            lrp(ModelView(model), batch_of(noise(1, 3, 64, 64), [0]))


def test_functional_relus_do_no_harm(tiny_model, lrp):
    batch = batch_of(noise(2, 3, 32, 32), [0, 3])
    assert_conserved(lrp(ModelView(tiny_model), batch), tiny_model, batch)


def test_the_check_runs_once_a_model_and_one_pass_each_way_is_charged(lrp):
    model, batch = model_of(created(Residual), (8, 8), 3), batch_of(noise(2, 3, 8, 8), [0, 1])
    passes = []
    model.network.conv1.register_forward_hook(lambda *_: passes.append(1))
    charged, maps = [], []
    for _ in range(2):
        view = ModelView(model)
        view.logits(batch)
        with view.account() as cost:
            maps.append(lrp(view, batch))
        charged.append((cost.forwards, cost.backwards))
    assert charged == [(1, 1), (1, 1)]
    assert torch.equal(*maps)
    assert len(passes) == 2 + 1  # the two calls' logits, and the check's: the copy has layers of its own


def test_the_model_is_left_as_it_was_found_and_its_copy_goes_with_it(lrp):
    from xbench.methods.gradient.lrp import _altered

    gc.collect()
    known = len(_altered)
    network = created(timm.create_model, "resnet18", channels=(8, 8, 8, 8), num_classes=3)
    model, batch = model_of(network, (32, 32), 3), batch_of(noise(2, 3, 32, 32), [0, 1])
    modules = [(name, id(module), getattr(module, "inplace", None)) for name, module in network.named_modules()]
    tensors = {name: (id(t), t.clone()) for name, t in network.state_dict(keep_vars=True).items()}
    images = batch.images.clone()
    lrp(ModelView(model), batch)
    assert [(name, id(module), getattr(module, "inplace", None)) for name, module in network.named_modules()] == modules
    assert any(inplace for *_, inplace in modules)
    for name, tensor in network.state_dict(keep_vars=True).items():
        assert id(tensor) == tensors[name][0]
        assert torch.equal(tensor, tensors[name][1])
        assert not tensor.requires_grad
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m.training for m in network.modules())
    assert torch.equal(batch.images, images)
    assert len(_altered) == known + 1
    del model
    gc.collect()
    assert len(_altered) == known


def test_relevance_is_float32_whatever_the_runs_dtype(lrp):
    model, batch = model_of(created(Residual), (8, 8), 3), batch_of(noise(2, 3, 8, 8), [0, 1])
    maps = lrp(ModelView(dataclasses.replace(model, dtype="bfloat16")), batch)
    assert maps.dtype == torch.float32
    assert torch.equal(maps, lrp(ModelView(model), batch))
