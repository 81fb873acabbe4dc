"""Metrics that explain again in whole runs: values by hand, shared passes, and who cannot be asked again."""

import numpy as np
import pandas as pd
import pytest
import torch

from xbench.data.samples import Batch, Item
from xbench.evaluate.variations import Noisy, Randomised, Retargeted
from xbench.network.model import ModelView
from xbench.plan.suite import Selection, Track
from xbench.plugins.registry import registry
from xbench.run import pipeline


@pytest.fixture
def suite(tiny_suite):
    """The tiny suite with the metric that explains again, and methods of all kinds."""
    track = Track(dataset="tiny_pictures", metrics=["tiny_again", "tiny_mass"], target="label")
    return tiny_suite.model_copy(update={"tracks": [track]})


def vectors(rows: pd.DataFrame, method: str) -> np.ndarray:
    chosen = rows[(rows["method"] == method) & (rows["metric"] == "tiny_again")].sort_values("item")
    return np.stack(chosen["vector"].tolist())


@pytest.fixture
def done(suite, tmp_path):
    return pipeline.run(suite, out=tmp_path / "done")


def test_values_equal_a_plain_computation(done):
    """One item by hand: each change made alone, and explained alone."""
    model, pictures = registry.bind("model", "tiny_net")(), registry.bind("dataset", "tiny_pictures")()
    sample, item = pictures.load("picture_3"), Item("picture_3", "picture_3", 3, "cluster_1")
    batch = Batch(model.inputs([sample.image], "crop"), torch.tensor([sample.labels[0]]), (item,), seed="0")
    cam = registry.method("tiny_cam")

    def explain(network, given):
        return cam(ModelView(network), given)[0]

    first = explain(model, batch)
    changes = [0.0]
    for variation in (Noisy(0.2, 0), Retargeted(), Randomised(1, 1)):
        changes.append(float((explain(*variation.apply(model, batch)) - first).norm()))
    assert min(changes[1:]) > 1e-3
    assert vectors(done.rows, "tiny_cam")[3] == pytest.approx(changes, rel=1e-4, abs=1e-6)


def test_each_method_is_asked_again(done):
    for method in ("tiny_cam", "tiny_gradient", "tiny_negated(tiny_cam)"):
        found = vectors(done.rows, method)
        assert (found[:, 0] == 0).all()  # asked the same, it says the same
        assert (found[:, 1:] > 0).mean() > 0.8
    assert (vectors(done.rows, "tiny_noise")[:, 0] > 0.1).all()  # noise is drawn anew
    assert vectors(done.rows, "tiny_negated(tiny_cam)") == pytest.approx(vectors(done.rows, "tiny_cam"))


def test_who_reads_the_truth_is_not_asked(done):
    rows = done.rows.query("method == 'tiny_truth' and metric == 'tiny_again'")
    assert set(rows["status"]) == {"not_applicable"}
    assert rows["reason"].str.contains("truth").all()
    assert set(done.rows.query("metric == 'tiny_mass'")["status"]) == {"ok"}


def test_methods_share_the_passes(suite, tmp_path):
    passes = []
    for methods in (["tiny_cam"], ["tiny_cam", "tiny_gradient", "tiny_negated(tiny_cam)"]):
        counted: list[tuple[int, ...]] = []
        network = registry.bind("model", "tiny_net")().network
        original = type(network).forward

        def counting(self, x, original=original, counted=counted):
            counted.append(tuple(x.shape))
            return original(self, x)

        type(network).forward = counting
        try:
            pipeline.run(suite.model_copy(update={"methods": methods, "controls": []}), out=tmp_path / str(len(methods)))
        finally:
            type(network).forward = original
        passes.append(sum(shape[0] == suite.batch_size for shape in counted))
    assert passes[0] == passes[1] == 3 * (1 + 4)  # blocks of two items: as given, and four variations


def test_blocks_and_companions_change_no_bit(done, suite, tmp_path):
    other = suite.model_copy(update={"block": 3, "methods": ["tiny_gradient", "tiny_cam"], "controls": []})
    again = pipeline.run(other, out=tmp_path / "again")
    for method in ("tiny_cam", "tiny_gradient"):
        assert np.array_equal(vectors(done.rows, method), vectors(again.rows, method))


def test_given_maps_cannot_be_asked_again(suite, tmp_path):
    kept = pipeline.run(suite.model_copy(update={"methods": ["tiny_cam"], "controls": []}), out=tmp_path / "kept", save_maps=True)
    maps = tmp_path / "maps" / "tiny_pictures"
    maps.mkdir(parents=True)
    for item in kept.rows["item"].unique():
        np.save(maps / f"{item}.npy", np.ones((8, 8), np.float32))
    scored = pipeline.score(tmp_path / "maps", "mine", suite, out=tmp_path / "scored")
    rows = scored.rows.query("metric == 'tiny_again'")
    assert set(rows["status"]) == {"not_applicable"}
    assert rows["reason"].str.contains("cannot be asked again").all()


def test_a_nan_map_is_a_nan(suite, tmp_path):
    found = pipeline.run(suite.model_copy(update={"methods": ["tiny_broken"], "controls": []}), out=tmp_path / "nan").rows
    again = found.query("metric == 'tiny_again'")
    assert set(again["status"]) == {"ok", "nan"}
    assert again[again["status"] == "nan"]["value"].isna().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_values(suite, tmp_path):
    track = Track(dataset="tiny_pictures", metrics=["tiny_again", "tiny_mass", "tiny_deletion"], target="label")
    everything = suite.model_copy(update={"tracks": [track]})
    rows = [pipeline.run(everything, Selection(device=device), out=tmp_path / device).rows for device in ("cpu", "cuda")]
    here, there = (frame.sort_values(["method", "metric", "item"])["value"].to_numpy() for frame in rows)
    assert there == pytest.approx(here, abs=1e-4, nan_ok=True)
