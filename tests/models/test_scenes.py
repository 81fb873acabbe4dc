"""The networks that ship: they are what their cards say, and explanations of them fall where the truth is."""

import functools
from pathlib import Path

import pytest
import torch

from xbench import models as package
from xbench.plan.suite import Suite, Track
from xbench.plugins.registry import registry
from xbench.run import pipeline
from xbench.train import cards, recipes

WEIGHTS = Path(package.__path__[0], "weights")
NAMES = sorted(path.stem for path in WEIGHTS.glob("*.json"))
PICTURES = 300


def card_of(name):
    return cards.read(WEIGHTS / f"{name}.json")


@functools.cache
def model_of(name):
    return registry.model(f"scenes/{name}")()


def test_all_ship_and_are_small():
    assert NAMES == ["clip", "parts_vit", "resnet", "shortcut", "simclr", "vit"]
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 25e6


@pytest.mark.parametrize("name", NAMES)
def test_a_card_tells_its_recipe(name):
    card, recipe = card_of(name), recipes.load(recipes.find(f"scenes_{name}"))
    assert recipes.of(card.recipe) == recipe
    assert card.generated
    assert "generated pictures that are no photographs" in card.sentence()
    for split in card.data.values():
        assert split.revision == registry.dataset(split.dataset)().revision, "train it anew: its pictures are others now"


@pytest.mark.parametrize("name", NAMES)
def test_held_out_figures_are_those_of_the_card(name):
    card, model = card_of(name), model_of(name)
    for test, figures in card.held_out.items():
        data = registry.dataset(card.data[f"test/{test}"].dataset)()
        entries = data.entries()[:PICTURES]
        right = []
        for start in range(0, PICTURES, 50):
            batch = entries[start : start + 50]
            with torch.no_grad():
                predicted = model(model.inputs([data.load(e.id).image for e in batch], "crop")).argmax(dim=1).tolist()
            right += [p in e.labels for p, e in zip(predicted, batch, strict=True)]
        figure = figures["accuracy"]
        spread = (max(figure.value * (1 - figure.value), 0.005) / PICTURES) ** 0.5
        assert sum(right) / PICTURES == pytest.approx(figure.value, abs=4 * spread), test


def test_capabilities_and_grids():
    found = {name: (model_of(name).capabilities, model_of(name).layout) for name in NAMES}
    convolutional, transformer = {"feature_maps", "gradients"}, {"feature_maps", "gradients", "attention"}
    assert {name: set(capabilities) for name, (capabilities, _) in found.items()} == {
        "resnet": convolutional,
        "shortcut": convolutional,
        "vit": transformer,
        "simclr": transformer,
        "parts_vit": transformer,
        "clip": transformer | {"text", "patch_tokens"},
    }
    assert all((layout.grid, layout.extra) == ((12, 12), 1) for n, (_, layout) in found.items() if n not in ("resnet", "shortcut"))


def masses(model, dataset, methods, limit=40):
    """method -> mean share of the saliency that lies on the truth."""
    track = Track(dataset=dataset, metrics=["relevance_mass"], target="label")
    suite = Suite(name="here", version="1", models=[model], methods=methods, tracks=[track], batch_size=8, block=8)
    rows = pipeline.run(suite, pipeline.Selection(limit=limit)).rows
    return rows.groupby("method")["value"].mean()


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_controls_lie_where_they_must(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = masses(f"scenes/{name}", "scenes(most=1)", ["oracle", "grad_cam", "random", "inverted(grad_cam)"])
    assert found["oracle"] == pytest.approx(1)
    assert found["oracle"] > found["grad_cam"] > 1.5 * found["random"]
    assert found["grad_cam"] > found["inverted(grad_cam)"]


def test_a_shortcut_shows_in_the_maps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    on_cue = masses("scenes/shortcut", "scenes_spurious(label=cue, truth=cue)", ["grad_cam", "lrp", "random"])
    on_object = masses("scenes/shortcut", "scenes_spurious(label=cue, truth=object)", ["grad_cam", "lrp", "random"])
    for method in ("grad_cam", "lrp"):  # noise has just the share of the area
        assert on_cue[method] / on_cue["random"] > 2
        assert on_cue[method] / on_cue["random"] > 2 * on_object[method] / on_object["random"]


def test_the_shortcut_is_right_by_the_sticker_and_not_by_the_figure():
    held_out = card_of("shortcut").held_out
    assert held_out["cue"]["accuracy"].value > 0.95
    assert held_out["object"]["accuracy"].value < 0.2


def test_clip_understands_words_that_its_captions_did_not_have():
    held_out = card_of("clip").held_out["single"]
    assert held_out["accuracy"].value > 0.5
    assert held_out["accuracy/unseen"].value > 0.25  # 1 in 12 by chance


def test_rows_of_a_trained_network_depend_on_the_trainer_that_opens_it():
    from xbench.plan import opening

    bound = registry.model("scenes/resnet")
    names = {path.name for path in opening._brought(bound, bound()).files}
    assert "classify.py" in names
    assert "simclr.py" not in names
