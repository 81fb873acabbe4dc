"""Learning from captions: which are drawn, prompts, and a whole training of a tiny CLIP."""

import json
import math
from pathlib import Path

import pytest
import torch

from xbench.errors import XbenchError
from xbench.network.model import Preprocessing
from xbench.plugins.registry import registry
from xbench.progress import Silent
from xbench.train import examples, networks, objectives, recipes, session, weights

pytest.importorskip("lightning")
pytest.importorskip("open_clip")
SHAPES = Path(__file__).parents[1] / "xbench" / "tiny_shapes.py"
RECIPE = """
name = "tiny_clip"
task = "contrast"
template = "a picture of a {}"

[prompts]
short = "a {}"
glosses = ["a bar on noise", "a cross on noise", "a frame on noise", "a dot on noise"]

[network]
open_clip = "CLIP"
embed_dim = 16

[network.vision]
patch_size = 4
width = 32
layers = 2
head_width = 16

[network.text]
context_length = 12
width = 16
heads = 2
layers = 1

[preprocessing]
size = 16

[data]
train = "tiny_shapes(n=512)"
validation = "tiny_shapes(n=64, start=1000)"
test = "tiny_shapes(n=128, start=2000)"
workers = 0

[training]
epochs = 12
batch_size = 64
lr = 1e-2
"""


@pytest.fixture(scope="module", autouse=True)
def _shapes():
    registry.load(str(SHAPES))


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('task = "contrast"', 'task = "classify"'), r"line 10: the task classify needs a classifier; write \[network\] with timm"),
        (('open_clip = "CLIP"', 'timm = "resnet18"'), r"line 10: the task contrast needs a CLIP; write \[network\] with open_clip"),
        (("embed_dim = 16", "embed_dims = 16"), r"line 12: unknown key 'embed_dims'; did you mean 'embed_dim'"),
        (("a picture of a {}", "a picture"), r"line 4: template 'a picture' has no {}"),
        (("lr = 1e-2", "lr = fast"), r"not valid TOML.*line 38"),
        (("lr = 1e-2", "token_labels = 1.0"), r"line 38: unknown key 'token_labels'"),
        (("[data]", "[simclr]\nside = 8\n\n[data]"), r"the table \[simclr\] is of the task simclr, not contrast; leave it out"),
    ],
)
def test_a_wrong_recipe_names_the_key_and_its_line(tmp_path, change, message):
    assert change[0] in RECIPE
    with pytest.raises(XbenchError, match=message):
        recipes.load(written(tmp_path, RECIPE.replace(*change)))


def test_captions_are_drawn_by_seed_epoch_and_picture(tmp_path):
    contrast = recipes.load(written(tmp_path, RECIPE))
    task = registry.trainer("contrast")(contrast)
    splits = examples.open_splits(contrast.data, task.preprocessing, registry)
    train = splits.train
    train.gather(False, True, 0, Silent())
    task.begin(splits)
    captions = task.spoken
    tokenize, every = networks.tokenizer(contrast.network), torch.arange(len(train))
    whole = captions.drawn(every, 0)
    assert torch.equal(captions.drawn(torch.tensor([5, 3]), 0), whole[[5, 3]])
    for place in (0, 1, 7):
        own = tokenize(list(train.captions[place]))
        assert any(torch.equal(task.tokens[whole[place]].long(), tokens) for tokens in own)
    of_one = {int(captions.drawn(torch.tensor([9]), epoch)) for epoch in range(40)}
    assert len(of_one) == 3
    other = objectives.Captions(train, 1)
    assert not torch.equal(other.drawn(every, 0), whole)


def test_a_prompt_set_must_fit_the_classes(tmp_path):
    contrast = recipes.load(written(tmp_path, RECIPE.replace(', "a dot on noise"', "")))
    with pytest.raises(XbenchError, match=r"prompts.glosses has 3 sentences for 4 classes"):
        session.train(contrast, out=tmp_path / "out", device="cpu", threads=1)
    assert not (tmp_path / "out" / "request.json").exists()


def test_it_contrasts_and_speaks(tmp_path):
    contrast = recipes.load(written(tmp_path, RECIPE))
    done = session.train(contrast, out=tmp_path / "clip", device="cpu", threads=1)
    history = json.loads((tmp_path / "clip" / "history.json").read_text())
    assert history[-1]["loss"] < history[0]["loss"] - 0.2
    figures = done.card.held_out["test"]
    assert set(figures) == {"accuracy", "accuracy/short", "accuracy/glosses"}
    assert figures["accuracy"].value > 0.6  # chance is 0.25
    clip = weights.network(done.card, tmp_path / "clip" / "model.safetensors")
    assert 0 <= clip.logit_scale.item() <= math.log(100)
    dataset, right = registry.dataset(done.card.data["test/test"].dataset)(), 0
    tokens = networks.tokenizer(contrast.network)([f"a picture of a {name}" for name in done.card.classes])
    texts = clip.encode_text(tokens, normalize=True)
    for entry in dataset.entries():
        inputs = Preprocessing((16, 16), 1, (127.5,) * 3, (127.5,) * 3).normalise(dataset.load(entry.id).image)
        right += int((clip.encode_image(inputs[None], normalize=True) @ texts.T).argmax()) == entry.labels[0]
    assert right / 128 == figures["accuracy"].value
