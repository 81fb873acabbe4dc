"""The import closure of a plug-in: all code that was imported to compute with it, and what else that code refers to.

Imports are followed from the plug-in's module, those inside functions too; and from a loaded module whatever its globals come from,
so that ``helper = importlib.import_module(name)`` is followed. They lead through the plug-in's own package, through ``xbench``
(rooms.py) and through modules whose files lie outside site-packages: on PYTHONPATH, in an editable install, beside the plug-in.
A module inside site-packages is a library, whose version counts. Nothing is imported to tell.

What is defined in a notebook's cell, or typed in, has no file, and is told by its content (contents.py).
"""

from __future__ import annotations

import hashlib
import pkgutil
import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from xbench.errors import XbenchError
from xbench.plugins import rooms
from xbench.plugins.contents import CACHED, Contents, home_of
from xbench.plugins.declarations import Plugin
from xbench.plugins.importing import (
    absolute,
    distributions,
    door_table,
    folders,
    has_file,
    imports,
    in_libraries,
    in_standard,
    places,
    spec_of,
)


@dataclass(frozen=True)
class Closure:
    """What a result depends on.

    files: by their bytes. told: what is no file: digests of the code of cells, where a door has a name from, a module that is
    missing. libraries: top-level names of modules. cells: what has no file, so that only who runs again sees whether it changed.
    modules: (name, place) of the top-level ones that were followed.
    """

    files: frozenset[Path] = frozenset()
    told: frozenset[str] = frozenset()
    libraries: frozenset[str] = frozenset()
    cells: frozenset[str] = frozenset()
    modules: frozenset[tuple[str, str]] = frozenset()

    def union(self, *others: Closure) -> Closure:
        """All of it together."""
        every = (self, *others)
        return Closure(
            frozenset().union(*(c.files for c in every)),
            frozenset().union(*(c.told for c in every)),
            frozenset().union(*(c.libraries for c in every)),
            frozenset().union(*(c.cells for c in every)),
            frozenset().union(*(c.modules for c in every)),
        )


def of_plugin(plugin: Plugin) -> Closure:
    """What a plug-in depends on, by the module that registers it and by where its function or class comes from.

    Raises:
        XbenchError: it is of a cell and refers to what cannot be told by its content; or its module changed since it was imported.
    """
    walk = _Walk(f"{plugin.kind} {plugin.id}", plugin.registered or plugin.module)
    for module in filter(None, (plugin.registered, plugin.module)):
        if has_file(sys.modules.get(module)):
            walk.refer(module, eager=True)
    in_file = has_file(sys.modules.get(plugin.registered or plugin.module))
    for made in (plugin.make, plugin.names, getattr(plugin.info, "files", None)):
        if made is not None:
            walk.value(made, whole=not in_file)
    return walk.done()


def of_objects(what: str, objects: Iterable[object], owner: str) -> Closure:
    """What opened objects bring with them: the code of their classes, or of functions. what: they are of, in messages.

    owner: the module whose package is followed even where it is a library's.

    Raises:
        XbenchError: as of_plugin.
    """
    walk = _Walk(what, owner)
    for found in objects:
        walk.value(found)
    return walk.done()


class _Walk(Contents):
    """One walk through what a plug-in, or an object, refers to."""

    def __init__(self, what: str, owner: str) -> None:
        super().__init__(what)
        self.own = {owner.partition(".")[0]}
        if any(map(in_libraries, places(owner.partition(".")[0]))):  # its other modules came with it
            mine = set(distributions().get(owner.partition(".")[0], []))
            self.own |= {name for name, others in distributions().items() if mine & set(others)}
        self.files: set[Path] = set()
        self.libraries: set[str] = set()
        self.seen: dict[str, bool] = {}  # module -> whether its globals were looked at
        self.todo: list[tuple[str, bool]] = []

    def done(self) -> Closure:
        while self.todo:
            self._visit(*self.todo.pop())
        told = self.said | {f"{name} {digest}" for name, digest in self.cells.items()}
        tops = {name for name in self.seen if "." not in name} - {"__main__"}
        modules = frozenset((name, place) for name in tops for place in places(name))
        return Closure(frozenset(self.files), frozenset(told), frozenset(self.libraries), frozenset(self.cells), modules)

    # -- modules -----------------------------------------------------------------------------------------------------------

    def refer(self, name: str, eager: bool, certain: bool = True) -> None:
        """Follow a module and its parent packages. certain: that the name is a module, so that it is worth a word where it is not
        there. eager: it is loaded, and its globals are looked at; others are so whether somebody loaded them meanwhile or not."""
        top, *rest = name.split(".")
        if top == rooms.PACKAGE:
            part = rooms.part_of(*rest)
            if part and part not in rooms.COMPUTING:
                self._room(part)
            elif rest and not part and name not in rooms.DOORS:
                self._chain([top, *rest], eager, certain)
        elif not self.is_library(top):
            self._chain([top, *rest], eager, certain)

    def is_library(self, top: str) -> bool:
        """Whether a version says it all, or Python itself has it."""
        if top in self.own:
            return False
        found = places(top)
        if not found:
            return top in sys.stdlib_module_names or top in sys.builtin_module_names
        if all(map(in_standard, found)):
            return True
        if all(map(in_libraries, found)) and top in distributions():
            self.libraries.add(top)
            return True
        return False

    def _chain(self, parts: list[str], eager: bool, certain: bool) -> None:
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[:count])
            if name in rooms.DOORS:
                continue
            if name not in sys.modules and spec_of(name) is None:
                if certain:
                    self.said.add(f"{name} is missing")
                return
            if self.seen.get(name) or (name in self.seen and not eager):
                continue
            self.seen[name] = eager
            self.todo.append((name, eager))

    def _room(self, part: str) -> None:
        """A part of the core as a whole, and what it imports."""
        for name in rooms.modules(part):
            if name not in self.seen:
                self.seen[name] = False
                self.todo.append((name, False))
        self.files |= set(rooms.files(part))

    def take(self, module: str, names: Iterable[str], eager: bool) -> None:
        """``from module import names``."""
        for name in names:
            if module in rooms.DOORS:
                table = door_table(module)
                for one in table if name == "*" else [name]:
                    if one in table:
                        self.said.add(f"{module}: {one} is {'.'.join(table[one])}")
                        self.refer(table[one][0], eager)
                        self.take(table[one][0], [table[one][1]], eager)
                    else:
                        self.refer(f"{module}.{one}", eager, certain=False)
            elif name != "*":
                self.refer(f"{module}.{name}", eager, certain=False)

    def _visit(self, name: str, eager: bool) -> None:
        module = sys.modules.get(name)
        spec = spec_of(name)
        for place in places(name) if module is None or has_file(module) else []:
            self._file(name, Path(place), spec, eager)
        if eager and module is not None:
            self._globals(vars(module), name)

    def _file(self, name: str, path: Path, spec: ModuleSpec | None, eager: bool) -> None:
        """A module's file, or the archive that it lies in, and what it imports."""
        held = next((p for p in (path, *path.parents) if p.is_file()), None)
        if held is None:
            return
        self.files.add(held)
        source = b""
        if held != path:
            text = getattr(spec and spec.loader, "get_source", lambda _: "")(name)
            source = (text or "").encode()
        elif path.suffix == ".py":
            source = path.read_bytes()
        if held == path:
            _check_unchanged(name, spec, path, source)
        packaged = spec is not None and spec.submodule_search_locations is not None
        package = name if packaged else name.rpartition(".")[0]
        self._imports(source, package, eager)

    def _imports(self, source: bytes, package: str, eager: bool) -> None:
        for found in imports(source):
            module = absolute(found.module, found.level, package)
            if found.any_beside and package:
                for other in pkgutil.iter_modules(folders(package)):
                    self.refer(f"{package}.{other.name}", found.eager and eager)
            elif module:
                self.refer(module, eager and found.eager)
                self.take(module, found.names, eager and found.eager)

    def _globals(self, space: Mapping[str, Any], name: str) -> None:
        """What a module's globals refer to: modules, and where classes and functions come from."""
        for key, value in list(space.items()):
            value = value.__wrapped__ if isinstance(value, CACHED) else value
            if isinstance(value, types.ModuleType):
                if value.__name__ != f"{name}.{key}":  # whoever imports a submodule leaves it in its package
                    self.value(value)
            elif isinstance(value, type) and home_of(value) == name:
                self.members(value)
            elif isinstance(value, types.FunctionType | type) and home_of(value) != name:
                self.value(value)

    def members(self, cls: type) -> None:
        """The functions that somebody else put into a class."""
        for member in list(vars(cls).values()):
            if isinstance(member, types.FunctionType) and home_of(member) != home_of(cls):
                self.value(member)

    def unkept(self, file: str, space: Mapping[str, Any], name: str) -> None:
        """A module that sys.modules does not have."""
        if self.seen.get(file) or not Path(file).is_file():
            return
        self.seen[file] = True
        self.files.add(Path(file))
        if file.endswith(".py"):
            self._imports(Path(file).read_bytes(), str(space.get("__package__") or ""), True)
        self._globals(space, name)


_loaded: dict[str, tuple[object, str]] = {}  # module -> (its spec, which is a new one after a reload; digest of its source)


def _check_unchanged(name: str, spec: ModuleSpec | None, path: Path, source: bytes) -> None:
    """Raises XbenchError where this process imported a module, and its file is another now: values would be of the old code."""
    if spec is None or name not in sys.modules or not source:
        return
    found = hashlib.sha256(source).hexdigest()
    old = _loaded.get(name)
    if old is None or old[0] is not spec:
        _loaded[name] = (spec, found)
    elif old[1] != found:
        raise XbenchError(f"{path} has changed since it was imported; start Python anew, or importlib.reload({name})")
