"""Reading and writing manifests: today's format, the one before, and what is neither."""

import ast
import json
import os
import re
from pathlib import Path

import pytest

from xbench.errors import XbenchError
from xbench.plan import recording
from xbench.plan.suite import Selection
from xbench.plugins.registry import registry
from xbench.report import tables
from xbench.run import pipeline
from xbench.store import manifests
from xbench.store.directory import Store
from xbench.store.manifests import AboutRun, Manifest
from xbench.submit import submission
from xbench.tables import leaderboard, runs

RESULTS = Path(runs.__file__).parents[2] / "results"
PATH = Path("run/manifest.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run."""
    from xbench.plan.suite import Suite, Track

    track = Track(dataset="tiny_pictures", metrics=["tiny_mass", "tiny_deletion"], target="label")
    suite = Suite(name="tiny", version="1", batch_size=4, block=2, models=["tiny_net"], methods=["tiny_cam"], tracks=[track])
    return pipeline.run(suite, Selection(limit=2), out=tmp_path_factory.mktemp("runs") / "run").folder


@pytest.fixture
def written(folder):
    """What its file says."""
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def of_format_1(written):
    """The same as xbench 0.1.0 wrote it."""
    flat = {name: value for name, value in written.items() if name != "local"}
    return flat | written["local"] | {"format": 1}


# -- there and back --------------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_again(folder, written, tmp_path):
    manifest = Store(folder).manifest()
    assert written["format"] == manifests.FORMAT
    assert (manifest.suite, manifest.complete, manifest.local.request.selection["limit"]) == ("tiny", True, 2)
    assert list(manifest.columns) == list(written["columns"]) == manifest.local.wanted.columns  # in their order
    other = Store(tmp_path / "other")
    other.make()
    other.write_manifest(manifest)
    assert other.manifest() == manifest
    assert (tmp_path / "other/manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()


def test_a_merged_manifest_is_read_again(folder, tmp_path):
    origins = tuple(AboutRun(suite=s, suite_version="1", xbench="1", seed=None, dtype="", batch_size={"d": 1}) for s in "ab")
    manifest = Store(folder).manifest().but(origins=origins, incomplete="why", notes=("a", "b"), complete=False)
    other = Store(tmp_path / "other")
    other.make()
    other.write_manifest(manifest)
    assert other.manifest() == manifest
    assert [run.suite for run in other.manifest().runs] == ["a", "b"]


def test_a_writing_that_fails_leaves_what_was_there(folder, tmp_path, monkeypatch):
    manifest, store = Store(folder).manifest(), Store(tmp_path / "other")
    store.make()
    store.write_manifest(manifest)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(XbenchError, match="No space left"):
        store.write_manifest(manifest.but(title="another"))
    assert store.manifest() == manifest
    assert [path.name for path in store.folder.iterdir()] == ["manifest.json"]


def test_there_may_be_none(tmp_path):
    assert Store(tmp_path).manifest() is None
    with pytest.raises(XbenchError, match="is not a run directory"):
        runs.read(tmp_path)


# -- the format before -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (RESULTS / "quick" / "leaderboard.json").is_file(), reason="needs the source tree")
@pytest.mark.parametrize("name", ["quick", "gate"])
def test_committed_results_are_read_and_give_their_table(name):
    """They are of format 1; none of what they say is lost."""
    path = RESULTS / name / "manifest.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    manifest = manifests.read(path)
    assert said["format"] in (1, manifests.FORMAT)
    today = json.loads(manifest.to_json())
    assert {key: value for key, value in today.items() if key != "format"} == {k: v for k, v in said.items() if k != "format"}
    board = leaderboard.build(*submission.read_all([RESULTS / name]))  # with who measured
    assert tables.to_json(board, seconds=False) == (RESULTS / name / "leaderboard.json").read_text(encoding="utf-8")


def test_a_run_of_the_format_before_says_the_same(folder, written):
    assert manifests.parse(of_format_1(written), PATH) == Store(folder).manifest()


def test_a_run_of_the_format_before_goes_on(folder, written, tmp_path):
    """Nothing is left to do in it."""
    (tmp_path / "run").mkdir()
    for path in folder.glob("*.*"):
        (tmp_path / "run" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "run/manifest.json").write_text(json.dumps(of_format_1(written)), encoding="utf-8")
    manifest = Store(tmp_path / "run").manifest()
    assert not recording.changed_input(manifest)
    assert pipeline._finished(manifest, manifest.local.request)


def test_what_the_format_before_may_leave_unsaid():
    column = {"dataset": "d", "metric": "m", "direction": "higher", "chance": "", "protocol": "p"}
    old = {
        "format": 1,
        "suite": "s",
        "columns": {"k": column, "older": column | {"group": "ground_truth"}},
        "methods": {"a": {"control": True}},
        "models": {"net": {}},
        "datasets": {"d": {}},
    }
    manifest = manifests.parse(old, PATH)
    assert [about.group for about in manifest.columns.values()] == ["", "localization"]
    about = manifest.columns["k"]
    assert (about.version, about.range, about.reduce, about.axes) == ("", (None, None), "mean", ())
    assert (manifest.methods["a"].control, manifest.methods["a"].any_grid) == (True, False)
    assert manifest.models["net"].classes is None
    assert (manifest.seed, manifest.complete, manifest.local, manifest.submission) == (None, False, None, None)


# -- what is refused -------------------------------------------------------------------------------------------------------------


def refused(found, message):
    with pytest.raises(XbenchError) as error:
        manifests.parse(found, PATH)
    assert str(error.value).startswith(str(PATH))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_newer_format_asks_for_an_update(written):
    said = "was written by a newer xbench (format 3, and this one reads up to 2); update xbench: pip install"
    for more in ({}, {"something": "new"}):
        refused(written | {"format": 3} | more, said)


def places(value, at=()):
    """Every key of every object in JSON, by its path."""
    if isinstance(value, dict):
        for key, inside in value.items():
            yield (*at, key)
            yield from places(inside, (*at, key))


def without(value, path):
    if len(path) == 1:
        return {key: inside for key, inside in value.items() if key != path[0]}
    return value | {path[0]: without(value[path[0]], path[1:])}


NAMED = re.compile(  # fields; whatever is below others is a name, or what was asked
    r"(columns|methods|models|datasets) [^ ]+ \w+|local( wanted)?( \w+)?|local request (suite|selection|plugins)|\w+"
)


def test_each_missing_field_is_named(written):
    free = {"batch_size", "libraries", "class_names"}  # by name, any of them or none
    tried = 0
    for path in places(written):
        text = " ".join("name" if i == 1 and path[0] not in ("local", *free) else part for i, part in enumerate(path))
        if not NAMED.fullmatch(text) or path == ("local",):
            continue
        refused(without(written, path), f"is damaged (it lacks {': '.join(path)}); delete it and run again")
        tried += 1
    assert tried > 50


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("complete",), "yes", "complete: input should be a valid boolean"),
        (("seed",), "0", "seed: input should be a valid integer"),
        (("columns",), [], "columns: input should be an object"),
        (("title",), None, "it lacks title"),
        (("more",), 1, "it has more, which is no field of format 2"),
        (("local", "more"), 1, "it has local: more, which is no field of format 2"),
        (("local", "inputs"), {"a.py": [1, 2]}, "it lacks local: inputs: a.py: "),
        (("local", "inputs"), {"a.py": ["1", 2, "x"]}, "local: inputs: a.py: "),
        (("local", "wanted", "items"), {"c": "abc"}, "local: wanted: items: c: input should be a valid array"),
        (("format",), "2", "there is no format '2'"),
        (("format",), True, "there is no format True"),
        (("format",), 0, "there is no format 0"),
        (("submission",), {"name": "lab"}, "it lacks submission: by"),
        (("submission",), {"name": "My Lab", "by": "A"}, "lower-case letters, digits and hyphens"),
    ],
)
def test_what_is_wrong_is_named(written, path, value, message):
    def put(into, path):
        return into | {path[0]: value if len(path) == 1 else put(into[path[0]], path[1:])}

    refused(put(written, path), message)


@pytest.mark.parametrize("change", [{"direction": "up"}, {"range": [float("nan"), 1.0]}, {"range": [0.0]}, {"axes": "ab"}])
def test_a_column_that_is_none_is_named(written, change):
    key, about = next(iter(written["columns"].items()))
    refused(written | {"columns": {key: about | change}}, f"columns: {key}: {next(iter(change))}")


@pytest.mark.parametrize(
    ("bytes_", "message"),
    [
        (b"", "is damaged (Expecting value"),
        (b'{"format": 2, "suite', "is damaged (Unterminated string"),
        (b"\xff\xfe", "is damaged ('utf-8' codec can't decode"),
        (b"[1]", "it is no object of JSON"),
        (b"{}", "it lacks format"),
        (b"[" * 100_000, "is damaged"),
        (b'{"format": 1}', "it lacks suite"),
        (b'{"format": 1, "columns": {"k": 1}, "methods": [], "models": null}', "is damaged"),
    ],
)
def test_damaged_files_are_named(tmp_path, bytes_, message):
    (tmp_path / "manifest.json").write_bytes(bytes_)
    for read in (lambda: Store(tmp_path).manifest(), lambda: runs.read(tmp_path)):
        with pytest.raises(XbenchError) as error:
            read()
        assert str(error.value).startswith(str(tmp_path / "manifest.json"))
        assert message in str(error.value)
        assert "\n" not in str(error.value)


# -- the house -------------------------------------------------------------------------------------------------------------------


def test_the_model_is_pure_data():
    """What reads and writes a manifest knows nothing of suites, units and plans."""
    for module in (manifests, __import__("xbench.store.gallery", fromlist=["gallery"])):
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
        assert {name for name in names if name.startswith("xbench")} <= {"xbench.errors"}


def test_every_plugin_of_a_run_is_described(folder):
    manifest: Manifest = Store(folder).manifest()
    (name,) = manifest.methods
    assert manifest.methods[name].summary == registry.method(name).plugin.summary
    assert {about.metric for about in manifest.columns.values()} == {"tiny_mass", "tiny_deletion"}
