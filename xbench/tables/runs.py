"""Run directories: reading one or several, and merging the shards of a run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xbench.errors import XbenchError
from xbench.store import manifests
from xbench.store.directory import IDENTITY, Store, canonical, concat, write
from xbench.store.gallery import Key
from xbench.store.manifests import AboutRun, Local, Manifest, Run, Stamp, Wanted
from xbench.tables import query

SAME_VALUE = 1e-5  # how far values computed alike may differ between machines


def reference(*suites: str) -> Run | None:
    """Rows and manifest of the committed results of one or more suites; None where there are none."""
    folders = [Path(str(resources.files("xbench.results"))) / name for name in suites]
    kept = [folder for folder in folders if folder.is_dir() and Store(folder).manifest()]
    return read_all(kept) if kept else None


def beside_reference(run: Run) -> Run:
    """A run with the committed reference rows of its suite that stand beside it in its leaderboard, of methods that it lacks."""
    rows, methods, _ = query.joined(run, reference(*suites(run[1])))
    return rows, run[1].but(methods=methods)


def suites(manifest: Manifest) -> list[str]:
    """The suites of a run, or of the several runs that were read as one."""
    return list(dict.fromkeys(run.suite for run in manifest.runs))


def read(folder: Path) -> Run:
    """Rows and manifest of a run directory, complete or not.

    Raises:
        XbenchError: it is not one, or it is damaged.
    """
    store = Store(folder)
    manifest = store.manifest()
    if manifest is None:
        raise XbenchError(
            f"{folder} is not a run directory (it has no manifest.json); make one with: xbench run quick --out {folder}"
        )
    return store.rows(), manifest


def read_all(folders: Sequence[Path]) -> Run:
    """Several run directories as one; see ``join``."""
    return join([read(folder) for folder in folders], [str(folder) for folder in folders])


def gallery(folders: Sequence[Path]) -> dict[Key, np.ndarray]:
    """Maps and pictures of several runs for the report by key; where several have one, that of the last."""
    found: dict[Key, np.ndarray] = {}
    for folder in folders:
        found |= Store(folder).gallery()
    return found


def join(found: Sequence[Run], names: Sequence[str] = ()) -> Run:
    """Rows and manifests of several runs as one. names: what to call them in errors.

    Where they are of several suites, versions or settings, the manifest lists these as its ``origins``.

    Raises:
        XbenchError: they share a column and have different seeds or weights, or rows of equal identity have different values.
    """
    if len(found) > 1:
        _check_alike(found, names or [f"run {i}" for i in range(1, len(found) + 1)])
    parts = [manifest for _, manifest in found]
    origins: list[AboutRun] = []
    for m in parts:
        origins += [run for run in m.runs if run not in origins]
    merged = parts[-1].but(
        complete=all(m.complete for m in parts),
        columns={key: about for m in parts for key, about in m.columns.items()},
        methods={name: about for m in parts for name, about in m.methods.items()},
        models={name: about for m in parts for name, about in m.models.items()},
        datasets={name: about for m in parts for name, about in m.datasets.items()},
        class_names={name: classes for m in parts for name, classes in m.class_names.items()},
        origins=tuple(origins) if len(origins) > 1 else (),
    )
    return canonical(concat([rows for rows, _ in found])), merged


def conflict(parts: Sequence[pd.DataFrame]) -> tuple[int, int, pd.Series[Any]] | None:
    """The first row whose value is another one in another part, up to what computing on another machine changes.

    -> (the place of the part that has it, of the part that it is held against, the row); None where there is none.
    """
    together = concat([rows.assign(part=i) for i, rows in enumerate(parts)])
    shared = together.loc[together.duplicated(IDENTITY, keep=False), [*IDENTITY, "target", "status", "value", "vector", "part"]]
    if shared.empty:
        return None
    pairs = shared.merge(shared.drop_duplicates(IDENTITY), on=IDENTITY, suffixes=("", "_first"))
    targets = pairs[["target", "target_first"]].astype(float).fillna(-1)  # unknown where a picture cannot be read
    alike = (pairs["status"] == pairs["status_first"]) & (targets["target"] == targets["target_first"])
    alike &= np.isclose(pairs["value"], pairs["value_first"], rtol=0, atol=SAME_VALUE, equal_nan=True)
    vectors = zip(pairs["vector"], pairs["vector_first"], strict=True)
    alike &= np.fromiter((_same_vector(a, b) for a, b in vectors), bool, len(pairs))
    if alike.all():
        return None
    row = pairs[~alike].iloc[0]
    return int(row["part"]), int(row["part_first"]), row


def _same_vector(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    return np.shape(a) == np.shape(b) and bool(np.allclose(a, b, rtol=0, atol=SAME_VALUE, equal_nan=True))


def _check_alike(found: Sequence[Run], names: Sequence[str]) -> None:
    """Raises XbenchError where runs make no table together."""
    first: dict[tuple[str, str], int] = {}  # the first run with rows of a column, and of a model in it
    for i, (rows, manifest) in enumerate(found):
        for key, model in rows[["protocol_key", "model"]].drop_duplicates().astype(str).to_numpy().tolist():
            for j in {first.setdefault((key, ""), i), first.setdefault((key, model), i)} - {i}:
                if why := manifests.unlike(found[j][1], manifest, [model]):
                    _refuse(names[j], names[i], why)
    if (differs := conflict([rows for rows, _ in found])) is not None:
        i, j, row = differs
        where = f"{row['method']}, {row['metric']} on {row['dataset']}, {row['model']}, item {row['item']}"
        _refuse(names[j], names[i], f"other values, for one of {where}")


def _refuse(one: str, other: str, why: str) -> None:
    remedy = f"run one of them anew as the other was, or hold them side by side: xbench compare {one} {other}"
    raise XbenchError(f"{one} and {other} make no table together ({why}); {remedy}")


def merge(folders: Sequence[Path], out: Path) -> Run:
    """Write the rows, maps and pictures of several run directories into one; shards together are the undivided run. -> as ``read``.

    Raises:
        XbenchError: they were run with different seeds, batch sizes or dtypes, or make no table together (see ``join``), or one of
            them is no run directory, or a submission.
    """
    if len(folders) != len({folder.resolve() for folder in folders} - {out.resolve()}):
        raise XbenchError("merge needs different run directories, and another --out than these")
    found = [read(folder) for folder in folders]
    parts = [part for _, part in found]
    locals_: list[Local] = []
    for folder, part in zip(folders, parts, strict=True):
        if part.local is None:
            raise XbenchError(f"{folder} is a submission, not a run; for one table of both: xbench leaderboard RUN {folder}")
        locals_.append(part.local)
    sizes = {dataset: size for part in parts for dataset, size in part.batch_size.items()}
    settings: dict[str, list[object]] = {
        "seed": [part.seed for part in parts],
        "dtype": [part.dtype for part in parts],
        "batch_size": [sizes | part.batch_size for part in parts],  # a run has those of its own tracks only
    }
    for name, values in settings.items():
        if any(value != values[0] for value in values):
            each = ", ".join(f"{folder}: {getattr(part, name)}" for folder, part in zip(folders, parts, strict=True))
            raise XbenchError(f"these runs differ in {name} ({each}); run them alike, or keep them apart")
    rows, manifest = join(found, [str(folder) for folder in folders])
    inputs, libraries = _inputs(parts, locals_)
    unlisted = sorted({name for local in locals_ for name in local.unlisted})
    modules = {name: place for local in locals_ for name, place in local.modules.items()}
    local = locals_[-1].model_copy(update={"inputs": inputs, "modules": modules, "unlisted": unlisted})
    manifest = _of_shards(manifest.but(batch_size=sizes, libraries=libraries), local, locals_)
    store = Store(out)
    with store.lock():
        store.clear()
        shown = gallery(folders)
        for folder in folders:
            for path in sorted(Store(folder).maps.rglob("*.safetensors")):
                copy = store.maps / path.relative_to(Store(folder).maps)
                copy.parent.mkdir(parents=True, exist_ok=True)
                write(copy, lambda tmp, path=path: shutil.copyfile(path, tmp))  # type: ignore[misc]
        store.write_gallery(shown)
        store.write_rows(rows)
        store.write_manifest(manifest)
    return rows, manifest


def _inputs(parts: Sequence[Manifest], locals_: Sequence[Local]) -> tuple[dict[str, Stamp], dict[str, str]]:
    """Input files and libraries of all parts. What was not the same in all of them is never as at hand, for some rows are stale."""
    files: dict[str, Stamp] = {}
    libraries: dict[str, dict[str, None]] = {}
    for part, local in zip(parts, locals_, strict=True):
        for path, stamp in local.inputs.items():
            if files.setdefault(path, stamp).sha256 != stamp.sha256:
                files[path] = manifests.GONE
        for name, version in part.libraries.items():
            libraries.setdefault(name, {})[version] = None
    return files, {name: " and ".join(versions) for name, versions in libraries.items()}


def _of_shards(manifest: Manifest, local: Local, locals_: Sequence[Local]) -> Manifest:
    """One manifest of those of all shards: that of the undivided run where none is missing. local: what they have together."""
    asked = [part.request for part in locals_ if part.request is not None]
    shards = [request.shard for request in asked if request.shard is not None]
    first = locals_[0].request
    if first is None or len(shards) < len(locals_) or any(request.undivided != first.undivided for request in asked):
        wanted = Wanted(
            columns=list(dict.fromkeys(key for part in locals_ for key in part.wanted.columns)),
            methods=list(dict.fromkeys(name for part in locals_ for name in part.wanted.methods)),
            models=list(dict.fromkeys(name for part in locals_ for name in part.wanted.models)),
            items={},
        )  # not one run: whoever continues it plans anew
        return manifest.but(local=local.model_copy(update={"request": None, "wanted": wanted}))
    count = shards[0][1]
    missing = sorted(set(range(1, count + 1)) - {i for i, _ in shards})
    if missing:
        lost = ", ".join(f"{i}/{count}" for i in missing)
        said = f"INCOMPLETE: shard {lost} is missing; run it, and merge again"
        return manifest.but(local=local, complete=False, incomplete=said)
    columns: dict[str, dict[str, None]] = {}
    for part in locals_:
        for column, items in part.wanted.items.items():
            columns.setdefault(column, {}).update(dict.fromkeys(items))
    whole = first.undivided
    limited = whole.selection["limit"] is not None
    wanted = local.wanted.model_copy(update={"items": {c: list(items) for c, items in columns.items()} if limited else {}})
    return manifest.but(local=local.model_copy(update={"request": whole, "wanted": wanted}))
