"""The import closure of a plug-in: all code that was imported to compute with it, and what else that code refers to.

Imports are followed from the plug-in's module, those inside functions too; and from a loaded module whatever its globals come from,
so that ``helper = importlib.import_module(name)`` is followed. They lead through the plug-in's own package, through ``xbench``
(rooms.py) and through modules whose files lie outside site-packages: on PYTHONPATH, in an editable install, beside the plug-in.
A module inside site-packages is a library, whose version counts. Nothing is imported to tell.

What is defined in a notebook's cell, or typed in, has no file: there the compiled code of functions and classes counts, with all
that they refer to: constants, arrays and objects by their content, functions of other cells by their code, modules by their
closure. So comments and the order of cells change nothing. An object that cannot be told by its content is refused by name.
"""

from __future__ import annotations

import functools
import hashlib
import pkgutil
import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, Literal

from xbench.errors import XbenchError
from xbench.plugins import rooms
from xbench.plugins.declarations import Plugin
from xbench.plugins.importing import (
    absolute,
    distributions,
    door_table,
    folders,
    has_file,
    imports,
    imports_of,
    in_libraries,
    in_standard,
    places,
    read_by,
    spec_of,
)

PLAIN = (bool, int, float, complex, str, bytes, types.NoneType, types.EllipsisType, types.NotImplementedType, range, slice)
# What every class has, or Python makes anew of the rest.
MADE = {"__dict__", "__weakref__", "__module__", "__doc__", "__annotations__", "__dataclass_fields__", "__dataclass_params__"}
MADE |= {"_abc_impl", "__match_args__", "__firstlineno__", "__static_attributes__", "__annotations_cache__"}
Where = Literal["fixed", "module", "file", "cell"]
_CACHED = type(functools.cache(len))


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


class _Walk:
    """One walk through what a plug-in, or an object, refers to."""

    def __init__(self, what: str, owner: str) -> None:
        self.what = what
        self.own = {owner.partition(".")[0]}
        if any(map(in_libraries, places(owner.partition(".")[0]))):  # its other modules came with it
            mine = set(distributions().get(owner.partition(".")[0], []))
            self.own |= {name for name, others in distributions().items() if mine & set(others)}
        self.files: set[Path] = set()
        self.libraries: set[str] = set()
        self.said: set[str] = set()
        self.cells: dict[str, str] = {}
        self.seen: dict[str, bool] = {}  # module -> whether its globals were looked at
        self.todo: list[tuple[str, bool]] = []
        self.told: dict[int, tuple[int, object]] = {}  # id -> (number, the object, which so keeps its id)

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
        elif not self._is_library(top):
            self._chain([top, *rest], eager, certain)

    def _is_library(self, top: str) -> bool:
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

    def _take(self, module: str, names: Iterable[str], eager: bool) -> None:
        """``from module import names``."""
        for name in names:
            if module in rooms.DOORS:
                table = door_table(module)
                for one in table if name == "*" else [name]:
                    if one in table:
                        self.said.add(f"{module}: {one} is {'.'.join(table[one])}")
                        self.refer(table[one][0], eager)
                        self._take(table[one][0], [table[one][1]], eager)
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
                self._take(module, found.names, eager and found.eager)

    def _globals(self, space: Mapping[str, Any], name: str) -> None:
        """What a module's globals refer to: modules, and where classes and functions come from."""
        for key, value in list(space.items()):
            value = value.__wrapped__ if isinstance(value, _CACHED) else value
            if isinstance(value, types.ModuleType):
                if value.__name__ != f"{name}.{key}":  # whoever imports a submodule leaves it in its package
                    self.value(value)
            elif isinstance(value, type) and _home(value) == name:
                self._members(value)
            elif isinstance(value, types.FunctionType | type) and _home(value) != name:
                self.value(value)

    def _members(self, cls: type) -> None:
        """The functions that somebody else put into a class."""
        for member in list(vars(cls).values()):
            if isinstance(member, types.FunctionType) and _home(member) != _home(cls):
                self.value(member)

    # -- values ------------------------------------------------------------------------------------------------------------

    def value(self, value: Any, whole: bool = False) -> None:
        """Follow a module, class or function; of others, their class. What is of a cell is told by its content.

        whole: what a function of a file was given when it was made counts too, for no file says it.
        """
        if isinstance(value, types.FunctionType) and not whole and self._where(value) != "cell":
            self._follow(value)
        elif isinstance(value, _CACHED | functools.partial | types.MethodType | types.ModuleType | types.FunctionType | type):
            self._tell(value, getattr(value, "__qualname__", ""))
        elif isinstance(value, types.BuiltinFunctionType) and _home(value):
            self.refer(_home(value), eager=True)
        else:
            self.value(type(value))

    def _tell(self, value: Any, name: str) -> object:
        """A value as nested tuples of text, equal where it is; modules that it needs are followed. name: of it, in messages."""
        if type(value) in PLAIN:
            return type(value).__name__, repr(value)
        if id(value) in self.told:
            return "again", self.told[id(value)][0]
        self.told[id(value)] = (len(self.told), value)
        try:
            return self._tell_new(value, name)
        except RecursionError:
            raise self._untold(value, name, "it is nested too deeply") from None

    def _tell_new(self, value: Any, name: str) -> object:  # noqa: PLR0911
        if isinstance(value, types.ModuleType):
            self._module(value)
            return "module", value.__name__
        if isinstance(value, _CACHED):
            return "cached", self._tell(value.__wrapped__, name)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        if type(value) in (list, tuple):
            return type(value).__name__, tuple(self._tell(one, name) for one in value)
        if type(value) in (set, frozenset):
            return type(value).__name__, tuple(sorted(_digest(self._tell(one, name)) for one in value))
        if type(value) in (dict, types.MappingProxyType):
            return "dict", tuple((self._tell(k, name), self._tell(v, name)) for k, v in value.items())
        if isinstance(value, types.CodeType):
            return self._code(value, name)
        if isinstance(value, property):
            return "property", tuple(self._tell(part, name) for part in (value.fget, value.fset, value.fdel))
        if isinstance(value, staticmethod | classmethod | types.MethodType):
            own = getattr(value, "__self__", None) if isinstance(value, types.MethodType) else None
            return type(value).__name__, self._tell(value.__func__, name), self._tell(own, name)
        if isinstance(value, types.BuiltinFunctionType | types.MethodDescriptorType | types.WrapperDescriptorType):
            if home := _home(value):
                self.refer(home, eager=True)
            return "built in", _home(value) or "", value.__qualname__
        return self._object(value, name)

    def _module(self, module: types.ModuleType) -> None:
        name = module.__name__
        if sys.modules.get(name) is not module and has_file(module):  # loaded by its path, and kept nowhere
            self._unkept(str(module.__file__), vars(module), name)
        elif name not in rooms.DOORS and has_file(module):
            self.refer(name, eager=True)

    def _unkept(self, file: str, space: Mapping[str, Any], name: str) -> None:
        """A module that sys.modules does not have."""
        if self.seen.get(file) or not Path(file).is_file():
            return
        self.seen[file] = True
        self.files.add(Path(file))
        if file.endswith(".py"):
            self._imports(Path(file).read_bytes(), str(space.get("__package__") or ""), True)
        self._globals(space, name)

    def _where(self, function: types.FunctionType) -> Where:
        """Where its code lies: a part of the core or a library, a module, a file that sys.modules does not have, or a cell."""
        home, file = _home(function), function.__code__.co_filename
        module = sys.modules.get(home)
        if self._is_fixed(home):
            return "fixed"
        if module is not None and has_file(module) and vars(module) is function.__globals__:
            return "module"
        if file.endswith(".py") and Path(file).is_file() and home != "__main__":
            return "file"
        return "module" if has_file(module) else "cell"

    def _follow(self, function: types.FunctionType) -> None:
        home, file = _home(function), function.__code__.co_filename
        where = self._where(function)
        if where == "file":
            self._unkept(file, function.__globals__, home)
        else:
            self.refer(home, eager=True)
        if where == "module" and not Path(file).is_file():  # made by exec, of a text that need not stand in the module
            self.said.add(f"{home}.{function.__qualname__} {_digest(self._code(function.__code__, function.__qualname__))}")

    def _function(self, function: types.FunctionType) -> object:
        home, name, where = _home(function), function.__qualname__, self._where(function)
        if where != "cell":
            self._follow(function)
        if where == "fixed":
            return "function", home, name
        given = (
            self._tell(function.__defaults__, name),
            self._tell(function.__kwdefaults__, name),
            tuple(self._tell(_content(cell), name) for cell in function.__closure__ or ()),
        )
        if where != "cell":
            return "function", home, name, given
        told = (self._code(function.__code__, name), self._referred(function), given)
        self._cell(home, name, told)
        return "function", told

    def _referred(self, function: types.FunctionType) -> object:
        """The globals that a function's code reads, and its imports."""
        space, told = function.__globals__, []
        for name, attributes in sorted(read_by(function.__code__).items()):
            if name in space:
                told.append((name, self._tell(space[name], name)))
                if isinstance(space[name], types.ModuleType):
                    self._take(space[name].__name__, sorted(attributes), eager=True)
        for found in imports_of(function.__code__):
            module = absolute(found.module, found.level, str(space.get("__package__") or ""))
            self.refer(module, eager=False)
            self._take(module, found.names, eager=False)
        return tuple(told)

    def _class(self, cls: type) -> object:
        home, name = _home(cls), cls.__qualname__
        bases = tuple(self._tell(base, name) for base in cls.__bases__ if base is not object)
        members = {k: v for k, v in vars(cls).items() if k not in MADE}
        if self._is_fixed(home) or has_file(sys.modules.get(home)):
            self.refer(home, eager=True)
            if not self._is_fixed(home):
                self._members(cls)
            return "class", home, name
        functions = [f for f in members.values() if isinstance(f, types.FunctionType) and Path(f.__code__.co_filename).is_file()]
        if home not in sys.modules and functions:
            self._unkept(functions[0].__code__.co_filename, functions[0].__globals__, home)
            return "class", home, name
        told = (bases, tuple((k, self._tell(v, f"{name}.{k}")) for k, v in sorted(members.items())))
        self._cell(home, name, told)
        return "class", name, told

    def _code(self, code: types.CodeType, name: str) -> object:
        """Compiled code, without the lines where it stood."""
        shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        table = getattr(code, "co_exceptiontable", b"")
        return shape, names, code.co_code.hex(), table.hex(), tuple(self._constant(c, name) for c in code.co_consts)

    def _constant(self, value: Any, name: str) -> object:
        """As _tell, without ``again``: whether two constants are one object is the compiler's choice."""
        if isinstance(value, types.CodeType):
            return self._code(value, name)
        if isinstance(value, tuple):
            return tuple(self._constant(one, name) for one in value)
        if isinstance(value, frozenset):
            return tuple(sorted(_digest(self._constant(one, name)) for one in value))
        return type(value).__name__, repr(value)

    def _object(self, value: Any, name: str) -> object:
        """Any other object, as it would be copied: by its class and its content."""
        try:
            if (content := _array(value)) is not None:
                return type(value).__name__, content
            made = value.__reduce_ex__(4)
        except Exception as error:  # each class refuses in its own way
            raise self._untold(value, name, str(error)) from None
        if isinstance(made, str):
            self.value(type(value))
            return "object", _home(value), made
        function, args, state, items, pairs = (*made, None, None, None, None)[:5]
        if isinstance(state, dict):
            state = {key: its for key, its in state.items() if not _is_computed(value, key)}
        return (
            self._tell(function, name),
            self._tell(type(value), name),
            self._tell(args, name),
            self._tell(state, name),
            tuple(self._tell(one, name) for one in items or ()),
            tuple(self._tell(list(pair), name) for pair in pairs or ()),
        )

    def _is_fixed(self, home: str) -> bool:
        """Whether a module's functions are told by their name: the core's own, a library's, Python's."""
        top = home.partition(".")[0]
        if top == rooms.PACKAGE:
            return True
        return bool(top) and (top != "__main__" or has_file(sys.modules.get(top))) and self._is_library(top)

    def _cell(self, home: str, name: str, told: object) -> None:
        self.cells[f"{home}.{name}"] = _digest(told)

    def _untold(self, value: object, name: str, why: str) -> XbenchError:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        return XbenchError(
            f"{self.what} is defined in no file, and {name or 'what it uses'} there is a {kind}, of which nobody could see whether "
            f"it changed ({' '.join(why.split())[:80]}); put the plug-in into a .py file, or make the object inside the function"
        )


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


def _home(value: Any) -> str:
    """The module that a class or function says that it is of."""
    home = getattr(value, "__module__", None)
    return home if isinstance(home, str) else ""


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return "empty"


def _is_computed(value: object, key: object) -> bool:
    """Whether an attribute is no content, but was computed once."""
    return isinstance(getattr(type(value), str(key), None), functools.cached_property)


def _array(value: Any) -> str | None:
    """The content of a tensor or a NumPy array, None of anything else. Imports neither."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(data.tobytes()).hexdigest()}"
    if numpy is not None and isinstance(value, numpy.ndarray) and value.dtype.kind != "O":
        return f"{value.dtype} {value.shape} {hashlib.sha256(numpy.ascontiguousarray(value).tobytes()).hexdigest()}"
    return None


def _digest(told: object) -> str:
    return hashlib.sha256(repr(told).encode()).hexdigest()
