"""Learning from labels: the losses against plain loops, and the recipes that ship."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from xbench.trainers import classify

from xbench.data.samples import generator
from xbench.errors import XbenchError
from xbench.plugins.registry import registry
from xbench.train import examples, networks, recipes
from xbench.train.contract import Step

SHAPES = Path(__file__).parents[1] / "xbench" / "tiny_shapes.py"
VIT = {"timm": "vit_tiny_patch16_224", "img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="module", autouse=True)
def _shapes():
    registry.load(str(SHAPES))


def begun(train: str = "tiny_shapes(n=64)", **settings: float) -> classify.Classify:
    """A trainer that knows its pictures. settings: of its table."""
    data = {"train": train, "validation": "tiny_shapes(n=8)", "test": "tiny_shapes(n=8)"}
    tables = {"network": VIT, "preprocessing": {"size": 16}, "data": data, "training": {"epochs": 1}, "classify": settings}
    recipe = recipes.of({"name": "tiny", "task": "classify", **tables})
    found = registry.trainer("classify")(recipe)
    found.begin(examples.open_splits(recipe.data, found.preprocessing, registry))
    return found


def step(pictures: torch.Tensor, places: torch.Tensor, owners: torch.Tensor | None = None) -> Step:
    """The first step of a training."""
    return Step(pictures, places, torch.empty(len(pictures), 0) if owners is None else owners, 0, 0.0, generator("step"))


def test_the_loss_is_the_smoothed_cross_entropy():
    task = begun("tiny_shapes(several=true)", label_smoothing=0.2)
    network, places = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), torch.tensor([0, 1, 3])
    pictures = torch.randn(3, 3, 2, 2)
    got = task.loss(network, step(pictures, places))
    total = 0.0
    for picture, place in zip(pictures, places.tolist(), strict=True):
        logits = network(picture[None])[0].tolist()
        labels = task.splits.train.entries[place].labels
        norm = math.log(sum(math.exp(v) for v in logits))
        total -= sum((0.8 * (c in labels) / len(labels) + 0.2 / 4) * (logits[c] - norm) for c in range(4))
    assert got.item() == pytest.approx(total / 3, rel=1e-5)


def test_token_labels_are_the_cover_of_each_patch():
    owners = torch.zeros(2, 1, 4, 6, dtype=torch.uint8)
    owners[0, 0, :2, :3] = 2  # class 1: a patch whole, and half of the next
    owners[1, 0, 3, 5] = 1  # class 0: a quarter of the last patch
    shares = classify.cover(owners, (2, 3), 3)
    assert shares.shape == (2, 6, 3)
    expected = torch.zeros(2, 6, 3)
    expected[0, 0, 1], expected[0, 1, 1], expected[1, 5, 0] = 1, 0.5, 0.25
    assert torch.equal(shares, expected)
    logits = torch.randn(2, 6, 3)
    log = logits.log_softmax(dim=-1)
    by_hand = -(log[0, 0, 1] + 0.5 * log[0, 1, 1] + 0.25 * log[1, 5, 0]) / 1.75
    assert torch.allclose(classify.token_loss(logits, shares), by_hand)


def test_with_token_labels_patches_are_classified_too():
    labelled, bare = begun(token_labels=2.0), begun()
    assert (labelled.masks, bare.masks) == (True, False)
    network, places = networks.build(labelled.recipe.network, 4, 16), torch.tensor([0, 1])
    pictures, owners = torch.randn(2, 3, 16, 16), torch.randint(0, 5, (2, 1, 16, 16), dtype=torch.uint8)
    got = labelled.loss(network, step(pictures, places, owners))
    plain = bare.loss(network, step(pictures, places, owners))
    tokens = network.head(network.forward_features(pictures)[:, 1:])
    expected = plain + 2 * classify.token_loss(tokens, classify.cover(owners, (4, 4), 4))
    assert torch.allclose(got, expected, atol=1e-5)
    with pytest.raises(XbenchError, match="token_labels needs a vision transformer of timm"):
        labelled.loss(nn.Flatten(), step(pictures, places, owners))


@pytest.mark.parametrize(
    ("settings", "message"), [({"label_smoothing": 1.0}, "label_smoothing"), ({"token_label": 1.0}, "token_label")]
)
def test_its_table_is_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        begun(**settings)
