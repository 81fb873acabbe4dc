from collections import Counter

import pytest
import torch

from xbench.data import geometry
from xbench.errors import XbenchError
from xbench.plan.suite import Suite, Track
from xbench.plugins.registry import registry
from xbench.run import pipeline


@pytest.fixture
def mosaics():
    return registry.bind("dataset", "grid(photos, n=20)")()


def test_four_different_classes_and_every_photograph_about_equally(mosaics):
    used = Counter()
    for entry in mosaics.entries():
        assert len(set(entry.labels)) == 4
        used.update(entry.clusters)
    assert len(used) == 20
    assert max(used.values()) - min(used.values()) <= 1


def test_items_point_at_the_cell_of_their_own_photograph(mosaics):
    photos = registry.bind("dataset", "photos")()
    items = mosaics.items("present")
    assert len(items) == 80
    for item in items[::7]:
        sample = mosaics.load(item.sample)
        assert sample.image.shape == (3, 448, 448)
        truth = geometry.full(448, 448).truth(sample, item.target)
        stored = photos.load(item.cluster).image
        photograph = geometry.crop(*stored.shape[-2:], (224, 224), 1.0).image(stored)
        assert torch.equal(sample.image[:, truth.mask].reshape(3, 224, 224), photograph)
        (box,) = truth.boxes
        assert float(truth.mask.float().mean()) == 0.25
        assert truth.mask[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)].all()
        assert truth.visible == 1.0


def test_deterministic_by_seed():
    hands = [registry.bind("dataset", f"grid(photos, n=5, seed={seed})")().entries() for seed in (3, 3, 4)]
    assert hands[0] == hands[1]
    assert hands[0] != hands[2]
    assert hands[0][0].clusters == ("imagenet_08_915", "imagenet_03_990", "imagenet_06_609", "imagenet_05_853")


def test_revision_follows_every_parameter():
    specs = ["n=5", "n=6", "n=5, cell=112", "n=5, seed=1"]
    assert len({registry.bind("dataset", f"grid(photos, {s})")().revision for s in specs}) == 4


def test_any_labelled_dataset_can_be_wrapped():
    sample = registry.bind("dataset", "grid(tiny_pictures, n=2, cell=16)")().load("mosaic_0000")
    assert sample.image.shape == (3, 32, 32)
    assert len(sample.sources) == 4


def test_a_suite_may_ask_for_mosaics_that_the_model_gets_right(tmp_path):
    track = Track(dataset="grid(tiny_pictures, n=6, cell=32)", metrics=["grid_pointing"], target="present", view="full")
    suite = Suite(name="s", version="1", batch_size=4, models=["tiny_net"], methods=["random"], tracks=[track])
    every = pipeline.run(suite, out=tmp_path / "every").rows
    only = track.model_copy(update={"only": "sources_correct"})
    right = pipeline.run(suite.model_copy(update={"tracks": [only]}), out=tmp_path / "right").rows
    model, pictures = registry.bind("model", "tiny_net")(), registry.bind("dataset", "tiny_pictures")()
    mosaics = {e.id: e.clusters for e in registry.bind("dataset", track.dataset)().entries()}
    known = {}
    for entry in pictures.entries():
        sample = pictures.load(entry.id)
        known[entry.id] = int(model.network(model.inputs([sample.image], "crop")).argmax()) in sample.labels
    for row in every.itertuples():
        assert row.sources_correct == all(known[c] for c in mosaics[row.item.partition("#")[0]])
    assert set(every["status"]) == {"ok"}
    assert (right["status"] == "ok").tolist() == right["sources_correct"].tolist()
    assert set(right[right["status"] != "ok"]["reason"]) == {"the model does not get all sources right"}
    assert set(every["protocol_key"]).isdisjoint(right["protocol_key"])


@pytest.mark.parametrize("spec", ["grid(tiny_pictures(n=3))", "grid(photos, n=0)", "grid(photos, cell=0)"])
def test_what_cannot_be_dealt_is_named(spec):
    with pytest.raises(XbenchError, match="dataset grid:"):
        registry.bind("dataset", spec)()
