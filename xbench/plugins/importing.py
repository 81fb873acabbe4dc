"""What code imports, source or compiled, and where a module lies; nothing is imported to tell."""

from __future__ import annotations

import ast
import dis
import functools
import importlib.metadata
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path

from xbench.plugins import rooms

_DYNAMIC = ("import_module", "__import__")
_LOOKED_AT = (ast.Import, ast.ImportFrom, ast.Call, ast.Name, ast.Attribute)
_LIBRARY_FOLDERS = {"site-packages", "dist-packages"}


@dataclass(frozen=True)
class Import:
    """One import statement. module: with ``level`` dots before it. names: that are taken from it; ``*`` all. eager: not inside a
    function, so that it was done when the module was loaded. any_beside: its name is made at run time, perhaps of a module beside.
    """

    module: str
    level: int
    names: tuple[str, ...]
    eager: bool
    any_beside: bool = False


@functools.lru_cache(maxsize=4096)
def imports(source: bytes) -> tuple[Import, ...]:
    """All imports of a source text that can run, ``import_module("name")`` too; empty where it is no Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ()
    found: list[Import] = []
    aliases: dict[str, tuple[str, bool]] = {}
    nodes = _nodes(tree)
    for node, eager in nodes:
        if isinstance(node, ast.ImportFrom):
            found.append(Import(node.module or "", node.level, tuple(alias.name for alias in node.names), eager))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                found.append(Import(alias.name, 0, (), eager))
                bound = alias.name if alias.asname else alias.name.partition(".")[0]
                aliases[alias.asname or bound] = (bound, eager)
        elif isinstance(node, ast.Call) and node.args and _called(node) in _DYNAMIC:
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            if isinstance(name, str):
                found.append(Import(name.lstrip("."), len(name) - len(name.lstrip(".")), (), eager))
            else:
                found.append(Import("", 0, (), eager, any_beside=True))
    return (*found, *_used([node for node, _ in nodes], aliases))


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _nodes(tree: ast.Module) -> list[tuple[ast.AST, bool]]:
    """All statements, calls and names that can run, and whether they run when the module is loaded."""
    found: list[tuple[ast.AST, bool]] = []
    todo: list[tuple[ast.AST, bool]] = [(tree, True)]
    while todo:
        node, eager = todo.pop()
        if isinstance(node, _LOOKED_AT):
            found.append((node, eager))
        inner = eager and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        never = node.body if isinstance(node, ast.If) and rooms.is_for_types(node) else ()
        for part in node._fields:
            value = getattr(node, part, None)
            if isinstance(value, list):
                todo += [(one, inner) for one in value if isinstance(one, ast.AST) and one not in never]
            elif isinstance(value, ast.AST) and not isinstance(value, ast.expr_context):
                todo.append((value, inner))
    return found


def _used(nodes: Sequence[ast.AST], aliases: Mapping[str, tuple[str, bool]]) -> Iterator[Import]:
    """What is taken from imported modules as an attribute, ``xbench.method``; everything where a module is passed on as it is."""
    names = {id(node): node.id for node in nodes if isinstance(node, ast.Name) and node.id in aliases}
    taken: dict[str, set[str]] = {}
    for node in nodes:
        if isinstance(node, ast.Attribute) and id(node.value) in names:
            taken.setdefault(names.pop(id(node.value)), set()).add(node.attr)
    for name in names.values():
        taken.setdefault(name, set()).add("*")
    for name, attributes in taken.items():
        yield Import(aliases[name][0], 0, tuple(sorted(attributes)), aliases[name][1])


@functools.cache
def door_table(door: str) -> Mapping[str, tuple[str, str]]:
    """Name -> (module, name there) of all that a door re-exports, by its import statements; those for types alone, too."""
    try:
        tree = ast.parse(rooms.door_file(door).read_bytes())
    except OSError:
        return {}
    table = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = absolute(node.module or "", node.level, door if door == rooms.PACKAGE else door.rpartition(".")[0])
            table.update({alias.asname or alias.name: (module, alias.name) for alias in node.names})
    return {name: home for name, home in table.items() if home[0].partition(".")[0] == rooms.PACKAGE}


def absolute(module: str, level: int, package: str) -> str:
    """The full name of a module with ``level`` dots before it, as a module of that package means it."""
    if not level:
        return module
    base = package.split(".")[: len(package.split(".")) - level + 1]
    return ".".join(filter(None, (*base, module)))


def read_by(code: types.CodeType) -> dict[str, set[str]]:
    """Globals that code reads, functions inside it too, and what it takes from each as an attribute at once."""
    found: dict[str, set[str]] = {}
    instructions = list(dis.get_instructions(code))
    for one, after in zip(instructions, [*instructions[1:], None], strict=True):
        if one.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            taken = found.setdefault(one.argval, set())
            if after is not None and after.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                taken.add(after.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            for name, taken in read_by(constant).items():
                found.setdefault(name, set()).update(taken)
    return found


def imports_of(code: types.CodeType) -> Iterator[Import]:
    """The imports that compiled code does."""
    instructions = list(dis.get_instructions(code))
    for place, found in enumerate(instructions):
        if found.opname == "IMPORT_NAME":
            level, names = (i.argval for i in instructions[place - 2 : place])
            yield Import(found.argval, level if isinstance(level, int) else 0, names or (), False)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from imports_of(constant)


@functools.cache
def _standard() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    return tuple(Path(paths[name]).resolve() for name in ("stdlib", "platstdlib"))


@functools.cache
def in_libraries(place: str) -> bool:
    """Whether a path is inside site-packages."""
    return not _LIBRARY_FOLDERS.isdisjoint(Path(place).parts)


@functools.cache
def in_standard(place: str) -> bool:
    """Whether a path is of Python's own library."""
    return not in_libraries(place) and any(Path(place).resolve().is_relative_to(folder) for folder in _standard())


@functools.cache
def distributions() -> Mapping[str, list[str]]:
    """Top-level name of modules -> the distributions that have such."""
    return importlib.metadata.packages_distributions()


def has_file(module: types.ModuleType | None) -> bool:
    """Whether a loaded module is of a file; a notebook is not."""
    return bool(getattr(module, "__file__", None))


def spec_of(name: str) -> ModuleSpec | None:
    """The spec of a module, loaded or not. Nothing is imported: importlib's own find_spec would import its parents."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__spec__", None)
    return _found(name, tuple(sys.path))


@functools.lru_cache(maxsize=4096)
def _found(name: str, _: tuple[str, ...]) -> ModuleSpec | None:
    parent = name.rpartition(".")[0]
    path = None
    if parent:
        of_parent = spec_of(parent)
        if of_parent is None or of_parent.submodule_search_locations is None:
            return None
        path = list(of_parent.submodule_search_locations)
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec: ModuleSpec | None = find(name, path) if find else None
        if spec is not None:
            return spec
    return None


def places(name: str) -> list[str]:
    """The file of a module, or the folders of a namespace package; none where it is built in, of a cell, or missing."""
    file = getattr(sys.modules.get(name), "__file__", None)
    spec = None if file else spec_of(name)
    if file or (spec and spec.has_location and spec.origin):
        return [str(file or (spec and spec.origin))]
    return folders(name)


def folders(package: str) -> list[str]:
    """Where the modules of a package lie; nowhere where it is none."""
    spec = spec_of(package)
    return list(spec.submodule_search_locations or []) if spec else []
