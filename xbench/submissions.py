"""Submissions: runs that were checked and are kept under results/, with who measured them and the tables that their rows give.

FOLDER/rows.parquet      the run's rows without timings (docs/rows.md)
FOLDER/manifest.json     the run's manifest without what names a machine, and with a ``submission``: see Submission
FOLDER/leaderboard.*     what the rows give, as Markdown, CSV and JSON
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from xbench import leaderboard, manifests, reductions, runs, suite
from xbench.errors import XbenchError, did_you_mean
from xbench.leaderboard import Leaderboard
from xbench.registry import registry
from xbench.report import tables
from xbench.store import IDENTITY, SCHEMA, Store, write_text
from xbench.suite import Selection, Suite

if TYPE_CHECKING:
    from xbench.units import Scene

FORMS = {"md": tables.to_markdown, "csv": tables.to_csv, "json": tables.to_json}
OF_A_MACHINE = ("inputs", "machine", "request", "wanted")  # what a submission's manifest leaves out of a run's
SAME_FIGURE = 1e-9  # how far figures from the same rows may differ between machines, whose last bits stats rounds off
SAME_VALUE = 1e-5  # how far values computed alike may differ between machines
ROUNDING = 1e-6  # of values in float32: how far beyond a metric's range they may be
NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)")

Rows = pd.DataFrame
Run = tuple[Rows, dict[str, Any]]  # rows and manifest, as runs.read gives them


@dataclass(frozen=True)
class Submission:
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
    libraries: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", self.name):
            raise XbenchError(f"the name {self.name!r} is no plain name; use lower-case letters, digits and hyphens: --name my-lab")
        if not self.by.strip():
            raise XbenchError("a submission says who measured; give --by")
        if not re.fullmatch(r"(https?://\S+)?", self.link):
            raise XbenchError(f"the link {self.link!r} is no address; give one that begins with https://")
        if not (self.by + self.note).isprintable():
            raise XbenchError("--by and --note are one line each; leave out line breaks and control characters")

    def sentence(self, methods: Sequence[str]) -> str:
        """Who measured these methods, for the notes below a leaderboard."""
        details = "; ".join(filter(None, (self.link, self.note)))
        versions = ", ".join(f"{name} {version}" for name, version in {"xbench": self.xbench, **self.libraries}.items())
        measured = f"{self.name}: {', '.join(methods)} measured by {self.by}, {self.date}, with {versions}"
        return f"{measured} ({details})" if details else measured


# -- submitting ------------------------------------------------------------------------------------------------------------------


def submit(run: Path, who: Submission, suite_name: str | Suite | None = None, out: Path | None = None) -> tuple[Path, Rows]:
    """Check a run and keep it as a submission. -> (its folder, its rows).

    Args:
        run: a run directory: finished, of whole tracks of its suite with all controls, computed by the code at hand. Of a directory
            that holds more, what was asked for last is submitted.
        who: name, by, link and note; the rest is filled in. suite_name: a suite's name, the path of a TOML file, or a Suite; by
            default the one that the run names.
        out: a new folder, ``results/submissions/<suite>/<name>`` by default.

    Raises:
        XbenchError: what is wrong with the run, or the folder exists.
    """
    rows, manifest = runs.read(run)
    folder = out or Path("results/submissions", manifest["suite"], who.name)
    if folder.exists():
        raise XbenchError(f"{folder} exists; choose another --name")
    if "inputs" not in manifest:
        raise XbenchError(f"{run} was submitted before; give the run directory itself")
    if not manifest.get("complete"):
        raise XbenchError(f"{run} is not finished; run it to the end with: xbench run {manifest['suite']} --out {run}")
    if change := manifests.changed_input(manifest):
        raise XbenchError(f"{run} was not computed by what is here ({change}); run it again, then submit")
    if manifest["request"] is not None:  # of runs that were merged, all is meant
        rows = manifests.selected(rows, manifest)
    chosen = suite_name if isinstance(suite_name, Suite) else suite.load(suite.find(suite_name or manifest["suite"]))
    for problem in (*_suite_problems(rows, manifest, chosen), *_row_problems(rows, manifest)):
        raise XbenchError(f"{run}: {problem}")
    kept = _kept(rows, manifest, who)
    _check_private(rows, kept)
    scratch = folder.with_name(f"{folder.name}.tmp")
    try:
        store = Store(scratch)
        store.make()
        store.write_rows(rows.sort_values(IDENTITY).assign(seconds=float("nan")).reset_index(drop=True))
        store.write_manifest(kept)
        write_tables(scratch)
        verify(scratch)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder, rows


def write_tables(folder: Path) -> None:
    """Write a submission's tables from its rows."""
    board = _board(*runs.read(folder))
    for suffix, render in FORMS.items():
        write_text(folder / f"leaderboard.{suffix}", render(board, seconds=False))


def nan_lines(rows: Rows) -> list[str]:
    """One line per method with NaN values."""
    bad = rows[rows["status"] == "nan"]
    counts = {method: (int((part["method"] == method).sum()) for part in (bad, rows)) for method in sorted(set(bad["method"]))}
    return [f"method {name}: {nan} of {of} values are NaN, and not ranked" for name, (nan, of) in counts.items()]


def _kept(rows: Rows, manifest: Mapping[str, Any], who: Submission) -> dict[str, Any]:
    """The manifest of a submission: only what its rows are of."""
    root = Path(__file__).parent.parent
    code = {_relative(Path(path), root): stamp[-1] for path, stamp in manifest["inputs"].items() if path.endswith(".py")}
    made = dataclasses.replace(
        who,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        xbench=manifest["xbench"],
        libraries=manifest["libraries"],
        code=code,
    )
    kept = {key: value for key, value in manifest.items() if key not in OF_A_MACHINE}
    for name, column in (("columns", "protocol_key"), ("methods", "method"), ("models", "model"), ("datasets", "dataset")):
        present = set(rows[column])
        kept[name] = {key: about for key, about in manifest[name].items() if key in present}
    return kept | {"submission": dataclasses.asdict(made)}


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _check_private(rows: Rows, manifest: Mapping[str, Any]) -> None:
    """Raises XbenchError where a name, a note or a reason holds a path of this machine."""
    texts = [json.dumps(manifest, ensure_ascii=False), *rows["reason"].dropna().astype(str).unique()]
    for path in (Path.cwd(), Path.home()):
        if path != Path(path.anchor) and any(str(path) in text for text in texts):
            raise XbenchError(f"the run names {path}, which nobody else has; run it again with relative paths, then submit")


# -- what may be wrong -----------------------------------------------------------------------------------------------------------


def _suite_problems(rows: Rows, manifest: Mapping[str, Any], chosen: Suite) -> Iterator[str]:
    """Where a run is not what its suite asks for; whole tracks, models and methods may be chosen."""
    if manifest["suite"] != chosen.name:
        yield f"it is a run of the suite {manifest['suite']}, not of {chosen.name}; name its own with --suite"
    if manifest["suite_version"] != chosen.version:
        yield f"it is of version {manifest['suite_version']} of the suite, which is at version {chosen.version}; run it again"
    if manifest["seed"] != chosen.seed:
        yield f"it has seed {manifest['seed']}, the suite has {chosen.seed}; run it without --seed"
    methods = sorted(set(rows["method"]))
    controls = [registry.method(name).name for name in chosen.controls]
    lacking = [name for name in controls if name not in methods]
    if lacking:
        wanted = ",".join([*methods, *lacking])
        yield f'it lacks the controls {", ".join(lacking)}; run: xbench run {chosen.name} --methods "{wanted}", then submit'
    scenes = _scenes(rows, manifest, chosen)
    known = {(scene.model_name, key) for scene in scenes for key in scene.protocols.values()}
    columns = rows[["model", "protocol_key"]].drop_duplicates().itertuples(index=False)
    for key in [key for model, key in columns if (model, key) not in known]:
        yield _stranger(manifest["columns"][key], chosen)
    for scene in scenes:
        yield from _scene_problems(rows[rows["model"] == scene.model_name], scene, methods)


def _scenes(rows: Rows, manifest: Mapping[str, Any], chosen: Suite) -> list[Scene]:
    """The tracks of a suite that a run has, opened with the run's methods and models, and computed as it was."""
    from xbench import planning

    present, sizes = set(rows["dataset"]), manifest["batch_size"]
    names = [registry.dataset(track.dataset).name for track in chosen.tracks]
    tracks = [
        track.model_copy(update={"batch_size": sizes[name]})
        for track, name in zip(chosen.tracks, names, strict=True)
        if name in present
    ]
    if unknown := sorted(present - set(names)):
        raise XbenchError(f"suite {chosen.name} has no dataset {unknown[0]!r}{did_you_mean(unknown[0], names)}")
    selection = Selection(methods=sorted(set(rows["method"])), models=sorted(set(rows["model"])), device=manifest["device"])
    return [s for s, _ in planning.open_scenes(suite.plan(chosen.model_copy(update={"tracks": tracks}), selection, registry))]


def _stranger(column: Mapping[str, Any], chosen: Suite) -> str:
    """Why a column is none of its suite's."""
    where = f"{column['metric']} on {column['dataset']}"
    alike = [registry.metric(m) for t in chosen.tracks for m in t.metrics if registry.dataset(t.dataset).name == column["dataset"]]
    for metric in alike:
        if metric.name == column["metric"] and metric.info.version != column["version"]:
            return f"{where} is of the metric's version {column['version']}, which {metric.info.version} supersedes; run it again"
    return f"the protocol of {where} ({column['protocol']}) is not the one of suite {chosen.name} today; run it again as it stands"


def _scene_problems(rows: Rows, scene: Scene, methods: Sequence[str]) -> Iterator[str]:
    """Where a run has not just the rows of a track, computed by the code at hand; it may have none."""
    metrics = {key: name for name, key in scene.protocols.items()}
    rows = rows[rows["protocol_key"].isin(metrics)]
    if rows.empty:
        return
    items = {item.id for item in scene.items(None)}
    groups = rows.groupby(["method", "protocol_key"], observed=True).indices
    for method, (key, metric) in itertools.product(methods, metrics.items()):
        mine = rows.iloc[groups.get((method, key), [])]
        where = f"{method}, {metric} on {scene.bound.name}, {scene.model_name}"
        if missing := items - set(mine["item"]):
            how = "run it without --limit, --metrics and --shard, or merge the shards"
            yield f"{where}: {len(missing)} of {len(items)} items are missing, such as {min(missing)}; {how}"
        if more := set(mine["item"]) - items:
            yield f"{where}: {len(more)} items are none of the suite's, such as {min(more)}; run it anew with --fresh"
        if any(
            cached != scene.cache_key(method, metric, item) for item, cached in zip(mine["item"], mine["cache_key"], strict=True)
        ):
            yield f"{where}: not computed by the code at hand; run it again"


def _row_problems(rows: Rows, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Where rows contradict each other or their manifest."""
    if rows.duplicated(IDENTITY).any():
        row = rows[rows.duplicated(IDENTITY)].iloc[0]
        yield f"{row['method']}, {row['metric']} on {row['dataset']}, item {row['item']} is there twice"
    for name, column in (("columns", "protocol_key"), ("methods", "method"), ("models", "model"), ("datasets", "dataset")):
        if unknown := sorted(set(rows[column]) - set(manifest[name])):
            yield f"its manifest does not describe {unknown[0]!r} under {name}"
    for (model, key), group in rows.groupby(["model", "protocol_key"], observed=True):
        column = manifest["columns"].get(key, {})
        where = f"{column.get('metric')} on {column.get('dataset')}, {model}"
        counts = group["method"].astype(str).value_counts()
        methods = set(rows[rows["model"] == model]["method"])
        for method in sorted(methods):
            if counts.get(method, 0) != group["item"].nunique():
                yield f"{method} has {counts.get(method, 0)} of {group['item'].nunique()} items of {where}"
        yield from (f"{where}: {problem}" for problem in _value_problems(group, column))


def _value_problems(rows: Rows, column: Mapping[str, Any]) -> Iterator[str]:
    """Values of one column beyond its metric's range, and such as their status denies."""
    if unknown := sorted(set(rows["status"]) - {"ok", "nan", "not_applicable", "unreadable"}):
        yield f"{unknown[0]!r} is no status"
    ok = rows["status"] == "ok"
    if rows[~ok]["value"].notna().any():
        yield "there is a value where the status says that there is none"
    if rows[rows["status"].isin(["not_applicable", "unreadable"])]["reason"].isna().any():
        yield "a value is missing, and the row does not say why"
    if reductions.is_vector(column.get("reduce", "mean")):
        vectors = rows[ok]["vector"]
        if vectors.isna().any() or len(set(vectors.map(len))) > 1 or not all(np.isfinite(v).all() for v in vectors):
            yield "a vector is missing, of another length or not finite, though its status is ok"
        return
    low, high = (math.copysign(math.inf, s) if v is None else v for v, s in zip(column.get("range", ()), (-1, 1), strict=True))
    values = rows[ok]["value"]
    for value in values[~np.isfinite(values) | (values < low - ROUNDING) | (values > high + ROUNDING)]:
        yield f"{value:g} is not within the metric's range, {low:g} to {high:g}"


# -- verifying -------------------------------------------------------------------------------------------------------------------


def verify(folder: Path) -> int:
    """Check that a submission is whole, and that its rows give its tables. -> the number of its rows.

    Raises:
        XbenchError: what was changed since it was submitted.
    """
    manifest = Store(folder).manifest()
    read(manifest, folder)
    try:
        stored = pq.read_table(folder / "rows.parquet")  # as it stands: Store.rows drops what is there twice
    except (OSError, pa.ArrowException) as error:
        raise XbenchError(f"{folder}/rows.parquet cannot be read ({error}); submit the run again") from error
    if not stored.schema.equals(SCHEMA):
        raise XbenchError(f"{folder}/rows.parquet has not the columns of docs/rows.md; submit the run again")
    rows = Store(folder).rows()
    if left := [name for name in OF_A_MACHINE if name in manifest] or (["seconds"] if rows["seconds"].notna().any() else []):
        raise XbenchError(f"{folder} holds {left[0]}, which is of one machine; submit the run again")
    if not manifest.get("complete"):
        raise XbenchError(f"{folder} is not complete; submit a finished run")
    for problem in _row_problems(stored.to_pandas(), manifest):
        raise XbenchError(f"{folder}: {problem}; submit the run again")
    board = _board(rows, manifest)
    for suffix, render in FORMS.items():
        path = folder / f"leaderboard.{suffix}"
        if not path.is_file():
            raise XbenchError(f"{path} is missing; write it with: xbench tables {folder}")
        if differs := _difference(path.read_text(encoding="utf-8"), render(board, seconds=False)):
            remedy = f"if it is xbench that changed and not the rows, write it anew with: xbench tables {folder}"
            raise XbenchError(f"{path} is not what the rows give ({differs}); {remedy}")
    return len(stored)


def read(manifest: Mapping[str, Any], folder: Path) -> Submission:
    """Who submitted.

    Raises:
        XbenchError: the manifest does not say.
    """
    try:
        return Submission(**manifest["submission"])
    except (KeyError, TypeError) as error:
        raise XbenchError(f"{folder} is no submission (its manifest has no good 'submission'); use: xbench submit RUN") from error


def _difference(found: str, expected: str) -> str:
    """The first line where two texts differ by more than the rounding of their numbers; empty where they agree."""
    lines, others = found.splitlines(), expected.splitlines()
    for number, (a, b) in enumerate(zip(lines, others, strict=False), 1):
        if a != b and not _same(NUMBER.split(a), NUMBER.split(b)):
            column = next(i for i, (x, y) in enumerate(zip(a + "\n", b + "\n", strict=False)) if x != y)
            start = max(0, column - 20)
            return f"line {number} has {a[start : column + 20]!r} instead of {b[start : column + 20]!r}"
    return f"{len(lines)} lines instead of {len(others)}" if len(lines) != len(others) else ""


def _same(a: Sequence[str], b: Sequence[str]) -> bool:
    """Whether the parts of two lines agree; every second one is a number."""
    if len(a) != len(b) or a[::2] != b[::2]:
        return False
    return all(
        math.isclose(float(x), float(y), rel_tol=SAME_FIGURE, abs_tol=SAME_FIGURE) for x, y in zip(a[1::2], b[1::2], strict=True)
    )


# -- several side by side --------------------------------------------------------------------------------------------------------


def read_all(folders: Sequence[Path]) -> Run:
    """Run directories and submissions as one, with notes on who measured what.

    A method that several of them measured in the same column stands there once where their values agree, as computing alike on two
    machines makes them; else each submission's rows become a line of their own, ``grad_cam (by NAME)``. Of run directories the last
    one's rows count, as in ``runs.read_all``.
    """
    found = [(folder, *runs.read(folder)) for folder in folders]
    parts = [(rows, manifest) for _, rows, manifest in found if "submission" not in manifest]
    parts = [runs.join(parts)] if parts else []
    notes = []
    for folder, rows, manifest in found:
        if "submission" in manifest:
            who = read(manifest, folder)
            parts.append((rows, manifest))
            notes.append(who.sentence(_measured(manifest)))
    if notes:
        for method in sorted({method for _, manifest in parts for method in manifest["methods"]}):
            if not _agree([rows[rows["method"] == method] for rows, _ in parts]):
                parts = [_renamed(rows, manifest, method) for rows, manifest in parts]
    rows, manifest = runs.join(parts)
    return rows, manifest | ({"notes": notes} if notes else {})


def _board(rows: Rows, manifest: Mapping[str, Any]) -> Leaderboard:
    """A submission's own table."""
    notes = [Submission(**manifest["submission"]).sentence(_measured(manifest))] if "submission" in manifest else []
    return leaderboard.build(rows, {**manifest, "notes": notes})


def _measured(manifest: Mapping[str, Any]) -> list[str]:
    return [method for method, about in manifest["methods"].items() if not about["control"]]


def _agree(parts: Sequence[Rows]) -> bool:
    """Whether rows of equal identity have equal values, up to what computing on another machine changes."""
    together = pd.concat([rows[[*IDENTITY, "status", "value", "vector"]] for rows in parts if len(rows)], ignore_index=True)
    shared = together[together.duplicated(IDENTITY, keep=False)]
    if shared.empty:
        return True
    pairs = shared.merge(shared.drop_duplicates(IDENTITY), on=IDENTITY, suffixes=("", "_first"))
    if (pairs["status"] != pairs["status_first"]).any():
        return False
    vectors = zip(pairs["vector"], pairs["vector_first"], strict=True)
    return bool(np.allclose(pairs["value"], pairs["value_first"], rtol=0, atol=SAME_VALUE, equal_nan=True)) and all(
        a is b or (a is not None and b is not None and np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=0, atol=SAME_VALUE))
        for a, b in vectors
    )


def _renamed(rows: Rows, manifest: dict[str, Any], method: str) -> Run:
    """A submission's rows and manifest with its name behind a method's; others unchanged."""
    if "submission" not in manifest or method not in manifest["methods"]:
        return rows, manifest
    new = f"{method} (by {manifest['submission']['name']})"
    methods = {new if name == method else name: about for name, about in manifest["methods"].items()}
    names = rows["method"].astype(str)
    return rows.assign(method=names.where(names != method, new)), manifest | {"methods": methods}
