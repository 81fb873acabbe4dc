"""The examples in docstrings print what they show: of every module, of the core or a family, that has one.

Modules are imported by the names that they are installed under. pytest's own ``--doctest-modules`` would import all of them, at
every start, and the families a second time, as top-level packages.
"""

import doctest
import importlib
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETTINGS = ROOT / "pyproject.toml"

pytestmark = pytest.mark.skipif(not SETTINGS.is_file(), reason="needs the source tree")


def modules() -> list[str]:
    """Those with an example, by the packages that pyproject.toml maps to folders."""
    folders = tomllib.loads(SETTINGS.read_text())["tool"]["setuptools"]["package-dir"] if SETTINGS.is_file() else {}
    return [
        ".".join((package, *path.relative_to(ROOT / folder).with_suffix("").parts)).removesuffix(".__init__")
        for package, folder in folders.items()
        for path in sorted((ROOT / folder).rglob("*.py"))
        if ">>> " in path.read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("name", modules())
def test_examples(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted
    assert not found.failed


def test_there_are_examples():
    assert any(name.startswith("xbench.metrics.") for name in modules())
    assert not all(name.startswith("xbench.metrics.") for name in modules())
