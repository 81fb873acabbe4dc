"""What imports what. Torch takes seconds to import, which nobody shall wait for who asks for help, a list or a finished table."""

import subprocess
import sys
from pathlib import Path

import xbench

FOLDER = Path(xbench.__file__).parent
# Modules, and folders with all that is in them, that say or compute something without a network.
WITHOUT_TORCH = [
    "xbench",
    "errors",
    "progress",
    "plugins",
    "plan.keys",
    "plan.suite",
    "store.directory",
    "store.manifests",
    "stats",
    "tables",
    "report",
    "train.session",
    "api",
    "run.catalogue",
    "run.metaevaluation",
    "run.pipeline",
    "submit",
    "cli",
]


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=False)


def modules(name: str) -> list[str]:
    """A module, or a package and all modules in it, by their full names."""
    if name == "xbench":
        return [name]
    whole = f"xbench.{name}"
    folder = FOLDER.joinpath(*name.split("."))
    return [whole, *(f"{whole}.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem != "__init__")]


def test_what_needs_no_network_imports_no_torch(tmp_path):
    names = [module for name in WITHOUT_TORCH for module in modules(name)]
    assert len(names) > len(WITHOUT_TORCH) + 20  # cli and report are folders
    code = (
        "import importlib, sys\n"
        f"for name in {names}:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules:\n"
        "        sys.exit(f'{name} imports torch')\n"
    )
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_test_can_fail(tmp_path):
    assert python("import sys, xbench.data.samples\nsys.exit('torch' in sys.modules)", tmp_path).returncode == 1


def test_the_package_alone_is_instant(tmp_path):
    done = python("import sys, xbench\nprint(*{'torch', 'pandas', 'numpy', 'pydantic', 'typer'} & set(sys.modules))", tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_progress_is_known_to_all(tmp_path):
    code = "import sys, xbench.progress\nprint(*sorted(name for name in sys.modules if name.startswith('xbench')))"
    assert set(python(code, tmp_path).stdout.split()) <= {"xbench", "xbench.errors", "xbench.progress"}
