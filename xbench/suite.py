"""Suites: a benchmark as a TOML file, validated, with the command line's overrides applied, and its spec strings resolved."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xbench.errors import XbenchError, did_you_mean
from xbench.plugins import Bound, BoundDataset, BoundModel, Method, Metric
from xbench.registry import Registry
from xbench.specs import parse, split

B = TypeVar("B", bound=Bound)
Dtype = Literal["float32", "bfloat16"]


class Track(BaseModel):
    """One dataset of a suite, with the protocol under which its metrics are taken.

    target: which class is explained. view: how pictures become the model's input: ``crop`` (the model's own centre crop),
    ``squash`` (all of it, stretched), ``keep_aspect`` (all of it, shorter side at the model's size), ``full`` (as stored).
    batch_size: instead of the suite's, such as fewer where pictures are larger.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str
    metrics: list[str] = Field(min_length=1)
    target: Literal["label", "prediction", "present"] = "prediction"
    view: Literal["crop", "squash", "keep_aspect", "full"] = "crop"
    only: Literal["", "sources_correct"] = ""
    batch_size: int | None = Field(default=None, ge=1)


class Suite(BaseModel):
    """A benchmark: which models, methods, datasets and metrics, under which protocol.

    batch_size: pictures in every forward pass. block: items per work unit, which is what resumes; at most batch_size.
    gallery: items per track whose maps the report shows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    version: str
    title: str = ""
    seed: int = 0
    batch_size: int = Field(default=8, ge=1)
    block: int = Field(default=8, ge=1)
    gallery: int = Field(default=4, ge=0)
    models: list[str] = Field(min_length=1)
    methods: list[str] = Field(min_length=1)
    controls: list[str] = []
    tracks: list[Track] = Field(min_length=1)


@dataclass(frozen=True)
class Selection:
    """What the command line narrows or replaces; None leaves the suite's own. Lists are spec strings.

    shard: (i, n), the i-th of n parts of the work, 1-based. device, dtype: where and how models compute.
    """

    methods: Sequence[str] | None = None
    models: Sequence[str] | None = None
    datasets: Sequence[str] | None = None
    metrics: Sequence[str] | None = None
    limit: int | None = None
    seed: int | None = None
    batch_size: int | None = None
    shard: tuple[int, int] | None = None
    device: str = "cpu"
    dtype: Dtype = "float32"


@dataclass(frozen=True)
class PlannedTrack:
    """A track with its plug-ins bound."""

    dataset: BoundDataset
    metrics: tuple[Metric, ...]
    track: Track
    batch_size: int


@dataclass(frozen=True)
class Plan:
    """A suite with selection applied and every spec resolved: all that a run does."""

    suite: Suite
    models: tuple[BoundModel, ...]
    methods: tuple[Method, ...]
    tracks: tuple[PlannedTrack, ...]
    limit: int | None
    shard: tuple[int, int] | None = None
    device: str = "cpu"
    dtype: Dtype = "float32"

    @property
    def controls(self) -> list[Method]:
        return [m for m in self.methods if m.info.control]


def suites() -> list[str]:
    """The names of the suites that ship."""
    folder = resources.files("xbench.suites")
    return sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".toml"))


def find(name_or_path: str) -> Path:
    """The TOML file of a suite given by name or path.

    Raises:
        XbenchError: there is none.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        if not path.is_file():
            raise XbenchError(f"suite file {name_or_path} does not exist; give a path or one of: {', '.join(suites())}")
        return path
    if name_or_path not in suites():
        raise XbenchError(f"unknown suite {name_or_path!r}{did_you_mean(name_or_path, suites())}")
    return Path(str(resources.files("xbench.suites") / f"{name_or_path}.toml"))


def load(path: Path) -> Suite:
    """Read and validate a suite.

    Raises:
        XbenchError: not TOML, an unknown key or a wrong value; names the key and its line.
    """
    text = path.read_text(encoding="utf-8")
    try:
        return Suite.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise XbenchError(f"suite {path} is not valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][-1]) if isinstance(first["loc"][-1], str) else str(first["loc"][-2])
        line = _line(text, first["loc"])
        known = Track.model_fields if first["loc"][0] == "tracks" and len(first["loc"]) > 2 else Suite.model_fields
        if first["type"] == "extra_forbidden":
            what = f"unknown key {key!r}{did_you_mean(key, known)}"
        elif first["type"] == "missing":
            what = f"the key {key!r} is missing"
        else:
            what = f"{key}: {first['msg']}, not {first['input']!r}"
        raise XbenchError(f"suite {path}{f', line {line}' if line else ''}: {what}") from error


def plan(suite: Suite, chosen: Selection, registry: Registry) -> Plan:
    """Resolve a suite under a selection.

    Raises:
        XbenchError: an unknown plug-in or parameter, or a selection that leaves nothing.
    """
    if chosen.seed is not None:
        suite = suite.model_copy(update={"seed": chosen.seed})
    if chosen.batch_size is not None:
        same = [track.model_copy(update={"batch_size": None}) for track in suite.tracks]
        suite = suite.model_copy(update={"batch_size": chosen.batch_size, "tracks": same})
    methods = list(chosen.methods) if chosen.methods is not None else [*suite.methods, *suite.controls]
    tracks = []
    for track in suite.tracks:
        dataset = registry.dataset(track.dataset)
        if chosen.datasets is not None and not _named(track.dataset, chosen.datasets):
            continue
        wanted = [m for m in track.metrics if chosen.metrics is None or _named(m, chosen.metrics)]
        if wanted:
            metrics = _unique(registry.metric(m) for m in wanted)
            for metric in metrics:
                if metric.info.kind == "faithfulness":
                    metric()  # checks its parameters now rather than after the first explanations
            tracks.append(PlannedTrack(dataset, metrics, track, track.batch_size or suite.batch_size))
    _check_selection("dataset", chosen.datasets, [t.dataset for t in suite.tracks], suite)
    _check_selection("metric", chosen.metrics, [m for t in suite.tracks for m in t.metrics], suite)
    if not tracks:
        raise XbenchError(f"nothing to run: no track of suite {suite.name} has the chosen datasets and metrics together")
    models = [registry.model(m) for m in (chosen.models or suite.models)]
    bound = [registry.method(m) for m in methods]
    if not bound:
        raise XbenchError("nothing to run: --methods names no method")
    how = (chosen.limit, chosen.shard, chosen.device, chosen.dtype)
    return Plan(suite, _unique(models), _unique(bound), tuple(tracks), *how)


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """``2/3`` -> (2, 3).

    Raises:
        XbenchError: not of that form, or not one of its parts.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise XbenchError(f"--shard {text} is not a part of the whole; write --shard 1/3, 2/3 and 3/3")
    return int(match[1]), int(match[2])


def parse_dtype(text: str) -> Dtype:
    """Raises XbenchError for anything but float32 and bfloat16."""
    for known in get_args(Dtype):
        if text == known:
            return known
    raise XbenchError(f"unknown --dtype {text!r}{did_you_mean(text, get_args(Dtype))}")


def listed(text: str | None) -> list[str] | None:
    """A comma-separated option of the command line -> specs."""
    return None if text is None else split(text)


def _named(spec: str, wanted: Sequence[str]) -> bool:
    """Whether a selection names a spec: wholly, or by its plug-in's id alone."""
    return any(str(parse(w)) == str(parse(spec)) or w == parse(spec).name for w in wanted)


def _check_selection(kind: str, wanted: Sequence[str] | None, present: Sequence[str], suite: Suite) -> None:
    for name in wanted or []:
        if not any(_named(spec, [name]) for spec in present):
            ids = [parse(spec).name for spec in present]
            raise XbenchError(f"suite {suite.name} has no {kind} {name!r}{did_you_mean(name, ids)}")


def _unique(bounds: Iterable[B]) -> tuple[B, ...]:
    return tuple({bound.name: bound for bound in bounds}.values())


def _line(text: str, location: Sequence[int | str]) -> int | None:
    """The line of a key in a TOML text, by its path such as ("tracks", 1, "metrics"); of its table where the key is missing."""
    table, index = (str(location[0]), int(location[1])) if len(location) > 2 and isinstance(location[1], int) else ("", 0)
    in_array = len(location) > 2 and table == "tracks"
    key = str(location[2] if in_array else location[0])
    seen, current, header = -1, "", None
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"\s*\[\[?\s*([\w.]+)\s*\]\]?", line):
            current = match[1]
            seen += current == table
            header = number if in_array and current == table and seen == index else header
        elif re.match(rf"""\s*["']?{re.escape(key)}["']?\s*=""", line) and (
            (current == table and seen == index) if in_array else not current
        ):
            return number
    return header
