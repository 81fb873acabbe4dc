"""The manifest of a run directory, ``manifest.json``: what its rows name, described, and what tells whether it still stands.

Pure data: what makes one of a plan is recording.py. Files of the format before are read too; their manifest is then as a file of
today's format would say it, with nothing in place of what they do not say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from xbench.errors import XbenchError

FORMAT = 2
# What stood beside everything else in format 1, and is ``local`` today.
LOCAL_OF_FORMAT_1 = ("request", "wanted", "inputs", "modules", "unlisted", "machine", "folder")
GROUPS_OF_FORMAT_1 = {"ground_truth": "localization"}  # as 0.1.0 called them


class _Record(BaseModel):
    """Part of a manifest: nothing is converted, left out or added."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


# -- what rows name --------------------------------------------------------------------------------------------------------------


class AboutColumn(_Record):
    """A column of the table: one metric on one dataset under one protocol. range: None where it is unbounded.

    version, group: empty where an older xbench did not say. protocol: in words.
    """

    dataset: str
    metric: str
    version: str
    direction: Literal["higher", "lower"]
    range: tuple[float | None, float | None]
    chance: str
    reduce: str
    group: str
    axes: tuple[str, ...]
    cite: str
    protocol: str


class AboutMethod(_Record):
    """control, ceiling, any_grid: whether it is a control, sees the ground truth, and is held against methods of any grid."""

    control: bool
    ceiling: bool
    any_grid: bool
    cite: str
    summary: str


class AboutModel(_Record):
    """digest: of the weights. classes: how many; None where an older xbench did not say."""

    digest: str
    card: str
    cite: str
    classes: int | None


class AboutDataset(_Record):
    """notes: what is amiss with the data, in lines."""

    revision: str
    licence: str
    cite: str
    notes: tuple[str, ...]


UNDESCRIBED = AboutMethod(control=False, ceiling=False, any_grid=False, cite="", summary="")  # a method that a manifest lacks
Columns = Mapping[str, AboutColumn]  # by protocol key
Methods = Mapping[str, AboutMethod]  # by name


class AboutRun(_Record):
    """What a leaderboard says of a run. seed: None where it is not known. batch_size: by dataset."""

    suite: str
    suite_version: str
    xbench: str
    seed: int | None
    dtype: str
    batch_size: dict[str, int]


# -- what a run keeps on its own machine -----------------------------------------------------------------------------------------


class Asked(_Record):
    """The request, to be repeated: a suite and a selection as JSON, plug-ins with their digests.

    save_maps: of a run. maps, name: of maps that were made elsewhere.
    """

    suite: dict[str, Any]
    selection: dict[str, Any]
    plugins: dict[str, str]
    save_maps: bool = False
    maps: str = ""
    name: str = ""

    @property
    def shard(self) -> tuple[int, int] | None:
        """Which part of how many, where it is one."""
        found: Sequence[int] | None = self.selection.get("shard")
        return (found[0], found[1]) if found else None

    @property
    def undivided(self) -> Asked:
        """The same without its shard."""
        return self.model_copy(update={"selection": {**self.selection, "shard": None}})


class Wanted(_Record):
    """Of what the request's rows are; the directory may hold more. items: by column, where not all of them are wanted."""

    columns: list[str]
    methods: list[str]
    models: list[str]
    items: dict[str, list[str]]


class Stamp(NamedTuple):
    """What tells whether a file is as it was. modified: in nanoseconds."""

    size: int
    modified: int
    sha256: str


GONE = Stamp(-1, 0, "")  # of a file that is never as it was


class Local(_Record):
    """request: None of a run that was merged of several. unlisted: models, datasets and plug-ins that name no files.

    modules: where modules of plug-ins were found, by name.
    """

    request: Asked | None
    wanted: Wanted
    unlisted: list[str]
    inputs: dict[str, Stamp]
    modules: dict[str, str]
    machine: dict[str, str]
    folder: str


class Submission(_Record):
    """Who measured, when and with what.

    date: of the submission, UTC, ISO 8601. xbench: its version. libraries: distribution -> version. code: source file -> sha256 of
    all sources that the values depend on.

    Raises:
        XbenchError: the name is no plain name, nobody is named, or the link is none.
    """

    name: str
    by: str
    link: str = ""
    note: str = ""
    date: str = ""
    xbench: str = ""
    libraries: dict[str, str] = {}
    code: dict[str, str] = {}

    @model_validator(mode="after")
    def _plain(self) -> Submission:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", self.name):
            raise XbenchError(f"the name {self.name!r} is no plain name; use lower-case letters, digits and hyphens: --name my-lab")
        if not self.by.strip():
            raise XbenchError("a submission says who measured; give --by")
        if not re.fullmatch(r"(https?://\S+)?", self.link):
            raise XbenchError(f"the link {self.link!r} is no address; give one that begins with https://")
        if not (self.by + self.note).isprintable():
            raise XbenchError("--by and --note are one line each; leave out line breaks and control characters")
        return self

    def sentence(self, methods: Sequence[str]) -> str:
        """Who measured these methods, for the notes below a leaderboard."""
        details = "; ".join(filter(None, (self.link, self.note)))
        versions = ", ".join(f"{name} {version}" for name, version in {"xbench": self.xbench, **self.libraries}.items())
        measured = f"{self.name}: {', '.join(methods)} measured by {self.by}, {self.date}, with {versions}"
        return f"{measured} ({details})" if details else measured


# -- the whole -------------------------------------------------------------------------------------------------------------------


class Manifest(_Record):
    """All that readers need beside the rows.

    columns, methods, datasets, models: by protocol key, or by name. batch_size: by dataset. class_names: model -> class index as
    text -> name, of the classes that rows explain. local: None of what was submitted. submission: None of what was not.
    origins: the runs, where several were read as one. incomplete: why it is, where starting it again does not help. notes: for
    below every table.
    """

    format: Literal[2]
    xbench: str
    suite: str
    suite_version: str
    title: str
    columns: dict[str, AboutColumn]
    methods: dict[str, AboutMethod]
    datasets: dict[str, AboutDataset]
    models: dict[str, AboutModel]
    batch_size: dict[str, int]
    seed: int | None
    dtype: str
    device: str
    libraries: dict[str, str]
    class_names: dict[str, dict[str, str]]
    complete: bool
    local: Local | None = None
    submission: Submission | None = None
    origins: tuple[AboutRun, ...] = ()
    incomplete: str = ""
    notes: tuple[str, ...] = ()

    @property
    def runs(self) -> tuple[AboutRun, ...]:
        """The run, or the several runs that were read as one."""
        alone = AboutRun(
            suite=self.suite,
            suite_version=self.suite_version,
            xbench=self.xbench,
            seed=self.seed,
            dtype=self.dtype,
            batch_size=self.batch_size,
        )
        return self.origins or (alone,)

    def but(self, **changes: Any) -> Manifest:
        """The same with other values of some fields."""
        return self.model_copy(update=changes)

    def to_json(self) -> str:
        """As it is written: in its order, for columns are shown so; of what only some have, just what it has."""
        fields = type(self).model_fields
        whole = self.model_dump(mode="json").items()
        said = {name: value for name, value in whole if fields[name].is_required() or getattr(self, name) != fields[name].default}
        return json.dumps(said, indent=1, allow_nan=False) + "\n"


Run = tuple[pd.DataFrame, Manifest]  # its rows and its manifest


def read(path: Path) -> Manifest:
    """The manifest in a file, of today's format or the one before.

    Raises:
        XbenchError: the file is damaged, or a newer xbench wrote it.
    """  # noqa: DOC501
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    return parse(found, path)


def parse(found: object, path: Path) -> Manifest:
    """A manifest of what was read from a file's JSON; the file is named in errors, which are those of ``read``."""
    if not isinstance(found, dict):
        raise _damaged(path, "it is no object of JSON")
    if "format" not in found:
        raise _damaged(path, "it lacks format")
    form = found["format"]
    if type(form) is not int or form < 1:
        raise _damaged(path, f"there is no format {form!r}")
    if form > FORMAT:
        newest = f"format {form}, and this one reads up to {FORMAT}"
        raise XbenchError(f"{path} was written by a newer xbench ({newest}); update xbench: pip install --upgrade xbench-xai")
    try:
        return Manifest.model_validate_json(json.dumps(_of_format_1(found) if form == 1 else found))
    except ValidationError as error:
        raise _damaged(path, _reason(error)) from error
    except XbenchError as error:  # of a submission
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> XbenchError:
    return XbenchError(f"{path} is damaged ({' '.join(why.split())}); delete it and run again")


def _reason(error: ValidationError) -> str:
    """What is wrong first, with the field."""
    first = error.errors()[0]
    field = ": ".join(map(str, first["loc"]))
    if first["type"] == "missing" or (first["input"] is None and first["loc"]):
        return f"it lacks {field}"
    if first["type"] == "extra_forbidden":
        return f"it has {field}, which is no field of format {FORMAT}"
    return f"{field}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _of_format_1(old: Mapping[str, Any]) -> dict[str, Any]:
    """As format 2 says it. Not every xbench that wrote format 1 wrote all of it."""
    silent: dict[str, Any] = {"xbench": "", "suite_version": "", "title": "", "dtype": "", "device": "", "seed": None}
    silent |= {"batch_size": {}, "libraries": {}, "class_names": {}, "complete": False}
    new = silent | {name: value for name, value in old.items() if name not in LOCAL_OF_FORMAT_1} | {"format": FORMAT}
    if any(name in old for name in LOCAL_OF_FORMAT_1):
        new["local"] = {"unlisted": [], "folder": "", "modules": {}} | {
            name: old[name] for name in LOCAL_OF_FORMAT_1 if name in old
        }
    of_each: dict[str, dict[str, Any]] = {
        "columns": {"version": "", "range": [None, None], "reduce": "mean", "group": "", "axes": [], "cite": ""},
        "methods": {"ceiling": False, "any_grid": False, "cite": "", "summary": ""},
        "datasets": {"revision": "", "licence": "", "cite": "", "notes": []},
        "models": {"digest": "", "card": "", "cite": "", "classes": None},
    }
    for name, unsaid in of_each.items():
        if isinstance(its := new.get(name), dict):
            new[name] = {key: _filled(about, unsaid) for key, about in its.items()}
    return new


def _filled(about: Any, unsaid: Mapping[str, Any]) -> Any:
    """What format 1 says of one name, with what it may leave unsaid. Of anything else the reader says that it is none."""
    if not isinstance(about, dict):
        return about
    group = about.get("group")
    renamed = {"group": GROUPS_OF_FORMAT_1[group]} if isinstance(group, str) and group in GROUPS_OF_FORMAT_1 else {}
    return {**unsaid, **about, **renamed}


# -- what manifests say of rows --------------------------------------------------------------------------------------------------


def unlike(one: Manifest, other: Manifest, models: Iterable[str]) -> str:
    """Why rows of two manifests' runs make no table together: other seeds, or other weights of a model; empty where they do."""
    seeds = [{run.seed for run in m.runs} for m in (one, other)]
    if not seeds[0] & seeds[1]:
        return f"seed {' and '.join(map(str, seeds[0]))}, not {' and '.join(map(str, seeds[1]))}"
    for model in sorted(models):
        digests = [m.models[model].digest for m in (one, other) if model in m.models]
        if len(digests) == 2 and all(digests) and digests[0] != digests[1]:
            return f"other weights of {model}"
    return ""


def selected(rows: pd.DataFrame, manifest: Manifest) -> pd.DataFrame:
    """The rows of the last request; the directory may hold more. All of them where a manifest does not say."""
    if manifest.local is None:
        return rows
    wanted = manifest.local.wanted
    mine = rows["protocol_key"].isin(wanted.columns) & rows["method"].isin(wanted.methods) & rows["model"].isin(wanted.models)
    for column, items in wanted.items.items():
        mine &= (rows["protocol_key"] != column) | rows["item"].isin(items)
    return rows[mine].reset_index(drop=True)
