"""The rules of the house: who may import whom, that the core stands alone, and that types are checked everywhere."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

import xbench
import xbench.plugin
from xbench.errors import XbenchError
from xbench.plan import keys
from xbench.plugins.declarations import BOUND
from xbench.plugins.registry import registry
from xbench.plugins.specs import Spec

ROOT = Path(__file__).parent.parent
FAMILIES = ("methods", "metrics", "datasets", "models", "trainers")

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the source tree")


@pytest.fixture(scope="module")
def house():
    """The tool that draws the rooms; it has their order, and reads what files import."""
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "tools" / "architecture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def parametrized(*folders: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", python_files(*folders), ids=lambda p: str(p.relative_to(ROOT)))


# -- who may import whom -----------------------------------------------------------------------------------------------------


def upward(house, room: str, source: str) -> list[str]:
    """What a source text in a room imports from rooms that do not stand before it, a door's other than its own too."""
    found = []
    for module, line, level in house.imports(source):
        other = house.room_of(module)
        if level:
            found.append(f"line {line}: relative import of {module}")
        elif other in house.FAMILIES or module.partition(".")[0] in house.FAMILIES:
            found.append(f"line {line}: {module} is of a family")
        elif (other == "xbench" or module.removeprefix("xbench.") in xbench.__all__) and room != "cli":
            found.append(f"line {line}: {module} is for scripts and notebooks")
        elif other in house.ORDER and other != room and house.ORDER.index(other) > house.ORDER.index(room):
            found.append(f"line {line}: {module} is of the room {other}, which does not stand before {room}")
    return found


def test_rooms_import_in_one_order(house):
    """Run alone with -s, it prints the order with all imports."""
    wrong = {
        str(path.relative_to(ROOT)): found
        for room in house.ORDER
        for path in house.files(room)
        if (found := upward(house, room, path.read_text(encoding="utf-8")))
    }
    assert wrong == {}
    graph = house.graph()
    for room in reversed(house.ORDER):
        print(f"{house.shown(room):<12} imports", *sorted(graph[room], key=house.ORDER.index))  # noqa: T201


def test_every_module_of_the_core_is_in_a_room_of_the_order(house):
    doors = {"__init__", "__main__"}  # on top of all
    assert {path.relative_to(ROOT / "xbench").parts[0].removesuffix(".py") for path in python_files("xbench")} - doors == set(
        house.ORDER
    )


@pytest.mark.parametrize(
    ("room", "source", "said"),
    [
        (
            "stats",
            "from xbench.tables import claims",
            "line 1: xbench.tables.claims is of the room tables, which does not stand before stats",
        ),
        ("stats", "def f():\n    from xbench import tables", "line 2: xbench.tables is of the room tables"),
        ("data", "if TYPE_CHECKING:\n    import xbench.run.pipeline", "line 2: xbench.run.pipeline is of the room run"),
        ("data", "module = importlib.import_module('xbench.maps')", "line 1: xbench.maps is of the room maps"),
        ("run", "from xbench.plugin import Batch", "line 1: xbench.plugin.Batch is of the room plugin"),
        ("run", "from xbench import Batch", "line 1: xbench.Batch is for scripts"),
        ("run", "import xbench", "line 1: xbench is for scripts"),
        ("run", "from . import pipeline", "line 1: relative import of pipeline"),
        ("run", "from xbench.methods.cam import grad_cam", "line 1: xbench.methods.cam.grad_cam is of a family"),
        ("run", "import metrics", "line 1: metrics is of a family"),
    ],
)
def test_an_import_upward_is_found_wherever_it_stands(house, room, source, said):
    (found,) = upward(house, room, source)
    assert found.startswith(said)


def test_an_import_downward_is_right(house):
    assert (
        upward(house, "run", "import numpy\nfrom xbench import host\nfrom xbench.run import pipeline\nimport xbench.data.samples")
        == []
    )


# What brings torch along, as far as xbench uses it.
TORCH = ("torch", "torchvision", "timm", "lightning", "captum", "open_clip", "pytorch_grad_cam", "quantus", "safetensors.torch")


@pytest.mark.parametrize("room", ["stats", "tables", "report", "submit"])
def test_who_shows_results_names_no_torch(house, room):
    """Not even for types. That nothing that they import loads it: tests/xbench/test_fast_start.py."""
    for path in house.files(room):
        for module, line, _ in house.imports(path.read_text(encoding="utf-8")):
            assert not f"{module}.".startswith(tuple(f"{name}." for name in TORCH)), f"{path.name}, line {line}: {module}"


@parametrized(*FAMILIES, "recipes", "suites", "results")
def test_a_family_imports_the_door_and_its_siblings_only(house, path):
    depth = len(path.relative_to(ROOT).parts) - 1  # of folders from the family down: so many dots lead no further up than to it
    for module, line, level in house.imports(path.read_text(encoding="utf-8")):
        assert level <= depth, f"line {line}: relative import of {module} from outside the family"
        assert level or module.partition(".")[0] not in FAMILIES
        assert level or house.room_of(module) in ("", "plugin"), f"line {line}: {module} is not of xbench.plugin"


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_pages_show_the_doors_only(house, path):
    """A plug-in file, known by its first line, imports ``xbench.plugin``; a script may have the names of ``xbench`` too."""
    for code in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
        plug_in = re.match(r"# my_\w+\.py\n", code)
        used = [module for module, _, _ in house.imports(code)] + re.findall(r"\bxbench(?:\.\w+)+", code)
        for module in used:
            public = not plug_in and module.removeprefix("xbench.") in ("xbench", *xbench.__all__)
            assert public or house.room_of(module) in ("", "plugin"), module


def test_the_doors_export_what_they_say():
    tree = ast.parse((ROOT / "xbench" / "plugin.py").read_text(encoding="utf-8"))
    assert all(isinstance(node, ast.ImportFrom | ast.Assign | ast.Expr) for node in tree.body)
    imported = [alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(imported) == xbench.plugin.__all__
    assert len(set(imported)) == len(imported)
    assert dir(xbench) == xbench.__all__ == sorted(set(xbench.__all__))
    assert all(hasattr(xbench, name) for name in xbench.__all__)


def test_what_scripts_call_stays_when_a_room_of_its_name_is_imported(tmp_path):
    """``evaluate`` and ``run`` are functions of ``xbench`` and rooms as well, and Python sets an imported module on its package."""
    code = (
        "import importlib, xbench\n"
        "evaluate = xbench.evaluate\n"
        "rooms = [importlib.import_module(f'xbench.{name}') for name in ('evaluate', 'run')]\n"
        "from xbench.run import catalogue\n"
        "assert xbench.evaluate is evaluate and callable(evaluate)\n"
        "assert callable(xbench.run) and callable(xbench.leaderboard)\n"
        "assert rooms[1].catalogue is catalogue and xbench.stats is importlib.import_module('xbench.stats')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_room_bears_the_name_of_a_family(house):
    """It would be what ``xbench.methods`` is."""
    assert set(house.ORDER).isdisjoint(house.FAMILIES)
    assert set(house.FAMILIES) == set(FAMILIES)


# -- the pages say where things are --------------------------------------------------------------------------------------------


def test_the_picture_and_the_tables_of_rooms_are_what_files_import(house):
    for path, text in house.made().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}; run: python tools/architecture.py"


def test_the_page_of_the_house_has_every_room(house):
    page = house.PAGE.read_text(encoding="utf-8")
    (table,) = re.findall(r"<!-- rooms -->(.*?)<!-- /rooms -->", page, re.DOTALL)
    assert re.findall(r"^\| `(\w+)(?:/|\.py)` \|", table, re.MULTILINE) == list(reversed(house.ORDER))
    walk = house.walked(page, "Down"), house.walked(page, "Up")
    assert [rooms[0] for rooms in walk] == ["cli", "cli"]
    picture = house.PICTURE.read_text(encoding="utf-8")
    assert all(f">{house.shown(room)}</text>" in picture for room in house.ORDER)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_files_that_pages_name_exist(path):
    """Those of this tree, by their whole path."""
    tops = "xbench|methods|metrics|datasets|models|trainers|suites|recipes|tests|tools|benchmarks|docs"
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for name in re.findall(rf"`((?:{tops})/[\w/.-]*)`", text):
        assert (ROOT / name).exists() or (ROOT / path.parent / name).exists(), name
    for name in re.findall(r"`(\w+\.py)`", text):
        assert name.startswith("my_") or any(p.name == name for p in python_files("xbench", *FAMILIES)), name


def test_files_that_comments_and_docstrings_name_exist():
    there = [f"/{p.relative_to(ROOT).as_posix()}" for p in python_files("xbench", *FAMILIES, "tests", "tools", "benchmarks")]
    wrong = [
        (str(path.relative_to(ROOT)), name)
        for path in python_files("xbench", *FAMILIES, "tools", "benchmarks")
        for name in set(re.findall(r"(?<![\w/])[\w/]+\.py\b", path.read_text(encoding="utf-8")))
        if not name.startswith("my_") and not any(other.endswith(f"/{name}") for other in there)
    ]
    assert wrong == []


# -- the core and the families ---------------------------------------------------------------------------------------------------


def test_the_training_room_names_no_trainer():
    """What a recipe can train is asked of the registry."""
    from xbench.plugins.registry import registry

    known = registry.ids("trainer")
    assert len(known) >= 4
    for path in [*sorted((ROOT / "xbench" / "train").glob("*.py")), *sorted((ROOT / "xbench" / "cli").glob("*.py"))]:
        for id in known:
            assert not re.search(rf"[\"'`\[]{id}[\"'`\]]", path.read_text()), f"{path.name} names {id}"


def used(module: types.ModuleType, family: str) -> set[Path]:
    """The files of the family's modules whose functions, classes or selves a module holds, and of what those hold in turn."""
    found, todo = {module}, [module]
    while todo:
        names = {getattr(v, "__module__", None) or getattr(v, "__name__", "") for v in vars(todo.pop()).values()}
        new = {sys.modules[n] for n in names if isinstance(n, str) and n.startswith(f"xbench.{family}.")} - found
        found |= new
        todo += new
    return {Path(str(m.__file__)).resolve() for m in found}


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_depend_on_whatever_a_plugin_imports_from_its_family_other_folders_too(family):
    kind, crossing = family.removesuffix("s"), 0
    for id in registry.ids(kind):
        if not registry.known[kind, id].startswith(f"xbench.{family}."):
            continue
        try:
            plugin = registry.get(kind, id)
        except XbenchError:  # an extra is not installed
            continue
        found = used(sys.modules[plugin.module], family)
        sources = {path.resolve() for path in keys.closure(BOUND[kind](plugin, Spec(id), {})).files}
        assert found <= sources, f"{id}: {found - sources}"
        crossing += any(path.parent != plugin.path.resolve().parent for path in found)
    assert crossing or family in ("models", "trainers")  # which are flat


@pytest.mark.parametrize(
    "path", sorted(p for f in ("methods", "metrics") for p in (ROOT / f).rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_plugins_stay_short(path):
    assert len(path.read_text().splitlines()) <= 130


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "runs", "__pycache__", "tests")
    shutil.copytree(ROOT, copy, ignore=ignored)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(copy)]
    subprocess.run(build, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    shutil.unpack_archive(built, folder / "unpacked", "zip")
    return folder / "unpacked"


# An editable install finds `xbench.methods` in the source tree whatever the path says; this takes its finder away.
APART = "import sys\nsys.meta_path[:] = [f for f in sys.meta_path if 'ditable' not in repr(f)]\n"


def python(code: str, path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(
        [sys.executable, "-c", APART + code], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )


def packages() -> dict[str, Path]:
    """Package -> its folder, of every folder of the core and of the families that holds Python files."""
    found = {}
    for top in ("xbench", *FAMILIES):
        for folder in {p.parent for p in (ROOT / top).rglob("*.py")}:
            name = ".".join(folder.relative_to(ROOT).parts)
            found[name if top == "xbench" else f"xbench.{name}"] = folder
    return found


def test_every_folder_with_modules_is_a_package_that_is_listed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert [name for name, folder in packages().items() if not (folder / "__init__.py").is_file()] == []
    assert sorted(set(packages()) - set(listed)) == []
    assert len(listed) == len(set(listed))


def test_the_wheel_has_every_module_and_its_data(wheel):
    """Data: whatever git keeps beside the modules, such as weights."""
    tracked = subprocess.run(["git", "ls-files", "xbench", *FAMILIES], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("needs git")
    files = [Path(line) for line in tracked.stdout.splitlines() if (ROOT / line).is_file()]
    assert len(files) > 100
    lacking = [file for file in files if not (wheel / ("." if file.parts[0] == "xbench" else "xbench") / file).is_file()]
    assert lacking == []


def test_the_wheel_has_everything_below_one_name(wheel, tmp_path):
    assert sorted(p.name for p in wheel.iterdir() if not p.name.endswith(".dist-info")) == ["xbench"]
    code = (
        "import xbench, pathlib\n"
        f"assert pathlib.Path(xbench.__file__).is_relative_to({str(wheel)!r})\n"
        "from xbench.plan import suite\nfrom xbench.plugins.registry import registry\n"
        "suite.plan(suite.load(suite.find('quick')), suite.Selection(), registry)\n"
        "from xbench.tables import runs\nassert runs.reference('quick') is not None"
    )
    done = python(code, wheel, tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_core_passes_its_own_tests_without_the_families(wheel, tmp_path):
    core = tmp_path / "core"
    shutil.copytree(wheel, core)
    for family in FAMILIES:
        shutil.rmtree(core / "xbench" / family)
    shutil.copytree(
        ROOT / "tests" / "xbench", tmp_path / "tests" / "xbench", ignore=shutil.ignore_patterns("__pycache__", "test_cli.py")
    )
    for name in ("conftest.py", "tiny.py", "tiny_clips.py"):
        shutil.copy(ROOT / "tests" / name, tmp_path / "tests")
    code = (
        "import xbench, pathlib, pytest\n"
        f"assert pathlib.Path(xbench.__file__).is_relative_to({str(core)!r})\n"
        "sys.exit(pytest.main(['-q', '--import-mode=importlib', '-p', 'no:cacheprovider', '-k', 'not killed', 'tests']))"
    )
    done = python(code, core, tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_planted_type_error_is_found(wheel, tmp_path, family):
    """Quick form of `make types`: the wheel's tree, other libraries not followed."""
    shutil.copytree(wheel, tmp_path / "tree")
    planted = tmp_path / "tree" / "xbench" / family / "planted.py"
    planted.write_text("from xbench.data.samples import generator\n\n\ndef f() -> int:\n    return generator('a')\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--ignore-missing-imports", str(planted)],
        cwd=tmp_path / "tree",
        env={**os.environ, "MYPYPATH": str(tmp_path / "tree")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "planted.py:5: error: Incompatible return value type" in done.stdout
