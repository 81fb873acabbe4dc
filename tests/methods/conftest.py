"""What tests of methods share: photographs and a network to explain, a class that sees one quarter only, and small ViTs."""

import dataclasses

import pytest
import torch
from torch import nn

from xbench.data.classes import ClassList
from xbench.data.samples import Batch, Item
from xbench.network.model import Model, ModelView, Preprocessing
from xbench.plugins.registry import registry


class Quarter(nn.Module):
    """Class 0 looks at the top left quarter and at nothing else; class 1 looks at nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Identity()

    def forward(self, x):
        seen = self.features(x.relu())[:, :, :16, :16].mean(dim=(1, 2, 3))
        return torch.stack([20 * (seen - 0.3), 0 * seen], dim=1)


@pytest.fixture
def quarter():
    return Model("quarter", Quarter(), Preprocessing((32, 32), 1.0, (0.0,) * 3, (1.0,) * 3), ClassList(("a", "b")), "features")


@pytest.fixture(scope="module")
def lite():
    return registry.bind("model", "efficientnet_lite0")()


@pytest.fixture(scope="module")
def photos(lite):
    data = registry.bind("dataset", "photos")()
    entries = data.entries()[:2]
    inputs = lite.inputs([data.load(e.id).image for e in entries], "crop")
    return Batch(
        inputs, torch.tensor([e.labels[0] for e in entries]), tuple(Item(e.id, e.id, None, e.id) for e in entries), seed="0"
    )


@pytest.fixture
def batch():
    """Three items in four rows."""
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Batch(
        images[[0, 1, 2, 2]], torch.tensor([0, 1, 3, 3]), tuple(Item(f"{i}", f"{i}", i, f"{i}") for i in range(3)), seed="0"
    )


VITS = {
    "class_token": {},
    "registers": {"reg_tokens": 2},
    "pooled": {"global_pool": "avg"},
    "no_class_token": {"global_pool": "avg", "class_token": False},
}


def built(**kwargs):
    """Two blocks of three heads over a grid of 4 x 6 patches, with weights large enough that attention is far from uniform."""
    from timm.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = VisionTransformer(
            img_size=(32, 48), patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5, qkv_bias=True, **kwargs
        )
        for parameter in network.parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape)
    return Model("vit", network, Preprocessing((32, 48), 1.0, (0.0,) * 3, (1.0,) * 3), ClassList(tuple("abcde")))


@pytest.fixture
def class_token_vit():
    return built()


@pytest.fixture(params=VITS)
def vit(request):
    return built(**VITS[request.param])


@pytest.fixture
def vit_batch():
    """Three items in four rows."""
    images = torch.randn(3, 3, 32, 48, generator=torch.Generator().manual_seed(0))[[0, 1, 2, 2]]
    return Batch(images, torch.tensor([0, 4, 2, 2]), tuple(Item(str(i), str(i), None, "c") for i in range(3)), seed="0")


@pytest.fixture
def explained():
    """(method, model, batch) -> its maps, and those of other targets; it leaves the model alone, and no map knows the others."""

    def explain(name, model, batch):
        view = ModelView(model)
        with view.account():
            return registry.method(name)(view, batch)[: len(batch.items)]

    def state(model):
        of_modules = {k: list(map(repr, vars(m).items())) for k, m in model.network.named_modules()}
        return of_modules | {k: v.tolist() for k, v in model.network.state_dict().items()}

    def run(name, model, batch):
        before = state(model)
        maps = explain(name, model, batch)
        assert state(model) == before
        assert not maps.requires_grad
        assert torch.equal(explain(name, model, batch), maps)
        for i in range(3):
            row = [i]
            alone = dataclasses.replace(batch, images=batch.images[row], targets=batch.targets[row], items=batch.items[i : i + 1])
            assert torch.allclose(explain(name, model, alone)[0], maps[i], rtol=1e-4, atol=1e-5 * float(maps[i].abs().max()))
        return maps, explain(name, model, dataclasses.replace(batch, targets=(batch.targets + 1) % 5))

    return run
