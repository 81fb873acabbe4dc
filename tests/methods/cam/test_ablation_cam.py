"""Ablation-CAM against plain loops: behind a head, behind residual connections, and in closed form on a real network."""

import pytest
import torch
from xbench.methods.cam import ablation_cam

from xbench.data.classes import ClassList
from xbench.data.samples import Batch, Item
from xbench.network.model import Model, ModelView, Preprocessing
from xbench.plugins.registry import registry


@pytest.fixture
def vit():
    from timm.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = VisionTransformer(img_size=32, patch_size=8, embed_dim=12, depth=2, num_heads=2, num_classes=5)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    classes = ClassList(tuple("abcde"))
    return Model("vit", network, Preprocessing((32, 32), 1.0, (0.0,) * 3, (1.0,) * 3), classes, "blocks.1.norm1")


def by_loop(model, image, target, top=0) -> torch.Tensor:
    """One picture, one channel at a time, on the output as the layer gives it."""
    kept = []

    def run(channel):
        def hook(_, __, output):
            output = output.clone()
            if channel is None:
                kept.append(output)
            elif model.layout.kind == "tokens":
                output[:, model.layout.extra :, channel] = 0
            else:
                output[:, channel] = 0
            return output

        handle = model.layer.register_forward_hook(hook)
        with torch.no_grad():
            score = float(model(image[None])[0, target])
        handle.remove()
        return score

    clean = run(None)
    features = model.layout.to_grid(kept[0])[0]
    largest = sorted(range(len(features)), key=lambda k: -float(features[k].abs().mean()))[: top or None]
    return sum((clean - run(k)) / abs(clean) * features[k] for k in largest).clamp(min=0)


@pytest.mark.parametrize(("together", "top"), [(128, 0), (5, 0), (5, 7)])
def test_the_plain_loop_on_a_network_with_a_plain_head(together, top, tiny_model, batch, monkeypatch):
    monkeypatch.setattr(ablation_cam, "TOGETHER", together)
    tiny_model.network.second.bias.data[2] = -1e6  # a dead channel
    assert ablation_cam._apart(tiny_model, (32, 32))
    maps = registry.method(f"ablation_cam(top={top})")(ModelView(tiny_model), batch)
    assert maps.shape == (3, 8, 8)
    for row in range(3):
        expected = by_loop(tiny_model, batch.images[row], batch.targets[row], top)
        assert torch.allclose(maps[row], expected, atol=1e-5)
    assert float(maps.max()) > 0.01


def test_the_plain_loop_behind_residual_connections(vit, batch):
    assert vit.layout.kind == "tokens"
    assert vit.layout.extra == 1
    assert not ablation_cam._apart(vit, (32, 32))
    maps = registry.method("ablation_cam")(ModelView(vit), batch)
    assert maps.shape == (3, 4, 4)
    for row in range(3):
        expected = by_loop(vit, batch.images[row], batch.targets[row])
        assert torch.allclose(maps[row], expected, atol=1e-4 * max(1, float(expected.max())))
    assert all(len(m.unique()) > 1 for m in maps)


def test_a_negative_logit_does_not_turn_the_map_over(tiny_model, batch):
    view = ModelView(tiny_model)
    tiny_model.network.head.bias.data += 100 - float(view.logits(batch).min())
    high = registry.method("ablation_cam")(ModelView(tiny_model), batch)
    tiny_model.network.head.bias.data -= 1000
    logits = ModelView(tiny_model).logits(batch)
    assert float(logits.max()) < 0
    low = registry.method("ablation_cam")(ModelView(tiny_model), batch)
    for a, b in zip(high, low, strict=True):
        assert torch.allclose(a / a.max(), b / b.max(), atol=1e-2)


def test_closed_form_on_photographs_and_cost():
    model, data = registry.bind("model", "efficientnet_lite0")(), registry.bind("dataset", "photos")()
    entries = data.entries()[:2]
    inputs = model.inputs([data.load(e.id).image for e in entries], "crop")
    batch = Batch(
        inputs, torch.tensor([e.labels[0] for e in entries]), tuple(Item(e.id, e.id, None, e.id) for e in entries), seed="0"
    )
    view = ModelView(model)
    logits, activations = view.logits(batch), view.features(batch)
    with view.account() as cost:
        maps = registry.method("ablation_cam")(view, batch)
    # The layer is followed by the mean over places and a linear head: without channel k the logit lacks its share.
    shares = model.network.classifier.weight.detach()[batch.targets] * activations.mean(dim=(2, 3))
    weights = shares / logits.gather(1, batch.targets[:, None])
    expected = (weights[:, :, None, None] * activations).sum(dim=1).relu()
    assert torch.allclose(maps, expected, atol=1e-4 * float(expected.max()))
    assert cost.forwards < 15  # of 1280 channels


def test_a_dead_layer_gives_a_zero_map(tiny_model, batch):
    tiny_model.network.second.bias.data[:] = -1e6
    assert torch.equal(registry.method("ablation_cam")(ModelView(tiny_model), batch), torch.zeros(3, 8, 8))
