"""What each part of the core has to do with values: the table that cache keys are made by. A test holds it against the imports.

A part is a room, a folder as a whole with its data files; a module; or what lies inside a room where that is of two kinds, and then
the room's own name is for the rest of it. What is in no list is a family of plug-ins, which is followed file by file (sources.py).
"""

from __future__ import annotations

import ast
import functools
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "xbench"
# They re-export what others define. Who imports a name from them depends on where it comes from, and not on their other names.
DOORS = ("xbench", "xbench.plugin")
# A value may depend on them: in every key.
COMPUTING = frozenset(
    {
        "errors",
        "progress",
        "host",
        "plugins",
        "data",
        "maps",
        "network",
        "store",
        "plan",
        "evaluate",
        "run/__init__",
        "run/pipeline",
        "run/engines",
    }
)
# Values of those plug-ins depend on them that import them, themselves or through others.
ASKED = frozenset({"train"})
# They show, compare and publish what was computed. A plug-in that imports one of them depends on it all the same.
SHOWING = frozenset({"__main__", "api", "cli", "py", "report", "run", "stats", "submit", "tables"})


@functools.cache
def home() -> Path:
    """The folder of the core."""
    found = find_spec(PACKAGE)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def part_of(*names: str) -> str:
    """The part that a file or module below ``xbench`` is of, by the names of its path without suffix; empty where it is of none."""
    return next((part for n in (2, 1) if (part := "/".join(names[:n])) in COMPUTING | ASKED | SHOWING), "")


@functools.cache
def files(part: str) -> tuple[Path, ...]:
    """All files of a part, data too, in their order: ``data`` has wordnet.py and wordnet.tsv.gz."""
    return tuple(path for path, of in _parts() if of == part)


@functools.cache
def _parts() -> tuple[tuple[Path, str], ...]:
    """(file, the part that it is of) for all files of the core; those of families are of none."""
    every = [path for path in home().rglob("*") if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"]
    return tuple((path, part_of(*_names(path))) for path in sorted(every))


def _names(path: Path) -> tuple[str, ...]:
    """``("run", "pipeline")`` of run/pipeline.py."""
    inside = path.relative_to(home())
    return (*inside.parts[:-1], inside.name.partition(".")[0])


@functools.cache
def modules(part: str) -> list[str]:
    """The names of a part's modules."""
    names = [path.relative_to(home()).with_suffix("").parts for path in files(part) if path.suffix == ".py"]
    return [".".join((PACKAGE, *(name[:-1] if name[-1] == "__init__" else name))) for name in names]


@functools.cache
def computing_files() -> tuple[Path, ...]:
    """All files that are in every key, but for the doors."""
    return tuple(path for part in sorted(COMPUTING) for path in files(part))


def door_file(door: str) -> Path:
    """The source file of a door; it need not be there."""
    return home() / "__init__.py" if door == PACKAGE else home().joinpath(*door.split(".")[1:]).with_suffix(".py")


def code_of_door(tree: ast.Module) -> str:
    """What a door is besides its table: all statements but imports, ``if TYPE_CHECKING``, ``__all__`` and docstrings."""
    return "\n".join(ast.unparse(node) for node in tree.body if not _is_table(node))


def _is_table(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets)
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return text or isinstance(node, ast.Import | ast.ImportFrom) or is_for_types(node)


def is_for_types(node: ast.AST) -> bool:
    """Whether a statement is ``if TYPE_CHECKING``, whose body never runs."""
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
