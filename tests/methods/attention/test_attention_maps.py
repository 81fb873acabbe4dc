"""Each method against figures worked out by hand, and on a ViT of two blocks whose forward pass is written out below."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from xbench.network.features import Layout
from xbench.network.model import ModelView
from xbench.plugins.registry import registry

METHODS = ["raw_attention", "attention_rollout", "transformer_attribution", "attn_grad_cam"]
SPECIFIC = METHODS[2:]


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


# -- by hand ---------------------------------------------------------------------------------------------------------------


class Given:
    """A view of one picture with a class token and two patches, attention and gradients as given."""

    def __init__(self, maps, gradients, rows=(0,)):
        self.model = SimpleNamespace(layout=Layout("tokens", (1, 2), 1), attention_rows=rows)
        self.maps, self.gradients = ([torch.tensor([block]) for block in blocks] for blocks in (maps, gradients))

    def attention(self, _):
        return self.maps

    def attention_gradients(self, _):
        return self.maps, self.gradients


FIRST = [[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]
SECOND = [[0.2, 0.8, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
ONES = [[1.0] * 3] * 3
BY_HAND = {
    # Rows of 0.5 A + 0.5 I: the second's (.6, .4, 0) of the first's (.75, .125, .125) and (0, 1, 0).
    "attention_rollout": ([[FIRST], [SECOND]], [[ONES], [ONES]], [0.475, 0.075]),
    # R after the first: (1.5, 0, .25), (0, 2, 0), ...; its first row grows by .2 of itself and .8 of the second.
    "transformer_attribution": ([[FIRST], [SECOND]], [[[[1.0, -1.0, 1.0], *ONES[1:]]], [ONES]], [1.6, 0.3]),
    "raw_attention": ([[ONES, ONES], [FIRST, SECOND]], [[ONES, ONES]] * 2, [0.525, 0.125]),
    # Heads weigh (1 - 3) / 2 = -1 and (2 + 0) / 2 = 1; the class token's column, of 9, has no say.
    "attn_grad_cam": (
        [[ONES, ONES], [FIRST, SECOND]],
        [[ONES, ONES], [[[9.0, 1.0, -3.0], *ONES[1:]], [[9.0, 2.0, 0.0], *ONES[1:]]]],
        [0.275, 0.0],
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_figures_worked_out_by_hand(name):
    maps, gradients, expected = BY_HAND[name]
    (found,) = registry.method(name)(Given(maps, gradients), [None])
    assert found.shape == (1, 2)
    assert found[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_where_patches_are_pooled_the_mean_over_their_rows_is_read():
    view = Given([[FIRST], [SECOND]], [[ONES], [ONES]], rows=(1, 2))
    assert registry.method("raw_attention")(view, [None]).flatten().tolist() == pytest.approx([0.0, 0.5])
    # R without I: SECOND + FIRST + SECOND FIRST; of the last the rows of the patches are (.5, .25, .25) and (.5, 0, .5).
    found = registry.method("transformer_attribution")(view, [None])
    assert found.flatten().tolist() == pytest.approx([(0 + 1 + 0.25) / 2, (1 + 0.5 + 0.25 + 0.5) / 2])


# -- written out -----------------------------------------------------------------------------------------------------------


def written_out(model, image, target):
    """(attention, gradients) ``[blocks, heads, N, N]`` of one picture in float64, from the weights alone."""
    w = {name: tensor.double() for name, tensor in model.network.state_dict().items()}
    extra = model.layout.extra

    def norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    patches = image.double().reshape(3, 4, 8, 6, 8).permute(1, 3, 0, 2, 4).reshape(24, -1)
    x = patches @ w["patch_embed.proj.weight"].reshape(24, -1).T + w["patch_embed.proj.bias"]
    first = [w[name][0] for name in ("cls_token", "reg_token") if name in w]
    x = torch.cat([*first, x]) + w["pos_embed"][0]
    maps = []
    for block in ("blocks.0", "blocks.1"):
        query, key, value = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").split(24, dim=1)
        heads = []
        for h in range(3):
            q, k = query[:, 8 * h : 8 * h + 8], key[:, 8 * h : 8 * h + 8]
            exponentials = (q @ k.T / math.sqrt(8)).exp()
            heads.append(exponentials / exponentials.sum(dim=1, keepdim=True))
        maps.append(torch.stack(heads).requires_grad_() if not maps else torch.stack(heads))
        maps[-1].retain_grad()
        mixed = torch.cat([maps[-1][h] @ value[:, 8 * h : 8 * h + 8] for h in range(3)], dim=1)
        x = x + linear(mixed, f"{block}.attn.proj")
        hidden = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        x = x + linear(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), f"{block}.mlp.fc2")
    pooled = norm(x[extra:].mean(dim=0), "fc_norm") if model.network.global_pool == "avg" else norm(x, "norm")[0]
    logits = linear(pooled, "head")
    logits[target].backward()
    expected = model.network(image[None])[0].double()
    assert torch.allclose(logits, expected, atol=1e-4)
    return np.stack([m.detach().numpy() for m in maps]), np.stack([m.grad.numpy() for m in maps])


def read_off(model, seen):
    """The class token's row, or the mean over the patches' rows, at the patches."""
    extra = model.layout.extra
    row = seen[extra:].mean(axis=0) if model.network.global_pool == "avg" else seen[0]
    return row[extra:].reshape(4, 6)


def plain(name, model, maps, gradients):
    """The methods in plain numpy, from attention and gradients of one picture."""
    n = maps.shape[-1]
    if name == "raw_attention":
        return read_off(model, maps[-1].mean(axis=0))
    if name == "attention_rollout":
        first, second = (m.mean(axis=0) / 2 + np.eye(n) / 2 for m in maps)
        return read_off(model, second.dot(first))
    if name == "transformer_attribution":
        first, second = (np.maximum(m * g, 0).mean(axis=0) for m, g in zip(maps, gradients, strict=True))
        return read_off(model, first + second + second.dot(first))
    assert name == "attn_grad_cam"
    heads = list(zip(maps[-1], gradients[-1], strict=True))
    return np.maximum(sum(read_off(model, g).mean() * read_off(model, m) for m, g in heads) / len(heads), 0)


@pytest.mark.parametrize("name", METHODS)
def test_equal_to_a_vit_written_out(name, model, batch):
    found = explain(name, model, batch)
    assert found.shape == (3, 4, 6)
    assert found.dtype == torch.float32
    largest = 0.0
    for i in range(3):
        expected = plain(name, model, *written_out(model, batch.images[i], batch.targets[i]))
        assert found[i].numpy() == pytest.approx(expected, rel=1e-3, abs=1e-4 * abs(expected).max())
        largest = max(largest, float(expected.max()))
    assert largest > 1e-4


def test_attention_of_the_view_equals_that_written_out(model, batch):
    found = ModelView(model).attention_gradients(batch)
    for i in range(3):
        expected = written_out(model, batch.images[i], batch.targets[i])
        for blocks, true in zip(found, expected, strict=True):
            together = torch.stack([block[i] for block in blocks]).numpy()
            assert together == pytest.approx(true, rel=1e-3, abs=1e-5 * abs(true).max())


@pytest.mark.parametrize("name", METHODS)
def test_a_network_without_attention_lacks_what_they_need(name, tiny_model):
    assert registry.method(name).needs - tiny_model.capabilities == {"attention"}


@pytest.mark.parametrize("name", METHODS)
def test_a_map_depends_on_its_item_alone_and_the_model_stays_as_it_was(name, model, batch, explained):
    maps, other = explained(name, model, batch)
    assert torch.equal(other, maps) == (name not in SPECIFIC)
