"""Plug-ins by id: decorators, lazy discovery, and the binding of spec strings to their parameters.

A plug-in is a plain function or class under a decorator, in any module that an entry point of the groups ``xbench.methods``,
``xbench.metrics``, ``xbench.datasets``, ``xbench.models`` or ``xbench.trainers`` names, in any module or sub-package below it, or
in a file given with ``--plugin``.
Modules are *scanned* for decorators (parsed, not run) so that ids are known at once, and imported when one of theirs is used.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from xbench.errors import XbenchError, did_you_mean
from xbench.plugins import reductions
from xbench.plugins.declarations import (
    BOUND,
    KINDS,
    Bound,
    BoundDataset,
    BoundModel,
    BoundTrainer,
    DatasetInfo,
    Group,
    Info,
    Kind,
    Method,
    MethodInfo,
    Metric,
    MetricInfo,
    MetricKind,
    ModelInfo,
    Plugin,
    TrainerInfo,
    first_sentence,
)
from xbench.plugins.specs import Spec, Value, parse

if TYPE_CHECKING:
    from pydantic import BaseModel

F = TypeVar("F", bound=Callable[..., Any])
GROUPS: dict[MetricKind, Group] = {"ground_truth": "localization", "faithfulness": "faithfulness", "re_explanation": "robustness"}


class Registry:
    """All plug-ins, found lazily. One instance, ``registry``, serves the process; tests make their own."""

    def __init__(self, entry_points: Iterable[importlib.metadata.EntryPoint] | None = None) -> None:
        self.plugins: dict[tuple[Kind, str], Plugin] = {}
        self.known: dict[tuple[Kind, str], str] = {}  # id -> module that registers it when imported
        self.broken: dict[str, str] = {}  # module -> why it cannot be read
        self._said: dict[tuple[Kind, str], str] = {}  # id -> its docstring, as its source has it
        self._entry_points = entry_points
        self._scanned = False

    # -- registration ------------------------------------------------------------------------------------------------------

    def add(self, plugin: Plugin) -> None:
        """Register a plug-in. The same file loaded again, or a cell run again, replaces it.

        Raises:
            XbenchError: another file has the same id.
        """
        self._scan()
        old = self.plugins.get((plugin.kind, plugin.id))
        module = self.known.get((plugin.kind, plugin.id), plugin.module)
        if (old is not None and not _same_place(old, plugin)) or (old is None and module != plugin.module):
            where = old.path if old is not None else module
            raise XbenchError(f"{plugin.kind} {plugin.id!r} is defined twice, in {where} and in {plugin.path}; rename one of them")
        self.plugins[plugin.kind, plugin.id] = plugin
        self.known[plugin.kind, plugin.id] = plugin.module

    def load(self, file_or_module: str) -> Path:
        """Import a plug-in file or module, which registers what it decorates. -> its source file.

        Raises:
            XbenchError: there is no such file or module, or its code raises.
        """
        path = Path(file_or_module)
        if path.suffix != ".py":
            module = self._import(file_or_module)
            return Path(str(module.__file__))
        if not path.is_file():
            raise XbenchError(f"plug-in file {file_or_module} does not exist; give the path of a .py file or a module name")
        name = f"xbench_plugin_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
        spec = importlib.util.spec_from_file_location(name, path.resolve())
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except XbenchError:
            raise
        except Exception as error:
            raise XbenchError(f"plug-in {file_or_module} does not load: {type(error).__name__}: {error}") from error
        return path.resolve()

    # -- discovery ---------------------------------------------------------------------------------------------------------

    def ids(self, kind: Kind) -> list[str]:
        """All ids of a kind, families as ``prefix/<Name>``; imports nothing."""
        self._scan()
        return sorted(i for k, i in self.known if k == kind)

    def get(self, kind: Kind, id: str) -> Plugin:
        """The plug-in of that id, imported when it was not yet.

        Raises:
            XbenchError: there is none, and the nearest id is suggested; or it is refused, and why.
        """
        self._scan()
        families = {i.partition("<")[0]: i for k, i in self.known if k == kind and "<" in i}
        bare = id.partition("@")[0]  # of a checkpoint behind it
        wanted = bare if (kind, bare) in self.known else next((i for p, i in families.items() if id.startswith(p)), None)
        if wanted is None:
            broken = "".join(f" (plug-ins of {module} were not read: {why})" for module, why in self.broken.items())
            raise XbenchError(f"unknown {kind} {id!r}{did_you_mean(id, self.ids(kind))}{broken}")
        if (kind, wanted) not in self.plugins:
            self._import(self.known[kind, wanted])
        if (kind, wanted) not in self.plugins:
            raise XbenchError(f"{self.known[kind, wanted]} did not register {kind} {wanted!r} when imported")
        plugin = self.plugins[kind, wanted]
        if plugin.prefix and plugin.names and id != plugin.id:
            id = id.partition("@")[0]
            member = id.removeprefix(plugin.prefix)
            if member not in plugin.names():
                near = did_you_mean(id, [*(f"{plugin.prefix}{name}" for name in plugin.names()), *self.ids(kind)])
                raise XbenchError(f"unknown {kind} {id!r}{near}")
            if member in plugin.refused:
                raise XbenchError(f"{kind} {id} is refused: {plugin.refused[member]}")
        return plugin

    def summary(self, kind: Kind, id: str) -> str:
        """What a plug-in is, in a sentence. Imports nothing where its source says so.

        Raises:
            XbenchError: as ``get``.
        """
        self._scan()
        if (kind, id) not in self.plugins and (said := self._said.get((kind, id))):
            return first_sentence(said)
        return self.get(kind, id).summary

    def failures(self) -> Iterator[str]:
        """Import every plug-in, and one member of every family. -> what is wrong, a line for each that does not load."""
        for kind in KINDS:
            for id in self.ids(kind):
                try:
                    plugin = self.get(kind, id)
                    members = [name for name in (plugin.names or list)() if name not in plugin.refused]
                    if members:
                        self.get(kind, id.partition("<")[0] + members[0])
                except XbenchError as error:
                    yield f"{kind} {id}: {error}"
        for module, why in self.broken.items():
            yield f"{module}: {why}"

    def _scan(self) -> None:
        if self._scanned:
            return
        self._scanned = True
        points = self._entry_points
        if points is None:
            points = [p for k in KINDS for p in importlib.metadata.entry_points(group=f"xbench.{k}s")]
        for module in sorted({point.value for point in points}):
            try:
                for name, source in _modules(module):
                    self._read(name, source)
            except (ImportError, OSError) as error:
                self.broken[module] = f"{type(error).__name__}: {error}"

    def _read(self, module: str, source: Path) -> None:
        """Learn the ids of one module; where it cannot be read, its neighbours' are known all the same."""
        try:
            found = _decorated(source)
        except (SyntaxError, ValueError, OSError) as error:  # ValueError: bytes that are no text
            self.broken[module] = f"{type(error).__name__}: {error}"
            return
        for kind, id, said in found:
            self._said.setdefault((kind, id), said)
            known = self.known.setdefault((kind, id), module)
            if known != module and (kind, id) not in self.plugins:
                raise XbenchError(f"{kind} {id!r} is defined twice, in {known} and in {module}; rename one of them")

    def _import(self, name: str) -> types.ModuleType:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise XbenchError(
                f"plug-in module {name} does not import: {error}; install what it needs (pip install 'xbench-xai[all]')"
            ) from error

    # -- binding -----------------------------------------------------------------------------------------------------------

    def bind(self, kind: Kind, spec: str | Spec) -> Bound:
        """Resolve a spec to a plug-in with checked parameters.

        Raises:
            XbenchError: unknown id or parameter (the nearest is suggested), a value of the wrong type, a missing one.
        """
        spec = parse(spec) if isinstance(spec, str) else spec
        plugin = self.get(kind, spec.name)
        parameters = plugin.parameters
        params: dict[str, Any] = {}
        named = {p.name: p for p in parameters}
        member, _, checkpoint = spec.name.partition("@")
        if plugin.prefix:
            params["name"] = member.removeprefix(plugin.prefix)
        if checkpoint:
            if "checkpoint" not in named or "checkpoint" in dict(spec.kwargs):
                raise XbenchError(f"{kind} {member} takes no checkpoint after @, or has one already: {spec}")
            spec = Spec(member, spec.args, (("checkpoint", checkpoint), *spec.kwargs))
        if len(spec.args) > len(parameters):
            raise XbenchError(f"{kind} {spec.name} takes at most {len(parameters)} arguments, not {len(spec.args)}: {spec}")
        given = dict(zip(named, spec.args, strict=False))
        for key, value in spec.kwargs:
            if key not in named:
                raise XbenchError(f"{kind} {spec.name} has no parameter {key!r}{did_you_mean(key, named)}")
            if key in given:
                raise XbenchError(f"{kind} {spec.name} got {key!r} twice: {spec}")
            given[key] = value
        hints = _hints(plugin.make)
        args: list[Value] = []
        kwargs: list[tuple[str, Value]] = []
        for name, parameter in named.items():
            if name in given:
                params[name] = self._convert(f"{kind} {spec.name}: {name}", given[name], hints.get(name, str))
            elif parameter.default is not parameter.empty:
                params[name] = parameter.default
            else:
                raise XbenchError(f"{kind} {spec.name} needs its argument {name!r}: write {spec.name}({name}=...)")
            if name in given and params[name] != parameter.default:
                value = params[name].spec if isinstance(params[name], Bound) else params[name]
                if parameter.default is parameter.empty and not kwargs:
                    args.append(value)
                else:
                    kwargs.append((name, value))
        return BOUND[kind](plugin, Spec(spec.name, tuple(args), tuple(kwargs)), params)

    def method(self, spec: str | Spec) -> Method:
        return typing.cast(Method, self.bind("method", spec))

    def metric(self, spec: str | Spec) -> Metric:
        return typing.cast(Metric, self.bind("metric", spec))

    def dataset(self, spec: str | Spec) -> BoundDataset:
        return typing.cast(BoundDataset, self.bind("dataset", spec))

    def model(self, spec: str | Spec) -> BoundModel:
        return typing.cast(BoundModel, self.bind("model", spec))

    def trainer(self, id: str) -> BoundTrainer:
        """The trainer of that id; its settings stand in recipes, not in a spec."""
        return BoundTrainer(self.get("trainer", id), Spec(id))

    def _convert(self, what: str, value: Value, hint: Any) -> Any:
        kind: Kind | None = getattr(hint, "xbench_kind", None)
        if kind is not None:
            if not isinstance(value, Spec):
                raise XbenchError(f"{what} must be a {kind}, not {value!r}")
            return self.bind(kind, value)
        if isinstance(value, Spec) and hint is not Spec:
            value = str(value)
        if typing.get_origin(hint) in (typing.Union, types.UnionType):  # such as int | Literal["auto"]
            for one in typing.get_args(hint):
                with contextlib.suppress(XbenchError):
                    return self._convert(what, value, one)
            known = [
                getattr(one, "__name__", "") if isinstance(one, type) else "/".join(typing.get_args(one))
                for one in typing.get_args(hint)
            ]
            raise XbenchError(f"{what} must be {' or '.join(known)}, not {value!r}")
        choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else None
        if choices is not None:
            if value not in choices:
                raise XbenchError(f"{what} must be one of {', '.join(map(str, choices))}, not {value!r}")
            return value
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if type(value) is not hint:
            raise XbenchError(f"{what} must be {getattr(hint, '__name__', hint)}, not {value!r}")
        return value


def _hints(make: Callable[..., Any]) -> dict[str, Any]:
    """The types of a plug-in's parameters. Fields of a dataclass are read where their class stands, which may be another module."""
    own = not inspect.isclass(make) or dataclasses.is_dataclass(make)
    return typing.get_type_hints(make if own else make.__init__)


registry = Registry()


def _modules(name: str) -> list[tuple[str, Path]]:
    """(module, source file) of a module, or of a package and all modules below it, without importing them."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ImportError(f"no module {name}")
    return [(name, Path(spec.origin)), *_below(name, spec.submodule_search_locations or [])]


def _below(package: str, folders: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """(module, source file) of all modules in a package's folders, its sub-packages' too; compiled ones have no source to read."""
    for folder in folders:
        for found in pkgutil.iter_modules([folder]):
            name, path = f"{package}.{found.name}", Path(folder, found.name)
            source = path / "__init__.py" if found.ispkg else path.with_name(f"{found.name}.py")
            if source.is_file():
                yield name, source
            if found.ispkg:
                yield from _below(name, [str(path)])


def _decorated(source: Path) -> list[tuple[Kind, str, str]]:
    """What a source file registers through decorators with literal ids: (kind, id, docstring)."""
    found: list[tuple[Kind, str, str]] = []
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        for call in getattr(node, "decorator_list", []):
            if isinstance(call, ast.Call) and call.args and isinstance(call.args[0], ast.Constant):
                name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
                if name in KINDS:
                    said = ast.get_docstring(typing.cast(ast.FunctionDef | ast.ClassDef, node)) or ""
                    found.append((typing.cast(Kind, name), str(call.args[0].value), said))
    return found


def _path(make: Callable[..., Any]) -> Path:
    """The source file; where it is of a notebook's cell, what Python calls that."""
    try:
        return Path(inspect.getfile(make))
    except (TypeError, OSError):
        return Path(f"<{make.__module__}>")


def _same_place(old: Plugin, new: Plugin) -> bool:
    in_cells = not old.path.is_file() and not new.path.is_file()  # each cell has a name of its own
    return old.path.resolve() == new.path.resolve() or (in_cells and old.module == new.module)


def _register(
    kind: Kind,
    id: str,
    info: Info,
    names: Callable[[], list[str]] | None = None,
    refused: Mapping[str, str] = types.MappingProxyType({}),
) -> Callable[[F], F]:
    def decorate(make: F) -> F:
        by = str(sys._getframe(1).f_globals.get("__name__", make.__module__))
        registry.add(Plugin(kind, id, make, info, make.__module__, _path(make), names, refused, by))
        return make

    return decorate


def method(
    id: str,
    *,
    needs: Iterable[str] = (),
    control: bool = False,
    grid: Literal["own", "any"] = "own",
    cite: str = "",
    files: Callable[..., Iterable[Path]] | None = None,
    names: Callable[[], list[str]] | None = None,
) -> Callable[[F], F]:
    """Register a saliency method: a function ``(ModelView, Batch, **params) -> Tensor [B, h, w]``, higher = more evidence.

    ``id`` is a string literal; ``prefix/<Name>`` registers a family whose function takes the member's name as its third
    argument, called ``name``, and whose ``names()`` lists the members. See MethodInfo for the rest.
    """
    return _register("method", id, MethodInfo(frozenset(needs), control, grid, cite, files), names)


def metric(
    id: str,
    *,
    kind: MetricKind,
    version: str,
    direction: Literal["higher", "lower"],
    range: tuple[float, float] = (0.0, 1.0),
    chance: str = "",
    needs: Iterable[str] = (),
    frame: Literal["input", "image"] = "input",
    reduce: str = "mean",
    group: Group | None = None,
    axes: tuple[str, str] | tuple[()] = (),
    cite: str = "",
    refused: Mapping[str, str] = types.MappingProxyType({}),
) -> Callable[[F], F]:
    """Register a metric; see MetricInfo. Its group is by default faithfulness, robustness or localization, as its kind says.

    ``prefix/<Name>`` with ``refused`` keeps names of another library that are not to be used, each with the reason, which whoever
    asks for one is told. Metrics of the same prefix that can be used are registered one by one: each has its own direction.

    Raises:
        XbenchError: unknown ``reduce``.
    """
    reductions.check(reduce)
    group = group or GROUPS[kind]
    info = MetricInfo(kind, version, direction, range, chance, frozenset(needs), frame, reduce, group, axes, cite)
    return _register("metric", id, info, (lambda: list(refused)) if refused else None, refused)


def dataset(id: str, *, provides: Iterable[str] = (), licence: str = "", cite: str = "") -> Callable[[F], F]:
    """Register a dataset: a function of its parameters that returns a ``xbench.Dataset``; see DatasetInfo."""
    return _register("dataset", id, DatasetInfo(frozenset(provides), licence, cite))


def model(id: str, *, licence: str = "", cite: str = "", names: Callable[[], list[str]] | None = None) -> Callable[[F], F]:
    """Register a model: a function of its parameters that returns a ``xbench.Model``; see ModelInfo.

    ``prefix/<Name>`` registers a family: its function takes the member's name as first argument, called ``name``. A parameter
    called ``checkpoint`` may also be given behind an ``@``: ``timm/resnet50@weights.safetensors``.
    """
    return _register("model", id, ModelInfo(licence, cite), names)


def trainer(
    id: str,
    *,
    network: type[BaseModel],
    table: type[BaseModel] | None = None,
    use: str = "the model trained@{}",
    cite: str = "",
) -> Callable[[F], F]:
    """Register a trainer: a class below ``xbench.Trainer``, made from a recipe whose ``task`` is the id; see TrainerInfo.

    Raises:
        XbenchError: the id cannot be the name of a table in a recipe.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", id):
        raise XbenchError(f"trainer {id!r} names a table in recipes; write it in small letters, digits and _, such as my_trainer")
    return _register("trainer", id, TrainerInfo(network, table, use, cite))
