"""The import closure: whatever code a plug-in imports or refers to is in its digest, and nothing else is."""

import importlib
import site
import sys
import zipfile
from types import ModuleType

import pytest

from xbench.errors import XbenchError
from xbench.plan import keys
from xbench.plugins import importing, rooms, sources
from xbench.plugins.registry import registry

PLUGIN = "from xbench import method\n{top}\n\n@method('{id}')\ndef f(model, batch):\n    {inside}\n    return 1\n"


@pytest.fixture
def repo(tmp_path, monkeypatch):
    """A folder on the path, whose modules this process forgets in the end."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "repo"), *sys.path])
    monkeypatch.setattr(registry, "plugins", dict(registry.plugins))
    monkeypatch.setattr(registry, "known", dict(registry.known))
    before = set(sys.modules)
    (tmp_path / "repo").mkdir()
    yield tmp_path / "repo"
    forget(before)


def forget(before):
    for name in set(sys.modules) - before:
        if "__editable__" not in name and not name.startswith(("torch", "numpy")):
            del sys.modules[name]


def write(folder, **files):
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/').replace('/init', '/__init__')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def digest(repo, top="", inside=""):
    """Of a plug-in that is loaded by a new process, as far as its modules go."""
    forget({name for name in sys.modules if not str(getattr(sys.modules[name], "__file__", None)).startswith(str(repo.parent))})
    importlib.invalidate_caches()
    importing._found.cache_clear()
    file = repo.parent / "plug.py"
    file.write_text(PLUGIN.format(top=top, inside=inside, id="plug"))
    registry.load(str(file))
    return keys.source_digest(registry.method("plug"))


@pytest.mark.parametrize(
    ("top", "inside"),
    [
        ("import helper", ""),
        ("from helper import x", ""),
        ("import helper as h", "h.x"),
        ("import importlib\nh = importlib.import_module('hel' + 'per')", ""),
        ("import importlib\nx = importlib.import_module('hel' + 'per').f", ""),
        ("import importlib, functools\nx = functools.cache(importlib.import_module('hel' + 'per').f)", ""),
        ("try:\n    import helper\nexcept ImportError:\n    pass", ""),
        ("", "import helper"),
        ("", "from helper import x"),
        ("import importlib", "importlib.import_module('helper')"),
        ("from importlib import import_module", "import_module('helper').f()"),
        ("", "__import__('helper')"),
        ("import over", ""),
        ("import pack", ""),
        ("from pack import deep", ""),
        ("import pack.deep.leaf", ""),
        ("", "from pack.deep import leaf"),
        (
            "from importlib import util\nspec = util.spec_from_file_location('other', {helper!r})\n"
            "h = util.module_from_spec(spec)\nspec.loader.exec_module(h)",
            "",
        ),
    ],
)
def test_a_module_outside_site_packages_counts_however_it_is_imported(repo, top, inside):
    write(repo, over="import helper", pack__init="", pack__deep__init="from . import leaf", pack__deep__leaf="import helper")
    if top == "import pack":
        write(repo, pack__init="from pack.deep.leaf import helper as h")
    top = top.replace("{helper!r}", repr(str(repo / "helper.py")))
    write(repo, helper="def f(): return 1\nx = 1")
    before = digest(repo, top, inside)
    assert digest(repo, top, inside) == before
    write(repo, helper="def f(): return 1\nx = 2")
    assert digest(repo, top, inside) != before


def test_parent_packages_and_relative_imports_count(repo):
    write(repo, pack__init="", pack__deep__init="", pack__deep__leaf="from ..beside import x", pack__beside="x = 1", pack__never="")
    found = [digest(repo, "import pack.deep.leaf")]
    for name in ("pack__init", "pack__deep__init", "pack__beside"):
        write(repo, **{name: "x = 2"})
        found.append(digest(repo, "import pack.deep.leaf"))
    assert len(set(found)) == 4
    write(repo, pack__never="x = 2", unasked="x = 2")
    assert digest(repo, "import pack.deep.leaf") == found[-1]


def test_a_package_that_imports_all_that_lies_in_it_has_all_of_it(repo):
    loop = (
        "import importlib, pkgutil\nfor m in pkgutil.iter_modules(__path__):\n    importlib.import_module(f'{__name__}.{m.name}')"
    )
    write(repo, pack__init=loop, pack__one="x = 1")
    before = digest(repo, "import pack")
    write(repo, pack__one="x = 2")
    assert digest(repo, "import pack") != before


def test_what_is_imported_for_types_alone_does_not_count(repo):
    top = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import helper\nelse:\n    import other"
    write(repo, helper="x = 1", other="x = 1")
    before = digest(repo, top)
    write(repo, helper="x = 2")
    assert digest(repo, top) == before
    write(repo, other="x = 2")
    assert digest(repo, top) != before


def test_a_submodule_that_others_loaded_changes_nothing(repo):
    write(repo, pack__init="", pack__one="", pack__two="x = 1")
    before = digest(repo, "from pack import one")
    importlib.import_module("pack.two")
    assert keys.source_digest(registry.method("plug")) == before


def test_a_module_that_comes_and_goes_is_seen(repo):
    before = digest(repo, "", "import helper")
    write(repo, helper="x = 1")
    assert digest(repo, "", "import helper") != before


def test_an_editable_install_counts_by_its_files_and_a_library_by_its_version(repo, monkeypatch):
    packages = repo.parent / "site-packages"
    for name in ("editable", "library", "alone"):
        write(packages if name != "editable" else repo.parent / "src", **{name: "x = 1"})
    (packages / "editable.pth").write_text(f"{repo.parent / 'src'}\n")

    def install(name, version):
        info = packages / f"{name}-1.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "top_level.txt").write_text(f"{name}\n")
        importing.distributions.cache_clear()
        keys.version.cache_clear()

    install("editable", "1")
    install("library", "1")
    site.addsitedir(str(packages))
    top = "import editable, library, alone"
    try:
        before = digest(repo, top)
        write(packages, library="x = 2")
        assert digest(repo, top) == before
        write(repo.parent / "src", editable="x = 2")
        after = digest(repo, top)
        assert after != before
        write(packages, alone="x = 2")  # of no distribution, so that it has no version
        assert digest(repo, top) != after
        closure = keys.closure(registry.method("plug"))
        assert keys.libraries([closure]) == {"library": "1"}
        install("library", "2")
        assert keys.libraries([closure]) == {"library": "2"}
    finally:
        importing.distributions.cache_clear()
        keys.version.cache_clear()


def test_an_archive_counts_by_its_bytes(repo, monkeypatch):
    def pack(text):
        with zipfile.ZipFile(repo / "lib.zip", "w") as archive:
            archive.writestr("zipped.py", text)
        sys.path_importer_cache.pop(str(repo / "lib.zip"), None)

    monkeypatch.setattr(sys, "path", [str(repo / "lib.zip"), *sys.path])
    pack("import helper\nx = 1")
    write(repo, helper="x = 1")
    found = [digest(repo, "import zipped")]
    write(repo, helper="x = 2")
    found.append(digest(repo, "import zipped"))
    pack("import helper\nx = 3")
    assert len({*found, digest(repo, "import zipped")}) == 3


def test_who_registers_counts_as_well_as_where_the_function_is_from(repo):
    write(repo, maker="def make(sign):\n    def f(model, batch):\n        return sign\n    return f\n")
    top = "import maker\nmethod('made')(maker.make({sign}))"

    def made(sign):
        digest(repo, top.format(sign=sign))
        return keys.source_digest(registry.method("made"))

    before = made(1)
    assert made(-1) != before
    assert made(1) == before
    write(repo, maker="def make(sign):\n    def f(model, batch):\n        return 2 * sign\n    return f\n")
    assert made(1) != before


def test_a_module_that_changed_since_it_was_imported_is_refused(repo):
    write(repo, helper="x = 1")
    digest(repo, "import helper")
    write(repo, helper="x = 2")
    with pytest.raises(XbenchError, match=r"helper.py has changed since it was imported; start Python anew, or importlib.reload"):
        keys.source_digest(registry.method("plug"))
    importlib.reload(sys.modules["helper"])
    keys.source_digest(registry.method("plug"))


# -- the core ----------------------------------------------------------------------------------------------------------------


def names(repo, top, inside=""):
    digest(repo, top, inside)
    return {path.name for path in keys.closure(registry.method("plug")).files}


def test_through_a_door_names_lead_to_where_they_are_from(repo):
    assert names(repo, "import xbench\nfrom xbench import Batch, Truth", "xbench.method") == {"plug.py"}
    assert {"api.py", "leaderboard.py", "bootstrap.py"} <= names(repo, "from xbench import evaluate")
    assert {"api.py", "leaderboard.py"} <= names(repo, "import xbench", "xbench.evaluate")
    assert "xbench: Batch is xbench.data.samples.Batch" in closure_of(repo, "from xbench import Batch").told


def closure_of(repo, top):
    digest(repo, top)
    return keys.closure(registry.method("plug"))


@pytest.mark.parametrize(
    "line",
    [
        "from xbench.train.cards import Card",
        "from xbench.train import cards",
        "import xbench.train.cards",
        "from xbench.plugin import Card",
    ],
)
def test_what_is_asked_counts_as_a_whole_where_it_is_reached(repo, line):
    write(repo, helper=f"def f():\n    {line}\n")
    assert names(repo, "import helper") >= {path.name for path in rooms.files("train")}
    assert "cards.py" not in names(repo, "import xbench")


def test_what_only_shows_counts_for_the_plugin_that_imports_it(repo):
    assert {"bootstrap.py", "signflip.py"} <= names(repo, "", "from xbench.stats import signflip")


# -- cells -------------------------------------------------------------------------------------------------------------------

CELL = """
import math
import torch
from xbench import ClassList, method
SCALE = {scale}
KINDS = {{"a", "b", "c"}}
TABLE = {{"w": torch.tensor([1.0, {entry}]), "classes": ClassList(("a", "{last}")), "more": [KINDS, math.pi]}}

class Base:
    def go(self): return {base}

class Weigher(Base):
    {comment}
    offset: int = 3
    @property
    def all(self): return self.go() + self.offset

def weigh(x):
    inner = lambda y: y * SCALE
    return inner(x) if x in TABLE else Weigher().all

@method("celled")
def celled(model, batch, size: int = {size}):
    \"\"\"As in a cell.\"\"\"
    import helper
    return weigh(size)
"""
SAME = {"scale": 1.0, "entry": 2.0, "last": "b", "base": 1, "comment": "", "size": 3}


@pytest.fixture
def cell(repo, monkeypatch):
    """Runs a cell in a module without a file, and gives the digest of what it registers."""
    write(repo, helper="x = 1")
    notebook = ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", notebook)
    numbers = iter(range(99))

    def run(source=CELL, **more):
        exec(compile(source.format(**SAME | more), f"<cell {next(numbers)}>", "exec"), vars(notebook))
        return keys.source_digest(registry.method("celled"))

    return run


def test_the_code_of_cells_counts_with_all_that_it_refers_to(cell, repo):
    before = cell()
    assert cell() == cell(comment="# another word\n\n    # more") == before
    changes = [{"scale": 2.0}, {"entry": 3.0}, {"last": "c"}, {"base": 2}, {"size": 4}, {"comment": "extra = 1"}]
    assert len({before, *(cell(**change) for change in changes)}) == 1 + len(changes)
    write(repo, helper="x = 2")
    assert cell() != before
    assert keys.closure(registry.method("celled")).cells >= {"notebook.celled", "notebook.weigh", "notebook.Weigher"}


def test_what_cannot_be_told_by_its_content_is_refused_by_name(cell):
    source = "import threading\nfrom xbench import method\nL = threading.Lock()\n@method('celled')\ndef f(model, batch): return L\n"
    with pytest.raises(XbenchError, match=r"celled is defined in no file, and L there is a _thread.lock, .* into a .py file"):
        cell(source)


def test_a_class_or_a_made_function_of_a_cell_is_a_plugin_too(cell):
    source = (
        "from xbench import method, metric\ndef make(sign):\n    def f(model, batch): return sign\n    return f\n"
        "method('celled')(make({size}))\n\n"
        "@metric('celled', kind='faithfulness', version='1', direction='higher')\nclass Judge:\n"
        "    def score(self): return {size}\n"
    )
    before = cell(source), keys.source_digest(registry.metric("celled"))
    after = cell(source, size=4), keys.source_digest(registry.metric("celled"))
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_a_function_that_a_cell_put_into_a_module_or_class_counts(cell, repo):
    write(repo, helper="class A:\n    def f(self): return 1\ndef g(): return 1")
    top = "import helper"
    found = [digest(repo, top)]
    for patch in ("helper.A.f = lambda self: {size}", "helper.g = lambda: {size}"):
        for size in (1, 2):
            cell(f"import helper\nfrom xbench import method\n{patch}\n@method('celled')\ndef f(model, batch): ...", size=size)
            found.append(keys.source_digest(registry.method("plug")))
    assert len(set(found)) == 5


def test_the_closure_is_found_without_importing_anything(repo):
    write(repo, helper="import never_there\nraise RuntimeError", pack__init="raise RuntimeError", pack__leaf="")
    digest(repo, "", "import helper, pack.leaf")
    assert not {"helper", "pack"} & set(sys.modules)
    assert sources.of_plugin(registry.method("plug").plugin).told >= {"never_there is missing"}
