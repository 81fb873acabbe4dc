"""What a value is, told by its content: of a notebook's cell no file says it.

A function or class of a module is told by its name, and the module is followed (sources.py). Of what a cell defines, the compiled
code counts, with all that it refers to: constants, arrays and objects by their content, functions of other cells by their code,
modules by their closure. So comments and the order of cells change nothing. An object that cannot be told by its content is refused
by name.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import types
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from xbench.errors import XbenchError
from xbench.plugins import rooms
from xbench.plugins.importing import absolute, has_file, imports_of, read_by

PLAIN = (bool, int, float, complex, str, bytes, types.NoneType, types.EllipsisType, types.NotImplementedType, range, slice)
# What every class has, or Python makes anew of the rest.
MADE = {"__dict__", "__weakref__", "__module__", "__doc__", "__annotations__", "__dataclass_fields__", "__dataclass_params__"}
MADE |= {"_abc_impl", "__match_args__", "__firstlineno__", "__static_attributes__", "__annotations_cache__"}
Where = Literal["fixed", "module", "file", "cell"]
CACHED = type(functools.cache(len))


class Contents(ABC):
    """Tells values, and asks for the modules that they lead to. what: it is of, in messages.

    said: what is no file and no cell, such as code that was made by exec. cells: name -> digest of what has no file.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.said: set[str] = set()
        self.cells: dict[str, str] = {}
        self._told: dict[int, tuple[int, object]] = {}  # id -> (number, the object, which so keeps its id)

    @abstractmethod
    def refer(self, name: str, eager: bool, certain: bool = True) -> None:
        """Follow a module."""

    @abstractmethod
    def take(self, module: str, names: Iterable[str], eager: bool) -> None:
        """Follow ``from module import names``."""

    @abstractmethod
    def unkept(self, file: str, space: Mapping[str, Any], name: str) -> None:
        """Follow a module that sys.modules does not have, by its file and globals."""

    @abstractmethod
    def members(self, cls: type) -> None:
        """Follow the functions that somebody else put into a class."""

    @abstractmethod
    def is_library(self, top: str) -> bool:
        """Whether a version says all of a top-level module, or Python itself has it."""

    def value(self, value: Any, whole: bool = False) -> None:
        """Follow a module, class or function; of others, their class. What is of a cell is told by its content.

        whole: what a function of a file was given when it was made counts too, for no file says it.
        """
        if isinstance(value, types.FunctionType) and not whole and self._where(value) != "cell":
            self._follow(value)
        elif isinstance(value, CACHED | functools.partial | types.MethodType | types.ModuleType | types.FunctionType | type):
            self._tell(value, getattr(value, "__qualname__", ""))
        elif isinstance(value, types.BuiltinFunctionType) and home_of(value):
            self.refer(home_of(value), eager=True)
        else:
            self.value(type(value))

    def _tell(self, value: Any, name: str) -> object:
        """A value as nested tuples of text, equal where it is; modules that it needs are followed. name: of it, in messages."""
        if type(value) in PLAIN:
            return type(value).__name__, repr(value)
        if id(value) in self._told:
            return "again", self._told[id(value)][0]
        self._told[id(value)] = (len(self._told), value)
        try:
            return self._tell_new(value, name)
        except RecursionError:
            raise self._untold(value, name, "it is nested too deeply") from None

    def _tell_new(self, value: Any, name: str) -> object:  # noqa: PLR0911
        if isinstance(value, types.ModuleType):
            self._module(value)
            return "module", value.__name__
        if isinstance(value, CACHED):
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
            if home := home_of(value):
                self.refer(home, eager=True)
            return "built in", home_of(value) or "", value.__qualname__
        return self._object(value, name)

    def _module(self, module: types.ModuleType) -> None:
        name = module.__name__
        if sys.modules.get(name) is not module and has_file(module):  # loaded by its path, and kept nowhere
            self.unkept(str(module.__file__), vars(module), name)
        elif name not in rooms.DOORS and has_file(module):
            self.refer(name, eager=True)

    def _where(self, function: types.FunctionType) -> Where:
        """Where its code lies: a part of the core or a library, a module, a file that sys.modules does not have, or a cell."""
        home, file = home_of(function), function.__code__.co_filename
        module = sys.modules.get(home)
        if self._is_fixed(home):
            return "fixed"
        if module is not None and has_file(module) and vars(module) is function.__globals__:
            return "module"
        if file.endswith(".py") and Path(file).is_file() and home != "__main__":
            return "file"
        return "module" if has_file(module) else "cell"

    def _follow(self, function: types.FunctionType) -> None:
        home, file = home_of(function), function.__code__.co_filename
        where = self._where(function)
        if where == "file":
            self.unkept(file, function.__globals__, home)
        else:
            self.refer(home, eager=True)
        if where == "module" and not Path(file).is_file():  # made by exec, of a text that need not stand in the module
            self.said.add(f"{home}.{function.__qualname__} {_digest(self._code(function.__code__, function.__qualname__))}")

    def _function(self, function: types.FunctionType) -> object:
        home, name, where = home_of(function), function.__qualname__, self._where(function)
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
                    self.take(space[name].__name__, sorted(attributes), eager=True)
        for found in imports_of(function.__code__):
            module = absolute(found.module, found.level, str(space.get("__package__") or ""))
            self.refer(module, eager=False)
            self.take(module, found.names, eager=False)
        return tuple(told)

    def _class(self, cls: type) -> object:
        home, name = home_of(cls), cls.__qualname__
        bases = tuple(self._tell(base, name) for base in cls.__bases__ if base is not object)
        members = {k: v for k, v in vars(cls).items() if k not in MADE}
        if self._is_fixed(home) or has_file(sys.modules.get(home)):
            self.refer(home, eager=True)
            if not self._is_fixed(home):
                self.members(cls)
            return "class", home, name
        functions = [f for f in members.values() if isinstance(f, types.FunctionType) and Path(f.__code__.co_filename).is_file()]
        if home not in sys.modules and functions:
            self.unkept(functions[0].__code__.co_filename, functions[0].__globals__, home)
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
            return "object", home_of(value), made
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
        return bool(top) and (top != "__main__" or has_file(sys.modules.get(top))) and self.is_library(top)

    def _cell(self, home: str, name: str, told: object) -> None:
        self.cells[f"{home}.{name}"] = _digest(told)

    def _untold(self, value: object, name: str, why: str) -> XbenchError:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        return XbenchError(
            f"{self.what} is defined in no file, and {name or 'what it uses'} there is a {kind}, of which nobody could see whether "
            f"it changed ({' '.join(why.split())[:80]}); put the plug-in into a .py file, or make the object inside the function"
        )


def home_of(value: Any) -> str:
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
