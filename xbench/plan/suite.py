"""Suites: a benchmark as a TOML file, validated, with the command line's overrides applied, and its spec strings resolved."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from xbench.errors import XbenchError, did_you_mean
from xbench.plugins import toml
from xbench.plugins.declarations import Bound, BoundDataset, BoundModel, Method, Metric
from xbench.plugins.registry import Registry
from xbench.plugins.specs import parse, split

B = TypeVar("B", bound=Bound)
Dtype = Literal["float32", "bfloat16", "float32-compiled", "bfloat16-compiled"]
EXPERIMENTS = ("ood",)  # other than the scoring of maps; each has a schema, and a room, of its own


class Track(BaseModel):
    """One dataset of a suite, with the protocol under which its metrics are taken.

    target: which class is explained. view: how pictures become the model's input: ``crop`` (the model's own centre crop),
    ``squash`` (all of it, stretched), ``keep_aspect`` (all of it, shorter side at the model's size), ``full`` (as stored).
    batch_size: instead of the suite's, such as fewer where pictures are larger. models: instead of the suite's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str
    metrics: list[str] = Field(min_length=1)
    target: Literal["label", "prediction", "present"] = "prediction"
    view: Literal["crop", "squash", "keep_aspect", "full"] = "crop"
    only: Literal["", "sources_correct"] = ""
    batch_size: int | None = Field(default=None, ge=1)
    models: list[str] = []


class Suite(BaseModel):
    """A benchmark: which models, methods, datasets and metrics, under which protocol.

    batch_size: pictures in every forward pass. block: items per work unit, which is what resumes; at most batch_size.
    gallery: items per track whose maps the report shows. models: of the tracks that name none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    version: str
    title: str = ""
    seed: int = 0
    batch_size: int = Field(default=8, ge=1)
    block: int = Field(default=8, ge=1)
    gallery: int = Field(default=4, ge=0)
    models: list[str] = []
    methods: list[str] = Field(min_length=1)
    controls: list[str] = []
    tracks: list[Track] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_models(self) -> Suite:
        if not self.models and not all(track.models for track in self.tracks):
            raise ValueError("name models, for the suite or for each of its tracks")
        return self


class _Head(BaseModel):
    """What all TOML files of suites and experiments have in common."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    experiment: str = ""
    title: str = ""


@dataclass(frozen=True)
class Selection:
    """What the command line narrows or replaces; None leaves the suite's own. Lists are spec strings.

    datasets, metrics: which of the suite's. A dataset that the suite does not have takes the place of those that it has.
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
    models: tuple[BoundModel, ...]
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
    return toml.shipped("xbench.suites")


def find(name_or_path: str) -> Path:
    """The TOML file of a suite given by name or path.

    Raises:
        XbenchError: there is none.
    """
    return toml.find(name_or_path, "xbench.suites", "suite")


def title(path: Path) -> str:
    """What a suite, or an experiment, says that it is.

    Raises:
        XbenchError: not TOML, or the title is no text.
    """
    return toml.load(path, _Head, "suite").title


def experiment(path: Path) -> str:
    """Of which of EXPERIMENTS a TOML file is; empty where it is a suite of methods and metrics.

    Raises:
        XbenchError: not TOML, or an unknown kind of experiment.
    """
    named = toml.load(path, _Head, "suite").experiment
    if named and named not in EXPERIMENTS:
        raise XbenchError(f"suite {path}: unknown experiment {named!r}{did_you_mean(named, EXPERIMENTS)}")
    return named


def load(path: Path) -> Suite:
    """Read and validate a suite.

    Raises:
        XbenchError: not TOML, an unknown key or a wrong value; names the key and its line. Or it is an experiment, without methods.
    """
    if kind := experiment(path):
        raise XbenchError(f"suite {path} is an experiment ({kind}) without methods and metrics; only `xbench run` takes it")
    return toml.load(path, Suite, "suite")


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
    for track in _on(suite, chosen.datasets):
        dataset = registry.dataset(track.dataset)
        wanted = [m for m in track.metrics if chosen.metrics is None or named(m, chosen.metrics)]
        names = _models(suite, track, chosen.models)
        if wanted and names:
            metrics = _unique(registry.metric(m) for m in wanted)
            for metric in metrics:
                if metric.info.kind != "ground_truth":
                    metric()  # checks its parameters now rather than after the first explanations
            bound_models = _unique(registry.model(m) for m in names)
            tracks.append(PlannedTrack(dataset, bound_models, metrics, track, track.batch_size or suite.batch_size))
    _check_selection("metric", chosen.metrics, [m for t in suite.tracks for m in t.metrics], suite)
    if not tracks:
        raise XbenchError(f"nothing to run: no track of suite {suite.name} has the chosen datasets, models and metrics together")
    bound = [registry.method(m) for m in methods]
    if not bound:
        raise XbenchError("nothing to run: --methods names no method")
    how = (chosen.limit, chosen.shard, chosen.device, chosen.dtype)
    models = _unique(model for track in tracks for model in track.models)
    return Plan(suite, models, _unique(bound), tuple(tracks), *how)


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


def parse_batch_size(text: str | None) -> tuple[int | None, bool]:
    """An option -> (the size, whether it is to be measured).

    Raises:
        XbenchError: neither a number from 1 nor ``auto``.
    """
    if text is None or text == "auto":
        return None, text == "auto"
    if not text.isdecimal() or int(text) < 1:
        raise XbenchError(f"--batch-size {text} is no number of pictures; write a number from 1, or auto")
    return int(text), False


def parse_dtype(text: str) -> Dtype:
    """Raises XbenchError for anything but a Dtype."""
    for known in get_args(Dtype):
        if text == known:
            return known
    raise XbenchError(f"unknown --dtype {text!r}{did_you_mean(text, get_args(Dtype))}")


def listed(text: str | None) -> list[str] | None:
    """A comma-separated option of the command line -> specs."""
    return None if text is None else split(text)


def _on(suite: Suite, wanted: Sequence[str] | None) -> list[Track]:
    """The tracks of the chosen datasets. A dataset that no track is on takes the place of every track's own."""
    if wanted is None:
        return suite.tracks
    found = [track for track in suite.tracks if named(track.dataset, wanted)]
    for dataset in wanted:
        if not any(named(track.dataset, [dataset]) for track in suite.tracks):
            found += [track.model_copy(update={"dataset": dataset}) for track in suite.tracks]
    return found


def _models(suite: Suite, track: Track, chosen: Sequence[str] | None) -> list[str]:
    """The models of a track. A chosen one that tracks name runs there; any other takes the place of the suite's own."""
    if chosen is None:
        return track.models or suite.models
    bound = {str(parse(m)) for other in suite.tracks for m in other.models}
    mine = [str(parse(m)) for m in track.models]
    takes_others = not mine or all(other.models for other in suite.tracks)
    return [m for m in chosen if str(parse(m)) in mine or (takes_others and str(parse(m)) not in bound)]


def named(spec: str, wanted: Sequence[str]) -> bool:
    """Whether a selection names a spec: wholly, or by its plug-in's id alone."""
    return any(str(parse(w)) == str(parse(spec)) or w == parse(spec).name for w in wanted)


def _check_selection(kind: str, wanted: Sequence[str] | None, present: Sequence[str], suite: Suite) -> None:
    for name in wanted or []:
        if not any(named(spec, [name]) for spec in present):
            ids = [parse(spec).name for spec in present]
            raise XbenchError(f"suite {suite.name} has no {kind} {name!r}{did_you_mean(name, ids)}")


def _unique(bounds: Iterable[B]) -> tuple[B, ...]:
    return tuple({bound.name: bound for bound in bounds}.values())
