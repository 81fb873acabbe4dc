"""Shards, merged, are the undivided run, bit for bit, in any order and after any interruption."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from xbench.errors import XbenchError
from xbench.plan import recording
from xbench.plan.suite import Selection, Track, parse_shard
from xbench.run import pipeline
from xbench.store import manifests
from xbench.store.directory import INFORMATIVE, Store
from xbench.store.manifests import Stamp
from xbench.submit import submission
from xbench.tables import leaderboard, runs


@pytest.fixture
def suite(tiny_suite):
    tracks = [*tiny_suite.tracks, Track(dataset="tiny_pictures(n=5, uneven=true)", metrics=["tiny_threshold"], view="keep_aspect")]
    return tiny_suite.model_copy(update={"tracks": tracks})


def shard(suite, tmp_path, i, n, **options):
    return pipeline.run(suite, Selection(shard=(i, n)), out=tmp_path / f"{i}of{n}", **options).folder


def same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    a, b = (f.drop(columns=INFORMATIVE) for f in (a, b))
    pd.testing.assert_frame_equal(a, b, check_exact=True)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 3, 1)])
def test_three_shards_are_the_whole(suite, tmp_path, order):
    whole = pipeline.run(suite, out=tmp_path / "whole", save_maps=True)
    folders = [shard(suite, tmp_path, i, 3, save_maps=True) for i in order]
    sizes = [len(runs.read(folder)[0]) for folder in folders]
    assert sum(sizes) == len(whole.rows)
    assert min(sizes) > 0
    runs.merge(folders, tmp_path / "merged")
    rows, manifest = runs.read(tmp_path / "merged")
    undivided, described = runs.read(whole.folder)
    same(rows, undivided)
    assert leaderboard.build(rows, manifest).tables[0].quality == leaderboard.build(undivided, described).tables[0].quality
    ours, theirs = (load_file(f / "gallery.safetensors") for f in (tmp_path / "merged", whole.folder))
    assert set(ours) == set(theirs)
    assert all((ours[key] == theirs[key]).all() for key in ours)
    # The merged directory is the finished run itself: nothing is left to do, not even to load a model.
    assert pipeline.run(suite, out=tmp_path / "merged", save_maps=True).computed == 0
    kept = {path.parent.relative_to(tmp_path / "merged") for path in (tmp_path / "merged" / "maps").rglob("*.safetensors")}
    assert kept == {path.parent.relative_to(whole.folder) for path in (whole.folder / "maps").rglob("*.safetensors")}


def test_a_shard_that_was_interrupted_goes_on(suite, tmp_path, monkeypatch):
    from xbench.run.engines import local

    run_unit, calls = local.run_unit, []

    def failing(unit, progress):
        calls.append(unit.id)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run_unit(unit, progress)

    monkeypatch.setattr(local, "run_unit", failing)
    with pytest.raises(KeyboardInterrupt):
        shard(suite, tmp_path, 1, 2)
    monkeypatch.setattr(local, "run_unit", run_unit)
    rest = pipeline.run(suite, Selection(shard=(1, 2)), out=tmp_path / "1of2")
    assert 0 < rest.computed < len(rest.rows)
    runs.merge([tmp_path / "1of2", shard(suite, tmp_path, 2, 2)], tmp_path / "merged")
    same(runs.read(tmp_path / "merged")[0], runs.read(pipeline.run(suite, out=tmp_path / "whole").folder)[0])


def test_a_missing_shard_is_named(suite, tmp_path):
    runs.merge([shard(suite, tmp_path, 1, 3), shard(suite, tmp_path, 3, 3)], tmp_path / "merged")
    rows, manifest = runs.read(tmp_path / "merged")
    assert "INCOMPLETE: shard 2/3 is missing" in leaderboard.build(rows, manifest).notes[0]


def test_runs_of_different_methods_merge_too(suite, tmp_path):
    one = pipeline.run(suite, Selection(methods=["tiny_cam"]), out=tmp_path / "one")
    two = pipeline.run(suite, Selection(methods=["tiny_gradient"]), out=tmp_path / "two")
    rows, _ = runs.merge([one.folder, two.folder], tmp_path / "merged")
    assert set(rows["method"]) == {"tiny_cam", "tiny_gradient"}
    rest = pipeline.run(suite, out=tmp_path / "merged")
    assert set(rest.rows["method"]) > {"tiny_cam", "tiny_gradient"}
    assert rest.computed == len(rest.rows) - len(rows)


def test_all_of_a_merged_run_is_judged_and_a_stale_part_shows(suite, tmp_path):
    folders = [pipeline.run(suite, Selection(methods=[name]), out=tmp_path / name).folder for name in ("tiny_cam", "tiny_gradient")]
    rows, manifest = runs.merge(folders, tmp_path / "merged")
    assert set(manifests.selected(rows, manifest)["method"]) == {"tiny_cam", "tiny_gradient"}
    assert not recording.changed_input(manifest)
    kept = Store(folders[0]).manifest()
    edited = next(iter(kept.local.inputs))
    inputs = kept.local.inputs | {edited: Stamp(3, 0, "other")}
    stale = (
        (kept.but(libraries=kept.libraries | {"numpy": "1.0"}), "not 1.0 and "),
        (kept.but(local=kept.local.model_copy(update={"inputs": inputs})), f"{edited} has changed"),
    )
    for changed, told in stale:
        Store(folders[0]).write_manifest(changed)
        assert told in recording.changed_input(runs.merge(folders, tmp_path / "stale")[1])


def test_a_submission_is_no_part_of_a_run(suite, tmp_path):
    folder = pipeline.run(suite, Selection(methods=["tiny_cam"]), out=tmp_path / "run").folder
    manifest = Store(folder).manifest()
    Store(folder).write_manifest(manifest.but(local=None))
    with pytest.raises(XbenchError, match=r"run is a submission.*xbench leaderboard"):
        runs.merge([folder], tmp_path / "merged")


def test_runs_of_different_tracks_merge(suite, tmp_path):
    specs = [track.dataset for track in suite.tracks]
    assert len(set(specs)) > 1
    folders = []
    for i, spec in enumerate(specs):
        chosen = Selection(methods=["tiny_cam"], datasets=[spec])
        folders.append(pipeline.run(suite, chosen, out=tmp_path / f"part{i}").folder)
    rows, manifest = runs.merge(folders, tmp_path / "merged")
    assert set(rows["dataset"]) == set(specs) == set(manifest.batch_size)
    other = Selection(methods=["tiny_cam"], datasets=specs[:1], batch_size=suite.batch_size + 1)
    more = pipeline.run(suite, other, out=tmp_path / "more").folder
    with pytest.raises(XbenchError, match="these runs differ in batch_size"):
        runs.merge([*folders, more], tmp_path / "never")


def test_unequal_runs_do_not_merge(suite, tmp_path):
    one = pipeline.run(suite, Selection(methods=["tiny_cam"]), out=tmp_path / "one")
    two = pipeline.run(suite, Selection(methods=["tiny_cam"], seed=7), out=tmp_path / "two")
    with pytest.raises(XbenchError, match="these runs differ in seed"):
        runs.merge([one.folder, two.folder], tmp_path / "merged")
    with pytest.raises(XbenchError, match="needs different run directories"):
        runs.merge([one.folder, one.folder], tmp_path / "merged")
    with pytest.raises(XbenchError, match="needs different run directories"):
        runs.merge([one.folder, two.folder], one.folder)


def test_directories_that_make_no_table_together_are_refused(suite, tmp_path):
    """Nothing wins in silence: neither the last seed, nor other weights under the same name, nor other values of whatever cause."""
    one = pipeline.run(suite, Selection(methods=["tiny_noise"]), out=tmp_path / "one").folder
    copy, other = tmp_path / "copy", tmp_path / "other"
    shutil.copytree(one, copy)
    assert len(runs.read_all([one, copy])[0]) == len(Store(one).rows())
    for method in ("tiny_noise", "tiny_cam"):  # rows of the same name, and such that only share a column
        seeded = pipeline.run(suite, Selection(methods=[method], seed=7), out=other / method).folder
        for read in (runs.read_all, submission.read_all):
            with pytest.raises(XbenchError, match=r"one and .* make no table together \(seed 0, not 7\).*xbench compare"):
                read([one, seeded])
    manifest = Store(copy).manifest()
    weights = {name: about.model_copy(update={"digest": "another"}) for name, about in manifest.models.items()}
    Store(copy).write_manifest(manifest.but(models=weights))
    with pytest.raises(XbenchError, match="other weights of tiny_net"):
        runs.read_all([one, copy])
    Store(copy).write_manifest(manifest)
    rows = Store(copy).rows()
    changes = {
        "value": rows["value"] + 1e-3 * (rows["item"] == "picture_2"),
        "status": rows["status"].astype(str).mask(rows["item"] == "picture_2", "nan"),
        "target": rows["target"] + (rows["item"] == "picture_2"),
        "vector": [[2.0] if item == "picture_2" else vector for item, vector in zip(rows["item"], rows["vector"], strict=True)],
    }
    for name, changed in changes.items():
        Store(copy).write_rows(rows.assign(**{name: changed}))
        for read in (runs.read_all, submission.read_all, lambda folders: runs.merge(folders, tmp_path / "merged")):
            with pytest.raises(XbenchError, match=r"other values, for one of tiny_noise, .*, tiny_net, item picture_2"):
                read([one, copy])
    Store(copy).write_rows(rows.assign(value=rows["value"] + 1e-7))  # another machine
    assert len(runs.read_all([one, copy])[0]) == len(rows)


def test_a_directory_has_one_seed(suite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = Selection(methods=["tiny_noise"])
    folder = pipeline.run(suite, asked, out=tmp_path / "run").folder
    other = dataclasses.replace(asked, seed=7)
    with pytest.raises(XbenchError, match=r"run was run with seed 0, not 7; choose another --out, or forget its rows: --fresh"):
        pipeline.run(suite, other, out=folder)
    fresh = pipeline.run(suite, other, out=folder, fresh=True)
    assert fresh.manifest.seed == 7
    assert pipeline.run(suite, other).folder.as_posix() == "results/runs/tiny-seed7"
    assert pipeline.run(suite, dataclasses.replace(asked, seed=suite.seed)).folder.as_posix() == "results/runs/tiny"
    np.save(tmp_path / "picture_0.npy", np.eye(8))
    with pytest.raises(XbenchError, match="was run with seed 7, not 0"):
        pipeline.score(tmp_path / "picture_0.npy", "own", suite, out=folder)


@pytest.mark.parametrize("text", ["3", "0/3", "4/3", "1/0", "a/b"])
def test_what_is_not_a_shard(text):
    with pytest.raises(XbenchError, match="is not a part of the whole"):
        parse_shard(text)


def test_a_shard_has_a_folder_of_its_own(suite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    selection = dataclasses.replace(Selection(shard=(2, 3)), methods=["tiny_cam"])
    assert pipeline.run(suite, selection).folder.as_posix() == "results/runs/tiny-2of3"
