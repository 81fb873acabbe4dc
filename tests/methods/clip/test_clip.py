"""Methods for CLIP beside plain implementations, from the weights, in double precision, of two small towers with random weights."""

import copy
import inspect

import pytest
import torch
from torch.nn import functional as F

from xbench.errors import NotApplicable, XbenchError
from xbench.network.model import ModelView
from xbench.plugins.registry import registry

METHODS = ["itsm", "itsm_reversed", "clip_surgery", "clip_surgery_single", "grad_eclip", "mmel(share=0.5)"]  # of four blocks


@pytest.fixture(params=["vision", "resnet"])
def model(request, clips):
    return clips.model(getattr(clips, request.param)())


def explain(spec, model, batch):
    view = ModelView(model)
    with view.account():
        return registry.method(spec)(view, batch)


# -- plain towers: one item, lists of tokens, loops over heads --------------------------------------------------------------------


class Plain:
    """A tower's weights in double precision, with its last steps in the plainest words."""

    def __init__(self, model, item):
        self.network, self.tower = copy.deepcopy(model.network).double(), model.network.tower
        self.is_pool = not self.tower.blocks[0].residual
        weights = dict(self.network.visual.state_dict())
        with torch.no_grad():
            seen = self.network.tower.seen(item[None].double())
        self.streams, self.grid = [stream[0] for stream in seen.streams], seen.grid
        self.own = [self._named(weights, i) for i in range(len(self.tower.blocks))]
        self.weights = weights

    def _named(self, weights, number):
        prefix = "attnpool." if self.is_pool else f"transformer.resblocks.{number}."
        return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}

    def norm(self, token, weights, name):
        centred = token - token.mean()
        return centred / ((centred**2).mean() + 1e-5) ** 0.5 * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def parts(self, number, stream):
        """q, k, v of every token, three lists."""
        own = self.own[number]
        if self.is_pool:
            return [[own[f"{one}_proj.weight"] @ token + own[f"{one}_proj.bias"] for token in stream] for one in "qkv"]
        width = stream.shape[-1]
        rows = [own["attn.in_proj_weight"] @ self.norm(token, own, "ln_1") + own["attn.in_proj_bias"] for token in stream]
        return [[row[i * width : (i + 1) * width] for row in rows] for i in range(3)]

    def out(self, number, token):
        own = self.own[number]
        name = "c_proj" if self.is_pool else "attn.out_proj"
        return own[f"{name}.weight"] @ token + own[f"{name}.bias"]

    def mlp(self, number, token):
        own = self.own[number]
        hidden = F.gelu(own["mlp.c_fc.weight"] @ self.norm(token, own, "ln_2") + own["mlp.c_fc.bias"])
        return own["mlp.c_proj.weight"] @ hidden + own["mlp.c_proj.bias"]

    def joint(self, token):
        """A last token (of a pool: a value) in the joint space."""
        if self.is_pool:
            return self.out(0, token)
        return self.norm(token, self.weights, "ln_post") @ self.weights["proj"]

    def whole(self, item):
        with torch.no_grad():
            return self.network.embed(item[None].double())[0]


def unit(vector):
    return vector / (vector**2).sum() ** 0.5


def attended(queries, keys, values, heads, scale):
    """Attention in loops: of every token the mixed values, heads side by side."""
    size, found = len(values[0]) // heads, []
    for q in queries:
        mixed = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = torch.stack([scale * (q[part] * k[part]).sum() for k in keys])
            weights = scores.exp() / scores.exp().sum()
            mixed.append(sum(w * v[part] for w, v in zip(weights, values, strict=True)))
        found.append(torch.cat(mixed))
    return found


def plain_itsm(model, item, text):
    plain = Plain(model, item)
    last = plain.parts(0, plain.streams[-1])[2] if plain.is_pool else plain.streams[-1]
    return torch.stack([(unit(plain.joint(token)) * text).sum() for token in last[1:]]).reshape(plain.grid)


def surgical_places(model, item, blocks):
    plain = Plain(model, item)
    heads = model.network.tower.blocks[0].heads
    if plain.is_pool:
        values = plain.parts(0, plain.streams[-1])[2]
        size = len(values[0]) // heads
        directions = [torch.cat([unit(part) for part in value.split(size)]) for value in values]
        mixed = attended(directions, directions, values, heads, 8 * size**-0.5)
        return plain, [unit(plain.joint(token)) for token in mixed[1:]]
    first = len(plain.own) - blocks
    beside = list(plain.streams[first])
    for number in range(first, len(plain.own)):
        values = plain.parts(number, plain.streams[number])[2]
        mixed = attended(values, values, values, heads, (len(values[0]) // heads) ** -0.5)
        beside = [token + plain.out(number, more) for token, more in zip(beside, mixed, strict=True)]
    return plain, [unit(plain.joint(token)) for token in beside[1:]]


def plain_surgery(model, item, target, blocks):
    """Feature surgery as it is defined: products feature by feature, their mean over the texts taken away, summed."""
    plain, places = surgical_places(model, item, blocks)
    texts, whole = model.network.texts.double(), plain.whole(item)
    scores = torch.stack([2 * (whole * text).sum() for text in texts])
    p = scores.exp() / scores.exp().sum()
    w = p / p.mean()
    found = []
    for place in places:
        products = torch.stack([place * text * weight for text, weight in zip(texts, w, strict=True)])
        found.append((products[target] - products.mean(dim=0)).sum())
    return torch.stack(found).reshape(plain.grid)


def plain_single(model, item, target, blocks, empty):
    plain, places = surgical_places(model, item, blocks)
    text = model.network.texts[target].double() - unit(empty.double())
    return torch.stack([(place * text).sum() for place in places]).reshape(plain.grid)


def plain_grad_eclip(model, item, text, count):
    plain = Plain(model, item)
    first, total = len(plain.own) - count, 0
    stream, kept = [token.clone() for token in plain.streams[first]], []
    for number in range(first, len(plain.own)):
        q, k, v = plain.parts(number, torch.stack(stream))
        mixed = [token.clone().requires_grad_() for token in attended(q, k, v, 1, len(q[0]) ** -0.5)]
        if kept:  # the chain goes on through what is differentiated
            mixed = attended(q, k, v, 1, len(q[0]) ** -0.5)
        kept.append((number, q, k, v, mixed))
        out = [plain.out(number, token) for token in mixed]
        if plain.is_pool:
            stream = out
            break
        stream = [token + more for token, more in zip(stream, out, strict=True)]
        stream = [token + plain.mlp(number, token) for token in stream]
    cosine = (unit(stream[0] if plain.is_pool else plain.joint(stream[0])) * text).sum()
    for number, q, k, v, mixed in kept:
        (g,) = torch.autograd.grad(cosine, mixed[0], retain_graph=True)
        near = torch.stack([(unit(plain.out(number, q[0])) * unit(plain.out(number, key))).sum() for key in k[1:]])
        near = (near - near.min()) / (near.max() - near.min())
        total = total + torch.stack([(g * value * n).sum() for value, n in zip(v[1:], near, strict=True)]).clamp(min=0).detach()
    return total.reshape(plain.grid)


# -- beside them -------------------------------------------------------------------------------------------------------------------


def blocks(model, wanted=2):
    return min(wanted, len(model.network.tower.blocks))


def spread(map_):
    return (map_ - map_.min()) / (map_.max() - map_.min())


def reference(name, model, batch, clips):
    found = []
    for item, target in zip(batch.images, batch.targets.tolist(), strict=True):
        text = model.network.texts[target].double()
        one = {
            "itsm": lambda: spread(plain_itsm(model, item, text)),
            "itsm_reversed": lambda: 1 - spread(plain_itsm(model, item, text)),
            "clip_surgery": lambda: spread(plain_surgery(model, item, target, 2)),
            "clip_surgery_single": lambda: spread(plain_single(model, item, target, 2, clips.embedding(""))),
            "grad_eclip": lambda: plain_grad_eclip(model, item, text, 1),
            "mmel": lambda: plain_grad_eclip(model, item, text, blocks(model)),
        }[name]
        found.append(one().detach().float())
    return torch.stack(found)


def spec_for(name):
    return "mmel(share=0.5)" if name == "mmel" else name


NAMES = ["itsm", "itsm_reversed", "clip_surgery", "clip_surgery_single", "grad_eclip", "mmel"]


@pytest.mark.parametrize("name", NAMES)
def test_each_method_agrees_with_its_plain_form(name, model, clips):
    batch = clips.batch(model)
    found = explain(spec_for(name), model, batch)
    wanted = reference(name, model, batch, clips)
    assert found.shape == wanted.shape
    assert wanted.std() > 1e-4
    # The pool's places are nearly alike after surgery, and what sets them apart is spread from 0 to 1 in single precision.
    tolerance = 1e-3 if name.startswith("clip_surgery") and wanted.shape[1] == 2 else 1e-5
    assert torch.allclose(found, wanted, rtol=1e-4, atol=tolerance * float(wanted.abs().max().clamp(min=1)))


MUTANTS = {
    "no values, the usual attention": ("clip_surgery", "block.parts(stream)[2]", "block.parts(stream)[0]"),
    "no scale by the size of heads": ("clip_surgery", "* values.shape[-1] ** -0.5", ""),
    "redundancy left in": ("clip_surgery", " - weighted.mean(dim=-1)", ""),
    "weights that do not matter": ("clip_surgery", "* weights[:, None, None]", ""),
    "the similarity not doubled": ("clip_surgery", "(2 * whole", "(whole"),
    "from one block later": ("clip_surgery", "model, share)\n    if", "model, share) + 1\n    if"),
    "the empty sentence left in": ("clip_surgery_single", 'model.texts(batch) - model.sentences([""])', "model.texts(batch)"),
    "several heads": ("grad_eclip", "* q.shape[-1] ** -0.5", "* (q.shape[-1] / block.heads) ** -0.5"),
    "no loosened keys": ("grad_eclip", "* _nearness(block.out(q), block.out(k))[..., None]", ""),
    "keys before the projection": ("grad_eclip", "_nearness(block.out(q), block.out(k))", "_nearness(q, k)"),
    "no ReLU": ("grad_eclip", ".relu()", ""),
    "negative sign": ("grad_eclip", ".relu()", ".neg().relu()"),
    "lengths left in": ("itsm", "F.normalize(tokens, dim=-1)", "tokens"),
    "not reversed": ("itsm_reversed", "return 1 - itsm", "return itsm"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_plain_forms_catch_mutants(mutant, clips):
    name, old, new = MUTANTS[mutant]
    model = clips.model(clips.vision())
    batch = clips.batch(model)
    function = registry.get("method", name).make
    source = inspect.getsource(inspect.getmodule(function))
    assert old in source
    namespace = {"__name__": "xbench.methods.clip.mutant", "__package__": "xbench.methods.clip"}
    exec(compile(_undecorated(source).replace(old, new), "mutant.py", "exec"), namespace)
    found = namespace[name](ModelView(model), batch)
    wanted = reference(name, model, batch, clips)
    assert not torch.allclose(found, wanted, rtol=1e-2, atol=1e-3 * float(wanted.abs().max()))


def _undecorated(source):
    """Without registration: the mutant is nobody's plug-in."""
    return "\n".join(line for line in source.splitlines() if not line.startswith("@method"))


# -- what they owe -----------------------------------------------------------------------------------------------------------------


def specs(model):
    return [spec_for(name) for name in NAMES]


def test_logits_are_bit_equal_before_and_after(model, clips):
    batch = clips.batch(model)
    with torch.no_grad():
        before, state = model(batch.images), copy.deepcopy(model.network.state_dict())
        for spec in specs(model):
            explain(spec, model, batch)
        assert torch.equal(model(batch.images), before)
    assert all(torch.equal(state[k], v) for k, v in model.network.state_dict().items())
    assert all(v.grad is None for v in model.network.parameters())


@pytest.mark.parametrize("spec", METHODS)
def test_a_map_depends_on_its_item_alone(spec, clips):
    model = clips.model(clips.vision())
    batch = clips.batch(model)
    whole = explain(spec, model, batch)
    order = torch.tensor([2, 0, 1])
    turned = explain(spec, model, clips.batch(model, count=3).with_images(batch.images[order]))
    alone = explain(spec, model, type(batch)(batch.images[order], batch.targets[order], batch.items, seed="0"))
    assert torch.allclose(alone, whole[order], atol=1e-5)
    assert not torch.allclose(turned, whole[order], atol=1e-3)  # for other texts


def test_a_text_may_take_the_place_of_all_targets(model, clips):
    batch, text = clips.batch(model), F.normalize(clips.embedding("a bird"), dim=0).double()
    wanted = torch.stack([spread(plain_itsm(model, item, text)) for item in batch.images]).float()
    assert torch.allclose(explain('itsm(text="a bird")', model, batch), wanted, atol=1e-4)
    assert torch.allclose(explain('itsm_reversed(text="a bird")', model, batch), 1 - wanted, atol=1e-4)


def test_one_class_alone_is_operated_on_in_the_single_form(clips):
    model = clips.model(clips.vision(), names=("ant",))
    batch = clips.batch(model, targets=(0, 0))
    assert torch.equal(explain("clip_surgery", model, batch), explain("clip_surgery_single", model, batch))


def test_surgery_depends_on_the_other_classes_and_its_single_form_does_not(clips):
    clip = clips.vision()
    few, many = clips.model(clip), clips.model(clip, names=("ant", "bee", "cat", "dog"))
    batch = clips.batch(few)
    for name, alike in (("clip_surgery", False), ("clip_surgery_single", True), ("itsm", True)):
        assert torch.allclose(explain(name, few, batch), explain(name, many, batch), atol=1e-6) is alike


def test_costs_are_those_of_the_shared_pass_and_of_the_blocks_computed_anew(clips):
    model = clips.model(clips.vision())
    batch, costs = clips.batch(model), {}
    for spec in ("itsm", "clip_surgery", "grad_eclip", "mmel(share=0.5)"):
        view = ModelView(model)
        with view.account() as cost:
            registry.method(spec)(view, batch)
        costs[spec] = cost.forwards, cost.backwards
    assert costs == {
        "itsm": (1, 0),
        "clip_surgery": (1, 0),
        "grad_eclip": (1.25, 0.25),
        "mmel(share=0.5)": (1.5, 0.5),
    }


def test_what_does_not_apply_says_why(clips):
    pooled = clips.model(clips.vision(pool_type="avg"))
    with pytest.raises(NotApplicable, match="reads the mean of its places"):
        explain("grad_eclip", pooled, clips.batch(pooled))
    model = clips.model(clips.vision())
    for spec in ("clip_surgery(share=0)", "clip_surgery_single(share=1.5)", "mmel(share=-1)"):
        with pytest.raises(XbenchError, match="share must be above 0 and at most 1, not"):
            explain(spec, model, clips.batch(model))
    assert explain("clip_surgery", clips.model(clips.resnet()), clips.batch(clips.model(clips.resnet()))).shape == (3, 2, 2)


@pytest.mark.parametrize("size", [32, 48])
def test_other_sizes_of_inputs_give_finer_maps(size, clips):
    model = clips.model(clips.vision(), size=size)
    for spec in METHODS:
        found = explain(spec, model, clips.batch(model))
        assert found.shape == (3, size // 8, size // 8)
        assert found.isfinite().all()
