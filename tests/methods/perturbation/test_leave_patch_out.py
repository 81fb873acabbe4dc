"""Leave-patch-out against a plain loop on small ViTs."""

import pytest
import torch

from xbench.data.samples import Batch, Item
from xbench.errors import NotApplicable, XbenchError
from xbench.network.model import ModelView
from xbench.plugins.registry import registry


@pytest.fixture
def model(vit):
    return vit


@pytest.fixture
def batch(vit_batch):
    return vit_batch


def explain(name, model, batch):
    view = ModelView(model)
    with view.account():
        return registry.method(name)(view, batch)[: len(batch.items)]


@pytest.mark.parametrize("block", [1, 2])
def test_leave_patch_out_equals_a_plain_loop(block, model, batch):
    found = explain(f"leave_patch_out(block={block})", model, batch)
    assert found.shape == (3, 4 // block, 6 // block)
    side = 8 * block
    for i in range(3):
        image, target = batch.images[i], batch.targets[i]
        clean = model.network(image[None]).softmax(dim=1)[0, target]
        for row in range(4 // block):
            for column in range(6 // block):
                hidden = image.clone()
                hidden[:, side * row : side * row + side, side * column : side * column + side] = 0
                left = model.network(hidden[None]).softmax(dim=1)[0, target]
                assert float(found[i, row, column]) == pytest.approx(float(clean - left), abs=1e-6)
    assert found.min() < 0 < found.max()


def test_leave_patch_out_costs_a_forward_for_each_patch_and_one(class_token_vit, batch):
    view = ModelView(class_token_vit)
    view.logits(batch)
    with view.account() as cost:
        registry.method("leave_patch_out")(view, batch)
    assert (cost.forwards, cost.backwards) == (25, 0)


def test_blocks_tile_the_patches(model, batch):
    with pytest.raises(XbenchError, match="blocks of 3 do not tile 4 x 6 patches"):
        explain("leave_patch_out(block=3)", model, batch)


def test_leave_patch_out_needs_tokens(tiny_model):
    images = torch.randn(1, 3, 32, 32)
    with pytest.raises(NotApplicable, match="leave_patch_out: tiny_net has no grid of tokens; use occlusion"):
        explain("leave_patch_out", tiny_model, Batch(images, torch.tensor([0]), (Item("a", "a", None, "c"),)))


def test_a_map_depends_on_its_item_alone_and_the_model_stays_as_it_was(model, batch, explained):
    maps, other = explained("leave_patch_out", model, batch)
    assert not torch.equal(other, maps)
