from importlib.metadata import EntryPoint

import pytest

from xbench.errors import XbenchError
from xbench.plan import keys, suite
from xbench.plugins.registry import Registry, registry

PLUGIN = """
from xbench import method

@method("{id}")
def some_method(model, batch):
    \"\"\"A method.\"\"\"
"""


def test_unknown_ids_suggest_the_nearest():
    with pytest.raises(XbenchError, match="did you mean 'tiny_gradient'"):
        registry.method("tiny_gradiant")
    with pytest.raises(XbenchError, match="no parameter 'sise'; did you mean 'size'"):
        registry.method("tiny_noise(sise=3)")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tiny_noise(size=large)", "size must be int, not 'large'"),
        ("tiny_noise(size=2.5)", "size must be int"),
        ("tiny_noise(1, 2)", "at most 1 arguments"),
        ("tiny_noise(1, size=2)", "'size' twice"),
        ("tiny_negated", "needs its argument 'inner'"),
        ("tiny_negated(3)", "inner must be a method"),
    ],
)
def test_wrong_parameters_are_named(spec, message):
    with pytest.raises(XbenchError, match=message):
        registry.method(spec)


def test_equal_meanings_have_one_name():
    assert registry.method("tiny_noise(size=8)").name == registry.method("tiny_noise()").name == "tiny_noise"
    assert registry.method("tiny_noise(5)").name == "tiny_noise(size=5)"
    wrapped = registry.method("tiny_negated(inner=tiny_noise(5))")
    assert wrapped.name == "tiny_negated(tiny_noise(size=5))"
    assert wrapped.all_params == {"inner": "tiny_noise(size=5)"}


def test_a_wrapper_needs_what_its_inner_method_needs():
    assert registry.method("tiny_negated(tiny_cam)").needs == {"feature_maps", "gradients"}


def test_same_file_again_replaces_other_file_collides(tmp_path):
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    first.write_text(PLUGIN.format(id="collides"))
    second.write_text(PLUGIN.format(id="collides"))
    registry.load(str(first))
    registry.load(str(first))
    with pytest.raises(XbenchError, match=r"'collides' is defined twice, in .*first.py and in .*second.py"):
        registry.load(str(second))


def test_a_plugin_that_ships_cannot_be_replaced_in_silence(tmp_path, monkeypatch):
    """Shipped modules are imported late: the collision is seen before."""
    monkeypatch.setitem(registry.known, ("method", "ships"), "some.module")
    mine = tmp_path / "mine.py"
    mine.write_text(PLUGIN.format(id="ships"))
    with pytest.raises(XbenchError, match=r"'ships' is defined twice, in some.module and in .*mine.py"):
        registry.load(str(mine))


def test_plugin_files_that_do_not_load(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("def (")
    with pytest.raises(XbenchError, match="does not load: SyntaxError"):
        registry.load(str(broken))
    with pytest.raises(XbenchError, match="does not exist"):
        registry.load(str(tmp_path / "absent.py"))


def test_packages_are_scanned_without_being_imported(tmp_path, monkeypatch):
    package = tmp_path / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "methods.py").write_text(PLUGIN.format(id="theirs") + "\nraise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    points = [
        EntryPoint("theirs", "their_package", "xbench.methods"),
        EntryPoint("gone", "no_such_package", "xbench.methods"),
    ]
    found = Registry(points)
    assert found.ids("method") == ["theirs"]
    assert "no_such_package" in found.broken
    with pytest.raises(XbenchError, match="no_such_package"):
        found.get("method", "nothing_like_it")


def test_sub_packages_are_scanned_too_and_a_broken_module_costs_its_own_plugins_only(tmp_path, monkeypatch):
    deep = tmp_path / "their_house" / "cams" / "fast"
    deep.mkdir(parents=True)
    for folder in (deep, deep.parent, deep.parent.parent):
        (folder / "__init__.py").write_text(f"raise RuntimeError('imported')\n{PLUGIN.format(id='in_' + folder.name)}")
    (deep / "_helper.py").write_text("")
    (deep / "one.py").write_text(PLUGIN.format(id="deep"))
    (deep / "broken.py").write_text("def (")
    (deep / "bytes.py").write_bytes(b"\xff\xfe")
    (deep / "compiled.so").write_bytes(b"")
    (deep.parent / "no_package").mkdir()
    (deep.parent / "no_package" / "two.py").write_text(PLUGIN.format(id="apart"))
    monkeypatch.syspath_prepend(tmp_path)
    found = Registry([EntryPoint("theirs", "their_house", "xbench.methods")])
    assert found.ids("method") == ["deep", "in_cams", "in_fast", "in_their_house"]
    assert found.known["method", "deep"] == "their_house.cams.fast.one"
    assert set(found.broken) == {"their_house.cams.fast.broken", "their_house.cams.fast.bytes"}
    with pytest.raises(XbenchError, match=r"plug-ins of their_house\.cams\.fast\.broken were not read: SyntaxError"):
        found.get("method", "nothing_like_it")


def test_a_plugin_in_a_sub_package_runs(tmp_path, monkeypatch):
    deep = tmp_path / "their_rooms" / "cams"
    deep.mkdir(parents=True)
    (deep.parent / "__init__.py").write_text("")
    (deep / "__init__.py").write_text("")
    (deep.parent / "_shared.py").write_text("NAME = 'shared'\n")
    (deep / "one.py").write_text(PLUGIN.format(id="roomed").replace("import method", "import method\nfrom .._shared import NAME"))
    monkeypatch.syspath_prepend(tmp_path)
    points = [EntryPoint("theirs", "their_rooms", "xbench.methods")]
    monkeypatch.setattr("xbench.plugins.registry.registry", found := Registry(points))
    bound = found.method("roomed")
    assert bound.plugin.module == "their_rooms.cams.one"
    assert {path.name for path in keys.closure(bound).files} >= {"one.py", "_shared.py"}


REFUSING = """
from xbench import metric

@metric("refusing/<Name>", kind="ground_truth", version="1", direction="higher", refused={"Wrong": "it is wrong; use tiny_mass"})
def refused(maps, truth, name):
    \"\"\"Refused.\"\"\"

@metric("refusing/Right", kind="ground_truth", version="1", direction="higher")
def right(maps, truth):
    \"\"\"Right.\"\"\"
"""


def test_refused_metrics_say_why_wherever_they_are_named(tmp_path, tiny_suite):
    (tmp_path / "refusing.py").write_text(REFUSING)
    registry.load(str(tmp_path / "refusing.py"))
    why = "^metric refusing/Wrong is refused: it is wrong; use tiny_mass$"
    with pytest.raises(XbenchError, match=why):
        registry.metric("refusing/Wrong")
    track = tiny_suite.tracks[0].model_copy(update={"metrics": ["tiny_mass", "refusing/Wrong"]})
    with pytest.raises(XbenchError, match=why):
        suite.plan(tiny_suite.model_copy(update={"tracks": [track]}), suite.Selection(), registry)
    with pytest.raises(XbenchError, match="unknown metric 'refusing/Rihgt'; did you mean 'refusing/Right'"):
        registry.metric("refusing/Rihgt")
    assert registry.metric("refusing/Right").plugin.names is None
    assert registry.get("metric", "refusing/<Name>").names() == ["Wrong"]


def test_parameters_that_a_dataclass_has_from_another_module_are_read(tmp_path, monkeypatch):
    """Where annotations are text, as in modules that import their names for types alone."""
    base = "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom xbench.plugin import Spec\n\n"
    base += "@dataclass(frozen=True)\nclass Base:\n    steps: Spec\n    share: float = 0.5\n"
    (tmp_path / "the_base.py").write_text(base)
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = "from the_base import Base\nfrom dataclasses import dataclass\nfrom xbench import metric\n\n"
    mine += "@metric('inheriting', kind='faithfulness', version='1', direction='lower')\n@dataclass(frozen=True)\n"
    mine += "class Mine(Base):\n    '''A metric.'''\n    more: int = 1\n"
    (tmp_path / "inheriting.py").write_text(mine)
    registry.load(str(tmp_path / "inheriting.py"))
    made = registry.metric("inheriting(exact(3), share=0.25, more=2)")()
    assert (str(made.steps), made.share, made.more) == ("exact(3)", 0.25, 2)


TOLD = """
raise RuntimeError("imported")

@method("told", needs={"gradients"})
def told(model, batch):
    \"\"\"Says what
    it is. And more.

    Much more.
    \"\"\"

@metric("told_too", version="1")
@dataclass
class Told:
    \"\"\"Of a class, e.g. this one.\"\"\"
"""


def test_a_summary_is_read_from_the_source(tmp_path, monkeypatch):
    (tmp_path / "told.py").write_text(TOLD)
    monkeypatch.syspath_prepend(tmp_path)
    found = Registry([EntryPoint("told", "told", "xbench.methods")])
    assert found.summary("method", "told") == "Says what it is."
    assert found.summary("metric", "told_too") == "Of a class, e.g. this one."
    with pytest.raises(XbenchError, match="unknown method 'tould'; did you mean 'told'"):
        found.summary("method", "tould")


def test_a_source_without_a_docstring_is_imported_for_its_summary(tmp_path, monkeypatch):
    (tmp_path / "untold.py").write_text('from xbench import model\n\n@model("untold")\ndef untold(): ...\n')
    monkeypatch.syspath_prepend(tmp_path)
    found = Registry([EntryPoint("untold", "untold", "xbench.models")])
    monkeypatch.setattr("xbench.plugins.registry.registry", found)  # where decorators register
    assert found.summary("model", "untold") == ""
    assert ("model", "untold") in found.plugins


def test_failures_name_each_plugin_that_does_not_load(tmp_path, monkeypatch):
    (tmp_path / "lacking.py").write_text("import nothing_like_it\n" + PLUGIN.format(id="lacks"))
    monkeypatch.syspath_prepend(tmp_path)
    points = [EntryPoint("a", "lacking", "xbench.methods"), EntryPoint("b", "no_such_package", "xbench.methods")]
    first, second = Registry(points).failures()
    assert first.startswith("method lacks: plug-in module lacking does not import: No module named 'nothing_like_it'")
    assert second == "no_such_package: ImportError: no module no_such_package"
