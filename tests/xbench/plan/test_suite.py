import pytest

from xbench.errors import XbenchError
from xbench.plan import suite
from xbench.plan.suite import Selection
from xbench.plugins.registry import registry

TEXT = """
name = "mine"
version = "1"
models = ["tiny_net"]
methods = ["tiny_cam"]

[[tracks]]
dataset = "tiny_pictures"
metrics = ["tiny_mass"]

[[tracks]]
dataset = "tiny_pictures(n=3)"
target = "present"
metrics = ["tiny_mass", "tiny_deletion"]
"""


def written(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('version = "1"', 'version = "1"\nmethod = ["x"]'), r"line 4: unknown key 'method'; did you mean 'methods'"),
        (('target = "present"', 'targets = "present"'), r"line 13: unknown key 'targets'; did you mean 'target'"),
        (('target = "present"', 'target = "all"'), r"line 13: target: .*'all'"),
        (('version = "1"', "version = 1"), r"line 3: version: .*not 1"),
        (('name = "mine"', 'name = "../mine"'), r"line 2: name"),
        (('metrics = ["tiny_mass"]\n', ""), r"line 7: the key 'metrics' is missing"),
        (('models = ["tiny_net"]', "models = []"), r"name models, for the suite or for each of its tracks"),
        (('name = "mine"', "name = mine"), r"not valid TOML.*line 2"),
    ],
)
def test_a_wrong_suite_names_the_key_and_its_line(tmp_path, change, message):
    with pytest.raises(XbenchError, match=message):
        suite.load(written(tmp_path, TEXT.replace(*change)))


def test_a_selection_narrows_and_replaces(tmp_path):
    mine = suite.load(written(tmp_path, TEXT))
    whole = suite.plan(mine, Selection(), registry)
    assert [len(t.metrics) for t in whole.tracks] == [1, 2]
    narrow = suite.plan(mine, Selection(methods=["tiny_noise"], metrics=["tiny_deletion"], seed=5), registry)
    assert [m.name for m in narrow.methods] == ["tiny_noise"]
    assert [(t.dataset.name, [m.name for m in t.metrics]) for t in narrow.tracks] == [("tiny_pictures(n=3)", ["tiny_deletion"])]
    assert narrow.suite.seed == 5
    by_name = suite.plan(mine, Selection(datasets=["tiny_pictures(n=3)"]), registry)
    assert len(by_name.tracks) == 1


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(methods=["tiny_can"]), "did you mean 'tiny_cam'"),
        (Selection(models=["tiny_nett"]), "did you mean 'tiny_net'"),
        (Selection(metrics=["tiny_mas"]), "has no metric 'tiny_mas'; did you mean 'tiny_mass'"),
        (Selection(datasets=["tiny_picture"]), "did you mean 'tiny_pictures'"),
        (Selection(methods=[]), "names no method"),
    ],
)
def test_a_wrong_selection_is_named(tmp_path, selection, message):
    with pytest.raises(XbenchError, match=message):
        suite.plan(suite.load(written(tmp_path, TEXT)), selection, registry)


TWO = TEXT.replace('target = "present"', 'models = ["tiny_net(seed=1)"]')


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (None, [["tiny_net"], ["tiny_net(seed=1)"]]),
        (["tiny_net(seed=1)"], [[], ["tiny_net(seed=1)"]]),  # where the suite has it
        (["tiny_net(seed=2)"], [["tiny_net(seed=2)"], []]),  # instead of the suite's own
        (["tiny_net(seed=1)", "tiny_net"], [["tiny_net"], ["tiny_net(seed=1)"]]),
    ],
)
def test_tracks_may_have_models_of_their_own(tmp_path, chosen, expected):
    plan = suite.plan(suite.load(written(tmp_path, TWO)), Selection(models=chosen), registry)
    found = {track.dataset.name: [m.name for m in track.models] for track in plan.tracks}
    assert found == {name: models for name, models in zip(("tiny_pictures", "tiny_pictures(n=3)"), expected, strict=True) if models}
    assert {m.name for m in plan.models} == {name for models in expected for name in models}


def test_other_models_run_on_every_track_where_all_have_their_own(tmp_path):
    own = TWO.replace('models = ["tiny_net"]\n', "").replace(
        'dataset = "tiny_pictures"', 'dataset = "tiny_pictures"\nmodels = ["tiny_net"]'
    )
    mine = suite.load(written(tmp_path, own))
    plan = suite.plan(mine, Selection(models=["tiny_net(seed=2)"]), registry)
    assert [[m.name for m in track.models] for track in plan.tracks] == [["tiny_net(seed=2)"]] * 2


def test_another_dataset_takes_the_place_of_every_tracks_own(tmp_path):
    mine = suite.load(written(tmp_path, TEXT))
    plan = suite.plan(mine, Selection(datasets=["tiny_pictures(n=5)"]), registry)
    whole = suite.plan(mine, Selection(), registry)
    assert [track.dataset.name for track in plan.tracks] == ["tiny_pictures(n=5)"] * 2
    assert [t.track.target for t in plan.tracks] == [t.track.target for t in whole.tracks]
    both = suite.plan(mine, Selection(datasets=["tiny_pictures(n=3)", "tiny_pictures(n=5)"]), registry)
    assert [track.dataset.name for track in both.tracks] == ["tiny_pictures(n=3)"] + ["tiny_pictures(n=5)"] * 2


def test_equal_specs_run_once(tmp_path):
    mine = suite.load(written(tmp_path, TEXT.replace('["tiny_cam"]', '["tiny_noise", "tiny_noise(size=8)"]')))
    assert len(suite.plan(mine, Selection(), registry).methods) == 1


def test_unknown_suites():
    with pytest.raises(XbenchError, match="unknown suite 'quik'; did you mean 'quick'"):
        suite.find("quik")
    with pytest.raises(XbenchError, match=r"suite file absent.toml does not exist"):
        suite.find("absent.toml")
