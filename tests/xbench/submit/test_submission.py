"""What is refused, what is kept, and that a submission that somebody edits by hand is found out."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from xbench.errors import XbenchError
from xbench.plan.suite import Selection, Track
from xbench.plugins.registry import registry
from xbench.report import tables
from xbench.run import pipeline
from xbench.store.directory import Store
from xbench.store.manifests import Stamp, Submission
from xbench.submit import submission
from xbench.tables import leaderboard, runs

WHO = Submission(name="lab", by="A. Tester", link="https://example.org/paper", note="first try")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    return tmp_path_factory.mktemp("originals")


@pytest.fixture
def done(originals, tiny_suite, tmp_path):
    """A finished run, computed once."""
    if not (originals / "run").exists():
        pipeline.run(tiny_suite, out=originals / "run")
    return shutil.copytree(originals / "run", tmp_path / "run")


@pytest.fixture
def submitted(originals, done, tiny_suite, tmp_path):
    """The same, submitted once."""
    if not (originals / "kept").exists():
        submission.submit(done, WHO, tiny_suite, originals / "kept")
    return shutil.copytree(originals / "kept", tmp_path / "kept")


def refused(folder, suite, message):
    with pytest.raises(XbenchError, match=message) as error:
        submission.submit(folder, WHO, suite, folder.parent / "kept")
    assert "\n" not in str(error.value)
    assert not (folder.parent / "kept").exists()
    assert not list(folder.parent.glob("*.tmp"))


def edit_manifest(folder, /, **changes):
    store = Store(folder)
    store.write_manifest(store.manifest().but(**changes))


def edit_local(folder, /, **changes):
    edit_manifest(folder, local=Store(folder).manifest().local.model_copy(update=changes))


def edit_rows(folder, change):
    store = Store(folder)
    store.write_rows(change(store.rows().astype({"method": str, "status": str})))


def test_what_is_kept_names_no_machine_and_is_read_back(done, tiny_suite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    edit_local(done, folder=str(tmp_path))
    folder, rows = submission.submit(done, WHO, tiny_suite)
    assert folder == Path("results/submissions/tiny/lab")
    assert {p.name for p in folder.iterdir()} == {
        "rows.parquet",
        "manifest.json",
        *(f"leaderboard.{s}" for s in ("md", "csv", "json")),
    }
    kept, manifest = runs.read(folder)
    pd.testing.assert_frame_equal(kept.drop(columns="seconds"), rows.drop(columns="seconds"), check_exact=True)
    assert kept["seconds"].isna().all()
    text = (folder / "manifest.json").read_text()
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text
    who = manifest.submission
    assert (who.name, who.by, who.link, who.note) == ("lab", "A. Tester", "https://example.org/paper", "first try")
    assert pd.Timestamp(who.date).date().isoformat() == who.date
    assert who.xbench == manifest.xbench
    assert who.libraries["torch"]
    assert len(who.code["xbench/maps/saliency.py"]) == 64
    assert submission.verify(folder) == len(rows)


def test_its_tables_are_those_of_the_run(done, submitted):
    ours = pd.read_csv(submitted / "leaderboard.csv")
    theirs = pd.DataFrame(tables.to_records(leaderboard.build(*runs.read(done)), seconds=False))
    assert ours["method"].tolist() == theirs["method"].tolist()
    for name in ("mean", "low", "high"):
        assert ours[name].to_numpy() == pytest.approx(theirs[name].to_numpy(float), abs=1e-12, nan_ok=True)
    values = runs.read(done)[0].query("method == 'tiny_cam' and metric == 'tiny_deletion'")["value"]
    shown = ours.query("method == 'tiny_cam' and metric == 'tiny_deletion'")["mean"].item()
    assert shown == pytest.approx(sum(values) / len(values), abs=1e-12)


def test_an_existing_name_is_taken(done, submitted, tiny_suite):
    with pytest.raises(XbenchError, match="kept exists; choose another --name"):
        submission.submit(done, WHO, tiny_suite, submitted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "My Lab"}, "lower-case letters, digits and hyphens"),
        ({"name": "../lab"}, "lower-case letters, digits and hyphens"),
        ({"by": " "}, "give --by"),
        ({"link": "example.org"}, "begins with https://"),
        ({"note": "a\nb"}, "one line each"),
    ],
)
def test_who_submits(change, message):
    with pytest.raises(XbenchError, match=message):
        Submission(**WHO.model_dump() | change)


def test_what_was_submitted_before(submitted, tiny_suite, tmp_path):
    with pytest.raises(XbenchError, match="was submitted before; give the run directory itself"):
        submission.submit(submitted, WHO, tiny_suite, tmp_path / "again")


def test_an_unfinished_run(done, tiny_suite):
    edit_manifest(done, complete=False)
    refused(done, tiny_suite, "is not finished; run it to the end with: xbench run tiny")


def test_a_limited_run(tiny_suite, tmp_path):
    folder = pipeline.run(tiny_suite, Selection(limit=4), out=tmp_path / "run").folder
    refused(folder, tiny_suite, r"tiny_cam, tiny_deletion .* 2 of 6 items are missing, such as picture_4; run it without --limit")


def test_shards_only_together(tiny_suite, tmp_path):
    parts = [pipeline.run(tiny_suite, Selection(shard=(i, 2)), out=tmp_path / f"{i}").folder for i in (1, 2)]
    refused(parts[0], tiny_suite, "items are missing.* or merge the shards")
    runs.merge(parts, tmp_path / "merged")
    assert len(submission.submit(tmp_path / "merged", WHO, tiny_suite, tmp_path / "kept")[1]) == 90


def test_whole_tracks_with_chosen_methods_and_models(tiny_suite, tmp_path):
    methods = ["tiny_gradient", "tiny_noise", "tiny_truth"]
    chosen = Selection(methods=methods, models=["tiny_net(seed=3)"], datasets=["tiny_pictures(n=3)"])
    folder = pipeline.run(tiny_suite, chosen, out=tmp_path / "run").folder
    kept, rows = submission.submit(folder, WHO, tiny_suite, tmp_path / "kept")
    assert set(rows["dataset"]) == {"tiny_pictures(n=3)"}
    assert list(runs.read(kept)[1].methods) == methods


def test_part_of_a_track(tiny_suite, tmp_path):
    folder = pipeline.run(tiny_suite, Selection(metrics=["tiny_mass"]), out=tmp_path / "run").folder
    refused(
        folder,
        tiny_suite,
        "tiny_cam, tiny_deletion on tiny_pictures, tiny_net: 6 of 6 items are missing.*without --limit, --metrics",
    )


def test_only_what_was_asked_for_last(tiny_suite, tmp_path):
    pipeline.run(tiny_suite, Selection(methods=["tiny_probe"], limit=2), out=tmp_path / "run")
    folder = pipeline.run(tiny_suite, out=tmp_path / "run").folder
    kept, rows = submission.submit(folder, WHO, tiny_suite, tmp_path / "kept")
    assert "tiny_probe" not in {*rows["method"], *runs.read(kept)[1].methods}


def test_controls_stand_beside(tiny_suite, tmp_path):
    folder = pipeline.run(tiny_suite, Selection(methods=["tiny_cam", "tiny_noise"]), out=tmp_path / "run").folder
    refused(folder, tiny_suite, 'lacks the controls tiny_truth; run: xbench run tiny --methods "tiny_cam,tiny_noise,tiny_truth"')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "other"}, "a run of the suite tiny, not of other; name its own with --suite"),
        ({"version": "2"}, "of version 1 of the suite, which is at version 2; run it again"),
        ({"seed": 5}, "seed 0, the suite has 5; run it without --seed"),
    ],
)
def test_another_suite(done, tiny_suite, change, message):
    refused(done, tiny_suite.model_copy(update=change), message)


def test_a_superseded_metric(done, tiny_suite, monkeypatch):
    plugin = registry.get("metric", "tiny_mass")
    newer = dataclasses.replace(plugin, info=dataclasses.replace(plugin.info, version="2"))
    monkeypatch.setitem(registry.plugins, ("metric", "tiny_mass"), newer)
    refused(done, tiny_suite, "tiny_mass on tiny_pictures.* is of the metric's version 1, which 2 supersedes; run it again")


def test_another_protocol(done, tiny_suite, tmp_path):
    tracks = [tiny_suite.tracks[0].model_copy(update={"target": "prediction"}), tiny_suite.tracks[1]]
    refused(
        done,
        tiny_suite.model_copy(update={"tracks": tracks}),
        r"the protocol of tiny_\w+ on tiny_pictures \(target label, view crop",
    )
    half = pipeline.run(tiny_suite, Selection(dtype="bfloat16"), out=tmp_path / "half").folder
    refused(half, tiny_suite, "bfloat16.* is not the one of suite tiny today")
    refused(done, tiny_suite.model_copy(update={"tracks": tracks[1:]}), "suite tiny has no dataset 'tiny_pictures'")


def test_another_code(done, tiny_suite, tmp_path):
    inputs = runs.read(done)[1].local.inputs
    edit_local(done, inputs=inputs | {next(iter(inputs)): Stamp(1, 1, "0" * 64)})
    refused(done, tiny_suite, "not computed by what is here .* has changed.; run it again, then submit")
    edit_local(done, inputs=inputs)  # as of a directory whose rows are older than its manifest
    edit_rows(done, lambda rows: rows.assign(cache_key=rows["cache_key"].where(rows["method"] != "tiny_gradient", "0" * 20)))
    refused(done, tiny_suite, r"tiny_gradient, tiny_\w+ on tiny_pictures.*: not computed by the code at hand; run it again")


def test_maps_that_only_somebody_has(done, tiny_suite, tmp_path):
    """Nobody else could compute them."""
    (tmp_path / "maps").mkdir()
    for i in range(6):
        np.save(tmp_path / "maps" / f"picture_{i}.npy", np.eye(8))
    edit_local(done, request=None)
    pipeline.score(tmp_path / "maps", "diagonal", tiny_suite, out=done)
    edit_local(done, request=None)
    refused(done, tiny_suite, "unknown method 'diagonal'")


def test_a_path_of_this_machine(tiny_suite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures = registry.get("dataset", "tiny_pictures").make.__globals__["Pictures"]
    monkeypatch.setattr(pictures, "__init__", _with_note(pictures.__init__, f"{tmp_path}/secret is clipped"))
    folder = pipeline.run(tiny_suite, out=tmp_path / "run").folder
    refused(folder, tiny_suite, "which nobody else has; run it again with relative paths")


def _with_note(init, note):
    def changed(self, *arguments):
        init(self, *arguments)
        self.notes = (note,)

    return changed


MASS = ("tiny_cam", "tiny_mass", "picture_1")


def at(rows):
    return (rows["method"] == MASS[0]) & (rows["metric"] == MASS[1]) & (rows["item"] == MASS[2])


EDITS = {
    "a value": (
        lambda rows: rows.assign(value=rows["value"].mask(at(rows), 0.9)),
        r"leaderboard.md is not what the rows give \(line",
    ),
    "beyond the range": (
        lambda rows: rows.assign(value=rows["value"].mask(at(rows), 1.1)),
        "1.1 is not within the metric's range, 0 to 1",
    ),
    "infinite": (lambda rows: rows.assign(value=rows["value"].mask(at(rows), np.inf)), "inf is not within"),
    "no number": (lambda rows: rows.assign(value=rows["value"].mask(at(rows))), "nan is not within"),
    "left out": (lambda rows: rows[~at(rows)], "tiny_cam has 5 of 6 items of tiny_mass on tiny_pictures, tiny_net"),
    "twice": (
        lambda rows: pd.concat([rows, rows[at(rows)]]),
        "tiny_cam, tiny_mass on tiny_pictures, item picture_1 is there twice",
    ),
    "another status": (lambda rows: rows.assign(status=rows["status"].mask(at(rows), "nan")), "a value where the status says"),
    "no status": (lambda rows: rows.assign(status=rows["status"].mask(at(rows), "fine")), "'fine' is no status"),
    "without a reason": (
        lambda rows: rows.assign(status=rows["status"].mask(at(rows), "unreadable"), value=rows["value"].mask(at(rows))),
        "does not say why",
    ),
    "another method": (
        lambda rows: rows.assign(method=rows["method"].replace("tiny_cam", "best_cam")),
        "does not describe 'best_cam'",
    ),
    "timings": (lambda rows: rows.assign(seconds=1.0), "holds seconds, which is of one machine"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_rows_edited_by_hand(submitted, edit):
    change, message = EDITS[edit]
    edit_rows(submitted, change)
    with pytest.raises(XbenchError, match=message):
        submission.verify(submitted)


def test_a_run_with_impossible_values(done, tiny_suite):
    edit_rows(done, EDITS["beyond the range"][0])
    refused(done, tiny_suite, "run: tiny_mass on tiny_pictures, tiny_net: 1.1 is not within the metric's range, 0 to 1")


def test_vectors(tiny_suite, tmp_path):
    suite = tiny_suite.model_copy(update={"tracks": [Track(dataset="tiny_pictures", metrics=["tiny_threshold"], target="label")]})
    folder = pipeline.run(suite, out=tmp_path / "run").folder
    kept, rows = submission.submit(folder, WHO, suite, tmp_path / "kept")
    assert rows["value"].isna().all()
    for bad in (None, [0.5], [0.1, 0.2, 0.3, float("nan")]):
        edit_rows(kept, lambda rows, bad=bad: rows.assign(vector=[bad, *rows["vector"][1:]]))
        with pytest.raises(XbenchError, match="a vector is missing, of another length or not finite"):
            submission.verify(kept)


def test_nan_is_kept_and_counted(tiny_suite, tmp_path):
    suite = tiny_suite.model_copy(update={"methods": ["tiny_broken", "tiny_cam"]})
    folder = pipeline.run(suite, out=tmp_path / "run").folder
    kept, rows = submission.submit(folder, WHO, suite, tmp_path / "kept")
    bad = int((rows["status"] == "nan").sum())
    assert bad > 0
    assert submission.nan_lines(rows) == [f"method tiny_broken: {bad} of 18 values are NaN, and not ranked"]
    assert submission.verify(kept) == len(rows)


@pytest.mark.parametrize("suffix", ["md", "csv", "json"])
def test_tables_edited_by_hand(submitted, suffix):
    path = submitted / f"leaderboard.{suffix}"
    text = path.read_text()
    mean = pd.read_csv(submitted / "leaderboard.csv")["mean"][0]
    shown = tables.number(mean) if suffix == "md" else repr(float(mean))
    assert shown in text
    path.write_text(text.replace(shown, shown[:-1] + str((int(shown[-1]) + 1) % 10) if suffix == "md" else repr(mean + 1e-6), 1))
    with pytest.raises(XbenchError, match=rf"leaderboard.{suffix} is not what the rows give .*: xbench tables"):
        submission.verify(submitted)
    submission.write_tables(submitted)
    assert path.read_text() == text
    assert submission.verify(submitted) == 90
    path.write_text(text.replace("tiny_cam", "best_cam"))
    with pytest.raises(XbenchError, match="best_cam"):
        submission.verify(submitted)
    path.write_text(text + "\nmore\n")
    with pytest.raises(XbenchError, match="lines instead of"):
        submission.verify(submitted)
    path.unlink()
    with pytest.raises(XbenchError, match="is missing; write it with: xbench tables"):
        submission.verify(submitted)


def test_rounding_is_no_edit(submitted):
    path = submitted / "leaderboard.csv"
    mean = pd.read_csv(path)["mean"][0]
    path.write_text(path.read_text().replace(repr(float(mean)), repr(float(mean) * (1 + 2**-50)), 1))
    assert submission.verify(submitted) == 90


def test_what_is_no_submission(done, submitted):
    with pytest.raises(XbenchError, match=r"is no submission .*; use: xbench submit RUN"):
        submission.verify(done)
    path = submitted / "manifest.json"
    manifest = json.loads(path.read_text())
    for change, message in (({"rank": 1}, "it has submission: rank"), ({"by": " "}, "a submission says who measured")):
        path.write_text(json.dumps(manifest | {"submission": manifest["submission"] | change}))
        with pytest.raises(XbenchError, match=f"manifest.json is damaged .{message}"):
            submission.verify(submitted)
    path.write_text(json.dumps(manifest | {"complete": False}))
    with pytest.raises(XbenchError, match="is not complete"):
        submission.verify(submitted)
    edit_manifest(submitted, local=Store(done).manifest().local)
    with pytest.raises(XbenchError, match="holds local, which is of one machine"):
        submission.verify(submitted)
    rows = Store(submitted).rows()
    rows.drop(columns="tie_mass").to_parquet(submitted / "rows.parquet")
    with pytest.raises(XbenchError, match=r"has not the columns of docs/rows.md"):
        submission.verify(submitted)
    (submitted / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(XbenchError, match=r"rows.parquet cannot be read"):
        submission.verify(submitted)


@pytest.fixture
def second(submitted, tmp_path):
    """The same measured by somebody else."""
    folder = tmp_path / "second"
    shutil.copytree(submitted, folder)
    manifest = Store(folder).manifest()
    edit_manifest(folder, submission=manifest.submission.model_copy(update={"name": "second", "by": "B. Tester"}))
    return folder


def lines(folders):
    board = leaderboard.build(*submission.read_all(folders))
    return {line.method: line for line in board.tables[0].lines}


def test_equal_measurements_are_one_line(submitted, second):
    edit_rows(second, lambda rows: rows.assign(value=rows["value"] + 1e-7))
    together = lines([submitted, second])
    assert set(together) == set(lines([submitted]))
    _, manifest = submission.read_all([submitted, second])
    assert [note.partition(":")[0] for note in manifest.notes] == ["lab", "second"]
    assert "tiny_cam, tiny_gradient, tiny_negated(tiny_cam) measured by B. Tester, 20" in manifest.notes[1]
    assert f"with xbench {manifest.xbench}, " in manifest.notes[1]
    assert "(https://example.org/paper; first try)" in manifest.notes[0]


def test_unlike_measurements_are_lines_of_their_own(submitted, second):
    edit_rows(second, lambda rows: rows.assign(value=rows["value"].mask(rows["method"].isin(["tiny_cam", "tiny_noise"]), 0.123)))
    together = lines([submitted, second])
    assert {name for name in together if "by" in name} == {
        f"tiny_{m} (by {who})" for m in ("cam", "noise") for who in ("lab", "second")
    }
    assert together["tiny_cam (by second)"].cells[0].estimate.mean == pytest.approx(0.123)
    assert together["tiny_cam (by lab)"].cells[0].estimate == lines([submitted])["tiny_cam"].cells[0].estimate
    assert together["tiny_noise (by second)"].control
    assert "tiny_cam" not in together
    assert "tiny_gradient" in together


def test_vectors_that_differ_are_unlike(tiny_suite, tmp_path):
    suite = tiny_suite.model_copy(update={"tracks": [Track(dataset="tiny_pictures", metrics=["tiny_threshold"], target="label")]})
    folder = pipeline.run(suite, out=tmp_path / "run").folder
    one, _ = submission.submit(folder, WHO, suite, tmp_path / "one")
    two, _ = submission.submit(folder, WHO.model_copy(update={"name": "two"}), suite, tmp_path / "two")
    assert set(lines([one, two])) == set(lines([one]))
    edit_rows(
        two, lambda rows: rows.assign(vector=[v * 0.5 if m == "tiny_cam" else v for m, v in zip(rows["method"], rows["vector"])])
    )
    assert {"tiny_cam (by lab)", "tiny_cam (by two)"} <= set(lines([one, two]))


def test_a_run_stands_beside_submissions(done, submitted, tiny_suite):
    edit_rows(done, lambda rows: rows.assign(value=rows["value"].mask(rows["method"] == "tiny_cam", 0.5)))
    together = lines([submitted, done])
    assert {"tiny_cam", "tiny_cam (by lab)"} <= set(together)
    assert together["tiny_cam"].cells[0].estimate.mean == 0.5
    assert set(lines([done, done])) == set(lines([done]))
    assert "notes" not in submission.read_all([done])[1]
