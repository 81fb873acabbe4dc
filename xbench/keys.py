"""The two keys of a row, and the digests that they are made of.

cache_key     everything that can change a value: rows are reused only when it is equal
protocol_key  what makes numbers comparable: a column of a table has exactly one

Rows of two runs belong together where protocol_key, method and item are equal: see pairing.py.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from xbench.plugins import Bound, BoundDataset, Method, Metric

# Modules of the core whose rules a value depends on. An edit of one of them makes every row new.
RULES = (
    "attention",
    "data",
    "features",
    "folding",
    "geometry",
    "maps",
    "modelview",
    "pictures",
    "probing",
    "reexplaining",
    "runner",
    "scoring",
    "towers",
    "variations",
    "zero_shot",
)
# Modules of the core that say what only some plug-ins ask, and their data: sources of those that import them.
ASKED = {"xbench.wordnet": ("wordnet.py", "wordnet.tsv.gz")}
# Libraries of the core that values depend on; those of plug-ins are found from their imports.
CORE_LIBRARIES = ("numpy", "pillow", "torch")
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
    """The source files of the core's rule modules."""
    return tuple(Path(__file__).with_name(f"{name}.py") for name in RULES)


@functools.cache
def rules_digest() -> str:
    """A digest of the rule modules' source."""
    return digest([file_digest(path) for path in rule_files()])


def sources(bound: Bound) -> frozenset[Path]:
    """The files that a plug-in's result depends on: its code, and the modules of ASKED, with their data, that this imports."""
    code = _code(bound)
    return code.union(*(_imports(path)[2] for path in code))


def _code(bound: Bound) -> frozenset[Path]:
    """A plug-in's own source file, those beside it that it imports, and its inner ones'."""
    return _closure(bound.plugin.path).union(*(_code(inner) for inner in bound.inner))


def source_digest(bound: Bound) -> str:
    """A digest of all sources of a plug-in, and of the files that a method reads."""
    return digest(sorted(file_digest(path) for path in sources(bound) | files(bound)))


def files(bound: Bound) -> frozenset[Path]:
    """The files that a method reads, such as weights."""
    return bound.files if isinstance(bound, Method) else frozenset()


def libraries(bounds: Iterable[Bound]) -> dict[str, str]:
    """Distribution -> version of every library that the sources of these plug-ins import."""
    names = {name for bound in bounds for path in _code(bound) for name in _imports(path)[1]}
    found: dict[str, str] = {}
    for name in sorted(names - set(sys.stdlib_module_names) - {"xbench"}):
        for distribution in _distributions().get(name, []):
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


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


@functools.cache
def _closure(path: Path) -> frozenset[Path]:
    found, todo = {path}, [path]
    while todo:
        new = set(_imports(todo.pop())[0]) - found
        found |= new
        todo += new
    return frozenset(found)


@functools.cache
def _imports(path: Path) -> tuple[frozenset[Path], frozenset[str], frozenset[Path]]:
    """What a source file imports: (files in its folder, top-level names of everything else, files of ASKED)."""
    local: set[Path] = set()
    outside: set[str] = set()
    asked: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            prefix = f"{node.module}." if node.module else ""
            names = [node.module or ""] + [prefix + alias.name for alias in node.names]
        else:
            continue
        for name in filter(None, names):
            relative = isinstance(node, ast.ImportFrom) and node.level > 0
            folder = path.parents[node.level - 1] if isinstance(node, ast.ImportFrom) and relative else path.parent
            beside = [folder / f"{name.replace('.', '/')}{tail}" for tail in (".py", "/__init__.py")]
            local |= {file for file in beside if file.is_file()}
            if not relative:
                outside.add(name.partition(".")[0])
                asked |= {Path(__file__).with_name(file) for file in ASKED.get(name, ())}
    return frozenset(local), frozenset(outside), frozenset(asked)


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
