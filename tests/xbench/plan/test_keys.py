"""Keys: whatever can change a value makes rows new, and nothing else does."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from xbench.network.model import structure_digest
from xbench.plan import keys, opening, recording, suite
from xbench.plan.suite import Selection, Track
from xbench.plugins import importing, rooms
from xbench.plugins.registry import registry
from xbench.run import pipeline
from xbench.store.manifests import Asked

FAMILIES = {"methods", "metrics", "datasets", "models", "trainers", "suites", "recipes", "results"}  # installed below the core


def test_a_wrapper_depends_on_the_sources_of_what_it_wraps():
    inner, outer = (keys.closure(registry.method(name)) for name in ("tiny_cam", "tiny_negated(tiny_cam)"))
    assert outer.files >= inner.files
    assert Path(registry.method("tiny_cam").plugin.path) in inner.files


def test_libraries_are_those_imported():
    found = keys.libraries([keys.closure(registry.method("tiny_cam"))])
    assert "torch" in found
    assert not any(name.startswith("xbench") for name in found)


# -- the core: computing, asked, showing -------------------------------------------------------------------------------------


def imported(part):
    """(file, module, names) of all imports of a part of the core that can run."""
    for path in rooms.files(part):
        for found in importing.imports(path.read_bytes()) if path.suffix == ".py" else ():
            assert found.level == 0, f"{path}: the core imports by full names"
            yield path, found.module, found.names


def parts_imported(part):
    """(file, another part) that a part of the core imports, through doors as well."""
    for path, module, names in imported(part):
        for name in [(module, one) for one in names] or [(module, "")]:
            while name[0] in rooms.DOORS:
                name = importing.door_table(name[0]).get(name[1], (f"{name[0]}.{name[1]}".rstrip("."), ""))
                if name == ("xbench", ""):
                    break
            parts = [*name[0].split("."), name[1]]
            other = rooms.part_of(*parts[1:]) or parts[1]
            if parts[0] == "xbench" and other not in (part, ""):
                yield path, other


def test_every_part_of_the_core_has_a_rule_and_one_only():
    kept = {path for path in rooms.home().iterdir() if not path.is_dir() or list(path.rglob("*.py"))}  # not what Python left
    parts = {path.name.partition(".")[0] for path in kept} - {"__pycache__", ""} - FAMILIES
    doors = {door.rpartition(".")[2] for door in rooms.DOORS} | {"__init__"}
    ruled = [*rooms.COMPUTING, *rooms.ASKED, *rooms.SHOWING]
    assert parts - set(ruled) - doors == set(), "say in rooms.py whether values depend on it"
    assert sorted(ruled) == sorted(set(ruled))
    assert all(rooms.files(part) for part in ruled)


@pytest.mark.parametrize("part", sorted(rooms.COMPUTING | rooms.ASKED))
def test_what_computes_imports_nothing_that_keys_leave_out(part):
    allowed = rooms.COMPUTING | (rooms.ASKED if part in rooms.ASKED else frozenset())
    for path, other in parts_imported(part):
        assert other in allowed, f"{path} imports {other}, of which keys know nothing: see rooms.py"


def test_libraries_of_what_computes_are_told():
    known = {*keys.CORE_LIBRARIES, *keys.OTHER_LIBRARIES}
    for part in rooms.COMPUTING:
        for path, module, _ in imported(part):
            top = module.partition(".")[0]
            if top not in sys.stdlib_module_names | {"xbench", ""}:  # a name made at run time is a plug-in's
                assert {name.lower() for name in importing.distributions().get(top, [top])} <= known, f"{path} imports {top}"


def digest_of_core():
    return keys.rules_digest.__wrapped__()


@pytest.mark.parametrize("path", rooms.computing_files(), ids=lambda path: path.relative_to(rooms.home()).as_posix())
def test_an_edit_of_what_computes_makes_every_row_new(path, monkeypatch):
    before, real = digest_of_core(), keys.file_digest
    monkeypatch.setattr(keys, "file_digest", lambda other: "edited" if other == path else real(other))
    assert digest_of_core() != before


def test_an_edit_of_what_shows_keeps_rows(monkeypatch):
    before, real = digest_of_core(), keys.file_digest
    shown = {path for part in rooms.SHOWING | rooms.ASKED for path in rooms.files(part)}
    assert {"leaderboard.py", "bootstrap.py", "main.py", "weights.py"} <= {path.name for path in shown}
    monkeypatch.setattr(keys, "file_digest", lambda other: "edited" if other in shown else real(other))
    assert digest_of_core() == before


def test_of_a_door_its_code_counts_and_its_table_does_not(tmp_path, monkeypatch):
    def digest(source):
        (tmp_path / "door.py").write_text(source)
        with monkeypatch.context() as patch:
            patch.setattr(rooms, "door_file", lambda door: tmp_path / "door.py")
            return digest_of_core()

    before = digest("from xbench.maps.saliency import resize\nX = 1")
    more = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from xbench.api import run\n__all__ = ['run']\n"
    assert digest(more + "from xbench.maps.saliency import resize\nX = 1") == before
    assert digest("from xbench.maps.saliency import resize\nX = 2") != before


def test_the_doors_own_table_agrees_with_its_imports():
    import xbench

    assert {name: (home, name) for name, home in xbench._WHERE.items()} == dict(importing.door_table("xbench"))


TRAINED = "from xbench import method\n{line}\n\n@method('uses_training')\ndef f(model, batch): ...\n"


def test_an_edit_of_training_makes_rows_new_of_what_uses_it(tmp_path, monkeypatch):
    real = keys.file_digest
    weights = next(path for path in rooms.files("train") if path.name == "weights.py")
    for line, asks in (("", False), ("from xbench.train import cards", True)):
        (tmp_path / "uses_training.py").write_text(TRAINED.format(line=line))
        registry.load(str(tmp_path / "uses_training.py"))
        method = registry.method("uses_training")
        before = keys.source_digest(method)
        with monkeypatch.context() as patch:
            patch.setattr(keys, "file_digest", lambda path: "edited" if path == weights else real(path))
            assert (keys.source_digest(method) != before) == asks


# -- opened models and datasets ----------------------------------------------------------------------------------------------

OPENED = """
import importlib
from pathlib import Path

import torch
from xbench import ClassList, dataset, model
from xbench.plugins.registry import registry

HERE = Path(__file__).parent


@model("opened_net")
def opened_net():
    tiny = registry.bind("model", "tiny_net")()
    scale = float((HERE / "scale.txt").read_text())
    network = importlib.import_module("papernet").PaperNet(tiny.network, scale)
    return type(tiny)("opened_net", network, tiny.preprocessing, tiny.classes, "inner.features", files=(HERE / "card.json",))


@dataset("opened_pictures", provides={"mask", "boxes"})
def opened_pictures():
    inner = registry.bind("dataset", "tiny_pictures")()
    inner.classes = ClassList(tuple((HERE / "classes.txt").read_text().split()))
    inner.files = (HERE / "truth.txt",)
    inner.pairs = [importlib.import_module("papertruth").Reader()]
    return inner
"""
NETWORK = """
import torch
from torch import nn


class PaperNet(nn.Module):
    def __init__(self, inner, scale):
        super().__init__()
        self.inner, self.scale = inner, scale

    def forward(self, x):
        return self.inner(x) * {factor} * self.scale
"""
STATE = {
    "scale.txt": "1.0",
    "card.json": "{}",
    "classes.txt": "ant bee cat dog elk",
    "truth.txt": "1",
    "papernet.py": NETWORK.format(factor="1"),
    "papertruth.py": "class Reader:\n    times = 1\n",
}


@pytest.fixture
def opened(tmp_path, tiny_suite, monkeypatch):
    """(files that are others) -> what the keys of rows begin with, of a model and a dataset made from files."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "plugins", dict(registry.plugins))
    monkeypatch.setattr(registry, "known", dict(registry.known))
    track = Track(dataset="opened_pictures", metrics=["tiny_mass"], target="label")
    chosen = tiny_suite.model_copy(update={"models": ["opened_net"], "methods": ["tiny_cam"], "controls": [], "tracks": [track]})

    def prefixes(**changed):
        for name, text in (STATE | {name.replace("__", "."): text for name, text in changed.items()}).items():
            (tmp_path / name).write_text(text)
        (tmp_path / "opened.py").write_text(OPENED)
        for name in ("papernet", "papertruth"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        registry.load(str(tmp_path / "opened.py"))
        plan = suite.plan(chosen, Selection(), registry)
        ((scene, planned),) = opening.open_scenes(plan)
        assert scene.protocols == prefixes.protocols or not prefixes.protocols
        prefixes.protocols, prefixes.scene, prefixes.last = scene.protocols, scene, (plan, [(scene, planned)])
        return scene.prefixes["tiny_cam", "tiny_mass"], scene.map_keys["tiny_cam"]

    prefixes.protocols = None
    return prefixes


@pytest.mark.parametrize(
    "changed",
    [
        {"papernet__py": NETWORK.format(factor="9")},
        {"papertruth__py": "class Reader:\n    times = 2\n"},
        {"scale__txt": "9.0"},
        {"card__json": '{"heads": 2}'},
        {"truth__txt": "2"},
        {"classes__txt": "bee ant cat dog elk"},
        {"classes__txt": "ant bee cat dog fox"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_opened_models_and_datasets_bring_makes_rows_new(opened, changed):
    before = opened()
    assert opened() == before
    after = opened(**changed)
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_what_opened_models_bring_is_an_input_of_the_run(opened, tmp_path):
    opened()
    asked = Asked(suite={}, selection={}, plugins={})
    manifest = recording.describe(*opened.last, [], asked, None, [])
    assert {str(tmp_path / name) for name in ("papernet.py", "papertruth.py", "card.json", "truth.txt")} <= set(
        manifest.local.inputs
    )


class Scaled(nn.Module):
    def __init__(self, scale=1.0, mask=1.0, heads=(1, 2), table=1.0):
        super().__init__()
        self.scale, self.config = scale, {"heads": heads}
        self.register_buffer("mask", torch.tensor(mask), persistent=False)
        self._table = torch.tensor(table)


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def test_networks_of_equal_weights_differ_by_what_is_no_weight():
    found = [Scaled(), Scaled(scale=2.0), Scaled(mask=2.0), Scaled(heads=(1, 4)), Scaled(table=2.0), nn.Sequential(Scaled())]
    assert len({structure_digest(network) for network in found}) == len(found)
    assert structure_digest(Scaled()) == structure_digest(Scaled())
    traced = [torch.fx.symbolic_trace(Times(factor)) for factor in (1, 2, 1)]
    assert [structure_digest(traced[0]) == structure_digest(other) for other in traced] == [True, False, True]


# -- runs --------------------------------------------------------------------------------------------------------------------


def test_code_beside_a_repository_makes_the_rows_new_that_it_computes(tiny_suite, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "repo").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "repo")
    (tmp_path / "p.py").write_text(
        "import papercam\nfrom xbench import method\n\n@method('paper_cam', needs={'feature_maps', 'gradients'})\n"
        "def paper_cam(model, batch):\n    return papercam.weigh(*model.feature_gradients(batch))\n"
    )
    chosen = tiny_suite.model_copy(update={"methods": ["paper_cam", "tiny_cam"], "controls": []})

    def go(sign):
        (tmp_path / "repo" / "papercam.py").write_text(f"def weigh(a, g):\n    return {sign}(a * g).sum(dim=1)\n")
        sys.modules.pop("papercam", None)
        importlib.invalidate_caches()
        return pipeline.run(chosen, out=tmp_path / "run", plugins=[str(tmp_path / "p.py")])

    first = go("+")
    assert (first.computed, go("+").computed) == (len(first.rows), 0)
    second = go("-")
    assert second.computed == (second.rows["method"] == "paper_cam").sum()
    mine = [o.rows.query("method == 'paper_cam' and metric == 'tiny_deletion'")["value"].tolist() for o in (first, second)]
    assert mine[0] != mine[1]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "papercam.py").write_text("def weigh(a, g):\n    return a.sum(dim=1)\n")
    assert not recording.changed_input(second.manifest)
    monkeypatch.syspath_prepend(tmp_path / "other")
    sys.modules.pop("papercam")
    assert "the module papercam is" in recording.changed_input(second.manifest)


def test_what_is_of_a_cell_runs_and_resumes_by_its_code(tiny_suite, tmp_path, monkeypatch):
    notebook = type(sys)("notebook")
    monkeypatch.setitem(sys.modules, "notebook", notebook)
    chosen = tiny_suite.model_copy(update={"methods": ["in_cell"], "controls": []})

    def go(number, sign):
        source = (
            "from xbench import method\n\n\n@method('in_cell', needs={'feature_maps', 'gradients'})\n"
            f"def in_cell(model, batch):\n    a, g = model.feature_gradients(batch)\n    return {sign}(a * g).sum(1)\n"
        )
        exec(compile(source, f"<cell {number}>", "exec"), vars(notebook))
        return pipeline.run(chosen, out=tmp_path / "run")

    first = go(1, "+")
    assert "the method in_cell" in first.manifest.local.unlisted
    assert (first.computed, go(2, "+").computed, go(3, "-").computed) == (len(first.rows), 0, len(first.rows))


PREFIXES = """
import json, sys
from xbench.plan import opening, suite
from xbench.plugins.registry import registry
from xbench.plan.suite import Selection, Suite
registry.load(sys.argv[1])
plan = suite.plan(Suite.model_validate_json(sys.argv[2]), Selection(), registry)
print(json.dumps([sorted(scene.prefixes.values()) for scene, _ in opening.open_scenes(plan)]))
"""


def test_keys_are_the_same_in_another_process(tiny_suite, tiny_plugin):
    plan = suite.plan(tiny_suite, Selection(), registry)
    here = [sorted(scene.prefixes.values()) for scene, _ in opening.open_scenes(plan)]
    command = [sys.executable, "-c", PREFIXES, tiny_plugin, tiny_suite.model_dump_json()]
    assert json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) == here


# -- protocols ---------------------------------------------------------------------------------------------------------------


def test_protocol_key_tells_protocols_apart():
    dataset = registry.bind("dataset", "tiny_pictures")
    base = ("1", "prediction", "", "crop", registry.metric("tiny_deletion"), "float32")
    variants = [
        ("2", *base[1:]),
        ("1", "label", *base[2:]),
        (*base[:2], "sources_correct", *base[3:]),
        (*base[:3], "full", *base[4:]),
        (*base[:4], registry.metric("tiny_deletion(steps=5)"), "float32"),
        (*base[:5], "bfloat16"),
    ]
    found = {keys.protocol_key(dataset, *variant) for variant in [base, base, *variants]}
    assert len(found) == 1 + len(variants)


def test_a_metric_that_gains_a_keyword_only_parameter_keeps_its_columns(tmp_path):
    def key(signature, spec):
        (tmp_path / "gaining.py").write_text(
            "from xbench import metric\n\n"
            "@metric('gaining', kind='ground_truth', version='1', direction='higher')\n"
            f"def f(maps, truth, {signature}): ...\n"
        )
        registry.load(str(tmp_path / "gaining.py"))
        rest = ("1", "prediction", "", "crop")
        return keys.protocol_key(registry.bind("dataset", "tiny_pictures"), *rest, registry.metric(spec), "float32")

    before = key("size: int = 3", "gaining")
    added = "size: int = 3, *, split: str = 'all'"
    assert key(added, "gaining") == key(added, "gaining(split=all)") == before
    assert len({before, key(added, "gaining(split=some)"), key(added, "gaining(size=4)")}) == 3
