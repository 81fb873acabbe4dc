"""Recipes, data, objectives, and whole trainings of tiny networks on tiny pictures."""

import dataclasses
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from xbench import train
from xbench.data.samples import Entry, Relabelled, generator
from xbench.errors import XbenchError
from xbench.network.model import Preprocessing
from xbench.plugins.registry import registry
from xbench.progress import Silent
from xbench.train import cards, examples, fitting, networks, objectives, recipes, session, weights
from xbench.train.recipes import ClipNetwork, Recipe

pytest.importorskip("lightning")
SHAPES = Path(__file__).parents[1] / "tiny_shapes.py"
RECIPE = """
name = "tiny"
title = "A tiny network"
seed = 3
task = "tiny_labels"

[network]
timm = "resnet18"
channels = [8, 8, 16, 16]
output_stride = 8
drop_rate = 0.1

[preprocessing]
size = 16

[data]
train = "tiny_shapes(n=256)"
validation = "tiny_shapes(n=64, start=1000)"
test = "tiny_shapes(n=128, start=2000)"
workers = 0

[training]
epochs = 5
batch_size = 32
lr = 1e-2
shift = 1
"""


@pytest.fixture(scope="module", autouse=True)
def _shapes():
    registry.load(str(SHAPES))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    return recipes.load(written(tmp_path_factory.mktemp("recipe"), RECIPE))


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    """A finished training."""
    return session.train(recipe, out=tmp_path_factory.mktemp("trained"), device="cpu", threads=1)


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def changed(recipe: Recipe, table: str, **values: object) -> Recipe:
    """A recipe with other values in one of its tables."""
    return recipe.model_copy(update={table: getattr(recipe, table).model_copy(update=values)})


def opened(recipe: Recipe) -> examples.Splits:
    return examples.open_splits(recipe.data, recipe.preprocessing.preprocessing(), registry)


def curve(folder: Path) -> list[dict]:
    """The history without what differs from run to run."""
    history = json.loads((folder / "history.json").read_text())
    return [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in history]


# -- recipes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("epochs = 5", "epoch = 5"), r"line 23: unknown key 'epoch'; did you mean 'epochs'"),
        (("epochs = 5\n", ""), r"line 22: the key 'epochs' is missing"),
        (("epochs = 5", "epochs = 0"), r"line 23: epochs: .* not 0"),
        (("seed = 3", 'sead = 3\nx = "y"'), r"line 4: unknown key 'sead'; did you mean 'seed'"),
        (('task = "tiny_labels"', 'task = "tiny_label"'), r"line 5: unknown task 'tiny_label'; did you mean 'tiny_labels'"),
        (('task = "tiny_labels"', 'task = "absent"\n\n[absent]\nx = 1'), r"line 5: unknown task 'absent'; .*--plugin FILE"),
        (('task = "tiny_labels"', "task = 3"), r"line 5: task: .*, not 3"),
        (('task = "tiny_labels"\n', ""), r"the key 'task' is missing"),
        (("[data]", "[tiny_labels]\nsmoothing = 1\n\n[data]"), r"line 17: smoothing: .* not 1"),
        (("[data]", "[tiny_labels]\nsmooth = 1\n\n[data]"), r"line 17: unknown key 'smooth'; did you mean 'smoothing'"),
        (("[data]", "[tiny_other]\nx = 1\n\n[data]"), r"line 16: unknown key 'tiny_other'; did you mean 'tiny_labels'"),
        (("epochs = 5", "smoothing = 0.1"), r"line 23: unknown key 'smoothing'; it is a key of \[tiny_labels\]"),
        (
            ('timm = "resnet18"', 'open_clip = "CLIP"'),
            r"line 7: the task tiny_labels needs a classifier; write \[network\] with timm",
        ),
        (("size = 16", "size = [16, 16]"), r"line 14: size: .*\[16, 16\]"),
        (('test = "tiny_shapes(n=128, start=2000)"\n', ""), r"line 16: give both validation and test"),
        (('test = "tiny_shapes(n=128, start=2000)"', "test = 3"), r"line 19: test: .*not 3"),
        (("channels = [8, 8, 16, 16]", "init = 3"), r"line 9: init: .*not 3"),
    ],
)
def test_a_wrong_recipe_names_the_key_and_its_line(tmp_path, change, message):
    assert change[0] in RECIPE
    with pytest.raises(XbenchError, match=message):
        recipes.load(written(tmp_path, RECIPE.replace(*change)))


def test_a_trainer_whose_recipes_cannot_be_told_is_refused(tmp_path):
    text = "from pydantic import BaseModel\nfrom xbench.plugin import Table, TimmNetwork, Trainer, trainer\n\n"
    for id, table, message in (
        ("seed", "Table", "trainer 'seed' has a name that means something else in every recipe"),
        ("copy", "Table", "trainer 'copy' has a name that means something else"),
        ("lenient", "BaseModel", "trainer 'lenient': its table Own forgives unknown keys; derive it from xbench.Table"),
    ):
        own = f"class Own({table}):\n    x: int = 1\n\n"
        (tmp_path / f"{id}.py").write_text(
            text + own + f"@trainer('{id}', network=TimmNetwork, table=Own)\nclass T(Trainer): ...\n"
        )
        registry.load(str(tmp_path / f"{id}.py"))
        with pytest.raises(XbenchError, match=message):
            recipes.load(written(tmp_path, RECIPE.replace("tiny_labels", id)))
        registry.plugins.pop(("trainer", id))
        registry.known.pop(("trainer", id))
    (tmp_path / "bad.py").write_text(text + "@trainer('My-Trainer', network=TimmNetwork)\nclass T(Trainer): ...\n")
    with pytest.raises(XbenchError, match=r"trainer 'My-Trainer' names a table in recipes; write it in small letters"):
        registry.load(str(tmp_path / "bad.py"))


def test_a_trainer_with_needed_settings_asks_for_its_table(tmp_path):
    text = "from xbench.plugin import Table, TimmNetwork, Trainer, trainer\n\nclass Own(Table):\n    x: int\n\n"
    (tmp_path / "needy.py").write_text(text + "@trainer('needy', network=TimmNetwork, table=Own)\nclass T(Trainer): ...\n")
    registry.load(str(tmp_path / "needy.py"))
    needy = RECIPE.replace("tiny_labels", "needy")
    with pytest.raises(XbenchError, match="the key 'needy' is missing"):
        recipes.load(written(tmp_path, needy))
    with pytest.raises(XbenchError, match=r"line \d+: the key 'x' is missing"):
        recipes.load(written(tmp_path, needy + "[needy]\n"))
    assert recipes.load(written(tmp_path, needy + "[needy]\nx = 3\n")).table.x == 3


# -- data ------------------------------------------------------------------------------------------------------------------


def test_what_is_held_out_is_disjoint_by_photograph_and_stays():
    entries = [Entry(f"{i}", (0,), (f"photo_{i // 3}",)) for i in range(3000)]
    parts = examples.hold_out(entries, 0.1)
    photographs = [{entry.clusters[0] for entry in part} for part in parts]
    assert sum(map(len, parts)) == 3000
    assert sum(map(len, photographs)) == len(set.union(*photographs)) == 1000
    assert all(70 < len(held) < 130 for held in photographs[1:])
    more = examples.hold_out([*[Entry(f"new_{i}", (0,), (f"new_{i}",)) for i in range(50)], *entries], 0.1)
    assert all([entry for entry in new if not entry.id.startswith("new")] == old for old, new in zip(parts, more, strict=True))
    with pytest.raises(XbenchError, match="several photographs"):
        examples.hold_out([Entry("mosaic", (0, 1), ("a", "b"))], 0.1)


def test_augmentation_is_what_the_generator_says():
    pictures = torch.randint(0, 256, (6, 3, 5, 7), dtype=torch.uint8)
    got = examples.augment(pictures, generator(1), flip=True, shift=2)
    assert torch.equal(got, examples.augment(pictures, generator(1), flip=True, shift=2))
    draw = generator(1)
    mirrored = torch.rand(6, 1, generator=draw)[:, 0] < 0.5
    moves = torch.randint(-2, 3, (2, 6, 1), generator=draw)[..., 0]
    assert mirrored.unique().tolist() == [False, True]
    for n in range(6):
        picture = pictures[n].flip(-1) if mirrored[n] else pictures[n]
        down, right = int(moves[0, n]), int(moves[1, n])
        bordered = functional.pad(picture[None].float(), (2, 2, 2, 2), mode="replicate")[0]
        assert torch.equal(got[n].float(), bordered[:, 2 + down : 7 + down, 2 + right : 9 + right])
    assert torch.equal(examples.augment(pictures, generator(1), flip=False, shift=0), pictures)


def test_the_order_is_a_function_of_seed_and_epoch_and_replicas_share_it(recipe):
    train = opened(recipe).train
    train.gather(True, False, 0, Silent())

    def order(seed: int, epoch: int, replicas: int = 1, rank: int = 0) -> list[int]:
        loader = train.shuffled(32, 0, seed, replicas, rank)
        loader.batch_sampler.sampler.set_epoch(epoch)
        return [place for _, places in loader for place in places.tolist()]

    assert sorted(order(0, 0)) == list(range(256))
    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert sorted(order(0, 5, 2, 0) + order(0, 5, 2, 1)) == list(range(256))


def test_pictures_in_memory_and_read_anew_are_the_same(recipe):
    kept, read = opened(recipe).validation, opened(recipe).validation
    kept.gather(True, False, 2, Silent())
    for (a, at), (b, bt) in zip(kept.in_order(10, 0), read.in_order(10, 2), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(at, bt)


def test_broken_pictures_are_left_out_and_counted(recipe):
    broken = changed(recipe, "data", train="tiny_shapes(n=20, broken=7)")
    kept, read = opened(broken).train, opened(broken).train
    kept.gather(True, True, 0, Silent())
    assert (len(kept), kept.unreadable, len(kept.captions)) == (19, 1, 19)
    assert "shape_7" not in [entry.id for entry in kept.entries]
    ((_, places),) = read.in_order(20, 0)
    assert places.tolist() == [i for i in range(20) if i != 7]
    with pytest.raises(XbenchError, match="cannot be read"):
        read[7]


def test_other_classes_are_refused(recipe):
    with pytest.raises(XbenchError, match=r"dataset tiny_pictures has classes that the training data lack"):
        opened(changed(recipe, "data", validation="tiny_pictures"))
    with pytest.raises(XbenchError, match="unknown dataset 'tiny_shape'; did you mean 'tiny_shapes'"):
        opened(changed(recipe, "data", train="tiny_shape"))


# -- objectives ------------------------------------------------------------------------------------------------------------


def test_soft_targets_by_hand():
    present = torch.tensor([[True, False, False], [True, True, False], [True, True, True]])
    third = 1 / 3
    assert objectives.soft_targets(present).tolist() == [[1, 0, 0], [0.5, 0.5, 0], pytest.approx([third] * 3)]


class Masked(Relabelled):
    """A dataset whose masks are its boxes."""

    def load(self, id):
        sample, masks = super().load(id), {}
        for box in sample.boxes:
            masks[box.label] = torch.zeros(sample.image.shape[1:], dtype=torch.bool)
            masks[box.label][int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = True
        return dataclasses.replace(sample, masks=masks)


def test_masks_travel_with_their_pictures(recipe):
    inner = registry.dataset("tiny_shapes(n=6, several=true)")()
    data = Masked(inner, inner.classes, range(4))
    train = examples.Examples("masked", data, data.entries(), recipe.preprocessing.preprocessing(), "crop")
    train.masks = True
    train.gather(True, False, 0, Silent())
    for entry, picture in zip(train.entries, train.pictures, strict=True):
        for label, mask in data.load(entry.id).masks.items():
            assert (picture[3][mask] == label + 1).all()
        assert {int(v) for v in picture[3].unique()} == {0, *(label + 1 for label in entry.labels)}
    moved = examples.augment(train.pictures, generator(3), flip=True, shift=4)
    alone = examples.augment(train.pictures[:, 3:], generator(3), flip=True, shift=4)
    assert torch.equal(moved[:, 3:], alone)
    bare = opened(recipe).train
    bare.masks = True
    with pytest.raises(XbenchError, match="the recipe asks for masks of at most 255 classes"):
        bare.gather(True, False, 0, Silent())


def test_the_contrastive_loss_against_plain_loops():
    draw = generator("contrast")
    images, texts = (functional.normalize(torch.randn(5, 4, generator=draw), dim=1) for _ in range(2))
    captions = torch.tensor([0, 1, 0, 2, 1])
    texts = texts[[0, 1, 0, 3, 1]]
    scale = torch.tensor(7.0)

    def one_way(a: torch.Tensor, b: torch.Tensor) -> float:
        total = 0.0
        for i in range(5):
            similarities = [7.0 * sum(float(x) * float(y) for x, y in zip(a[i], b[j], strict=True)) for j in range(5)]
            positives = [j for j in range(5) if captions[j] == captions[i]]
            norm = math.log(sum(math.exp(s) for s in similarities))
            total -= sum(similarities[j] - norm for j in positives) / len(positives)
        return total / 5

    expected = (one_way(images, texts) + one_way(texts, images)) / 2
    assert float(objectives.contrastive_loss(images, texts, captions, scale)) == pytest.approx(expected, rel=1e-5)


def test_figures_against_plain_loops():
    draw = generator("figures")
    logits = torch.randint(0, 6, (40, 5), generator=draw).float()  # with ties
    present = torch.rand(40, 5, generator=draw) < 0.4
    present[:, 4] = False  # a class that is nowhere
    present[torch.arange(40), torch.arange(40) % 4] = True
    of_classes = []
    for c in range(4):
        precisions = []
        for i in range(40):
            if present[i, c]:
                above = [j for j in range(40) if logits[j, c] >= logits[i, c]]
                precisions.append(sum(bool(present[j, c]) for j in above) / len(above))
        of_classes.append(sum(precisions) / len(precisions))
    assert objectives.mean_average_precision(logits, present) == pytest.approx(sum(of_classes) / 4)
    right = [bool(present[i, max(range(5), key=lambda c: (float(logits[i, c]), -c))]) for i in range(40)]
    found = objectives.figures({"": logits, "x": logits}, present)
    assert found["accuracy"] == found["accuracy/x"]
    assert list(found)[:2] == ["accuracy", "mean_average_precision"]
    assert objectives.accuracy(logits + torch.arange(5) * -1e-3, present) == pytest.approx(sum(right) / 40)


def test_standard_errors_come_from_photographs():
    present = functional.one_hot(torch.arange(400) % 2, 2).bool()
    right = torch.arange(400) % 4 < 2  # pairs of pictures are right or wrong together
    logits = torch.where(right[:, None], present, ~present).float()
    alone = objectives.with_errors({"": logits}, present, [f"{i}" for i in range(400)])["accuracy"]
    pairs = objectives.with_errors({"": logits}, present, [f"{i // 2}" for i in range(400)])["accuracy"]
    assert (alone.value, alone.n) == (0.5, 400)
    assert alone.standard_error == pytest.approx(math.sqrt(0.25 / 400), rel=0.2)
    assert pairs.standard_error == pytest.approx(math.sqrt(0.25 / 200), rel=0.2)


# -- networks and optimisation -----------------------------------------------------------------------------------------------


def test_the_rate_rises_and_falls_to_nothing():
    rates = [fitting.rate(step, 100, 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)
    assert fitting.rate(0, 10, 0) == 1


def test_only_matrices_and_kernels_decay():
    text = {"context_length": 12, "width": 16, "heads": 2, "layers": 1}
    vision = {"patch_size": 4, "width": 32, "layers": 2, "head_width": 16}
    clip = networks.build(ClipNetwork(open_clip="CLIP", embed_dim=16, vision=vision, text=text), 4, 16)
    vit = networks.build(
        recipes.TimmNetwork(timm="vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=32, depth=1, num_heads=2), 4, 16
    )
    for network in (clip, vit):
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        (free, decaying) = fitting.groups(network, 0.1)
        assert (free["weight_decay"], decaying["weight_decay"]) == (0, 0.1)
        decayed, spared = ([names[id(p)] for p in group["params"]] for group in (decaying, free))
        assert len(decayed) + len(spared) == len(names)
        assert not [n for n in decayed if n.endswith("bias") or any(w in n for w in ("norm", "ln_", "embedding", "pos_", "token"))]
        assert [n for n in decayed if n.endswith("weight")]


def test_a_network_starts_from_what_fits_of_a_checkpoint(recipe, tmp_path):
    old = networks.build(recipe.network, 7, 16)
    torch.save({"state_dict": old.state_dict()}, tmp_path / "old.pt")
    new = networks.build(recipe.network, 4, 16)
    said = networks.start_from(new, str(tmp_path / "old.pt"))
    total = len(new.state_dict())
    assert said == f"{total - 2} of {total} tensors from old.pt"
    assert torch.equal(new.conv1.weight, old.conv1.weight)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(XbenchError, match="does not fit"):
        networks.start_from(new, str(tmp_path / "other.pt"))
    torch.save(nn.Linear(1, 1), tmp_path / "code.pt")
    with pytest.raises(XbenchError, match="holds more than tensors"):
        networks.start_from(new, str(tmp_path / "code.pt"))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"timm": "resnet81"}, "timm has no network 'resnet81'; did you mean 'resnet18'"),
        ({"timm": "resnet18", "chanels": [1]}, "timm does not build resnet18 with .*chanels"),
    ],
)
def test_networks_that_cannot_be_built(table, message):
    with pytest.raises(XbenchError, match=message):
        networks.build(recipes.TimmNetwork.model_validate(table), 4, 16)


def test_a_clip_may_see_its_patches_through_a_convolution():
    table = {
        "open_clip": "CLIP",
        "embed_dim": 8,
        "text": {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1},
    }
    vision = {"patch_size": 8, "width": 32, "layers": 1, "head_width": 16}
    clip = networks.build(ClipNetwork(**table, vision=vision, stem=8), 0, 32)
    pictures = torch.randn(2, 3, 32, 32)
    assert clip.visual.conv1(pictures).shape == (2, 32, 4, 4)  # the grid of its positions
    assert clip.encode_image(pictures).shape == (2, 8)
    moved = pictures.clone()
    moved[:, :, :, 9:] += 1  # what lies just beside a patch shows in it, and what is far does not
    difference = (clip.visual.conv1(moved) - clip.visual.conv1(pictures)).abs().amax(dim=(0, 1))
    assert (difference > 0).all(dim=0).tolist()[0]
    with pytest.raises(XbenchError, match="a stem needs a vision transformer with patches of 4, 8"):
        networks.build(ClipNetwork(**table, vision=vision | {"patch_size": 2}, stem=8), 0, 32)


@pytest.mark.parametrize("stem", [0, 32])
def test_a_clips_image_tower_starts_from_a_vision_transformer(stem, tmp_path):
    """Before its projection, it says of each token what the transformer says."""
    sizes = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}
    name, patch = ("vit_tiny_r_s16_p8_224", 2) if stem else ("vit_tiny_patch16_224", 8)
    torch.manual_seed(0)
    vit = networks.build(recipes.TimmNetwork(timm=name, patch_size=patch, **sizes), 4, 32).eval()
    if stem:  # timm's own has 64 channels
        vit.patch_embed = timm_like = nn.Module()
        timm_like.backbone, timm_like.proj = networks._stem(stem, 32, 2)
        vit.patch_embed.forward = lambda x: timm_like.proj(timm_like.backbone(x)).flatten(2).transpose(1, 2)
    torch.save(vit.state_dict(), tmp_path / "vit.pt")
    vision = {"patch_size": 8, "width": 32, "layers": 2, "head_width": 16, "no_ln_pre": True}
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    clip = networks.build(ClipNetwork(open_clip="CLIP", embed_dim=8, vision=vision, text=text, stem=stem), 0, 32).eval()
    said = networks.start_from(clip, str(tmp_path / "vit.pt"))
    assert said.endswith("tensors from vit.pt")
    pictures = torch.randn(3, 3, 32, 32)
    for module in vit.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5  # open_clip's
    with torch.no_grad():
        expected = vit.forward_features(pictures)[:, 0] @ clip.visual.proj
        assert torch.allclose(clip.encode_image(pictures), expected, atol=1e-4)


def test_a_clip_that_cannot_be_built():
    with pytest.raises(XbenchError, match=r"CLIPVisionCfg has no 'widht'; did you mean 'width'\?; mend \[network.vision\]"):
        networks.build(ClipNetwork(open_clip="CLIP", embed_dim=8, vision={"widht": 8}, text={}), 4, 16)


# -- whole trainings ---------------------------------------------------------------------------------------------------------


def test_it_learns_and_says_what_it_made(trained, recipe):
    history = json.loads((trained.folder / "history.json").read_text())
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3, 4, 5]
    assert history[-1]["loss"] < history[0]["loss"] / 2
    assert history[-1]["lr"] == pytest.approx(0, abs=1e-9)
    card = trained.card
    figure = card.held_out["test"]["accuracy"]
    assert figure.value > 0.75  # chance is 0.25
    assert figure.n == 128
    assert 0 < figure.standard_error < 0.05
    best = max(epoch["figures"]["accuracy"] for epoch in history)
    assert card.selected_epoch == max(epoch["epoch"] for epoch in history if epoch["figures"]["accuracy"] == best)
    assert card.classes == ["bar", "cross", "frame", "dot"]
    assert {name: (split.dataset, split.pictures) for name, split in card.data.items()} == {
        "train": ("tiny_shapes(n=256)", 256),
        "validation": ("tiny_shapes(n=64, start=1000)", 64),
        "test/test": ("tiny_shapes(n=128, start=2000)", 128),
    }
    assert card.data["train"].revision == "256-0-False--1-1"
    assert recipes.of(card.recipe) == recipe
    assert (card.recipe["task"], card.recipe["tiny_labels"]) == ("tiny_labels", {"smoothing": 0.0})
    assert (card.generated, card.seed, card.epochs, card.task) == (True, 3, 5, "tiny_labels")
    assert card.seconds > 0
    assert {"torch", "timm", "xbench-xai"} <= set(card.versions)
    assert (trained.folder / "history.svg").read_text().startswith("<?xml")
    assert "trained by xbench itself" in card.sentence()
    assert "generated pictures that are no photographs" in card.sentence()


def test_kept_weights_are_half_precision_and_give_the_cards_figures(trained):
    import safetensors.torch

    kept = safetensors.torch.load_file(trained.folder / "model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.float16, torch.int64}
    path, file = cards.find(trained.folder)
    card = cards.read(path)
    assert card == trained.card
    network = weights.network(card, file)
    assert card.parameters == sum(p.numel() for p in network.parameters())
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32, torch.int64}
    dataset, right = registry.dataset(card.data["test/test"].dataset)(), 0
    for entry in dataset.entries():
        inputs = Preprocessing((16, 16), 1, (127.5,) * 3, (127.5,) * 3).normalise(dataset.load(entry.id).image)
        right += int(network(inputs[None]).argmax()) in entry.labels
    assert right / 128 == card.held_out["test"]["accuracy"].value


def test_the_round_trip_through_half_precision():
    state = {"a": torch.tensor([1.0, 1 / 3]), "large": torch.tensor([1e6]), "count": torch.tensor(2**40)}
    halved = weights.halved(state)
    assert [tensor.dtype for tensor in halved.values()] == [torch.float16, torch.float32, torch.int64]
    back = weights.restored(halved)
    assert torch.equal(back["a"], torch.tensor([1.0, 0.333251953125]))
    assert torch.equal(back["large"], state["large"])
    assert torch.equal(back["count"], state["count"])


def test_a_finished_training_says_so_at_once(trained, recipe, monkeypatch):
    monkeypatch.setattr(session, "_train", lambda *_: pytest.fail("nothing is left to do"))
    for resume in (True, False):
        again = session.train(recipe, out=trained.folder, resume=resume)
        assert not again.trained
        assert again.card == trained.card


def test_trainings_in_one_folder_are_not_mixed(trained, recipe):
    with pytest.raises(XbenchError, match=r"another training\.epochs \(5, now 6\); choose another --out, or --fresh"):
        session.train(recipe, out=trained.folder, epochs=6, resume=True)


def test_damaged_and_absent_models_are_refused(trained, tmp_path):
    for name in ("model.json", "model.safetensors"):
        (tmp_path / name).write_bytes((trained.folder / name).read_bytes())
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    path, file = cards.find(tmp_path)
    with pytest.raises(XbenchError, match=r"model\.safetensors is not the file of its card: sha256"):
        weights.network(cards.read(path), file)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(XbenchError, match="is no card of a trained model"):
        cards.read(tmp_path / "model.json")
    with pytest.raises(XbenchError, match=r"its card .*absent\.json is not there"):
        cards.find(tmp_path / "absent.safetensors")


def test_the_average_of_the_weights_is_what_is_kept(recipe, tmp_path):
    short = changed(recipe, "training", epochs=1, ema=0.5)
    splits = opened(short)
    torch.manual_seed(0)
    network = networks.build(short.network, 4, 16)
    task = registry.trainer("tiny_labels")(short)
    task.begin(splits)
    module = fitting.Fit(network, task, short, splits, tmp_path, lambda _: None)
    seen = []
    step = fitting.Fit.on_train_batch_end

    def noted(self, *rest):
        step(self, *rest)
        seen.append(self.network.fc.weight.detach().clone())

    fitting.Fit.on_train_batch_end = noted
    try:
        fitting.fit(fitting.passes(short, tmp_path, "cpu", None, Silent()), module, None)
    finally:
        fitting.Fit.on_train_batch_end = step
    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.5 * expected + 0.5 * weight
    assert len(seen) == 8
    assert torch.allclose(module.best["fc.weight"], expected, atol=1e-6)
    assert not torch.allclose(module.best["fc.weight"], network.fc.weight)


def test_parts_of_ones_own_dataset_are_held_out(recipe, tmp_path):
    done = session.train(recipe, dataset="tiny_shapes(n=300, several=true)", epochs=1, out=tmp_path, device="cpu", threads=1)
    sizes = {name: split.pictures for name, split in done.card.data.items()}
    assert sum(sizes.values()) == 300
    assert sizes["train"] > 200
    assert all(10 < sizes[name] < 60 for name in ("validation", "test/test"))
    assert done.card.data["test/test"].dataset == "tiny_shapes(n=300, several=true) (held out of it)"
    assert set(done.card.held_out["test"]) == {"accuracy", "mean_average_precision"}


def test_pictures_that_do_not_fit_into_memory_train_alike(recipe, tmp_path):
    small = changed(recipe, "training", epochs=1)
    kept = session.train(small, out=tmp_path / "kept", device="cpu", threads=1)
    read = session.train(changed(small, "data", cache_gb=0), out=tmp_path / "read", device="cpu", threads=1)
    assert kept.card.sha256 == read.card.sha256
    assert curve(tmp_path / "kept") == curve(tmp_path / "read")


def test_a_loss_that_is_no_number_ends_in_one_line(recipe, tmp_path):
    wild = changed(changed(recipe, "training", lr=1e30, clip=0, warmup=0), "network", drop_rate=0.0)
    with pytest.raises(XbenchError, match=r"the loss became (nan|inf) in epoch 1; lower lr"):
        session.train(wild, out=tmp_path, device="cpu", threads=1)


def test_without_lightning_one_line_says_what_to_install(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "xbench.train.fitting")
    monkeypatch.delattr(train, "fitting")
    with pytest.raises(XbenchError, match=r"needs Lightning .*; pip install 'xbench-xai\[train\]'"):
        session.train(recipe, out=tmp_path)


def test_devices_that_are_not_there(recipe, tmp_path):
    with pytest.raises(XbenchError, match="unknown --device 'gpu0'"):
        session.train(recipe, out=tmp_path, device="gpu0")
    if not torch.cuda.is_available():
        with pytest.raises(XbenchError, match="cannot train on cuda"):
            session.train(recipe, out=tmp_path, device="cuda")


# -- as processes ------------------------------------------------------------------------------------------------------------


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    # A file, which Lightning can start again. Tests that run in the background ignore interrupts, and so would what they start.
    heard = "import signal\n\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    (folder / "xbench_.py").write_text(f"{heard}\nfrom xbench.cli import cli\n\ncli()\n")
    command = [sys.executable, "xbench_.py", "train", "mine.toml", "--plugin", str(SHAPES)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "--threads", "1", "--device", "cpu", "--out", "out", *more],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for_epoch(process: subprocess.Popen[str], folder: Path, epoch: int) -> None:
    while process.poll() is None:
        path = folder / "out" / "history.json"
        if path.is_file() and len(curve(folder / "out")) >= epoch:
            return
        time.sleep(0.01)
    pytest.fail(f"ended early: {process.communicate()[1]}")


def test_killed_and_resumed_it_ends_as_if_nothing_had_happened(trained, recipe, tmp_path):
    """SIGKILL somewhere in the second epoch, and in the fourth."""
    written(tmp_path, RECIPE)
    for epoch, more in ((1, ()), (3, ("--resume",))):
        process = start(tmp_path, *more)
        wait_for_epoch(process, tmp_path, epoch)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / "out" / "model.json").exists()
    with pytest.raises(XbenchError, match="has an unfinished training; go on with --resume, or forget it with --fresh"):
        session.train(recipe, out=tmp_path / "out")
    process = start(tmp_path, "--resume")
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "trained@out" in output
    assert "epoch 5/5" in errors
    assert "epoch 1/5" not in errors
    assert "ightning" not in output + errors
    assert curve(tmp_path / "out") == curve(trained.folder)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (trained.folder / "model.safetensors").read_bytes()
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {".lock", *session.FILES} - {"last.ckpt.tmp"}


def test_interrupted_not_killed_it_says_how_to_go_on_but_not_on_other_data(tmp_path, recipe):
    written(tmp_path, RECIPE)
    process = start(tmp_path, "--epochs", "500")  # it must not end before it is told to
    wait_for_epoch(process, tmp_path, 1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert errors.rstrip().endswith("interrupted; go on after the last whole epoch with --resume")
    request = json.loads((tmp_path / "out" / "request.json").read_text())
    request["revisions"]["train"] = "older"
    (tmp_path / "out" / "request.json").write_text(json.dumps(request))
    longer = recipe.model_copy(update={"training": recipe.training.model_copy(update={"epochs": 500})})
    with pytest.raises(XbenchError, match=r"the data of the training in .* have changed \(train \('older', now"):
        session.train(longer, out=tmp_path / "out", resume=True, device="cpu", threads=1)


def test_two_processes_train_together_none_killed(tmp_path):
    """What several GPUs do, on two processes of this machine."""
    written(tmp_path, RECIPE)
    process = start(tmp_path, "--devices", "2", "--epochs", "2")
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert output.count("trained in out") == 1
    card = cards.read(tmp_path / "out" / "model.json")
    assert card.machine["devices"] == 2
    assert len(curve(tmp_path / "out")) == 2
