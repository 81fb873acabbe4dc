"""What may be folded is, what may not is left, and the network that was given is as it was."""

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.utils import parametrizations

from xbench.data.classes import ClassList
from xbench.data.samples import Batch, Item
from xbench.maps.perturbation import Curve
from xbench.maps.saliency import SaliencyMap
from xbench.network import folding
from xbench.network.folding import folded
from xbench.network.model import Model, ModelView, Preprocessing

EXAMPLE = torch.zeros(1, 3, 12, 10)


class Shape(nn.Module):
    """Two convolutions and batch norms wired by ``wiring``, and a head."""

    def __init__(self, wiring, norm=nn.BatchNorm2d, **options) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wiring = wiring
        self.first, self.one = nn.Conv2d(3, 6, 3, padding=1, bias=False), norm(6, **options)
        self.second, self.two = nn.Conv2d(6, 6, 3, stride=1, padding=1, groups=3, padding_mode="reflect"), norm(6, **options)
        self.head = nn.Linear(6, 4)
        for norm in (self.one, self.two):
            for tensor in norm.state_dict().values():
                if tensor.is_floating_point():
                    tensor.uniform_(0.5, 2)
        self.eval().requires_grad_(False)

    def forward(self, x):
        return self.head(self.wiring(self, x).mean(dim=(2, 3)))


def chain(net, x):
    return net.two(net.second(net.one(net.first(x)).relu())).relu()


def skip(net, x):
    """What the second convolution gives is read beside its batch norm."""
    y = net.second(net.one(net.first(x)).relu())
    return net.two(y) + y


def skip_a_view(net, x):
    y = net.second(net.one(net.first(x)).relu())
    return net.two(y) * y.flatten(2).mean(dim=2)[..., None, None]


def after_a_residual(net, x):
    """The second batch norm follows an addition."""
    x = net.one(net.first(x)).relu()
    return net.two(net.second(x) + x)


def changed_in_place(net, x):
    """The very tensor reaches the batch norm, but it holds something else by then."""
    x = net.one(net.first(x)).relu()
    return net.two(net.second(x).relu_())


def shared_convolution(net, x):
    x = net.one(net.first(x)).relu()
    return net.two(net.second(x)) + net.second(x.flip(3))


def shared_norm(net, x):
    x = net.one(net.first(x)).relu()
    return net.two(net.second(x)) + net.two(x)


def norm_first(net, x):
    return net.second(net.two(net.one(net.first(x))))


def norms(network) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def close(a, b) -> bool:
    x = torch.randn(3, 3, 12, 10, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return torch.allclose(a(x), b(x), atol=1e-5)


def test_batch_norms_behind_convolutions_go():
    network = Shape(chain)
    made = folded(network, EXAMPLE)
    assert (norms(network), norms(made)) == (2, 0)
    assert close(network, made)


def test_the_activation_of_a_batch_norm_stays():
    network = Shape(lambda net, x: net.two(net.second(net.one(net.first(x)))), BatchNormAct2d, act_layer=nn.Sigmoid)
    made = folded(network, EXAMPLE)
    assert norms(made) == 0
    assert sum(isinstance(module, nn.Sigmoid) for module in made.modules()) == 2
    assert close(network, made)


@pytest.mark.parametrize("options", [{"affine": False}, {"eps": 0.1}])
def test_every_kind_of_batch_norm_is_folded_exactly(options):
    network = Shape(chain, **options)
    assert norms(folded(network, EXAMPLE)) == 0
    assert close(network, folded(network, EXAMPLE))


@pytest.mark.parametrize(
    "wiring", [skip, skip_a_view, after_a_residual, changed_in_place, shared_convolution, shared_norm, norm_first]
)
def test_what_somebody_else_reads_is_left_and_the_rest_folded(wiring):
    network = Shape(wiring)
    made = folded(network, EXAMPLE)
    assert norms(made) == 1
    assert isinstance(made.one, nn.Identity)
    assert close(network, made)


def test_batch_norms_that_use_the_batch_are_left():
    training = Shape(chain)
    training.two.train()
    assert norms(folded(training, EXAMPLE)) == 1
    without = Shape(chain)
    without.two = nn.BatchNorm2d(6, track_running_stats=False).eval()
    assert norms(folded(without, EXAMPLE)) == 1


def test_a_network_without_batch_norm_comes_back_itself():
    network = Shape(chain, norm=nn.InstanceNorm2d, affine=True)
    assert folded(network, EXAMPLE) is network


def test_a_convolution_whose_weight_is_made_on_the_way_does_not_break_anything():
    network = Shape(chain)
    parametrizations.weight_norm(network.second)
    assert close(network, folded(network, EXAMPLE))


class Standardised(nn.Conv2d):
    """Its weight is not what it multiplies by."""

    def forward(self, x):
        return self._conv_forward(x, self.weight / self.weight.std(), self.bias)


def test_a_copy_that_computes_something_else_is_refused():
    network = Shape(chain)
    network.second = Standardised(6, 6, 3, padding=1).requires_grad_(False)
    assert folded(network, EXAMPLE) is network


def test_a_network_that_needs_its_batch_norm_or_cannot_be_copied_comes_back_itself():
    needy = Shape(lambda net, x: chain(net, x) * net.two.weight[:, None, None])
    assert folded(needy, EXAMPLE) is needy
    locked = Shape(chain)
    locked.lines = (line for line in ())  # generators cannot be copied
    assert folded(locked, EXAMPLE) is locked


def test_a_wrong_fusion_is_noticed(monkeypatch):
    right = folding.fuse_conv_bn_weights
    monkeypatch.setattr(folding, "fuse_conv_bn_weights", lambda w, b, *rest: right(w * 1.001, b, *rest))
    network = Shape(chain)
    assert folded(network, EXAMPLE) is network


def test_the_network_is_untouched_and_its_weights_are_shared():
    network = Shape(chain).to(memory_format=torch.channels_last)
    before, modules = copy.deepcopy(network.state_dict()), list(network.modules())
    made = folded(network, EXAMPLE)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), network.state_dict().values(), strict=True))
    assert list(network.modules()) == modules
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    assert made.head.weight is network.head.weight
    assert made.second.weight.stride() == network.second.weight.stride()
    assert made.training is False


def test_who_watches_the_network_does_not_watch_the_copy():
    network, seen = Shape(chain), []
    network.register_forward_hook(lambda *_: seen.append(1))
    made = folded(network, EXAMPLE)
    seen.clear()
    made(EXAMPLE)
    assert norms(made) == 0
    assert not seen


@pytest.fixture
def model():
    how = Preprocessing((12, 10), 1.0, (0.0,) * 3, (1.0,) * 3)
    return Model("shape", Shape(chain), how, ClassList(tuple("abcd")), feature_layer="two")


def test_probes_go_through_the_copy_and_gradients_through_the_network(model):
    batch = Batch(torch.randn(2, 3, 12, 10), torch.tensor([0, 3]), tuple(Item(str(i), str(i), None, "c") for i in range(2)))
    before = ModelView(model).feature_gradients(batch), ModelView(model).input_gradients(batch)
    passes = {"network": 0}
    model.network.register_forward_hook(lambda *_: passes.__setitem__("network", passes["network"] + 1))
    view = ModelView(model)
    (ranking,) = SaliencyMap(torch.rand(12, 10), (12, 10), 0, "s").rankings
    with view.account() as cost:
        (answer,) = view.probe(batch, [Curve(ranking, (0, 60, 120), "image", "zero")])
    assert cost.forwards == 3 / 2
    assert model._folded is not model.network
    assert passes["network"] == 2  # a look at the wiring, and the check
    ModelView(model).probe(batch, [Curve(ranking, (0, 60, 120), "image", "zero")])
    assert passes["network"] == 2
    assert float(answer[0]) == pytest.approx(float(model(batch.images).softmax(dim=1)[0, 0]), abs=1e-6)
    after = ModelView(model).feature_gradients(batch), ModelView(model).input_gradients(batch)
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert torch.equal(before[1], after[1])
