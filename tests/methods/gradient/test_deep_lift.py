"""DeepLIFT: the Rescale rule spelled out, and the networks on which captum's is not DeepLIFT."""

import copy

import pytest
import torch
from torch import nn

from xbench.data.classes import ClassList
from xbench.data.samples import Batch, Item
from xbench.errors import NotApplicable
from xbench.network.model import Model, ModelView, Preprocessing
from xbench.plugins.registry import registry


def model_of(network, side: int = 32, classes: int = 4) -> Model:
    names = ClassList(tuple(f"class {i}" for i in range(classes)))
    return Model("made_up", network, Preprocessing((side, side), 1.0, (0.0,) * 3, (1.0,) * 3), names)


def sequence(activation: nn.Module) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), activation, nn.Conv2d(8, 8, 3, 2), copy.deepcopy(activation)]
        return nn.Sequential(*layers, nn.Conv2d(8, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Reused(nn.Module):
    """One ReLU module, in place, at two places, as in torchvision's residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.relu = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 4, 3, 2), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.second(self.relu(self.first(x)))).mean(dim=(2, 3))


def rescale_by_hand(network: nn.Sequential, image, target) -> torch.Tensor:
    """Multipliers from the top down: weights of linear layers, ratios of changes through ReLUs."""
    inputs = [(image[None], torch.zeros_like(image[None]))]
    for layer in network:
        plain = nn.ReLU() if isinstance(layer, nn.ReLU) else layer
        inputs.append(tuple(plain(x).detach() for x in inputs[-1]))
    multiplier = torch.zeros_like(inputs[-1][0])
    multiplier[0, target] = 1
    for layer, (x, b), (x_after, b_after) in zip(reversed(network), inputs[-2::-1], inputs[:0:-1], strict=True):
        if isinstance(layer, nn.ReLU):
            ratio = (x_after - b_after) / torch.where(x == b, 1.0, x - b)
            multiplier = multiplier * torch.where((x - b).abs() < 1e-10, (x > 0).float(), ratio)
        else:
            multiplier = torch.autograd.functional.vjp(layer, x, multiplier)[1]
    return (multiplier * image)[0].sum(dim=0)


@pytest.mark.parametrize("inplace", [False, True])
def test_rescale_rule_by_hand_and_completeness(inplace, batch):
    model = model_of(sequence(nn.ReLU(inplace=inplace)))
    maps = registry.method("deep_lift")(ModelView(model), batch)
    assert maps.shape == (4, 32, 32)
    with torch.no_grad():
        change = (model(batch.images) - model(torch.zeros_like(batch.images))).gather(1, batch.targets[:, None])[:, 0]
    assert torch.allclose(maps.sum(dim=(1, 2)), change, atol=1e-5)
    for row in range(4):
        expected = rescale_by_hand(model.network, batch.images[row], batch.targets[row])
        assert torch.allclose(maps[row], expected, atol=1e-6)
    plain = registry.method("input_x_gradient")(ModelView(model), batch)
    assert float((maps - plain).abs().max()) > 0.01 * float(plain.abs().max())


def lite():
    return registry.bind("model", "efficientnet_lite0")()


def tiny():
    return registry.bind("model", "tiny_net")()


REFUSED = {
    "ReLU6": (lite, "efficientnet_lite0: attributions miss the change of the logit that they explain by"),
    "functional": (tiny, "attributions miss"),
    "GELU": (lambda: model_of(sequence(nn.GELU())), "attributions miss"),
    "reused": (lambda: model_of(Reused()), "captum raises|attributions miss"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_networks_on_which_it_does_not_hold_are_refused(name):
    make, says = REFUSED[name]
    model = make()
    side = model.preprocessing.size[0]
    one = Batch(torch.randn(1, 3, side, side), torch.tensor([0]), (Item("0", "0", 0, "0"),), seed="0")
    for _ in range(2):
        with pytest.raises(NotApplicable, match=f"deep_lift does not hold on .*({says})"):
            registry.method("deep_lift")(ModelView(model), one)


def test_the_check_runs_once_a_model_and_is_not_charged(batch):
    model = model_of(sequence(nn.ReLU()))
    passes = []
    model.network[0].register_forward_hook(lambda *_: passes.append(1))
    charged = []
    for _ in range(2):
        view = ModelView(model)
        view.logits(batch)
        with view.account() as cost:
            registry.method("deep_lift")(view, batch)
        charged.append((cost.forwards, cost.backwards))
    assert len(passes) == 2 + 3 + 2 + 2  # logits, the check, the two attributions, and the baselines' logits
    assert charged[0] == charged[1]
    assert charged[0][0] == 2 + 2  # the baselines go along; the logits that the attributions should sum to


def test_what_it_misses_of_its_sum_is_recorded(batch):
    model = model_of(sequence(nn.ReLU()))
    found = registry.method("deep_lift").attribute(ModelView(model), batch)
    with torch.no_grad():
        change = (model(batch.images) - model(torch.zeros_like(batch.images))).gather(1, batch.targets[:, None])[:, 0]
    expected = (found.maps.sum(dim=(1, 2)) - change).abs() / change.abs()
    assert torch.allclose(found.residual, expected, atol=1e-5)
    assert float(found.residual.max()) < 1e-3


def test_captum_raising_is_a_reason_and_leaves_nothing_behind(batch, monkeypatch):
    import captum.attr

    def fails(self, *_, **__):
        self.model.apply(self._register_hooks)
        for module in self.model.modules():
            module.training, module.left_behind = True, 1
        raise RuntimeError("out of\nluck")

    monkeypatch.setattr(captum.attr.DeepLift, "attribute", fails)
    model = model_of(sequence(nn.ReLU(inplace=True)))
    with pytest.raises(NotApplicable, match="captum raises RuntimeError: out of luck"):
        registry.method("deep_lift")(ModelView(model), batch)
    for module in model.network.modules():
        assert not module.training
        assert not hasattr(module, "left_behind")
        assert not [*module._forward_hooks, *module._forward_pre_hooks, *module._backward_hooks]
        assert getattr(module, "inplace", True)
