import dataclasses

import pytest
import torch

from xbench.data.samples import Batch, Item
from xbench.errors import XbenchError
from xbench.network.model import ModelView
from xbench.plugins.registry import registry


@pytest.fixture
def batch():
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.tensor([0, 1, 2, 2]), tuple(Item(str(i), str(i), None, "c") for i in range(3)))


@pytest.fixture
def counted(tiny_model):
    calls = {"forward": 0}
    tiny_model.network.register_forward_hook(lambda *_: calls.__setitem__("forward", calls["forward"] + 1))
    return ModelView(tiny_model), calls


def test_gradients_equal_autograd_done_by_hand(tiny_model, batch):
    view = ModelView(tiny_model)
    activations, gradients = view.feature_gradients(batch)
    net = tiny_model.network
    leaf = net.features(net.second(net.first(batch.images).relu())).detach().requires_grad_()
    net.head(leaf.mean(dim=(2, 3))).gather(1, batch.targets[:, None]).sum().backward()
    assert torch.allclose(activations, leaf, atol=1e-6)
    assert torch.allclose(gradients, leaf.grad, atol=1e-7)
    image = batch.images.clone().requires_grad_()
    net(image).gather(1, batch.targets[:, None]).sum().backward()
    assert torch.allclose(view.input_gradients(batch), image.grad, atol=1e-6)


def test_all_methods_of_a_batch_share_one_forward(counted, batch):
    view, calls = counted
    view.logits(batch)
    for _ in range(3):
        view.features(batch)
        view.feature_gradients(batch)
        view.input_gradients(batch.seeded("other"))
    assert calls["forward"] == 1


def test_other_targets_or_pictures_are_computed_anew(counted, batch):
    view, calls = counted
    first = view.feature_gradients(batch)[1]
    other = dataclasses.replace(batch, targets=torch.tensor([3, 3, 3, 3]))
    assert not torch.equal(view.feature_gradients(other)[1], first)
    assert torch.equal(view.feature_gradients(batch)[1], first)
    assert calls["forward"] == 1
    view.features(dataclasses.replace(batch, images=batch.images + 1))
    assert calls["forward"] == 2


def test_cost_is_that_of_the_method_alone(tiny_model, batch):
    view = ModelView(tiny_model)
    view.logits(batch)
    with view.account() as gradient:
        view.feature_gradients(batch)
        view.feature_gradients(batch)
    with view.account() as shared:
        view.feature_gradients(batch)
    with view.account() as features:
        view.features(batch)
    with view.account() as nothing:
        pass
    assert (gradient.forwards, gradient.backwards) == (shared.forwards, shared.backwards) == (1, 1)
    assert (features.forwards, features.backwards) == (1, 0)
    assert (nothing.forwards, nothing.backwards) == (0, 0)
    assert gradient.seconds > features.seconds > nothing.seconds >= 0


def test_cost_of_a_library_that_calls_the_network_itself(tiny_model, batch):
    view = ModelView(tiny_model)
    view.logits(batch)
    with view.account() as cost:
        images = batch.images.clone().requires_grad_()
        view.network(images)[:, 0].sum().backward()
        view.network(torch.cat([batch.images, batch.images]))
    assert (cost.forwards, cost.backwards) == (3, 1)


def test_a_method_that_perturbs_asks_the_view(tiny_model, batch):
    view = ModelView(tiny_model)
    view.logits(batch)
    with view.account() as cost:
        maps = registry.method("tiny_probe")(view, batch)
    assert (cost.forwards, cost.backwards) == (4, 0)  # two curves of two points for each item; packing is not charged twice
    probability = tiny_model.network(batch.images).softmax(dim=1)
    for i in range(3):
        without_top = batch.images[i : i + 1].clone()
        without_top[:, :, :16] = 0
        left = tiny_model.network(without_top).softmax(dim=1)[0, batch.targets[i]]
        assert float(maps[i, 0, 0]) == pytest.approx(float(probability[i, batch.targets[i]] - left), abs=1e-6)


def test_results_are_detached_and_the_model_is_left_alone(tiny_model, batch):
    before = {k: v.clone() for k, v in tiny_model.network.state_dict().items()}
    view = ModelView(tiny_model)
    results = [view.logits(batch), view.features(batch), *view.feature_gradients(batch), view.input_gradients(batch)]
    assert not any(r.requires_grad for r in results)
    assert all(torch.equal(v, before[k]) for k, v in tiny_model.network.state_dict().items())
    assert not any(m._forward_hooks for m in tiny_model.network.modules())
    assert all(p.grad is None and not p.requires_grad for p in tiny_model.network.parameters())
    assert not tiny_model.network.training


def test_digest_follows_weights_preprocessing_and_layer(tiny_model):
    other = registry.bind("model", "tiny_net")()
    assert other.digest == tiny_model.digest
    changed = dataclasses.replace(other, preprocessing=dataclasses.replace(other.preprocessing, share=0.5))
    assert changed.digest != tiny_model.digest
    assert dataclasses.replace(other, feature_layer="second").digest != tiny_model.digest
    other.network.head.bias.data[0] += 1
    assert dataclasses.replace(other).digest != tiny_model.digest


def test_a_wrong_feature_layer_is_named(tiny_model, batch):
    with pytest.raises(XbenchError, match="model tiny_net: the network has no layer 'conv9'"):
        dataclasses.replace(tiny_model, feature_layer="conv9", layout=None)
    with pytest.raises(XbenchError, match="layer 'head' gives no map of the picture"):
        dataclasses.replace(tiny_model, feature_layer="head", layout=None)
