"""CLIP as a classifier, on a small stand-in for CLIP with a text tower that is a table. Random weights: no number is a result."""

import copy
import hashlib

import pytest
import torch
from torch import nn

from xbench.data.classes import ClassList
from xbench.data.samples import Batch, Item
from xbench.errors import XbenchError
from xbench.network import zero_shot
from xbench.network.model import ModelView, Preprocessing
from xbench.network.zero_shot import ZeroShot, classifier, fill, sentence_embeddings, text_embeddings

WIDTH, SIDE = 6, 16
HOW = Preprocessing((SIDE, SIDE), 1.0, (127.0,) * 3, (64.0,) * 3)
CLASSES = ClassList(("cat", "dog", "elk"))
PROMPTS = (("a cat",), ("a dog", "the dog", "one dog"), ("an elk", "the elk"))


def embedding(sentence):
    seed = int(hashlib.sha256(sentence.encode()).hexdigest()[:8], 16)
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)) * (1 + seed % 5)  # lengths differ


def encode(sentences):
    return torch.stack([embedding(s) for s in sentences])


class Tower(nn.Module):
    def __init__(self, tokens=False):
        super().__init__()
        self.tokens = tokens
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.GELU())
        self.proj = nn.Linear(8, WIDTH)

    def forward(self, x):
        features = self.body(x)
        pooled = self.proj(features.mean(dim=(2, 3)))
        return (pooled, features) if self.tokens else pooled


class Clip(nn.Module):
    def __init__(self, bias=None, tokens=False, scale=2.5):
        super().__init__()
        torch.manual_seed(0)
        self.visual = Tower(tokens)
        self.text = nn.Linear(1000, WIDTH)
        self.logit_scale = nn.Parameter(torch.as_tensor(scale))
        self.logit_bias = None if bias is None else nn.Parameter(torch.as_tensor(bias))


@pytest.fixture
def pictures():
    return torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def reference(clip, pictures, prompts):
    """The logits by loops and lists, in double precision."""

    def unit(values):
        length = sum(v * v for v in values) ** 0.5
        return [v / length for v in values]

    texts = []
    for sentences in prompts:
        units = [unit(embedding(s).double().tolist()) for s in sentences]
        texts.append(unit([sum(column) / len(units) for column in zip(*units, strict=True)]))
    scale = 2.718281828459045 ** float(clip.logit_scale)
    bias = 0.0 if clip.logit_bias is None else float(clip.logit_bias)
    found = clip.visual(pictures)
    features = found[0] if isinstance(found, tuple) else found
    rows = [unit(row) for row in features.double().tolist()]
    return torch.tensor([[scale * sum(a * b for a, b in zip(row, text, strict=True)) + bias for text in texts] for row in rows])


@pytest.mark.parametrize("clip", [Clip(), Clip(bias=-3.0), Clip(tokens=True), Clip(scale=[1.5], bias=[0.5])], ids=range(4))
def test_logits_are_scaled_cosines(pictures, clip):
    with torch.no_grad():
        model = classifier("m", clip, encode, CLASSES, PROMPTS, HOW)
        logits = model(pictures)
        assert logits.shape == (4, 3)
        assert logits.dtype == torch.float32
        assert torch.allclose(logits, reference(clip, pictures, PROMPTS), atol=1e-4)


def test_prompts_of_a_class_are_averaged_as_directions():
    """The long embedding of one sentence does not outweigh the others."""
    table = {"x": [3.0, 0.0], "y": [0.0, 100.0], "z": [0.0, -2.0]}
    texts = text_embeddings(lambda s: torch.tensor([table[one] for one in s]), [["x", "y"], ["z"]])
    assert torch.allclose(texts, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, -1.0]]))


def test_batches_of_sentences_change_nothing(monkeypatch):
    sizes = []

    def counted(sentences):
        sizes.append(len(sentences))
        return encode(sentences)

    whole = text_embeddings(encode, PROMPTS)
    monkeypatch.setattr(zero_shot, "SENTENCES", 4)
    assert torch.equal(text_embeddings(counted, PROMPTS), whole)
    assert sizes == [4, 2]


def test_sentences_have_length_1_and_no_graph():
    weight = torch.randn(WIDTH, WIDTH, requires_grad=True)
    found = sentence_embeddings(lambda s: (encode(s) @ weight).half(), ["a", "b"])
    assert found.dtype == torch.float32
    assert torch.allclose(found.norm(dim=-1), torch.ones(2))
    assert not found.requires_grad


def test_templates_are_filled_in_their_order():
    assert fill(["a {}.", "{} and {}"], ["cat", "{}"]) == (("a cat.", "cat and cat"), ("a {}.", "{} and {}"))


def test_what_is_no_prompt():
    with pytest.raises(XbenchError, match=r"template 'a photo of a cat\.' has no \{\} for the class's name; write it like"):
        fill(["a {}.", "a photo of a cat."], ["cat"])
    with pytest.raises(XbenchError, match="there is no template; write at least one"):
        fill([], ["cat"])
    with pytest.raises(XbenchError, match="there are no sentences to embed"):
        sentence_embeddings(encode, [])
    for prompts in ([], [["a cat"], []]):
        with pytest.raises(XbenchError, match="there must be classes, each with at least one prompt"):
            text_embeddings(encode, prompts)
    with pytest.raises(XbenchError, match="model m has 3 classes and prompts for 2; give each class its own"):
        classifier("m", Clip(), encode, CLASSES, PROMPTS[:2], HOW)
    with pytest.raises(XbenchError, match="model m: there must be classes"):
        classifier("m", Clip(), encode, ClassList(()), (), HOW)


def test_the_model_says_what_its_classes_are_called():
    model = classifier("m", Clip(), encode, CLASSES, PROMPTS, HOW, card="A clip.")
    assert {"text", "gradients", "feature_maps"} <= model.capabilities
    assert model.prompts == PROMPTS
    assert torch.equal(model.encode_text(["a cat"]), model.network.texts[:1])
    assert model.card == "A clip. Zero-shot: 6 prompts for 3 classes (a cat)."
    twins = classifier("m", Clip(), encode, CLASSES, fill(["{}", "a {}", "the {}", "one {}"], ["x", "y", "x"]), HOW).card
    assert twins == (
        "Zero-shot: 12 prompts for 3 classes (x | a x | the x | ...). Classes with the prompts of another, whose logits tie: 1."
    )


def test_the_digest_covers_prompts_scale_and_bias():
    def digest(clip, prompts):
        return classifier("m", clip, encode, CLASSES, prompts, HOW).digest

    base = digest(Clip(), PROMPTS)
    assert digest(Clip(), PROMPTS) == base
    others = [
        digest(Clip(), (*PROMPTS[:2], ("an elk", "the elks"))),
        digest(Clip(), (*PROMPTS[:2], ("the elk", "an elk"))),
        digest(Clip(scale=2.6), PROMPTS),
        digest(Clip(bias=0.0), PROMPTS),
    ]
    assert len({base, *others}) == 5


def test_the_text_tower_stays_outside():
    clip = Clip()
    model = classifier("m", clip, encode, CLASSES, PROMPTS, HOW)
    assert not any("text." in name or tensor.numel() > 1000 for name, tensor in model.network.state_dict().items())
    before = clip.visual.proj.weight.clone()
    with torch.no_grad():
        copy.deepcopy(model.network).visual.proj.weight.zero_()
    assert torch.equal(clip.visual.proj.weight, before)


def test_one_picture_equals_the_batch_and_gradients_reach_the_map(pictures):
    model = classifier("m", Clip(), encode, CLASSES, PROMPTS, HOW)
    assert model.feature_layer == "visual.body"
    targets = torch.tensor([0, 1, 2, 0])
    items = tuple(Item(str(i), str(i), int(t), str(i)) for i, t in enumerate(targets))
    view = ModelView(model)
    activations, gradients = view.feature_gradients(Batch(pictures, targets, items))
    assert activations.shape == gradients.shape == (4, 8, 4, 4)
    assert (gradients.flatten(1).abs().amax(dim=1) > 0).all()
    for i in range(4):
        alone = ModelView(model).feature_gradients(Batch(pictures[i : i + 1], targets[i : i + 1], items[i : i + 1]))
        assert torch.allclose(alone[0], activations[i : i + 1], atol=1e-6)
        assert torch.allclose(alone[1], gradients[i : i + 1], atol=1e-6)


def test_the_cosine_is_not_rounded_to_bfloat16(pictures):
    """Scaled by 100, its rounding would be larger than differences between classes are."""
    network = ZeroShot(Clip(scale=4.6), text_embeddings(encode, PROMPTS)).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = network.visual(pictures)
        logits = network(pictures)
    assert features.dtype == torch.bfloat16
    assert logits.dtype == torch.float32
    units = features.double() / features.double().norm(dim=-1, keepdim=True)
    assert torch.allclose(logits.double(), float(network.logit_scale.exp()) * units @ network.texts.double().T, atol=1e-3)
