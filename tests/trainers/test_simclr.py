"""Learning without labels: views, the loss against plain loops, and whole trainings of a tiny network."""

import json
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch.nn import functional
from xbench.trainers import _linear, simclr
from xbench.trainers import _views as views

from xbench.data.samples import Relabelled, generator
from xbench.errors import XbenchError
from xbench.network.model import Model, Preprocessing
from xbench.plugins.registry import registry
from xbench.progress import Silent
from xbench.train import cards, examples, recipes, session, weights
from xbench.train.contract import Step

pytest.importorskip("lightning")
from xbench.train import fitting

SHAPES = Path(__file__).parents[1] / "xbench" / "tiny_shapes.py"
RECIPE = """
name = "tiny_simclr"
task = "simclr"

[network]
timm = "vit_tiny_patch16_224"
img_size = 16
patch_size = 4
embed_dim = 16
depth = 2
num_heads = 2
dynamic_img_size = true

[simclr]
outputs = 12
hidden = 16
side = 8
clouds = 0.2

[preprocessing]
size = 16

[data]
train = "tiny_shapes(n=64)"
validation = "tiny_shapes(n=32, start=1000)"
test = "tiny_shapes(n=64, start=2000)"
workers = 0

[training]
epochs = 2
batch_size = 16
lr = 1e-3
flip = true
"""


@pytest.fixture(scope="module", autouse=True)
def _shapes():
    registry.load(str(SHAPES))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return written(tmp_path_factory.mktemp("recipe"), RECIPE)


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    return session.train(recipe, out=tmp_path_factory.mktemp("trained"), device="cpu", threads=1)


def written(folder: Path, text: str) -> recipes.Recipe:
    path = folder / "mine.toml"
    path.write_text(text)
    return recipes.load(path)


def begun(recipe) -> tuple[simclr.Simclr, simclr.Learner, torch.Tensor]:
    """A trainer, what learns, and normalised inputs."""
    task = registry.trainer("simclr")(recipe)
    splits = examples.open_splits(recipe.data, task.preprocessing, registry)
    splits.train.gather(True, False, 0, Silent())
    torch.manual_seed(0)
    network, _ = task.build(4)
    task.begin(splits)
    return task, task.module(network), task.preprocessing.normalise(splits.train.pictures[:8])


def step(pictures: torch.Tensor, done: float = 0.0, seed: int = 0) -> Step:
    return Step(pictures, torch.arange(len(pictures)), torch.empty(len(pictures), 0), 0, done, generator("step", seed))


# -- views -----------------------------------------------------------------------------------------------------------------


def test_a_crop_of_all_is_the_picture_and_its_mirror_image():
    pictures = torch.rand(40, 3, 12, 12)
    got = views.crops(pictures, 12, (1.0, 1.0), True, generator(1))
    square = [
        n
        for n in range(40)
        if torch.allclose(got[n], pictures[n], atol=1e-5) or torch.allclose(got[n], pictures[n].flip(-1), atol=1e-5)
    ]
    assert not square  # the ratio of the sides is drawn, and never 1
    views_ratio = views.RATIO
    try:
        views.RATIO = 1.0
        got = views.crops(pictures, 12, (1.0, 1.0), True, generator(1))
        plain = views.crops(pictures, 12, (1.0, 1.0), False, generator(1))
    finally:
        views.RATIO = views_ratio
    assert torch.allclose(plain, pictures, atol=1e-5)
    mirrored = [n for n in range(40) if torch.allclose(got[n], pictures[n].flip(-1), atol=1e-5)]
    same = [n for n in range(40) if torch.allclose(got[n], pictures[n], atol=1e-5)]
    assert len(mirrored) + len(same) == 40
    assert 10 < len(mirrored) < 30


def test_a_crop_shows_the_share_that_is_asked_for():
    """Of pictures whose values are their own coordinates."""
    across, down = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="xy")
    pictures = torch.stack([across, down])[None].repeat(200, 1, 1, 1)
    got = views.crops(pictures, 32, (0.2, 0.5), False, generator(2))
    width = (got[:, 0, 16, -1] - got[:, 0, 16, 0]) / 2 * 32 / 31 * 63 / 64
    height = (got[:, 1, -1, 16] - got[:, 1, 0, 16]) / 2 * 32 / 31 * 63 / 64
    area, ratio = width * height, width / height
    assert area.min() == pytest.approx(0.2, abs=0.02)
    assert area.max() == pytest.approx(0.5, abs=0.02)
    assert ratio.log().abs().max() == pytest.approx(math.log(4 / 3), abs=0.05)
    assert got.abs().max() <= 1


def test_colours_change_as_the_strength_says():
    pictures = torch.rand(300, 3, 6, 6)
    assert torch.allclose(views.coloured(pictures, 0.0, generator(3)), pictures, atol=1e-3)
    got = views.coloured(pictures, 1.0, generator(3))
    assert got.min() >= 0
    assert got.max() <= 1
    grey = ((got.amax(dim=1) - got.amin(dim=1)).amax(dim=(1, 2)) < 5e-3).float().mean()
    assert 0.1 < grey < 0.3
    same = ((got - pictures).abs().amax(dim=(1, 2, 3)) < 1e-3).float().mean()
    assert 0.08 < same < 0.26  # a fifth is spared from jitter, and most of that from greyness


def test_blur_keeps_what_is_even_and_spares_its_share():
    pictures = torch.rand(100, 3, 64, 64)
    got = views.blurred(pictures, 0.5, generator(4))
    spared = [bool(torch.allclose(a, b, atol=1e-6)) for a, b in zip(got, pictures, strict=True)]
    assert 30 < sum(spared) < 80  # the narrowest blur is none
    assert got.std() < pictures.std()
    assert torch.allclose(got.mean(dim=(2, 3)), pictures.mean(dim=(2, 3)), atol=2e-2)
    assert torch.allclose(views.blurred(torch.full((5, 3, 32, 32), 0.3), 1.0, generator(5)), torch.tensor(0.3))


def test_clouds_are_smooth_strong_as_asked_and_other_for_each_picture():
    grey = torch.full((400, 3, 40, 40), 0.5)
    assert torch.equal(views.clouded(grey, 0.0, generator(6)), grey)
    clouded = views.clouded(grey, 0.6, generator(6))
    assert torch.equal(clouded, views.clouded(grey, 0.6, generator(6)))
    got = clouded - grey
    corners = got[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]  # a lattice point of every field: a sum of three uniform numbers
    assert corners.std() == pytest.approx(0.6 / math.sqrt(12), rel=0.05)
    assert corners.mean() == pytest.approx(0, abs=0.01)
    assert got.diff(dim=-1).abs().max() < 0.1
    assert got.diff(dim=-2).abs().max() < 0.1
    one, other = got[:200].flatten(), got[200:].flatten()
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.05
    assert views.clouded(torch.ones(2, 3, 8, 8), 2.0, generator(7)).max() <= 1


# -- the loss ---------------------------------------------------------------------------------------------------------


def test_the_loss_against_plain_loops():
    seen = functional.normalize(torch.randn(6, 5, generator=generator("simclr"), dtype=torch.float64), dim=1)
    total = 0.0
    for i in range(6):
        others = {j: math.exp(float(seen[i] @ seen[j]) / 0.2) for j in range(6) if j != i}
        total -= math.log(others[(i + 3) % 6] / sum(others.values())) / 6
    assert float(simclr.two_view_loss(seen @ seen.T / 0.2)) == pytest.approx(total, rel=1e-9)


def test_the_loss_is_that_loss_of_two_views_of_each_picture(recipe):
    task, learner, pictures = begun(recipe)
    got = task.loss(learner, step(pictures))
    views_ = task.views(pictures, generator("step", 0))
    assert views_.shape == (16, 3, 8, 8)
    network, (first, norm, _, last) = learner.network, learner.head
    hidden = first(network.forward_features(views_)[:, 0])  # the class token
    hidden = (hidden - hidden.mean(dim=0)) / (hidden.var(dim=0, correction=0) + norm.eps).sqrt()
    found = last(hidden.relu())
    found = found / found.norm(dim=1, keepdim=True)
    assert got.item() == pytest.approx(simclr.two_view_loss(found @ found.T / 0.2).item(), rel=1e-4)


def test_the_two_views_of_a_picture_stand_half_a_batch_apart(recipe):
    """Of pictures that are one colour each, seen without changes of colour."""
    task, _, _ = begun(recipe)
    task.how = task.how.model_copy(update={"colour": 0.0, "blur": 0.0, "clouds": 0.0})
    even = torch.linspace(-1, 1, 8)[:, None, None, None].expand(8, 3, 16, 16)
    got = task.views(even, generator("step", 1))
    assert torch.allclose(got.mean(dim=(1, 2, 3)), torch.linspace(-1, 1, 8).repeat(2), atol=1e-2)


def test_all_learns_but_the_classifier(recipe):
    task, learner, pictures = begun(recipe)
    task.loss(learner, step(pictures)).backward()
    for name, parameter in learner.named_parameters():
        learns = not name.startswith("network.head.")
        assert (parameter.grad is not None) == learns, name
        assert parameter.requires_grad == learns, name
    assert learner.network.patch_embed.proj.weight.grad.abs().sum() > 0


def test_matched_counts_the_views_whose_partner_is_nearest(recipe, monkeypatch):
    task, learner, pictures = begun(recipe)
    right = 0
    for number in range(2):
        seen = torch.randn(8, 6, generator=generator("matched", number))
        seen = functional.normalize(torch.cat([seen, seen + torch.randn(8, 6, generator=generator("noise", number))]), dim=1)
        for i in range(16):
            right += max((j for j in range(16) if j != i), key=lambda j: float(seen[i] @ seen[j])) == (i + 8) % 16
        monkeypatch.setattr(simclr.Learner, "forward", lambda *_, seen=seen: seen)
        task.loss(learner, step(pictures))
    assert 4 < right < 28
    monkeypatch.undo()
    assert task.after_epoch(learner, torch.device("cpu")) == {"matched": right / 32}


def test_the_linear_classifier_is_the_minimum_that_it_should_be():
    """The gradient vanishes there, by hand, for features of any scale."""
    draw = generator("logistic")
    seen = torch.randn(60, 4, generator=draw, dtype=torch.float64) * torch.tensor([1, 10, 0.1, 3]) + 5
    targets = functional.one_hot(torch.arange(60) % 3, 3).double()
    seen[targets[:, 1] > 0, 0] += 2
    weight, bias = _linear.logistic_regression(seen, targets)
    off = (seen @ weight.T + bias).softmax(dim=1) - targets
    spread = seen.std(dim=0, correction=0)
    slope = off.T @ ((seen - seen.mean(dim=0)) / spread) / 60 + _linear.DECAY * weight * spread
    assert slope.abs().max() < 1e-4
    assert off.mean(dim=0).abs().max() < 1e-4
    right = ((seen @ weight.T + bias).argmax(dim=1) == targets.argmax(dim=1)).double().mean()
    assert right > 0.5


# -- whole trainings -------------------------------------------------------------------------------------------------------


def test_it_trains_and_is_a_classifier_of_its_last_epoch(trained, recipe):
    history = json.loads((trained.folder / "history.json").read_text())
    assert [set(epoch["figures"]) for epoch in history] == [{"accuracy", "matched"}] * 2
    card = trained.card
    assert (card.task, card.selected_epoch, card.classes) == ("simclr", 2, ["bar", "cross", "frame", "dot"])
    assert set(card.held_out["test"]) == {"accuracy"}
    network = weights.network(*cards_of(trained.folder))
    assert sum(p.numel() for p in network.parameters()) == card.parameters
    model = Model("trained", network, Preprocessing((16, 16), 1.0, (127.5,) * 3, (127.5,) * 3), card.class_list)
    assert "attention" in model.capabilities
    assert model.attention_rows == (0,)
    dataset, right = registry.dataset(card.data["test/test"].dataset)(), 0
    for entry in dataset.entries():
        right += int(model(model.inputs([dataset.load(entry.id).image], "crop")).argmax()) in entry.labels
    assert right / 64 == card.held_out["test"]["accuracy"].value


def cards_of(folder: Path) -> tuple[cards.Card, Path]:
    card, file = cards.find(folder)
    return cards.read(card), file


def test_labels_move_the_classifier_only(recipe, trained, tmp_path):
    """The same pictures with other labels: all weights but the classifier's are the same bits."""
    kept = examples.open_splits

    def turned(data, preprocessing, registry):
        splits = kept(data, preprocessing, registry)
        for split in (splits.train, splits.validation):
            split.dataset = Relabelled(split.dataset, split.dataset.classes, (1, 2, 3, 0))
            split.entries = list(split.dataset.entries())
        return splits

    examples.open_splits = turned
    try:
        session.train(recipe, out=tmp_path, device="cpu", threads=1)
    finally:
        examples.open_splits = kept
    one, other = (safetensors.torch.load_file(folder / "model.safetensors") for folder in (trained.folder, tmp_path))
    different = {name for name in one if not torch.equal(one[name], other[name])}
    assert different == {"head.weight", "head.bias"}


def test_resumed_it_ends_as_if_nothing_had_happened(recipe, trained, tmp_path, monkeypatch):
    save = fitting.Fit._save

    def saved(self):
        save(self)
        if self.current_epoch == 0 and not (tmp_path / "seen").exists():
            (tmp_path / "seen").touch()
            raise XbenchError("stopped")

    monkeypatch.setattr(fitting.Fit, "_save", saved)
    with pytest.raises(XbenchError, match="stopped"):
        session.train(recipe, out=tmp_path, device="cpu", threads=1)
    done = session.train(recipe, out=tmp_path, resume=True, device="cpu", threads=1)
    assert done.card.sha256 == trained.card.sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("dynamic_img_size = true", ""), r"tiny_simclr: the network does not read views of 8 pixels .*dynamic_img_size = true"),
        (('task = "simclr"', 'task = "classify"'), r"the table \[simclr\] is of the task simclr, not classify"),
        (("side = 8", "scale = [0.5, 0.2]"), r"line 17: scale is a range .*\[0.5, 0.2\]"),
        (("clouds = 0.2", "cloud = 2"), r"line 18: unknown key 'cloud'; did you mean 'clouds'"),
    ],
)
def test_wrong_recipes(tmp_path, change, message):
    assert change[0] in RECIPE
    with pytest.raises(XbenchError, match=message):
        session.train(written(tmp_path, RECIPE.replace(*change)), out=tmp_path / "out", device="cpu", threads=1)
    assert not (tmp_path / "out" / "request.json").exists()


def test_other_networks_of_timm_can_be_taught_too(tmp_path):
    text = (
        RECIPE[: RECIPE.index("[network]")]
        + '[network]\ntimm = "resnet18"\nchannels = [8, 8, 16, 16]\n\n'
        + RECIPE[RECIPE.index("[simclr]") :]
    )
    task, learner, pictures = begun(written(tmp_path, text))
    task.loss(learner, step(pictures)).backward()
    assert learner.network.conv1.weight.grad.abs().sum() > 0


def test_an_average_of_the_weights_can_be_kept(tmp_path, trained):
    averaged = written(tmp_path, RECIPE.replace("flip = true", "ema = 0.9"))
    done = session.train(averaged, out=tmp_path / "run", device="cpu", threads=1)
    assert done.card.sha256 != trained.card.sha256
    assert set(done.card.held_out["test"]) == {"accuracy"}
