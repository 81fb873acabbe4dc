"""Models that `xbench train` made, in suites."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from xbench.models import trained as module

from xbench.errors import XbenchError
from xbench.plan.suite import Suite, Track
from xbench.plugins.registry import registry
from xbench.run import pipeline
from xbench.train import recipes, session

pytest.importorskip("lightning")
SHAPES = Path(__file__).parents[1] / "xbench" / "tiny_shapes.py"
DATA = {"train": "tiny_shapes(n=128)", "validation": "tiny_shapes(n=16, start=500)", "test": "tiny_shapes(n=16, start=900)"}
TRAINING = {"epochs": 1, "batch_size": 32}
CLIP = {
    "open_clip": "CLIP",
    "embed_dim": 8,
    "vision": {"patch_size": 4, "width": 16, "layers": 2, "head_width": 8},
    "text": {"context_length": 12, "width": 8, "heads": 1, "layers": 1},
}


def train(folder: Path, task: str, network: dict[str, object]) -> Path:
    registry.load(str(SHAPES))
    parts = {"network": network, "data": DATA | {"workers": 0}, "training": TRAINING}
    parts |= {} if task == "masked_max" else {"preprocessing": {"size": 16}}
    parts |= {"simclr": {"side": 8, "outputs": 8}} if task == "simclr" else {}
    prompts = {"prompts": {"long": "a picture of a {} on noise"}} if task == "contrast" else {}
    recipe = recipes.of({"name": "tiny", "task": task, **parts, **prompts})
    session.train(recipe, out=folder, device="cpu", threads=1)
    return folder


@pytest.fixture(scope="module")
def resnet(tmp_path_factory) -> Path:
    network = {"timm": "resnet18", "channels": [8, 8, 8, 8], "output_stride": 8}
    return train(tmp_path_factory.mktemp("resnet"), "classify", network)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("clip"), "contrast", CLIP)


def test_what_was_trained_runs_through_a_suite(resnet, clip, tmp_path):
    suite = Suite(
        name="tiny",
        version="1",
        batch_size=4,
        block=4,
        models=[f"trained@{resnet}", f"trained@{clip}"],
        methods=["tiny_cam", "tiny_gradient"],
        tracks=[Track(dataset="tiny_shapes(n=8, start=900)", metrics=["tiny_mass", "tiny_deletion"], target="label")],
    )
    done = pipeline.run(suite, out=tmp_path / "run", threads=1)
    assert len(done.rows) == 2 * 2 * 2 * 8
    assert set(done.rows["status"]) == {"ok"}, set(done.rows["reason"])
    assert all("trained by xbench itself (recipe tiny" in model.card for model in done.manifest.models.values())


@pytest.mark.parametrize("file", ["", "/model.json", "/model.safetensors"])
def test_it_is_named_by_its_folder_or_one_of_its_files(resnet, file):
    model = registry.model(f"trained@{resnet}{file}")()
    assert model.classes.names == ("bar", "cross", "frame", "dot")
    assert model.digest == registry.model(f'trained("{resnet}")')().digest
    assert [path.name for path in model.files] == ["model.json", "model.safetensors"]
    assert model.capabilities >= {"feature_maps", "gradients"}


def test_a_clip_is_a_zero_shot_classifier_over_its_prompts(clip, tmp_path):
    own = registry.model(f"trained@{clip}")()
    assert own.prompts[0] == ("a picture of a bar",)
    assert "text" in own.capabilities
    assert registry.model(f'trained@{clip}(template="one {{}}")')().prompts[3] == ("one dot",)
    named = registry.model(f"trained@{clip}(prompts=long)")()
    assert named.prompts[1] == ("a picture of a cross on noise",)
    assert named.digest != own.digest
    (tmp_path / "classes.txt").write_text("line\nring\n")
    assert registry.model(f"trained@{clip}(classes={tmp_path}/classes.txt)")().prompts == (
        ("a picture of a line",),
        ("a picture of a ring",),
    )
    (tmp_path / "prompts.json").write_text(json.dumps({"line": ["a line", "one line"], "ring": "a ring"}))
    both = registry.model(f"trained@{clip}(prompts={tmp_path}/prompts.json)")()
    assert both.classes.names == ("line", "ring")
    assert both.prompts == (("a line", "one line"), ("a ring",))
    assert both(torch.zeros(2, 3, 16, 16)).shape == (2, 2)
    assert torch.allclose(both.encode_text(["a line"]).norm(dim=1), torch.ones(1))


def test_what_does_not_fit_is_refused_in_one_line(resnet, clip, tmp_path):
    for spec, message in (
        (f"trained@{tmp_path}", "no trained model at .*: its card .* is not there; name what xbench train made"),
        (f'trained@{resnet}(template="a {{}}")', "is a classifier of its own classes"),
        (f'trained@{clip}(template="a thing")', "has no {}"),
        (f"trained@{clip}(prompts=lung)", "cannot read prompts lung .*the card's own sets: long"),
        (f"trained@{clip}(prompts=long, classes=x)", "leave template and classes out"),
    ):
        with pytest.raises(XbenchError, match=message):
            registry.model(spec)()
    shutil.copytree(resnet, tmp_path / "copy")
    shutil.copy(clip / "model.safetensors", tmp_path / "copy")
    with pytest.raises(XbenchError, match="is not the file of its card: sha256"):
        registry.model(f"trained@{tmp_path}/copy")()


def test_a_network_that_learned_without_labels_is_a_classifier_by_its_fitted_layer(tmp_path):
    network = {"timm": "vit_tiny_patch16_224", "img_size": 16, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2}
    folder = train(tmp_path / "run", "simclr", network | {"dynamic_img_size": True})
    model = registry.model(f"trained@{folder}")()
    assert model.classes.names == ("bar", "cross", "frame", "dot")
    assert "attention" in model.capabilities
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 4)


def test_a_projection_is_no_model_but_explains_the_clip_that_it_was_trained_for(clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = train(tmp_path / "eclip", "masked_max", {"clip": f"trained@{clip}", "share": 1.0})
    with pytest.raises(XbenchError, match=rf"is a projection for trained@{clip}; give it to the method eclip\(projection={folder}"):
        registry.model(f"trained@{folder}")()
    track = Track(dataset="tiny_shapes(n=8)", metrics=["pointing_game"], target="label")
    spec = f'eclip(projection="{folder}")'
    suite = Suite(
        name="here", version="1", models=[f"trained@{clip}"], methods=[spec, "eclip"], tracks=[track], batch_size=4, block=4
    )
    done = pipeline.run(suite, pipeline.Selection())
    assert set(done.rows[done.rows["method"] != "eclip"]["status"]) == {"ok"}
    other = train(tmp_path / "other", "contrast", CLIP | {"embed_dim": 4})
    with pytest.raises(
        XbenchError, match=r"eclip: .* is a projection for trained@.* and does not fit trained@.*; train one for it"
    ):
        pipeline.run(suite.model_copy(update={"models": [f"trained@{other}"]}), pipeline.Selection())


def test_models_that_ship_are_those_in_their_folder(resnet, tmp_path, monkeypatch):
    for suffix in ("json", "safetensors"):
        shutil.copy(resnet / f"model.{suffix}", tmp_path / f"small.{suffix}")
    monkeypatch.setattr(module, "SHIPPED", tmp_path)
    assert module.names() == ["small"]
    model = registry.model("scenes/small")()
    assert model.id == "scenes/small"
    assert "trained by xbench itself" in model.card
    with pytest.raises(XbenchError, match="unknown model 'scenes/smal'; did you mean 'scenes/small'"):
        registry.model("scenes/smal")


def test_every_model_that_ships_opens_with_its_card():
    for name in module.names():
        model = registry.model(f"scenes/{name}")()
        assert "generated pictures that are no photographs" in model.card
        assert model(torch.zeros(1, 3, *model.preprocessing.size)).shape == (1, len(model.classes))
