"""Maps that a run keeps, and maps that somebody brings."""

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from xbench.api import Outcome
from xbench.errors import XbenchError
from xbench.network.model import ModelView
from xbench.plan.suite import Selection, Track
from xbench.plugins.declarations import Method
from xbench.run import pipeline
from xbench.store.directory import INFORMATIVE
from xbench.store.maps import folder_name
from xbench.tables import leaderboard, runs

CAM = Selection(methods=["tiny_cam", "tiny_gradient"])


@pytest.fixture
def kept(tiny_suite, tmp_path):
    return pipeline.run(tiny_suite, CAM, out=tmp_path / "kept", save_maps=True)


@pytest.fixture
def cam_maps(kept):
    """The kept maps of tiny_cam on the first track, by item."""
    folder = kept.folder / "maps" / "tiny_net" / "tiny_pictures" / "tiny_cam"
    return {item: map_ for path in folder.glob("*.safetensors") for item, map_ in load_file(path).items()}


def test_maps_are_kept_by_item_at_their_own_grid(kept, cam_maps, tiny_model):
    assert set(cam_maps) == {f"picture_{i}" for i in range(6)}
    assert {m.shape for m in cam_maps.values()} == {(8, 8)}
    gradients = kept.folder / "maps" / "tiny_net" / folder_name("tiny_pictures(n=3)") / "tiny_gradient"
    assert {m.shape for p in gradients.glob("*") for m in load_file(p).values()} == {(32, 32)}


METRIC = """
from xbench import metric

@metric("corrected", kind="ground_truth", version="{version}", direction="higher", needs={{"mask"}})
def corrected(maps, truth):
    return (maps.clamp(min=0) * truth.mask).sum(dim=(1, 2)) * {version}
"""


def test_a_corrected_metric_explains_nothing_anew(tiny_suite, tmp_path, monkeypatch):
    """Its rows equal those of a run from nothing, bit for bit, costs too."""
    plugin, track = tmp_path / "corrected.py", Track(dataset="tiny_pictures", metrics=["corrected"], target="label")
    suite = tiny_suite.model_copy(update={"tracks": [track]})
    plugin.write_text(METRIC.format(version=1))
    before = pipeline.run(suite, CAM, out=tmp_path / "kept", plugins=[str(plugin)], save_maps=True)
    plugin.write_text(METRIC.format(version=2))
    fresh = pipeline.run(suite, CAM, out=tmp_path / "fresh", plugins=[str(plugin)])
    monkeypatch.setattr(ModelView, "feature_gradients", None)
    monkeypatch.setattr(ModelView, "input_gradients", None)
    again = pipeline.run(suite, CAM, out=tmp_path / "kept", plugins=[str(plugin)])
    assert again.computed == len(before.rows)
    assert again.rows["value"].tolist() == (2 * before.rows["value"]).tolist()
    pd.testing.assert_frame_equal(again.rows.drop(columns=INFORMATIVE), fresh.rows.drop(columns=INFORMATIVE), check_exact=True)


def test_asking_for_maps_later_explains_again_and_keeps_them(tiny_suite, tmp_path):
    before = pipeline.run(tiny_suite, CAM, out=tmp_path / "run")
    assert not (tmp_path / "run" / "maps").exists()
    after = pipeline.run(tiny_suite, CAM, out=tmp_path / "run", save_maps=True)
    assert after.computed == len(before.rows)
    assert pipeline.run(tiny_suite, CAM, out=tmp_path / "run", save_maps=True).computed == 0
    pd.testing.assert_frame_equal(before.rows.drop(columns=INFORMATIVE), after.rows.drop(columns=INFORMATIVE), check_exact=True)
    pipeline.run(tiny_suite, CAM, out=tmp_path / "run", fresh=True)
    assert not list((tmp_path / "run" / "maps").rglob("*.safetensors"))


@pytest.mark.parametrize("form", ["npy", "one file", "folder of files", "by dataset"])
def test_somebody_s_own_maps_score_as_the_method_that_made_them(tiny_suite, tmp_path, kept, cam_maps, form):
    folder = tmp_path / "mine"
    target = folder / "tiny_pictures" if form == "by dataset" else folder
    target.mkdir(parents=True)
    if form == "npy":
        for item, map_ in cam_maps.items():
            np.save(folder / f"{item}.npy", map_)
    elif form == "folder of files":
        for n, (item, map_) in enumerate(cam_maps.items()):
            save_file({item: map_}, folder / f"{n}.safetensors")
    else:
        save_file(cam_maps, target / "maps.safetensors")
    given = folder / "maps.safetensors" if form == "one file" else folder
    done = pipeline.score(given, "mine", tiny_suite, Selection(datasets=["tiny_pictures"]), out=tmp_path / "scored")
    mine = done.rows[(done.rows["dataset"] == "tiny_pictures")]
    theirs = kept.rows[(kept.rows["method"] == "tiny_cam") & (kept.rows["dataset"] == "tiny_pictures")]
    assert set(mine["method"]) == {"mine"}
    for column in ("item", "metric", "value", "grid", "tie_mass"):
        assert mine[column].tolist() == theirs[column].tolist()
    assert mine["forwards"].isna().all()
    assert [line.method for line in Outcome.of(done).leaderboard().tables[0].lines] == ["mine"]


def test_maps_stand_beside_what_was_run_there(tiny_suite, tmp_path, kept, cam_maps):
    (tmp_path / "mine").mkdir()
    save_file(cam_maps, tmp_path / "mine" / "maps.safetensors")
    done = pipeline.score(tmp_path / "mine", "mine", tiny_suite, out=kept.folder)
    (table,) = leaderboard.build(*runs.read(kept.folder)).tables
    assert {line.method for line in table.lines} == {"mine", "tiny_cam", "tiny_gradient"}
    absent = done.rows[(done.rows["method"] == "mine") & (done.rows["dataset"] != "tiny_pictures")]
    assert set(absent["status"]) == {"not_applicable"}
    assert set(absent["reason"]) == {"there is no map of this item"}
    assert pipeline.score(tmp_path / "mine", "mine", tiny_suite, out=kept.folder).computed == 0
    save_file({k: -v for k, v in cam_maps.items()}, tmp_path / "mine" / "maps.safetensors")
    assert pipeline.score(tmp_path / "mine", "mine", tiny_suite, out=kept.folder).computed > 0


def test_items_tell_what_to_explain(tiny_suite, tmp_path, kept):
    table = pipeline.items(tiny_suite)
    rows = kept.rows.drop_duplicates(["dataset", "item"]).set_index(["dataset", "item"])["target"]
    for row in table.itertuples():
        assert rows[row.dataset, row.item] == row.target
        assert (row.left, row.top, row.width, row.height) == (0, 0, 32, 32)
    assert len(table) == len(rows)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: None, "does not exist; give the folder"),
        (lambda f: f.mkdir(), "holds no maps"),
        (lambda f: (f.mkdir(), (f / "a.safetensors").write_text("no")), "a.safetensors is not a safetensors file"),
        (
            lambda f: (f.mkdir(), np.save(f / "other.npy", np.ones((4, 4)))),
            "has no map of any item of this suite, such as 'picture_0'",
        ),
        (
            lambda f: (f.mkdir(), np.save(f / "picture_0.npy", np.ones((99, 99)))),
            r"the map of picture_0 .* is \[99, 99\]; it must be",
        ),
        (lambda f: (f.mkdir(), np.save(f / "picture_0.npy", np.ones(7))), r"is \[7\]; it must be"),
        (lambda f: (f.mkdir(), np.save(f / "picture_0.npy", np.array(["a"]))), "a map is a real array"),
        (lambda f: (f.mkdir(), np.save(f / "picture_0.npy", np.array([{}]))), "not a NumPy array without objects"),
        (lambda f: (f.mkdir(), (f / "picture_0.npy").write_bytes(b"")), "not a NumPy array without objects"),
    ],
)
def test_maps_that_are_none(tiny_suite, tmp_path, make, message):
    make(tmp_path / "mine")
    with pytest.raises(XbenchError, match=message):
        pipeline.score(tmp_path / "mine", "mine", tiny_suite, out=tmp_path / "run")


def test_what_a_method_says_of_its_maps_stands_in_the_rows(tiny_suite, tmp_path, monkeypatch):
    """Of maps that are read again, too; nothing of a wrapper's, which are others."""
    methods = ["tiny_complete", "tiny_negated(tiny_complete)", "tiny_cam"]
    suite = tiny_suite.model_copy(update={"methods": methods, "controls": [], "tracks": tiny_suite.tracks[:1]})
    done = pipeline.run(suite, out=tmp_path / "run", save_maps=True)
    rows = done.rows[done.rows["metric"] == "tiny_mass"].set_index("method").sort_values("item")
    assert rows.loc["tiny_cam", "residual"].isna().all()
    assert rows.loc["tiny_negated(tiny_complete)", "residual"].isna().all()
    said = rows.loc["tiny_complete"]
    assert said["residual"].tolist() == pytest.approx([i / 10 for i in range(6)])
    assert said["forwards"].tolist() == [i + 1 for i in range(6)]
    assert set(said["backwards"]) == {0}
    (note,) = [n for n in Outcome.of(done).leaderboard().tables[0].notes if "completeness" in n]
    assert note.startswith(
        "tiny_complete on tiny_pictures: maps miss the sum that the method promises (completeness) by 25.0% in the"
    )
    assert "median, 50.0% at most, of 6 items; what makes it smaller: xbench show tiny_complete" in note
    (tmp_path / "run/rows.parquet").unlink()
    monkeypatch.setattr(Method, "attribute", None)
    again = pipeline.run(suite, out=tmp_path / "run", fresh=False)
    pd.testing.assert_frame_equal(again.rows.drop(columns=INFORMATIVE), done.rows.drop(columns=INFORMATIVE), check_exact=True)


def test_what_is_said_of_other_maps(tiny_suite, tmp_path):
    suite = tiny_suite.model_copy(update={"methods": ["tiny_complete(wrong=true)"], "controls": []})
    with pytest.raises(XbenchError, match=r"tiny_complete\(wrong=true\) says of other than its 4 maps"):
        pipeline.run(suite, out=tmp_path / "run")


def test_a_name_that_is_taken(tiny_suite, tmp_path):
    np.save(tmp_path / "picture_0.npy", np.ones((4, 4)))
    with pytest.raises(XbenchError, match="'tiny_cam' is a method's own name"):
        pipeline.score(tmp_path, "tiny_cam", tiny_suite, out=tmp_path / "run")
