"""TOML files under a schema: found by name or path, validated, and errors that name the key and its line."""

from __future__ import annotations

import re
import tomllib
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from xbench.errors import XbenchError, did_you_mean

M = TypeVar("M", bound=BaseModel)
Place = tuple[str | int, ...]  # of a key: ("tracks", 1, "metrics")


def shipped(package: str) -> list[str]:
    """The names of the TOML files that ship in a package."""
    return sorted(Path(f.name).stem for f in resources.files(package).iterdir() if f.name.endswith(".toml"))


def find(name_or_path: str, package: str, what: str) -> Path:
    """The file of a ``what`` (such as ``suite``) given by path, or by the name of one that ships.

    Raises:
        XbenchError: there is none.
    """
    known = shipped(package)
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        if not path.is_file():
            raise XbenchError(f"{what} file {name_or_path} does not exist; give a path or one of: {', '.join(known)}")
        return path
    if name_or_path not in known:
        raise XbenchError(f"unknown {what} {name_or_path!r}{did_you_mean(name_or_path, known)}")
    return Path(str(resources.files(package) / f"{name_or_path}.toml"))


def load(path: Path, schema: type[M] | Callable[[dict[str, Any]], type[M]], what: str) -> M:
    """Read and validate a file. schema: or a function of its tables that gives it.

    Raises:
        XbenchError: not TOML, an unknown key or a wrong value; names the key and its line.
    """
    text = path.read_text(encoding="utf-8")
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise XbenchError(f"{what} {path} is not valid TOML: {error}") from error
    schema = typing.cast(type[M], schema) if isinstance(schema, type) else schema(tables)
    try:
        return schema.model_validate(tables)
    except ValidationError as error:
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")  # a misspelt key may be missing, too
        lines = dict(_lines(text))
        place, known = _resolve(schema, first["loc"], lines)
        key = next((part for part in reversed(place) if isinstance(part, str)), "")
        if first["type"] == "extra_forbidden":
            tables_of = [name for name in schema.model_fields if key in _keys_of(schema, name)]
            elsewhere = f"; it is a key of [{tables_of[0]}]" if tables_of else ""
            problem = f"unknown key {key!r}{elsewhere or did_you_mean(key, known)}"
        elif first["type"] == "missing":
            problem = f"the key {key!r} is missing"
        elif first["type"] == "value_error":  # a schema's own check, whose message is a whole sentence
            problem = first["msg"].removeprefix("Value error, ")
        else:
            problem = f"{key}: {first['msg']}, not {first['input']!r}"
        line = next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), None)
        raise XbenchError(f"{what} {path}{f', line {line}' if line else ''}: {problem}") from error


def _resolve(schema: type[BaseModel], location: Sequence[str | int], lines: dict[Place, int]) -> tuple[Place, list[str]]:
    """Where an error's key stands in the file, and which keys its table may have. Pydantic also names the members of unions that
    it tried, which no file has."""
    place: Place = ()
    schemas, known = [schema], list(schema.model_fields)
    for part in location:
        named = [s for s in schemas if s.__name__ == part]
        if named:
            schemas = named
        elif isinstance(part, int) or (*place, part) in lines or schemas:
            place = (*place, part)
            known = [name for s in schemas for name in s.model_fields] or known
            fields = [s.model_fields[str(part)].annotation for s in schemas if part in s.model_fields]
            schemas = schemas if isinstance(part, int) else [m for annotation in fields for m in _schemas(annotation)]
    return place, known


def _keys_of(schema: type[BaseModel], table: str) -> set[str]:
    """The keys that a table of a file may have."""
    return {key for inside in _schemas(schema.model_fields[table].annotation) for key in inside.model_fields}


def _schemas(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inside in typing.get_args(annotation):
        yield from _schemas(inside)


def _lines(text: str) -> Iterable[tuple[Place, int]]:
    """Every key and table header of a TOML text with its line."""
    table: Place = ()
    counts: dict[Place, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"""\s*(\[\[?)\s*([\w."' -]+?)\s*\]""", line):
            table = _keys(header[2])
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = (*table, counts[table])
            yield table, number
        elif key := re.match(r"""\s*([\w."'-]+)\s*=""", line):
            yield (*table, *_keys(key[1])), number


def _keys(dotted: str) -> Place:
    return tuple(part.strip(" \"'") for part in dotted.split("."))
