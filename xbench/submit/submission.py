"""Submissions: runs that were checked and are kept under results/, with who measured them and the tables that their rows give.

FOLDER/rows.parquet      the run's rows without timings (docs/rows.md)
FOLDER/manifest.json     the run's manifest without what is of its machine, and with who submitted: see manifests.Submission
FOLDER/leaderboard.*     what the rows give, as Markdown, CSV and JSON
"""

from __future__ import annotations

import datetime
import json
import math
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from xbench import host
from xbench.errors import XbenchError
from xbench.plan import recording, suite
from xbench.plan.suite import Suite
from xbench.plugins import rooms
from xbench.report import tables
from xbench.store import manifests
from xbench.store.directory import IDENTITY, OPTIONAL, SCHEMA, Store, write_text
from xbench.store.manifests import Manifest, Run, Stamp, Submission
from xbench.submit import checks
from xbench.tables import leaderboard, runs
from xbench.tables.leaderboard import Leaderboard
from xbench.tables.query import Filter

FORMS = {"md": tables.to_markdown, "csv": tables.to_csv, "json": tables.to_json}
SAME_FIGURE = 1e-9  # how far figures from the same rows may differ between machines, whose last bits stats rounds off
NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)")

Rows = pd.DataFrame
About = TypeVar("About")


# -- submitting ------------------------------------------------------------------------------------------------------------------


@host.restored()
def submit(run: Path, who: Submission, suite_name: str | Suite | None = None, out: Path | None = None) -> tuple[Path, Rows]:
    """Check a run and keep it as a submission. -> (its folder, its rows).

    Args:
        run: a run directory: finished, of whole tracks of its suite with all controls, computed by the code at hand. Of a directory
            that holds more, what was asked for last is submitted.
        who: name, by, link and note; the rest is filled in.
        suite_name: a suite's name, the path of a TOML file, or a Suite; by default the one that the run names.
        out: a new folder, ``results/submissions/<suite>/<name>`` by default.

    Raises:
        XbenchError: what is wrong with the run, or the folder exists.
    """
    rows, manifest = runs.read(run)
    folder = out or Path("results/submissions", manifest.suite, who.name)
    if folder.exists():
        raise XbenchError(f"{folder} exists; choose another --name")
    if manifest.local is None:
        raise XbenchError(f"{run} was submitted before; give the run directory itself")
    if not manifest.complete:
        raise XbenchError(f"{run} is not finished; run it to the end with: xbench run {manifest.suite} --out {run}")
    if change := recording.changed_input(manifest):
        raise XbenchError(f"{run} was not computed by what is here ({change}); run it again, then submit")
    if manifest.local.request is not None:  # of runs that were merged, all is meant
        rows = manifests.selected(rows, manifest)
    chosen = suite_name if isinstance(suite_name, Suite) else suite.load(suite.find(suite_name or manifest.suite))
    for problem in (*checks.suite_problems(rows, manifest, chosen), *checks.row_problems(rows, manifest)):
        raise XbenchError(f"{run}: {problem}")
    kept = _kept(rows, manifest, manifest.local.inputs, who)
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


def _kept(rows: Rows, manifest: Manifest, inputs: Mapping[str, Stamp], who: Submission) -> Manifest:
    """The manifest of a submission: only what its rows are of, and nothing of the machine."""
    root = rooms.home().parent
    made = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "xbench": manifest.xbench,
        "libraries": manifest.libraries,
        "code": {_relative(Path(path), root): stamp.sha256 for path, stamp in inputs.items() if path.endswith(".py")},
    }
    return manifest.but(
        columns=_present(manifest.columns, rows["protocol_key"]),
        methods=_present(manifest.methods, rows["method"]),
        models=_present(manifest.models, rows["model"]),
        datasets=_present(manifest.datasets, rows["dataset"]),
        local=None,
        submission=who.model_copy(update=made),
    )


def _present(described: Mapping[str, About], names: Iterable[str]) -> dict[str, About]:
    present = set(names)
    return {name: about for name, about in described.items() if name in present}


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _check_private(rows: Rows, manifest: Manifest) -> None:
    """Raises XbenchError where a name, a note or a reason holds a path of this machine."""
    texts = [json.dumps(manifest.model_dump(mode="json"), ensure_ascii=False), *rows["reason"].dropna().astype(str).unique()]
    for path in (Path.cwd(), Path.home()):
        if path != Path(path.anchor) and any(str(path) in text for text in texts):
            raise XbenchError(f"the run names {path}, which nobody else has; run it again with relative paths, then submit")


# -- verifying -------------------------------------------------------------------------------------------------------------------


def verify(folder: Path) -> int:
    """Check that a submission is whole, and that its rows give its tables. -> the number of its rows.

    Raises:
        XbenchError: what was changed since it was submitted.
    """
    manifest = Store(folder).manifest()
    if manifest is None or manifest.submission is None:
        raise XbenchError(f"{folder} is no submission (its manifest has no 'submission'); use: xbench submit RUN")
    try:
        stored = pq.read_table(folder / "rows.parquet")  # as it stands: Store.rows drops what is there twice
    except (OSError, pa.ArrowException) as error:
        raise XbenchError(f"{folder}/rows.parquet cannot be read ({error}); submit the run again") from error
    older = pa.schema([field for field in SCHEMA if field.name not in OPTIONAL])
    if not any(stored.schema.equals(schema) for schema in (SCHEMA, older)):
        raise XbenchError(f"{folder}/rows.parquet has not the columns of docs/rows.md; submit the run again")
    rows = Store(folder).rows()
    if left := "local" if manifest.local else "seconds" if rows["seconds"].notna().any() else "":
        raise XbenchError(f"{folder} holds {left}, which is of one machine; submit the run again")
    if not manifest.complete:
        raise XbenchError(f"{folder} is not complete; submit a finished run")
    for problem in checks.row_problems(stored.to_pandas(), manifest):
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
    machines makes them; else each submission's rows become a line of their own, ``grad_cam (by NAME)``.

    Raises:
        XbenchError: run directories that make no table together; see ``runs.join``.
    """
    found = {str(folder): runs.read(folder) for folder in folders}
    notes = [manifest.submission.sentence(_measured(manifest)) for _, manifest in found.values() if manifest.submission is not None]
    if notes:
        for method in sorted({method for _, manifest in found.values() for method in manifest.methods}):
            if runs.conflict([rows[rows["method"] == method] for rows, _ in found.values()]) is not None:
                found = {folder: _renamed(rows, manifest, method) for folder, (rows, manifest) in found.items()}
    ordered = sorted(found, key=lambda folder: found[folder][1].submission is not None)
    rows, manifest = runs.join([found[folder] for folder in ordered], ordered)
    return rows, manifest.but(notes=tuple(notes)) if notes else manifest


def board(folders: Sequence[Path], asked: Filter) -> tuple[Leaderboard, Run]:
    """The table of run directories and submissions, beside the reference rows of their suites and protocols; and what it is of.

    Raises:
        XbenchError: as ``read_all``; something is asked for that there is not.
    """
    rows, manifest = read_all(folders)
    return leaderboard.build(rows, manifest, runs.reference(*runs.suites(manifest)), asked), (rows, manifest)


def _board(rows: Rows, manifest: Manifest) -> Leaderboard:
    """A submission's own table."""
    notes = (manifest.submission.sentence(_measured(manifest)),) if manifest.submission else ()
    return leaderboard.build(rows, manifest.but(notes=notes))


def _measured(manifest: Manifest) -> list[str]:
    return [method for method, about in manifest.methods.items() if not about.control]


def _renamed(rows: Rows, manifest: Manifest, method: str) -> Run:
    """A submission's rows and manifest with its name behind a method's; others unchanged."""
    if manifest.submission is None or method not in manifest.methods:
        return rows, manifest
    new = f"{method} (by {manifest.submission.name})"
    methods = {new if name == method else name: about for name, about in manifest.methods.items()}
    names = rows["method"].astype(str)
    return rows.assign(method=names.where(names != method, new)), manifest.but(methods=methods)
