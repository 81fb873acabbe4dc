"""The three rules of the house: who may import whom, that the core stands alone, and that types are checked everywhere."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

from xbench.errors import XbenchError
from xbench.plan import keys
from xbench.plugins.declarations import BOUND
from xbench.plugins.registry import registry
from xbench.plugins.specs import Spec

ROOT = Path(__file__).parent.parent
FAMILIES = ("methods", "metrics", "datasets", "models", "trainers")

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the source tree")


def imports(path: Path) -> list[tuple[str, int]]:
    """(module, relative level) of every import in a file, those inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(".".join(filter(None, (node.module, alias.name))), node.level) for alias in node.names]
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "xbench").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_never_imports_a_plugin(path):
    for module, level in imports(path):
        parts = module.split(".")
        assert level == 0, f"{path.name}: relative import of {module}"
        assert parts[0] not in FAMILIES
        assert not (parts[0] == "xbench" and len(parts) > 1 and parts[1] in FAMILIES), f"{path.name} imports {module}"


@pytest.mark.parametrize(
    "path", sorted(p for f in FAMILIES for p in (ROOT / f).rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_a_family_imports_the_core_and_its_siblings_only(path):
    depth = len(path.relative_to(ROOT).parts) - 1  # of folders from the family down: so many dots lead no further up than to it
    for module, level in imports(path):
        parts = module.split(".")
        assert level <= depth, f"{path.name}: relative import of {module} from outside the family"
        assert parts[0] not in FAMILIES
        assert not (parts[0] == "xbench" and len(parts) > 1 and parts[1] in FAMILIES), f"{path.name} imports {module}"


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
