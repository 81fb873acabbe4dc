"""Attention as recorded against the same networks unfused, against torch's fused kernel and finite differences. Random weights."""

import copy
import dataclasses

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from xbench.data.classes import ClassList
from xbench.data.samples import Batch, Item
from xbench.errors import NotApplicable
from xbench.network.attention import recorded, rows_read
from xbench.network.features import Layout
from xbench.network.model import Model, ModelView, Preprocessing

LAYOUT = Layout("tokens", (4, 4), 1)
FUSED = F.scaled_dot_product_attention


def seeded(make, *args, **kwargs):
    torch.manual_seed(0)
    return make(*args, **kwargs).eval().requires_grad_(False)


def vit(**kwargs):
    return VisionTransformer(img_size=64, patch_size=16, embed_dim=48, depth=3, num_heads=3, num_classes=5, **kwargs)


def pictures(count=3, side=64):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def model(network, side=64, **kwargs):
    return Model("own", network, Preprocessing((side, side), 1.0, (127.0,) * 3, (64.0,) * 3), ClassList(tuple("abcde")), **kwargs)


def batch(count=3, side=64):
    items = tuple(Item(str(i), str(i), None, "c") for i in range(count))
    return Batch(pictures(count, side), torch.tensor([0, 4, 2])[:count], items)


class Torch(nn.Module):
    """A class token and patches through torch's own attention. weights: whether it is asked for its weights, as old code does."""

    def __init__(self, weights=False, batch_first=True):
        super().__init__()
        self.embed, self.cls = nn.Conv2d(3, 32, 16, 16), nn.Parameter(torch.randn(1, 1, 32))
        self.blocks = nn.ModuleList(nn.MultiheadAttention(32, 4, batch_first=batch_first) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(2))
        self.head, self.weights, self.batch_first = nn.Linear(32, 5), weights, batch_first

    def forward(self, x):
        x = torch.cat([self.cls.expand(len(x), -1, -1), self.embed(x).flatten(2).transpose(1, 2)], dim=1)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            y = norm(x) if self.batch_first else norm(x).transpose(0, 1)
            y, seen = block(y, y, y, need_weights=self.weights, average_attn_weights=False)
            assert (seen is not None) == self.weights
            x = x + (y if self.batch_first else y.transpose(0, 1))
        return self.head(x[:, 0])


NETWORKS = {
    "timm": vit,
    "torch": Torch,
    "torch_weights": lambda: Torch(weights=True),
    "torch_sequence_first": lambda: Torch(batch_first=False),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    return seeded(NETWORKS[request.param])


def unfused_timm(network, images, nudge=lambda block, weights: weights):
    """(logits, attention of each block) by timm's own unfused path, read where its dropout has them; ``nudge`` may change them."""
    network, seen = copy.deepcopy(network), []
    for number, block in enumerate(network.blocks):
        block.attn.fused_attn = False

        def see(_, __, weights, number=number):
            seen.append(weights)
            return nudge(number, weights)

        block.attn.attn_drop.register_forward_hook(see)
    with torch.no_grad():
        return network(images), seen


def test_timm_equals_its_own_unfused_path():
    network = seeded(vit, qk_norm=True, reg_tokens=2)
    logits, expected = unfused_timm(network, pictures())
    with recorded(3, Layout("tokens", (4, 4), 3)) as maps:
        assert torch.allclose(network(pictures()), logits, atol=1e-6)
    assert [m.shape for m in maps] == [(3, 3, 19, 19)] * 3
    for found, true in zip(maps, expected, strict=True):
        assert torch.allclose(found, true, atol=1e-6)


def test_torch_equals_the_weights_that_it_gives_itself():
    network = seeded(Torch)
    expected = []
    for block in (asking := copy.deepcopy(network)).blocks:
        block.register_forward_hook(lambda _, __, output: expected.append(output[1]))
    asking.weights = True
    logits = asking(pictures())
    for weights in (False, True):
        network.weights = weights
        with recorded(3, LAYOUT) as maps:
            assert torch.allclose(network(pictures()), logits, atol=1e-6)
        assert [m.shape for m in maps] == [(3, 4, 17, 17)] * 2
        for found, true in zip(maps, expected, strict=True):
            assert torch.allclose(found, true, atol=1e-6)


MASK = torch.randn(7, 7, generator=torch.Generator().manual_seed(2))
CALLS = {
    "plain": {},
    "mask": {"attn_mask": MASK},
    "mask_of_truths": {"attn_mask": (MASK > 0) | torch.eye(7, dtype=torch.bool)},
    "mask_per_head": {"attn_mask": MASK.expand(2, 4, 7, 7) * torch.arange(4)[:, None, None]},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
    "groups": {"enable_gqa": True},
}


@pytest.mark.parametrize("call", CALLS)
def test_every_argument_means_what_it_means_to_torch(call):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 4, 7, 8, generator=generator) for _ in range(3))
    if call == "groups":
        key, value = key[:, :2], value[:, :2]
    expected = FUSED(query, key, value, **CALLS[call])
    with recorded(2, Layout("tokens", (2, 3), 1)) as maps:
        found = F.scaled_dot_product_attention(query, key, value, **CALLS[call])
    assert torch.allclose(found, expected, atol=1e-6)
    (weights,) = maps
    assert torch.allclose(weights.sum(dim=-1), torch.ones(2, 4, 7))
    assert call != "causal" or not weights.triu(1).any()


def test_dropout_acts_on_what_was_recorded():
    torch.manual_seed(0)
    query, value = torch.randn(1, 1, 400, 8), torch.ones(1, 1, 400, 1)
    with recorded(1, Layout("tokens", (20, 20))) as maps:
        kept = F.scaled_dot_product_attention(query, query, value, dropout_p=0.5)
    assert torch.allclose(maps[0].sum(dim=-1), torch.ones(400))
    assert 0.9 < float(kept.mean()) < 1.1
    assert float(kept.std()) > 0.05


def test_other_softmaxes_are_not_attention_over_the_tokens():
    shapes = [(2, 4, 6, 6), (2, 4, 1, 7), (6, 4, 7, 7), (2, 7), (3, 7, 7), (2, 1, 4, 7, 7)]
    for shape in shapes:  # another N, a pooling head, windows, classes, another batch, who knows
        with recorded(2, Layout("tokens", (2, 3), 1)) as maps:
            torch.randn(shape).softmax(dim=-1)
        assert maps == [], shape


def test_only_attention_after_the_tokens_were_last_pooled_counts():
    with recorded(2, Layout("tokens", (2, 3), 1)) as maps:
        for side in (10, 7, 7):
            nn.Softmax(dim=-1)(torch.randn(2, 4, side, side))
        assert len(maps) == 2
        torch.softmax(torch.randn(2, 4, 4, 4), -1)
        assert maps == []


def test_gradients_equal_finite_differences():
    network, images = seeded(vit).double(), pictures(1).double()
    own = model(network, layout=LAYOUT, capabilities=frozenset({"gradients"}))  # trials are in float32
    alone = Batch(images, torch.tensor([3]), (Item("a", "a", None, "c"),))
    _, gradients = ModelView(own).attention_gradients(alone)
    largest = max(float(g.abs().max()) for g in gradients)
    for block, head, row, column in [(0, 0, 0, 0), (0, 2, 5, 3), (1, 1, 16, 2), (1, 0, 0, 9), (2, 2, 0, 7), (2, 1, 4, 4)]:

        def nudged(by, at=(block, head, row, column)):
            entry = torch.zeros(3, 3, 17, 17, dtype=torch.float64)
            entry[at] = by
            return float(unfused_timm(network, images, lambda number, weights: weights + entry[number])[0][0, 3])

        expected = (nudged(1e-4) - nudged(-1e-4)) / 2e-4
        assert float(gradients[block][0, head, row, column]) == pytest.approx(expected, abs=1e-5 * largest)
    assert not gradients[2][0, :, 1:].any()  # no other row of the last block is read
    assert gradients[2][0, :, 0].all()


def test_the_network_is_left_as_it_was_found(network):
    def state():
        return {
            (name, key): (tuple(value) if isinstance(value, dict) else value)
            for name, module in network.named_modules()
            for key, value in vars(module).items()
            if not key.startswith(("_parameters", "_modules"))
        } | {name: tensor.tolist() for name, tensor in network.state_dict().items()}

    before, logits = state(), network(pictures())
    with recorded(3, LAYOUT) as maps:
        assert F.scaled_dot_product_attention is FUSED  # nobody else is disturbed meanwhile
        inside = network(pictures())
        assert state() == before
    assert torch.allclose(inside, logits, atol=1e-6)
    count = len(maps)
    assert torch.equal(network(pictures()), logits)
    assert len(maps) == count > 1
    assert state() == before


def test_nothing_is_recorded_after_an_error():
    network = seeded(vit)
    network.head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), recorded(3, LAYOUT) as maps:
        network(pictures())
    network.head._forward_hooks.clear()
    network(pictures())
    assert len(maps) == 3


ROWS = {
    "class_token": (vit, (4, 4), 1, (0,)),
    "registers": (lambda: vit(reg_tokens=4), (4, 4), 5, (0,)),
    "pooled": (lambda: vit(global_pool="avg"), (4, 4), 1, tuple(range(1, 17))),
    "no_class_token": (lambda: vit(global_pool="avg", class_token=False), (4, 4), 0, tuple(range(16))),
    "pooled_with_registers": (lambda: vit(global_pool="avg", reg_tokens=2), (4, 4), 3, tuple(range(3, 19))),
    "torch": (Torch, (4, 4), 1, (0,)),
    "convolutional": (lambda: timm.create_model("test_resnet", num_classes=5), (4, 4), 1, ()),
}


@pytest.mark.parametrize("case", ROWS)
def test_the_rows_that_the_logits_are_read_from(case):
    make, grid, extra, rows = ROWS[case]
    assert rows_read(seeded(make), torch.zeros(1, 3, 64, 64), Layout("tokens", grid, extra)) == rows


def test_capabilities_are_found_and_what_is_declared_is_respected():
    own = model(seeded(vit))
    assert own.capabilities == {"feature_maps", "gradients", "attention"}
    assert own.attention_rows == (0,)
    shy = model(seeded(vit), capabilities=frozenset({"feature_maps", "gradients"}))
    assert shy.capabilities == {"feature_maps", "gradients"}
    assert shy.attention_rows == ()
    assert dataclasses.replace(own, id="again").attention_rows == (0,)
    pooling = seeded(vit, global_pool="avg", class_token=False)
    assert dataclasses.replace(own, network=pooling, layout=None, feature_layer="").attention_rows == tuple(range(16))
    blind = model(seeded(nn.Sequential, nn.Flatten(), nn.Linear(3 * 256, 32), nn.ReLU(), nn.Linear(32, 5)), 16)
    assert blind.capabilities == {"gradients"}
    convolutional = model(seeded(timm.create_model, "test_resnet", num_classes=5))
    assert convolutional.capabilities == {"feature_maps", "gradients"}


def test_tokens_that_are_pooled_later_have_no_attention():
    pit = seeded(timm.create_model, "pit_ti_224", num_classes=5)
    assert len(ModelView(model(pit, 224)).attention(batch(1, 224))) == 4  # of its last stage
    early = model(pit, 224, feature_layer="transformers.1.blocks.5.norm1")
    assert early.capabilities == {"feature_maps", "gradients"}


@pytest.fixture
def counted():
    own, calls = model(seeded(vit)), []
    own.network.register_forward_hook(lambda *_: calls.append(1))
    return ModelView(own), calls


def test_attention_is_computed_once_for_all_methods(counted):
    view, calls = counted
    some = batch()
    first = view.attention(some)
    again, gradients = view.attention_gradients(some)
    view.attention_gradients(some.seeded("other"))
    assert len(calls) == 1
    assert all(map(torch.equal, first, again))
    assert not any(t.requires_grad for t in [*first, *gradients])
    other = view.attention_gradients(dataclasses.replace(some, targets=torch.tensor([1, 1, 1])))[1]
    assert len(calls) == 1
    assert not any(map(torch.equal, gradients, other))
    view.attention(some.with_images(some.images + 1))
    assert len(calls) == 2
    assert torch.equal(view.attention(some)[0], first[0])


def test_cost_is_that_of_the_method_alone(counted):
    view, _ = counted
    some = batch()
    view.feature_gradients(some)
    with view.account() as maps:
        view.attention(some)
        view.attention(some)
    with view.account() as gradients:
        view.attention_gradients(some)
        view.attention(some)
    with view.account() as both:
        view.attention(some)
        view.features(some)
    assert (maps.forwards, maps.backwards) == (1, 0)
    assert (gradients.forwards, gradients.backwards) == (1, 1)
    assert (both.forwards, both.backwards) == (2, 0)


def test_a_picture_has_the_same_attention_alone(network):
    own, some = model(network), batch()
    maps, gradients = ModelView(own).attention_gradients(some)
    assert own.attention_rows == (0,)
    assert all(gradient.any() for gradient in gradients)
    for i in range(3):
        alone = Batch(some.images[i : i + 1], some.targets[i : i + 1], some.items[i : i + 1])
        for together, single in zip((maps, gradients), ModelView(own).attention_gradients(alone), strict=True):
            for a, b in zip(together, single, strict=True):
                assert torch.allclose(a[i], b[0], atol=1e-6)


def test_bfloat16_gives_float32():
    exact, rough = (ModelView(model(seeded(vit), dtype=dtype)).attention_gradients(batch()) for dtype in ("float32", "bfloat16"))
    for maps, near in zip(exact, rough, strict=True):
        for a, b in zip(maps, near, strict=True):
            assert b.dtype == torch.float32
            assert not torch.equal(a, b)
            assert float((a - b).abs().max()) < 0.05 * float(a.abs().max())


def test_another_number_of_tokens_is_not_applicable():
    own = model(seeded(vit, dynamic_img_size=True))
    with pytest.raises(NotApplicable, match="model own has no attention over 17 tokens at inputs of 96 x 96"):
        ModelView(own).attention(batch(2, 96))
