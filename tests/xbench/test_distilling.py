"""Learning without labels: views, the objective against plain loops, and whole trainings of a tiny network."""

import json
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

from xbench.data import Relabelled, generator
from xbench.errors import XbenchError
from xbench.modelview import Model, Preprocessing
from xbench.registry import registry
from xbench.training import cards, examples, recipes, session, views, weights
from xbench.training.objectives import Step
from xbench.workflow import Silent

pytest.importorskip("lightning")
from xbench.training import distilling, fitting, tasks

SHAPES = Path(__file__).with_name("tiny_shapes.py")
RECIPE = """
name = "tiny_dino"
task = "distill"

[network]
timm = "vit_tiny_patch16_224"
img_size = 16
patch_size = 4
embed_dim = 16
depth = 2
num_heads = 2
dynamic_img_size = true

[distill]
outputs = 12
hidden = 16
bottleneck = 8
large = 16
small = 8
crops = 2

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


def begun(recipe) -> tuple[distilling.Distillation, distilling.Pair, torch.Tensor]:
    """An objective, what learns, and normalised inputs."""
    task = tasks.opened(recipe, registry)
    splits = examples.open_splits(recipe.data, task.preprocessing, registry)
    splits.train.gather(True, False, 0, Silent())
    torch.manual_seed(0)
    network, _ = task.network(4)
    objective = distilling.Distillation(recipe, splits.train)
    return objective, objective.module(network), task.preprocessing.normalise(splits.train.pictures[:8])


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


# -- the objective ---------------------------------------------------------------------------------------------------------


def test_the_loss_against_plain_loops():
    draw = generator("distill")
    student, teacher = torch.randn(4, 3, 5, generator=draw), torch.randn(2, 3, 5, generator=draw).softmax(dim=-1)
    total, pairs = 0.0, 0
    for i in range(2):
        for j in range(4):
            if i == j:
                continue
            pairs += 1
            for b in range(3):
                logits = [float(v) / 0.1 for v in student[j, b]]
                highest = max(logits)
                norm = highest + math.log(sum(math.exp(v - highest) for v in logits))
                total -= sum(float(teacher[i, b, k]) * (logits[k] - norm) for k in range(5)) / 3
    assert pairs == 6
    assert float(distilling.distillation_loss(student, teacher, 0.1)) == pytest.approx(total / 6, rel=1e-5)


def test_the_objective_is_that_loss_of_centred_and_sharpened_outputs(recipe):
    objective, pair, pictures = begun(recipe)
    pair.centre.copy_(torch.linspace(-0.2, 0.2, 12))
    got = objective.loss(pair, step(pictures))
    large, small = objective.views(pictures, generator("step", 0))
    assert large.shape == (16, 3, 16, 16)
    assert small.shape == (16, 3, 8, 8)
    parts = [large[:8], large[8:], small[:8], small[8:]]
    wanted = [((pair.taught(view) - pair.centre) / 0.04).softmax(dim=1) for view in parts[:2]]
    said = [pair.studied(view) for view in parts]
    expected = distilling.distillation_loss(torch.stack(said), torch.stack(wanted), 0.1)
    assert got.item() == pytest.approx(expected.item(), rel=1e-4)


def test_gradients_stop_at_the_teacher(recipe):
    objective, pair, pictures = begun(recipe)
    objective.loss(pair, step(pictures)).backward()
    for name, parameter in pair.named_parameters():
        learns = name.startswith("student") and not name.startswith("student.head.")
        assert (parameter.grad is not None) == learns, name
        assert parameter.requires_grad == learns, name
    assert pair.student.patch_embed.proj.weight.grad.abs().sum() > 0


def test_the_teacher_is_the_average_of_the_students(recipe):
    objective, pair, pictures = begun(recipe)
    expected = {name: p.clone() for name, p in [*pair.student.named_parameters(), *pair.student_head.named_parameters()]}
    optimiser = torch.optim.SGD([p for p in pair.parameters() if p.requires_grad], lr=0.5)
    for number in range(3):
        optimiser.zero_grad()
        objective.loss(pair, step(pictures, seed=number)).backward()
        optimiser.step()
        objective.after_step(pair, number / 3)
        decay = 1 - (1 - 0.996) * (1 + math.cos(math.pi * number / 3)) / 2
        for name, learned in [*pair.student.named_parameters(), *pair.student_head.named_parameters()]:
            if not name.startswith("head."):
                expected[name] = decay * expected[name] + (1 - decay) * learned.detach()
    for name, own in [*pair.teacher.named_parameters(), *pair.teacher_head.named_parameters()]:
        assert torch.allclose(own, expected[name], atol=1e-6, rtol=1e-5), name
    assert not torch.equal(pair.teacher.norm.weight, pair.student.norm.weight)
    assert distilling.momentum(0.9, 0.0) == pytest.approx(0.9)
    assert distilling.momentum(0.9, 0.5) == pytest.approx(0.95)
    assert distilling.momentum(0.9, 1.0) == pytest.approx(1.0)


def test_the_centre_follows_the_teachers_mean(recipe):
    objective, pair, pictures = begun(recipe)
    pair.centre.fill_(0.5)
    large, _ = objective.views(pictures, generator("step", 0))
    mean = pair.taught(large).mean(dim=0)
    objective.loss(pair, step(pictures))
    assert torch.equal(pair.centre, torch.full((12,), 0.5))  # not before the step
    objective.after_step(pair, 0.0)
    assert torch.allclose(pair.centre, 0.9 * 0.5 + 0.1 * mean, atol=1e-6)


def test_collapse_would_show(recipe):
    objective, pair, pictures = begun(recipe)
    with torch.no_grad():
        pair.teacher_head.directions.copy_(torch.ones_like(pair.teacher_head.directions))  # all outputs equal
    objective.loss(pair, step(pictures))
    found = objective.after_epoch(pair, torch.device("cpu"))
    assert found == pytest.approx({"entropy_of_mean": 1, "mean_entropy": 1}, abs=1e-4)
    pair.centre[0] = -100  # one output always wins
    objective.loss(pair, step(pictures))
    found = objective.after_epoch(pair, torch.device("cpu"))
    assert found == pytest.approx({"entropy_of_mean": 0, "mean_entropy": 0}, abs=1e-4)


def test_the_linear_classifier_is_the_minimum_that_it_should_be():
    """The gradient vanishes there, by hand, for features of any scale."""
    draw = generator("logistic")
    seen = torch.randn(60, 4, generator=draw, dtype=torch.float64) * torch.tensor([1, 10, 0.1, 3]) + 5
    targets = functional.one_hot(torch.arange(60) % 3, 3).double()
    seen[targets[:, 1] > 0, 0] += 2
    weight, bias = distilling.logistic_regression(seen, targets)
    off = (seen @ weight.T + bias).softmax(dim=1) - targets
    spread = seen.std(dim=0, correction=0)
    slope = off.T @ ((seen - seen.mean(dim=0)) / spread) / 60 + distilling.DECAY * weight * spread
    assert slope.abs().max() < 1e-4
    assert off.mean(dim=0).abs().max() < 1e-4
    right = ((seen @ weight.T + bias).argmax(dim=1) == targets.argmax(dim=1)).double().mean()
    assert right > 0.5


# -- whole trainings -------------------------------------------------------------------------------------------------------


def test_it_trains_and_is_a_classifier_of_its_last_epoch(trained, recipe):
    history = json.loads((trained.folder / "history.json").read_text())
    assert [set(epoch["figures"]) for epoch in history] == [{"accuracy", "entropy_of_mean", "mean_entropy"}] * 2
    card = trained.card
    assert (card.task, card.selected_epoch, card.classes) == ("distill", 2, ["bar", "cross", "frame", "dot"])
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
        (("dynamic_img_size = true", ""), r"tiny_dino: the network does not read crops of 8 pixels .*dynamic_img_size = true"),
        (('task = "distill"', 'task = "classify"'), r"the table \[distill\] is of the task distill, not classify"),
        (("flip = true", "ema = 0.9"), r"the task distill keeps the teacher, which is an average already; set ema to 0"),
        (("small = 8", "small_scale = [0.5, 0.2]"), r"line 19: a scale is a range .*\[0.5, 0.2\]"),
        (("crops = 2", "crop = 2"), r"line 20: unknown key 'crop'; did you mean 'crops'"),
    ],
)
def test_wrong_recipes(tmp_path, change, message):
    assert change[0] in RECIPE
    with pytest.raises(XbenchError, match=message):
        session.train(written(tmp_path, RECIPE.replace(*change)), out=tmp_path / "out", device="cpu", threads=1)
    assert not (tmp_path / "out" / "request.json").exists()


def test_other_networks_of_timm_can_be_taught_too(tmp_path):
    """A convolutional one with batch norms: the teacher has the student's statistics."""
    text = (
        RECIPE[: RECIPE.index("[network]")]
        + '[network]\ntimm = "resnet18"\nchannels = [8, 8, 16, 16]\n\n'
        + RECIPE[RECIPE.index("[distill]") :]
    )
    objective, pair, pictures = begun(written(tmp_path, text.replace("small = 8", "small = 12")))
    pair.train()
    assert not pair.teacher.training
    objective.loss(pair, step(pictures)).backward()
    objective.after_step(pair, 0.0)
    assert torch.equal(pair.teacher.bn1.running_mean, pair.student.bn1.running_mean)
    assert pair.student.bn1.running_mean.abs().sum() > 0
    assert isinstance(pair.teacher, nn.Module)
