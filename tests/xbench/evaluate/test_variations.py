"""What variations do to inputs, targets and networks, against plain loops, and that companions change nothing."""

import pytest
import torch
from torch import nn

from xbench.data.samples import Batch, Item
from xbench.evaluate.variations import Moved, Noisy, Randomised, Retargeted, Same
from xbench.network.model import Model
from xbench.plugins.registry import registry


@pytest.fixture
def batch(tiny_model):
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=torch.channels_last)
    items = tuple(Item(f"i{n}", f"i{n}", n, f"i{n}") for n in range(4))
    return Batch(images, torch.arange(4), items, seed="0")


def part(batch, rows):
    return Batch(batch.images[rows], batch.targets[rows], tuple(batch.items[r] for r in rows), seed=batch.seed)


@pytest.mark.parametrize("variation", [Same(), Noisy(0.2, 1), Retargeted(), Moved(mirror=True, turn=5.0), Randomised(1, 2)])
def test_companions_and_order_change_nothing(variation, tiny_model, batch):
    whole = variation.apply(tiny_model, batch)[1]
    some = variation.apply(tiny_model, part(batch, [2, 0]))[1]
    assert torch.equal(whole.images[[2, 0]], some.images)
    assert torch.equal(whole.targets[[2, 0]], some.targets)
    assert whole.images.is_contiguous(memory_format=torch.channels_last)


def test_noise_is_uniform_and_each_draw_another(tiny_model, batch):
    noises = [Noisy(0.2, n).apply(tiny_model, batch)[1].images - batch.images for n in range(2)]
    assert noises[0].abs().max() <= 0.2 + 1e-6
    assert noises[0].std() == pytest.approx(0.2 / 3**0.5, rel=0.02)
    assert not torch.allclose(noises[0], noises[1])
    assert not torch.allclose(noises[0][0], noises[0][1])


def test_the_other_class_is_any_other(tiny_model, batch):
    found = torch.stack([Retargeted(n).apply(tiny_model, batch)[1].targets for n in range(200)])
    assert (found != batch.targets).all()
    for row in range(4):
        assert set(found[:, row].tolist()) == set(range(5)) - {row}
        assert torch.bincount(found[:, row]).max() < 80


def test_moves_are_those_that_they_say(tiny_model, batch):
    def moved(**how):
        return Moved(**how).apply(tiny_model, batch)[1].images

    assert torch.allclose(moved(mirror=True), batch.images.flip(3), atol=1e-5)
    assert torch.allclose(moved(right=0.25)[..., 8:], batch.images[..., :-8], atol=1e-4)
    assert torch.allclose(moved(down=-0.25)[..., :-8, :], batch.images[..., 8:, :], atol=1e-4)
    assert torch.allclose(moved(turn=90.0), batch.images.rot90(-1, (2, 3)), atol=1e-4)
    blob = torch.zeros(32, 32)
    blob[12:20, 12:20] = 1
    assert float(Moved(zoom=2.0).place(blob).sum()) == pytest.approx(4 * float(blob.sum()), rel=0.1)


def test_what_comes_from_outside_is_not_seen():
    assert Moved(mirror=True).seen((32, 20)).all()
    seen = Moved(right=0.25).seen((32, 20))
    assert not seen[:, :5].any()
    assert seen[:, 5:].all()
    assert 0.7 < Moved(turn=10.0).seen((32, 20)).float().mean() < 1


def test_layers_turn_random_from_the_logits_down_and_stay_so(tiny_model, batch):
    networks = [Randomised(n, 3).apply(tiny_model, batch)[0].network for n in (1, 2, 3)]
    names = ["first", "second", "head"]
    for stage, network in enumerate(networks, 1):
        for k, name in enumerate(names):
            same = torch.equal(network.get_submodule(name).weight, tiny_model.network.get_submodule(name).weight)
            assert same == (k < 3 - stage)
    assert torch.equal(networks[0].head.weight, networks[2].head.weight)
    assert not any(p.requires_grad for p in networks[2].parameters())
    assert networks[2].first.bias.abs().max() == 0
    assert networks[2].second.weight.std() == pytest.approx((2 / 72) ** 0.5, rel=0.1)
    again = Randomised(3, 3).apply(tiny_model, batch)[0].network
    assert torch.equal(networks[2].first.weight, again.first.weight)


def test_norms_start_anew_and_the_network_given_is_untouched():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.full((1, 1, 8), 5.0))
            self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

        def forward(self, x):
            return self.head(self.norm(self.conv(x)).mean(dim=(2, 3)) + self.token[0])

    network = Net()
    nn.init.normal_(network.norm.weight)
    network.norm.running_mean.fill_(3)
    network.norm.running_var.fill_(7)
    tiny = registry.bind("model", "tiny_net")()
    model = Model("net", network, tiny.preprocessing, tiny.classes, capabilities=frozenset())
    before = {k: v.clone() for k, v in network.state_dict().items()}
    one = Batch(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64), (Item("a", "a", 0, "a"),), seed="0")
    fresh = Randomised(1, 1).apply(model, one)[0].network
    assert (fresh.norm.weight == 1).all()
    assert (fresh.norm.bias == 0).all()
    assert (fresh.norm.running_mean == 0).all()
    assert (fresh.norm.running_var == 1).all()
    assert (fresh.token != 5).all()
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in before.items())
