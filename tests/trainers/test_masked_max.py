"""A projection trained by masked max pooling: each rule against plain loops, and whole trainings of one on a tiny CLIP."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional
from xbench.methods.trained import eclip
from xbench.trainers import masked_max

from xbench.data.classes import ClassList
from xbench.data.samples import generator
from xbench.errors import XbenchError
from xbench.maps import saliency
from xbench.network import towers, zero_shot
from xbench.network.model import Model, Preprocessing, weights_digest
from xbench.plugins.registry import registry
from xbench.progress import Silent
from xbench.train import cards, examples, networks, recipes, session, weights
from xbench.train.contract import Step

pytest.importorskip("lightning")
pytest.importorskip("open_clip")

SHAPES = Path(__file__).parents[1] / "xbench" / "tiny_shapes.py"
RECIPE = """
name = "tiny_eclip"
task = "masked_max"
template = "a picture of a {}"

[network]
clip = "CLIP"
encoder = "ENCODER"
share = 0.5

[data]
train = "tiny_shapes(n=64)"
validation = "tiny_shapes(n=32, start=1000)"
test = "tiny_shapes(n=64, start=2000)"
workers = 0

[training]
epochs = 2
batch_size = 16
lr = 1e-2
weight_decay = 0
"""
CLIP = recipes.ClipNetwork(
    open_clip="CLIP",
    embed_dim=8,
    vision={"patch_size": 4, "width": 16, "layers": 2, "head_width": 8},
    text={"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
)
INPUT = Preprocessing((16, 16), 1.0, (127.5,) * 3, (127.5,) * 3)
CLASSES = ClassList(("bar", "cross", "frame", "dot"))


def tiny_clip(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    clip = networks.build(CLIP, 4, 16)
    encode = networks.text_encoder(clip, networks.tokenizer(CLIP))
    prompts = zero_shot.fill(["a {}"], CLASSES.names)
    return zero_shot.classifier("tiny_clip", clip, encode, CLASSES, prompts, INPUT)


def tiny_encoder(seed: int = 1, size: int = 24) -> Model:
    """A vision transformer with another grid, 6 x 6, and other inputs."""
    torch.manual_seed(seed)
    table = recipes.TimmNetwork(timm="vit_tiny_patch16_224", img_size=size, patch_size=4, embed_dim=16, depth=2, num_heads=2)
    network = networks.build(table, 0, size)
    return Model(
        "tiny_encoder", network, Preprocessing((size, size), 0.9, (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)), ClassList(())
    )


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    """Models by the names of the recipe."""
    registry.load(str(SHAPES))
    found = {"CLIP": tiny_clip(), "ENCODER": tiny_encoder()}
    find = type(registry).model
    monkeypatch.setattr(type(registry), "model", lambda self, spec: (lambda: found[spec]) if spec in found else find(self, spec))
    return found


def written(folder: Path, text: str) -> recipes.Recipe:
    path = folder / "mine.toml"
    path.write_text(text)
    return recipes.load(path)


def frozen(encoder: str = "ENCODER", share: float = 0.5) -> masked_max.Frozen:
    return masked_max.opened(masked_max.Projection(clip="CLIP", encoder=encoder, share=share))


# -- the rules -------------------------------------------------------------------------------------------------------------


def smallest_by_hand(shares: np.ndarray, share: float) -> np.ndarray:
    flat = [float(v) for v in shares.reshape(-1)]
    wanted, kept, mass = share * sum(sorted(flat, reverse=True)), set(), 0.0
    while mass < wanted:
        best = max((i for i in range(len(flat)) if i not in kept), key=lambda i: (flat[i], -i))
        kept.add(best)
        mass += flat[best]
    return np.array([i in kept for i in range(len(flat))]).reshape(shares.shape)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7, 0.95])
def test_the_mask_is_the_smallest_set_that_holds_the_share(share):
    draw = generator("mask", share)
    random = torch.rand(6, 4, 5, generator=draw)
    tied = torch.randint(1, 4, (6, 4, 5), generator=draw).float() / 8  # sums are exact
    peaked = torch.rand(3, 4, 5, generator=draw).pow(20)
    sparse = torch.zeros(1, 4, 5)
    sparse[0, 2, 3] = 1
    constant = torch.full((1, 4, 5), 0.25)
    for shares in (random, tied, peaked, sparse, constant):
        got = masked_max.smallest(shares, share)
        for mine, one in zip(got, shares, strict=True):
            assert np.array_equal(mine.numpy(), smallest_by_hand(one.double().numpy(), share))
    assert masked_max.smallest(constant, 0.5)[0].flatten().tolist() == [True] * 10 + [False] * 10


def test_the_maximum_is_taken_where_the_mask_is_and_learns():
    draw = generator("max")
    tokens, mask = torch.randn(3, 2, 4, 5, generator=draw, requires_grad=True), torch.rand(3, 2, 4, generator=draw) < 0.5
    mask[:, 0, 0] = True
    got = masked_max.masked_max(tokens, mask)
    known = tokens.tolist()
    for b in range(3):
        for d in range(5):
            assert got[b, d].item() == max(known[b][y][x][d] for y in range(2) for x in range(4) if mask[b, y, x])
    got.sum().backward()
    assert (tokens.grad[~mask] == 0).all()
    assert tokens.grad.sum() == 15
    assert not torch.equal(got, masked_max.masked_max(tokens, torch.ones_like(mask)))


@pytest.mark.parametrize("masked", [True, False])
def test_the_loss_against_plain_loops(tmp_path, masked):
    """From the tokens on: maximum, length, and the symmetric contrastive loss with equal captions as positives."""
    text = RECIPE if masked else RECIPE.replace('encoder = "ENCODER"\nshare = 0.5', "share = 1.0")
    task, splits = begun(written(tmp_path, text))
    layer, _ = task.build(4)
    pictures = task.preprocessing.normalise(splits.train.pictures[:6])
    step = Step(pictures, torch.arange(6), torch.empty(6, 0), 0, 0.0, generator("step"))
    got = task.loss(layer, step)
    model = task.frozen.clip
    tower = towers.of(model.network.visual)
    tokens = (tower.places(pictures) @ layer.weight.T).detach().double().numpy()
    mask = task.frozen.mask(pictures, (4, 4)).numpy()
    assert mask.all() != masked
    sentences = [task.spoken.sentences[row] for row in task.spoken.drawn(torch.arange(6), 0).tolist()]
    texts = model.encode_text(sentences).double().numpy()
    images = np.zeros((6, 8))
    for b in range(6):
        for d in range(8):
            images[b, d] = max(tokens[b, y, x, d] for y in range(4) for x in range(4) if mask[b, y, x])
        images[b] /= math.sqrt(sum(v * v for v in images[b]))
    scale = math.exp(float(model.network.logit_scale))
    logits = np.array([[scale * sum(images[i, d] * texts[j, d] for d in range(8)) for j in range(6)] for i in range(6)])
    total = 0.0
    for way in (logits, logits.T):
        for i in range(6):
            positives = [j for j in range(6) if sentences[j] == sentences[i]]
            norm = math.log(sum(math.exp(v) for v in way[i]))
            total -= sum(way[i, j] - norm for j in positives) / len(positives) / 6
    assert got.item() == pytest.approx(total / 2, rel=1e-4)
    got.backward()
    assert layer.weight.grad.abs().max() > 1e-4


def begun(recipe):
    """A trainer that knows its pictures, and these."""
    task = registry.trainer("masked_max")(recipe)
    splits = examples.open_splits(recipe.data, task.preprocessing, registry)
    session._gather(recipe, splits, task, Silent())
    task.begin(splits)
    return task, splits


def test_the_mask_is_the_encoders_attention_of_what_the_clip_sees():
    parts, encoder = frozen(), tiny_encoder()
    pictures = torch.randint(0, 256, (3, 3, 16, 16), generator=generator("pictures"))
    got = parts.mask(INPUT.normalise(pictures), (4, 4))
    resized = functional.interpolate(pictures.float(), (24, 24), mode="bilinear", align_corners=False)
    inputs = (resized - torch.tensor([120.0, 110, 100]).reshape(3, 1, 1)) / torch.tensor([60.0, 50, 40]).reshape(3, 1, 1)
    # The definition of the last block's attention, by hand.
    network, seen = encoder.network, []
    handle = network.blocks[-1].attn.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(inputs)
    handle.remove()
    queries, keys, _ = network.blocks[-1].attn.qkv(seen[0]).reshape(3, 37, 3, 2, 8).permute(2, 0, 3, 1, 4)
    attention = (queries @ keys.transpose(-1, -2) / math.sqrt(8)).softmax(dim=-1)
    by_hand = attention[:, :, 0, 1:].mean(dim=1).reshape(3, 6, 6)
    assert torch.allclose(masked_max.attention_map(encoder, inputs), by_hand, atol=1e-5)
    assert torch.equal(got, masked_max.smallest(saliency.resize(by_hand, (4, 4)), 0.5))


def test_it_starts_from_clips_own_projection_for_both_kinds_of_towers():
    for visual, side in ((tiny_clip().network.visual, 16), (resnet(), 64)):
        tower = towers.of(visual)
        layer, places = masked_max.original(tower), tower.places(torch.randn(2, 3, side, side))
        assert torch.allclose(layer(places), tower.project(places), atol=1e-5)
        assert layer.weight.requires_grad
        assert layer.weight.data_ptr() != tower.projection[0].data_ptr()


def resnet() -> nn.Module:
    from open_clip.modified_resnet import ModifiedResNet

    torch.manual_seed(0)
    return ModifiedResNet((1, 1, 1, 1), 8, 2, image_size=64, width=8).eval()


# -- whole trainings -------------------------------------------------------------------------------------------------------


def test_it_trains_the_projection_and_nothing_else(tmp_path, tiny_models):
    before = {name: {k: v.clone() for k, v in model.network.state_dict().items()} for name, model in tiny_models.items()}
    done = session.train(written(tmp_path, RECIPE), out=tmp_path / "out", device="cpu", threads=1)
    for name, model in tiny_models.items():
        assert all(torch.equal(v, before[name][k]) for k, v in model.network.state_dict().items())
        assert not any(parameter.requires_grad for parameter in model.network.parameters())
    kept = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    assert set(kept) == {"weight"}
    assert not torch.allclose(kept["weight"].float(), tiny_models["CLIP"].network.visual.proj.T, atol=1e-3)
    card = done.card
    assert card.parts["clip"] == "CLIP"
    assert card.parts["tower"] == weights_digest(tiny_models["CLIP"].network.visual)
    assert (card.parts["encoder"], card.parts["encoder_digest"]) == ("ENCODER", tiny_models["ENCODER"].digest)
    assert "reconstruction of ECLIP" in card.remarks
    assert "the share 0.5 of" in card.sentence()
    assert card.template == "a picture of a {}"
    assert set(card.held_out["test"]) == {"accuracy"}
    assert recipes.of(card.recipe).network == masked_max.Projection(clip="CLIP", encoder="ENCODER", share=0.5)
    assert eclip.fits(card, tiny_clip())
    assert not eclip.fits(card, tiny_clip(seed=5))
    found = weights.tensors(*read(tmp_path / "out"))
    assert list(found) == ["weight"]
    assert torch.equal(found["weight"], kept["weight"].float())
    assert done.use == f"the method eclip(projection={tmp_path / 'out'})"


def read(folder: Path) -> tuple[cards.Card, Path]:
    card, file = cards.find(folder)
    return cards.read(card), file


def test_without_the_mask_something_else_is_learned(tmp_path):
    open_text = RECIPE.replace('encoder = "ENCODER"\nshare = 0.5', "share = 1.0")
    found = []
    for name, text in (("masked", RECIPE), ("open", open_text), ("again", RECIPE)):
        done = session.train(written(tmp_path, text), out=tmp_path / name, device="cpu", threads=1)
        found.append(weights.tensors(done.card, tmp_path / name / "model.safetensors")["weight"])
    masked, plain, again = found
    assert torch.equal(masked, again)
    assert (masked - plain).abs().max() > 1e-3
    assert "no mask" in read(tmp_path / "open")[0].remarks


def test_what_was_learned_says_more_of_the_captions_than_what_it_started_from(tmp_path):
    longer = RECIPE.replace("n=64)", "n=512)").replace("epochs = 2", "epochs = 10")
    task, _ = begun(written(tmp_path, longer))
    start = task.after_epoch(task.build(4)[0], torch.device("cpu"))
    done = session.train(written(tmp_path, longer), out=tmp_path / "out", device="cpu", threads=1)
    history = json.loads((tmp_path / "out" / "history.json").read_text())
    assert list(history[0]["figures"]) == ["accuracy", "retrieval"]
    assert history[-1]["loss"] < history[0]["loss"] - 0.1
    assert history[-1]["figures"]["retrieval"] > start["retrieval"]
    assert done.card.selected_epoch >= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('clip = "CLIP"', 'clip = "ENCODER"'), r"ENCODER is no CLIP of open_clip's own class; name one in \[network\]"),
        (('encoder = "ENCODER"', 'encoder = "PLAIN"'), r"PLAIN has no attention to make a mask of; name a vision transformer"),
        (('encoder = "ENCODER"', ""), r"line 6: the mask needs an encoder, such as 'scenes/simclr', and share below 1"),
        (("share = 0.5", "share = 1.0"), r"the mask needs an encoder"),
        (("share = 0.5", "share = 1.5"), r"line 9: share: .* not 1.5"),
        (("tiny_shapes(n=64)", "tiny_pictures"), r"classes that the training data lack|has no caption"),
        (("[data]", "[preprocessing]\nsize = 32\n\n[data]"), r"reads pictures as its CLIP does; leave \[preprocessing\] out"),
        (('task = "masked_max"', 'task = "classify"'), r"the task classify needs a classifier; write \[network\] with timm"),
    ],
)
def test_wrong_recipes(tmp_path, tiny_models, change, message):
    tiny_models["PLAIN"] = Model("plain", nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(784, 4)), INPUT, CLASSES)
    assert change[0] in RECIPE
    with pytest.raises(XbenchError, match=message):
        session.train(written(tmp_path, RECIPE.replace(*change)), out=tmp_path / "out", device="cpu", threads=1)


def test_pictures_without_captions_are_refused(tmp_path, monkeypatch):
    inner = examples.Examples.read
    monkeypatch.setattr(examples.Examples, "read", lambda self, index: (inner(self, index)[0], ()))
    with pytest.raises(XbenchError, match=r"tiny_shapes\(n=64\) has no caption, and there is nothing to contrast it with"):
        session.train(written(tmp_path, RECIPE), out=tmp_path / "out", device="cpu", threads=1)


def test_a_projection_is_no_model(tmp_path):
    session.train(written(tmp_path, RECIPE), out=tmp_path / "out", device="cpu", threads=1)
    card, file = read(tmp_path / "out")
    with pytest.raises(XbenchError, match=r"is a projection for CLIP; give it to the method eclip\(projection=.*\)"):
        registry.trainer("masked_max").open(card, file)
