"""The two keys of a row, and the digests that they are made of.

cache_key     everything that can change a value: rows are reused only when it is equal
protocol_key  what makes numbers comparable: a column of a table has exactly one

Rows of two runs belong together where protocol_key, method and item are equal: see tables/pairing.py.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable
from pathlib import Path

from xbench.plugins import importing, rooms, sources
from xbench.plugins.declarations import Bound, BoundDataset, Method, Metric
from xbench.plugins.sources import Closure

# Libraries of the core that values depend on; those of plug-ins are found from their imports. A test finds what is missing.
CORE_LIBRARIES = ("numpy", "pillow", "torch")
# Those that keep and check what was computed; timm only names classes, and these names are in keys.
OTHER_LIBRARIES = ("nltk", "pandas", "pyarrow", "pydantic", "safetensors", "timm")
KEY_LENGTH = 20  # hex digits: 80 bits, no collision to fear below 10^10 rows


def digest(*parts: object) -> str:
    """A short hex digest of JSON-able parts."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, hex; read once while its size and time stay as they are."""
    status = path.stat()
    return _file_digest(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=2**20)
def _file_digest(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def rule_files() -> tuple[Path, ...]:
    """The files of the core that values depend on, and its doors."""
    doors = [rooms.door_file(door) for door in rooms.DOORS]
    return (*rooms.computing_files(), *filter(Path.is_file, doors))


@functools.cache
def rules_digest() -> str:
    """A digest of the core's code that values depend on; of its doors, what is more than their table."""
    doors = [rooms.door_file(door) for door in rooms.DOORS]
    told = [rooms.code_of_door(ast.parse(path.read_bytes())) for path in doors if path.is_file()]
    return digest([[path.relative_to(rooms.home()).as_posix(), file_digest(path)] for path in rooms.computing_files()], told)


def closure(bound: Bound) -> Closure:
    """All that was imported for a plug-in and for those that it wraps; see sources.py."""
    return sources.of_plugin(bound.plugin).union(*map(closure, bound.inner))


def source_digest(bound: Bound) -> str:
    """A digest of all that was imported for a plug-in, and of the files that a method reads."""
    return digest(code_digest(closure(bound)), content_digest(files(bound)))


def code_digest(found: Closure) -> str:
    """A digest of a closure. In which folders its files lie does not count."""
    return digest(sorted((path.name, file_digest(path)) for path in found.files), sorted(found.told))


def content_digest(paths: Iterable[Path]) -> str:
    """A digest of what files hold, whatever their names are; one that cannot be read is ``gone``."""
    found = []
    for path in paths:
        try:
            found.append(file_digest(path))
        except OSError:  # a picture, say: its rows say so
            found.append("gone")
    return digest(sorted(found))


def files(bound: Bound) -> frozenset[Path]:
    """The files that a method reads, such as weights."""
    return bound.files if isinstance(bound, Method) else frozenset()


def libraries(closures: Iterable[Closure]) -> dict[str, str]:
    """Distribution -> version of every library that was imported for these plug-ins."""
    found: dict[str, str] = {}
    for name in sorted({name for closure in closures for name in closure.libraries}):
        for distribution in importing.distributions().get(name, []):
            found[distribution] = version(distribution)
    return found


def core_libraries() -> dict[str, str]:
    """Distribution -> version of the core's own."""
    return {name: version(name) for name in CORE_LIBRARIES}


@functools.cache
def version(distribution: str) -> str:
    """The installed version of a distribution.

    Raises:
        importlib.metadata.PackageNotFoundError: there is none.
    """
    return importlib.metadata.version(distribution)


def protocol_key(dataset: BoundDataset, revision: str, target: str, only: str, view: str, metric: Metric, dtype: str) -> str:
    """What makes two numbers comparable: dataset and its revision, item and target policy, view, metric, frame, dtype.

    Not the dataset's parameters: its revision says what they select, and they may hold paths of one machine. Nor the metric's
    keyword-only parameters at their defaults: a metric that gains one so keeps the columns that it had.
    """
    info = metric.info
    gained = {p.name for p in metric.plugin.parameters if p.kind is p.KEYWORD_ONLY and metric.params[p.name] == p.default}
    params = {name: value for name, value in metric.all_params.items() if name not in gained}
    described = [metric.plugin.id, info.version, params, info.frame]
    return digest([dataset.plugin.id, revision], target, only, view, described, dtype)
