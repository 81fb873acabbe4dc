"""Whole runs of the tiny suite: what is reused, what is computed anew, and that nothing changes a bit that should not."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from xbench.api import Outcome
from xbench.data.classes import ClassList
from xbench.data.samples import Sample
from xbench.errors import XbenchError
from xbench.evaluate import unit
from xbench.plan import keys, recording
from xbench.plan.suite import Selection, Track
from xbench.plugins.registry import registry
from xbench.report import tables
from xbench.run import pipeline
from xbench.store.directory import INFORMATIVE, Store, plain
from xbench.store.manifests import Stamp
from xbench.tables import gate, runs

METHOD = """
from xbench import method

@method("edited", needs={{"feature_maps"}})
def edited(model, batch):
    return model.features(batch).mean(dim=1) * {factor}
"""


def same(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    """Bit for bit, seconds aside."""
    a, b = (plain(f).drop(columns=INFORMATIVE).reset_index(drop=True) for f in (a, b))
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    vectors = zip(a["vector"], b["vector"], strict=True)
    return all((x is None and y is None) or np.array_equal(x, y) for x, y in vectors)


def ordered(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values(["dataset", "metric", "method", "item"]).reset_index(drop=True)


@pytest.fixture
def done(tiny_suite, tmp_path):
    return pipeline.run(tiny_suite, out=tmp_path / "done")


def test_every_cell_has_its_rows(done):
    rows = done.rows
    assert done.computed == len(rows) == 5 * (2 * 6 + 1 * 6)
    assert set(rows["status"]) == {"ok"}
    assert rows[rows["method"] == "tiny_truth"][lambda f: f["metric"] == "tiny_mass"]["value"].tolist() == [1.0] * 12
    curves = rows[rows["metric"] == "tiny_deletion"]["vector"]
    assert all(len(v) == 5 for v in curves)
    assert rows[rows["metric"] == "tiny_mass"]["vector"].isna().all()
    assert not list((done.folder / "parts").glob("*"))
    assert done.manifest.complete


def test_values_equal_a_plain_computation(done):
    """One row by hand: no batch, no prober, no store."""
    model, pictures = registry.bind("model", "tiny_net")(), registry.bind("dataset", "tiny_pictures")()
    sample = pictures.load("picture_4")
    x = ((sample.image.float() - 127) / 64)[None].requires_grad_()
    logits, target = model.network(x), sample.labels[0]
    logits[0, target].backward()
    order = np.argsort(-x.grad.abs().sum(dim=1)[0].flatten().numpy(), kind="stable")
    probabilities = []
    for removed in (0, 256, 512, 768, 1024):
        flat = x.detach().clone().flatten(2)
        flat[:, :, order[:removed]] = 0
        probabilities.append(float(model.network(flat.reshape(x.shape)).softmax(dim=1)[0, target]))
    row = done.rows.query("method == 'tiny_gradient' and metric == 'tiny_deletion' and item == 'picture_4'").iloc[0]
    assert row["target"] == target
    assert row["vector"] == pytest.approx(probabilities, abs=1e-6)
    assert row["value"] == pytest.approx(np.mean(probabilities), abs=1e-6)
    assert row["confidence"] == pytest.approx(probabilities[0], abs=1e-6)
    assert row["correct"] == (int(logits.argmax()) in sample.labels)
    assert (row["forwards"], row["backwards"], row["grid"]) == (1, 1, "32x32")


def test_a_finished_run_answers_without_loading_anything(done, tiny_suite, monkeypatch):
    monkeypatch.setattr(pipeline, "_run", lambda *_: pytest.fail("planned again"))
    again = pipeline.run(tiny_suite, out=done.folder)
    assert again.computed == 0
    assert same(again.rows, done.rows)


def test_a_changed_input_is_noticed(done, tiny_suite, monkeypatch):
    manifest = Store(done.folder).manifest()
    assert not recording.changed_input(manifest)
    inputs = manifest.local.inputs
    path, (size, modified, sha256) = next(iter(inputs.items()))

    def stamped(*stamp):
        return manifest.but(local=manifest.local.model_copy(update={"inputs": inputs | {path: Stamp(*stamp)}}))

    assert not recording.changed_input(stamped(size, modified + 1, sha256))  # another time, the same bytes
    for changed in ((size + 1, modified, sha256), (size, modified + 1, "0" * 64)):
        assert recording.changed_input(stamped(*changed))
    assert recording.changed_input(manifest.but(libraries={"torch": "0.1"}))
    monkeypatch.setattr(keys, "rule_files", lambda: (done.folder / "scoring.py",))
    assert "another xbench" in recording.changed_input(manifest)
    monkeypatch.undo()
    monkeypatch.chdir(done.folder)
    assert "it was run in" in recording.changed_input(manifest)
    assert recording.changed_input(manifest.but(libraries={"no_such_library": "1"}))


@pytest.mark.parametrize(
    "change", [{"block": 1}, {"block": 4}, {"methods": ["tiny_negated(tiny_cam)", "tiny_gradient", "tiny_cam"]}]
)
def test_blocks_companions_and_order_change_no_bit(done, tiny_suite, tmp_path, change):
    other = pipeline.run(tiny_suite.model_copy(update=change), out=tmp_path / "other")
    assert same(ordered(other.rows), ordered(done.rows))


def test_methods_run_apart_give_the_same_rows(done, tiny_suite, tmp_path):
    for method in ["tiny_cam", "tiny_noise", "tiny_gradient", "tiny_negated(tiny_cam)", "tiny_truth"]:
        pipeline.run(tiny_suite, Selection(methods=[method]), out=tmp_path / "apart")
    whole = pipeline.run(tiny_suite, out=tmp_path / "apart")
    assert whole.computed == 0
    assert same(whole.rows, done.rows)


def test_more_pictures_change_only_their_own_rows(done, tiny_suite, tmp_path):
    fewer = pipeline.run(tiny_suite, Selection(limit=4), out=tmp_path / "fewer")
    assert len(fewer.rows) == 5 * (2 * 4 + 4)
    known = done.rows.merge(fewer.rows[["cache_key"]], on="cache_key")
    assert same(ordered(known), ordered(fewer.rows))
    more = pipeline.run(tiny_suite, out=tmp_path / "fewer")
    assert more.computed < len(more.rows)
    assert same(more.rows, done.rows)


def test_a_limit_shows_only_its_items_even_where_more_are_known(done, tiny_suite):
    limited = pipeline.run(tiny_suite, Selection(limit=2), out=done.folder)
    assert limited.computed == 0
    assert limited.rows.groupby("dataset")["item"].nunique().tolist() == [2, 2]


def test_a_limit_holds_for_each_track_of_one_dataset(tiny_suite, tmp_path):
    tracks = [Track(dataset="tiny_pictures", metrics=["tiny_mass"], target=target) for target in ("label", "present")]
    limited = pipeline.run(tiny_suite.model_copy(update={"tracks": tracks}), Selection(limit=3), out=tmp_path / "run")
    assert limited.rows.groupby("target_policy")["item"].nunique().to_dict() == {"label": 3, "present": 3}
    assert limited.computed == len(limited.rows)


def test_another_batch_shape_is_computed_anew_and_agrees(done, tiny_suite, tmp_path):
    other = pipeline.run(tiny_suite, Selection(batch_size=3), out=done.folder)
    assert other.computed == len(other.rows)
    assert other.rows["value"].to_numpy() == pytest.approx(done.rows["value"].to_numpy(), abs=1e-5)


def test_another_seed_changes_noise_only(done, tiny_suite, tmp_path):
    other = pipeline.run(tiny_suite, Selection(seed=1), out=tmp_path / "seed")
    differs = (other.rows["value"] != done.rows["value"]).groupby(done.rows["method"]).any()
    assert differs["tiny_noise"]
    assert not differs["tiny_gradient"]


MODEL = '''
import dataclasses
from pathlib import Path
from xbench import model
from xbench.plugins.registry import registry


@model("seeded_net")
def seeded_net(listed: bool):
    """A network made from a file."""
    file = Path(__file__).with_name("seed.txt")
    made = registry.bind("model", f"tiny_net(seed={file.read_text()})")()
    return dataclasses.replace(made, id="seeded_net", files=(file,) if listed else ())
'''


def test_new_weights_are_computed_anew_even_where_the_model_names_no_file(tiny_suite, tmp_path):
    (tmp_path / "my_model.py").write_text(MODEL)

    def go(seed: int, listed: str) -> pipeline.Outcome:
        (tmp_path / "seed.txt").write_text(str(seed))
        chosen = Selection(methods=["tiny_cam"], models=[f"seeded_net(listed={listed})"])
        return pipeline.run(tiny_suite, chosen, out=tmp_path / listed, plugins=[str(tmp_path / "my_model.py")])

    for listed in ("true", "false"):
        first = go(1, listed)
        assert (first.computed, go(1, listed).computed) == (len(first.rows), 0)
        second = go(2, listed)
        assert second.computed == len(second.rows)
        report = gate.judge((first.rows, first.manifest), (second.rows, second.manifest))
        assert [problem.partition(", and")[0] for problem in report.problems] == {
            "true": [],
            "false": ["the model seeded_net(false) does not name its files"],
        }[listed]


def test_an_edited_method_and_only_it_is_computed_anew(tiny_suite, tmp_path):
    file = tmp_path / "my_method.py"

    def go(factor: str) -> pipeline.Outcome:
        file.write_text(METHOD.format(factor=factor))
        return pipeline.run(
            tiny_suite.model_copy(update={"methods": ["edited", "tiny_cam"]}), out=tmp_path / "run", plugins=[str(file)]
        )

    first = go("1")
    assert first.computed == len(first.rows)
    assert go("1").computed == 0
    second = go("-1")
    assert second.computed == (second.rows["method"] == "edited").sum()
    others = [o.rows[o.rows["method"] != "edited"].reset_index(drop=True) for o in (first, second)]
    assert same(*others)
    assert len(second.rows) == len(first.rows)
    mine = [o.rows.query("method == 'edited' and metric == 'tiny_deletion'")["value"].to_numpy() for o in (first, second)]
    assert not np.array_equal(*mine)


def test_fresh_forgets(done, tiny_suite):
    assert pipeline.run(tiny_suite, out=done.folder, fresh=True).computed == len(done.rows)


def test_what_a_model_or_dataset_lacks_is_not_applicable_with_the_reason(tiny_suite, tmp_path):
    def truthless(bound):
        return dataclasses.replace(bound.plugin, info=dataclasses.replace(bound.plugin.info, provides=frozenset()))

    suite = tiny_suite.model_copy(update={"methods": ["tiny_attention", "tiny_cam"]})
    rows = pipeline.run(suite, out=tmp_path / "a").rows
    lacking = rows[rows["method"] == "tiny_attention"]
    assert set(lacking["status"]) == {"not_applicable"}
    assert set(lacking["reason"]) == {"needs attention, which tiny_net does not have"}
    bound = registry.bind("dataset", "tiny_pictures")
    registry.add(truthless(bound))
    try:
        rows = pipeline.run(suite, out=tmp_path / "b").rows
    finally:
        registry.add(bound.plugin)
    by_method = rows[rows["metric"] == "tiny_mass"].groupby("method")["reason"].first()
    assert by_method["tiny_truth"] == "needs truth, which tiny_pictures does not have"
    assert by_method["tiny_cam"] == "needs mask, which tiny_pictures does not have"


def test_a_prediction_without_truth_is_not_applicable(tiny_suite, tmp_path):
    track = Track(dataset="tiny_pictures", metrics=["tiny_mass", "tiny_deletion"], target="prediction")
    rows = pipeline.run(tiny_suite.model_copy(update={"tracks": [track]}), out=tmp_path / "run").rows
    wrong = ~rows["correct"].astype(bool)
    assert 0 < wrong.sum() < len(rows)
    assert set(rows[wrong & (rows["metric"] == "tiny_mass")]["reason"]) == {"the explained class has no truth in this picture"}
    assert set(rows[wrong & (rows["metric"] == "tiny_deletion") & (rows["method"] == "tiny_truth")]["status"]) == {"not_applicable"}
    assert set(rows[wrong & (rows["metric"] == "tiny_deletion") & (rows["method"] == "tiny_cam")]["status"]) == {"ok"}


def test_nan_maps_are_counted_and_are_never_a_value(tiny_suite, tmp_path):
    outcome = pipeline.run(tiny_suite.model_copy(update={"methods": ["tiny_broken"]}), out=tmp_path / "nan")
    rows = outcome.rows[outcome.rows["method"] == "tiny_broken"]
    bad = rows["status"] == "nan"
    assert rows[bad]["value"].isna().all()
    assert rows[bad]["tie_mass"].isna().all()
    assert rows[~bad]["value"].notna().all()
    assert outcome.nan_methods() == {"tiny_broken": (int(bad.sum()), len(rows))}
    assert 0 < bad.sum() < len(rows)


@pytest.mark.parametrize("how", ["shape", "integers", "list", "large"])
def test_a_broken_method_is_named_and_finished_units_stay(tiny_suite, tmp_path, how):
    with pytest.raises(XbenchError, match=rf"method tiny_broken\(how={how}\) returned"):
        pipeline.run(tiny_suite.model_copy(update={"methods": [f"tiny_broken(how={how})"]}), out=tmp_path / "run")
    rows, manifest = runs.read(tmp_path / "run")
    assert rows.empty
    assert not manifest.complete


def test_a_failing_method_is_named_with_its_items(tiny_suite, tmp_path):
    with pytest.raises(XbenchError, match=r"method tiny_broken\(how=silly\) failed on items picture_0 to picture_1 .*KeyError"):
        pipeline.run(tiny_suite.model_copy(update={"methods": ["tiny_broken(how=silly)"]}), out=tmp_path / "run")


@pytest.mark.parametrize(
    ("how", "message"),
    [("shape", "must return one value per map"), ("vectors", "one value per map"), ("raise", "failed on .*ValueError: no value")],
)
def test_a_broken_metric_is_named(tiny_suite, tmp_path, how, message):
    track = Track(dataset="tiny_pictures", metrics=[f"tiny_wrong(how={how})"], target="label")
    with pytest.raises(XbenchError, match=rf"metric tiny_wrong.*{message}"):
        pipeline.run(tiny_suite.model_copy(update={"tracks": [track]}), out=tmp_path / "run")


@pytest.mark.parametrize("view", ["squash", "keep_aspect", "full"])
def test_pictures_of_several_sizes_are_batched_by_shape(tiny_suite, tmp_path, view):
    """And each item's rows are those that it has alone."""
    metrics = ["tiny_deletion", "tiny_mass", "tiny_threshold"]
    track = Track(dataset="tiny_pictures(uneven=true)", metrics=metrics, target="label", view=view)
    uneven = tiny_suite.model_copy(update={"tracks": [track], "block": 4})
    rows = pipeline.run(uneven, out=tmp_path / "blocks").rows
    assert set(rows["status"]) == {"ok"}
    alone = pipeline.run(uneven.model_copy(update={"block": 1}), out=tmp_path / "alone").rows
    assert same(ordered(rows), ordered(alone))
    oracle = rows[(rows["method"] == "tiny_truth") & (rows["metric"] == "tiny_mass")]
    assert (oracle["value"] == 1).all()
    grids = rows[rows["method"] == "tiny_cam"].groupby("item")["grid"].first().tolist()
    assert (len(set(grids)) == 1) == (view == "squash")


def test_a_network_of_one_size_says_which_views_it_takes(tiny_suite, tmp_path, monkeypatch):
    make = registry.get("model", "tiny_net").make
    net = make()

    def refuse(_, inputs):
        if inputs[0].shape[-2] != 32:
            raise RuntimeError("only 32 pixels")

    net.network.register_forward_pre_hook(refuse)
    picky = dataclasses.replace(registry.get("model", "tiny_net"), make=lambda: net)
    monkeypatch.setitem(registry.plugins, ("model", "tiny_net"), picky)
    track = Track(dataset="tiny_pictures(uneven=true)", metrics=["tiny_mass"], target="label", view="keep_aspect")
    with pytest.raises(XbenchError, match=r"does not take pictures of 40 x 32, .* use view 'crop' or 'squash'"):
        pipeline.run(tiny_suite.model_copy(update={"tracks": [track]}), out=tmp_path / "run")


@pytest.mark.parametrize("view", ["crop", "keep_aspect"])
def test_a_broken_picture_is_counted_and_the_others_are_scored(tiny_suite, tmp_path, view):
    track = Track(dataset="tiny_pictures(broken=3)", metrics=["tiny_deletion", "tiny_mass"], target="label", view=view)
    done = pipeline.run(tiny_suite.model_copy(update={"tracks": [track]}), out=tmp_path / "run")
    broken = done.rows[done.rows["item"] == "picture_3"]
    assert set(broken["status"]) == {"unreadable"}
    assert broken["value"].isna().all()
    assert set(broken["reason"]) == {"cannot read picture_3: truncated"}
    assert set(done.rows[done.rows["item"] != "picture_3"]["status"]) == {"ok"}
    (table,) = Outcome.of(done).leaderboard().tables
    assert {cell.estimate.n for line in table.lines for cell in line.cells} == {5}
    assert table.quality[0].items == 5
    notes = Outcome.of(done).leaderboard().notes
    assert "tiny_pictures(broken=3): one note" in notes
    assert any("1 of 6 items cannot be read and count nowhere; the first: cannot read picture_3: truncated" in n for n in notes)
    assert pipeline.run(tiny_suite.model_copy(update={"tracks": [track]}), out=tmp_path / "run").computed == 0


def test_a_figure_of_one_threshold_for_all(tiny_suite, tmp_path):
    track = Track(dataset="tiny_pictures", metrics=["tiny_threshold"], target="label")
    done = pipeline.run(tiny_suite.model_copy(update={"tracks": [track]}), out=tmp_path / "run")
    assert set(done.rows["status"]) == {"ok"}
    assert done.rows["value"].isna().all()
    (table,) = Outcome.of(done).leaderboard().tables
    for line in table.lines:
        vectors = np.stack(done.rows[done.rows["method"] == line.method]["vector"].to_list())
        assert line.cells[0].estimate.mean == pytest.approx(vectors.mean(axis=0).max(), abs=1e-6)
    assert table.lines[-1].method == "tiny_truth"
    assert table.lines[-1].cells[0].estimate.mean == 1.0
    assert table.lines[0].cells[0].against  # controls are compared by the same figure


def test_labels_are_translated_into_the_classes_of_a_larger_model(tiny_suite, tmp_path, monkeypatch):
    pictures = registry.get("dataset", "tiny_pictures").make.__globals__["Pictures"]
    monkeypatch.setattr(pictures, "classes", ClassList(("bee", "ant", "cat", "elk", "dog")))
    rows = pipeline.run(tiny_suite, Selection(methods=["tiny_cam"]), out=tmp_path / "run").rows
    by_item = rows[rows["target_policy"] == "label"].groupby("item")["target"].first()
    assert by_item.to_dict() == {f"picture_{i}": [1, 0, 2, 4, 3][i % 5] for i in range(6)}


def test_bfloat16_is_a_protocol_of_its_own(tiny_suite, tmp_path):
    half = pipeline.run(tiny_suite, Selection(dtype="bfloat16"), out=tmp_path / "run")
    assert half.manifest.dtype == "bfloat16"
    whole = pipeline.run(tiny_suite, out=tmp_path / "run")
    assert whole.computed == len(half.rows)
    assert not set(half.rows["protocol_key"]) & set(whole.rows["protocol_key"])
    a, b = (r[(r["method"] == "tiny_cam") & (r["metric"] == "tiny_deletion")] for r in (half.rows, whole.rows))
    assert a["value"].to_numpy() == pytest.approx(b["value"].to_numpy(), abs=0.02)
    assert (a["value"].to_numpy() != b["value"].to_numpy()).any()


def test_a_compiled_network_gives_the_same_values_under_a_protocol_of_its_own(tiny_suite, tmp_path):
    suite = tiny_suite.model_copy(update={"methods": ["tiny_cam"], "controls": [], "tracks": tiny_suite.tracks[:1]})
    whole = pipeline.run(suite, out=tmp_path / "whole").rows
    try:
        compiled = pipeline.run(suite, Selection(dtype="float32-compiled"), out=tmp_path / "compiled").rows
    except XbenchError as error:
        if "leave -compiled out of --dtype" not in str(error):
            raise
        pytest.skip(f"no compiler: {error}")
    assert not set(compiled["protocol_key"]) & set(whole["protocol_key"])
    assert compiled["value"].to_numpy() == pytest.approx(whole["value"].to_numpy(), abs=1e-5)


def test_a_network_that_does_not_compile_says_so(tiny_model, monkeypatch):
    def broken(network):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", broken)
    model = dataclasses.replace(tiny_model, dtype="float32-compiled")
    with pytest.raises(XbenchError, match=r"does not run compiled here \(no C\+\+ compiler\); leave -compiled out of --dtype"):
        model.infer(torch.zeros(1, 3, 32, 32))


def test_truth_outside_the_crop_is_not_applicable(tiny_suite, tmp_path, monkeypatch):
    make = registry.get("model", "tiny_net").make
    model = make()
    narrow = dataclasses.replace(model, preprocessing=dataclasses.replace(model.preprocessing, share=0.3))
    plugin = dataclasses.replace(registry.get("model", "tiny_net"), make=lambda: narrow)
    monkeypatch.setitem(registry.plugins, ("model", "tiny_net"), plugin)
    rows = pipeline.run(tiny_suite, Selection(metrics=["tiny_mass"], methods=["tiny_cam"]), out=tmp_path / "run").rows
    cropped = rows[rows["dataset"] == "tiny_pictures"]
    assert set(cropped["status"]) == {"not_applicable"}
    assert cropped["reason"].str.contains("of the truth is visible to the model").all()


def test_evaluate_gives_rows():
    import xbench

    rows = xbench.evaluate(
        ["tiny_cam", "tiny_probe"], ["tiny_deletion"], model="tiny_net", dataset="tiny_pictures", target="label", limit=4
    )
    assert len(rows) == 8
    assert rows["value"].between(0, 1).all()


def test_a_class_index_out_of_range_is_named(tiny_suite, tmp_path):
    track = Track(dataset="tiny_pictures(bad_label=true)", metrics=["tiny_mass"], target="label")
    with pytest.raises(XbenchError, match=r"item picture_5 has class index 99, but tiny_net has classes 0 to 4"):
        pipeline.run(tiny_suite.model_copy(update={"tracks": [track]}), out=tmp_path / "run")


def test_classes_of_model_and_dataset_must_agree(tiny_suite, tmp_path, monkeypatch):
    pictures = registry.get("dataset", "tiny_pictures").make.__globals__["Pictures"]
    monkeypatch.setattr(pictures, "classes", ClassList(tuple("vwxyz")))
    remedy = r"\('v', for one\); choose a model for its classes, or explain what the model predicts: target = \"prediction\""
    with pytest.raises(XbenchError, match=f"tiny_pictures and tiny_net have different classes {remedy}"):
        pipeline.run(tiny_suite, out=tmp_path / "run")
    monkeypatch.setattr(pictures, "classes", ClassList(tuple("vwx")))
    with pytest.raises(XbenchError, match="a label is 3, but the dataset has 3 classes; correct the label"):
        pipeline.run(tiny_suite, out=tmp_path / "run")


@pytest.mark.parametrize(("target", "items"), [("label", 4), ("prediction", 6), ("present", 9)])
def test_classes_that_the_model_lacks_cost_their_own_items(tiny_suite, tmp_path, monkeypatch, target, items):
    """The model has ant, bee, cat, dog, elk; of the six pictures, two are of a class that it lacks, and one more holds it."""
    pictures = registry.get("dataset", "tiny_pictures").make.__globals__["Pictures"]
    monkeypatch.setattr(pictures, "classes", ClassList(("cow", "elk", "dog", "cat", "bee")))
    track = Track(dataset="tiny_pictures", metrics=["tiny_mass", "tiny_deletion"], target=target)
    done = pipeline.run(
        tiny_suite.model_copy(update={"tracks": [track], "methods": ["tiny_cam"], "controls": []}), out=tmp_path / "run"
    )
    rows = done.rows.set_index(["metric", "item"])
    assert len(rows) == 2 * items
    assert set(rows.loc["tiny_deletion", "status"]) == {"ok"}
    what = "of which it is not known whether the model is right" if target == "prediction" else "left out"
    count = {"label": 2, "prediction": 2, "present": 3}[target]
    note = f"tiny_pictures: pictures with a label that tiny_net does not have, {what}: {count} (first: picture_0)"
    board = Outcome.of(done).leaderboard()
    assert note in board.notes
    if target == "prediction":
        unknown = rows["correct"].isna()
        assert set(rows[unknown].index.get_level_values("item")) == {"picture_0", "picture_5"}
        assert board.tables[0].quality[0].accuracy == rows.loc["tiny_mass"]["correct"].dropna().astype(bool).mean()
    else:
        assert rows["correct"].notna().any()
        assert set(rows["target"]) <= {1, 2, 3, 4}


def test_a_mosaic_with_an_unknown_source_is_neither_right_nor_wrong():
    sources = [Sample(str(label), torch.zeros(3, 32, 32, dtype=torch.uint8), (label,)) for label in (0, 1, -3)]
    mosaic = Sample("m", torch.zeros(3, 64, 64, dtype=torch.uint8), (0, 1, -3), sources=tuple(sources))
    assert unit._sources_correct(SimpleNamespace(sources={"0": True, "1": True}), mosaic) is None
    known = dataclasses.replace(mosaic, sources=tuple(sources[:2]))
    assert unit._sources_correct(SimpleNamespace(sources={"0": True, "1": False}), known) is False


def test_pictures_without_labels_are_explained_by_their_prediction_alone(tiny_suite, tmp_path, monkeypatch):
    pictures = registry.get("dataset", "tiny_pictures").make.__globals__["Pictures"]
    entries = pictures.entries
    bare = lambda self: [dataclasses.replace(e, labels=(), clusters=e.clusters[:1]) for e in entries(self)]  # noqa: E731
    monkeypatch.setattr(pictures, "entries", bare)
    monkeypatch.setattr(
        pictures, "load", lambda self, id: Sample(id, torch.full((3, 32, 32), int(id[-1]) * 20, dtype=torch.uint8), ())
    )
    monkeypatch.setattr(pictures, "classes", ClassList(()))
    track = Track(dataset="tiny_pictures", metrics=["tiny_mass", "tiny_deletion"], target="prediction")
    suite = tiny_suite.model_copy(update={"tracks": [track], "methods": ["tiny_cam"], "controls": []})
    done = pipeline.run(suite, out=tmp_path / "run")
    assert done.rows.groupby("metric")["status"].unique().map(list).to_dict() == {
        "tiny_deletion": ["ok"],
        "tiny_mass": ["not_applicable"],
    }
    assert done.rows["correct"].isna().all()
    assert set(done.rows["reason"].dropna()) == {"the explained class has no truth in this picture"}
    text = tables.to_markdown(Outcome.of(done).leaderboard())
    assert "the model's accuracy is not known, mean confidence" in text
    never = lambda seed: pytest.fail("the model was opened")  # noqa: E731
    monkeypatch.setitem(registry.get("model", "tiny_net").make.__globals__, "Net", never)
    label = suite.model_copy(update={"tracks": [track.model_copy(update={"target": "label"})]})
    with pytest.raises(
        XbenchError, match='tiny_pictures has no labels to explain; explain what the model predicts: target = "pred'
    ):
        pipeline.run(label, out=tmp_path / "other")


def test_the_network_is_left_as_it_was_found(done):
    network = registry.bind("model", "tiny_net")().network
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())


def test_reading_what_is_not_a_run(tmp_path):
    with pytest.raises(XbenchError, match="is not a run directory"):
        runs.read(tmp_path)


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from xbench.run import pipeline
from xbench.plan.suite import Suite
pipeline.run(Suite.model_validate_json({suite!r}), out=Path({out!r}), plugins=[{plugin!r}], threads=1)
"""


def test_killed_at_random_moments_the_rows_are_those_of_an_undisturbed_run(done, tiny_suite, tiny_plugin, tmp_path):
    out, source = tmp_path / "killed", random.Random(0)
    script = SCRIPT.format(tests=".", suite=tiny_suite.model_dump_json(), out=str(out), plugin=tiny_plugin)
    kills, tries = 0, 0
    while kills < 4 and tries < 40:
        process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
        tries += 1
        parts, seen = out / "parts", len(list((out / "parts").glob("*"))) if out.exists() else 0
        while process.poll() is None and (not parts.exists() or len(list(parts.glob("*"))) <= seen):
            time.sleep(0.001)  # until this process has written something: then it is in the middle of the work
        time.sleep(source.random() * 0.005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        if (manifest := Store(out).manifest()) and manifest.complete:
            break
    assert kills >= 2
    subprocess.run([sys.executable, "-c", script], check=True)
    rows, manifest = runs.read(out)
    assert manifest.complete
    assert same(rows, done.rows)


def test_a_file_that_is_gone_does_not_stop_a_run(tiny_suite, tmp_path, monkeypatch):
    """Its sample says so; the run cannot be taken for unchanged, but has nothing to compute either."""
    pictures = registry.get("dataset", "tiny_pictures").make.__globals__["Pictures"]
    monkeypatch.setattr(pictures, "files", (tmp_path / "gone.jpg",))
    done = pipeline.run(tiny_suite, Selection(methods=["tiny_cam"]), out=tmp_path / "run")
    assert recording.changed_input(done.manifest)
    assert pipeline.run(tiny_suite, Selection(methods=["tiny_cam"]), out=tmp_path / "run").computed == 0
