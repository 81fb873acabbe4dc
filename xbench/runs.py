"""Run directories: reading one or several, and merging the shards of a run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xbench import filters, manifests
from xbench.errors import XbenchError
from xbench.store import IDENTITY, Store, canonical, concat, write

Run = tuple[pd.DataFrame, dict[str, Any]]  # rows and manifest
SAME_VALUE = 1e-5  # how far values computed alike may differ between machines
ORIGIN = ("suite", "suite_version", "xbench", "seed", "dtype", "batch_size")  # what a leaderboard says of a run


def reference(*suites: str) -> tuple[pd.DataFrame, dict[str, Any]] | None:
    """Rows and manifest of the committed results of one or more suites; None where there are none."""
    folders = [Path(str(resources.files("xbench.results"))) / name for name in suites]
    kept = [folder for folder in folders if folder.is_dir() and Store(folder).manifest()]
    return read_all(kept) if kept else None


def beside_reference(run: Run) -> Run:
    """A run with the committed reference rows of its suite that stand beside it in its leaderboard, of methods that it lacks."""
    rows, methods, _ = filters.joined(run, reference(*suites(run[1])))
    return rows, {**run[1], "methods": methods}


def suites(manifest: Mapping[str, Any]) -> list[str]:
    """The suites of a run, or of the several runs that were read as one."""
    return list(dict.fromkeys(origin["suite"] for origin in manifest.get("origins", [manifest])))


def read(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows and manifest of a run directory, complete or not.

    Raises:
        XbenchError: it is not one, or it is damaged.
    """
    store = Store(folder)
    manifest = store.manifest()
    if not manifest:
        raise XbenchError(
            f"{folder} is not a run directory (it has no manifest.json); make one with: xbench run quick --out {folder}"
        )
    manifests.check(manifest, folder)
    return store.rows(), manifest


def read_all(folders: Sequence[Path]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Several run directories as one; see ``join``."""
    return join([read(folder) for folder in folders], [str(folder) for folder in folders])


def gallery(folders: Sequence[Path]) -> dict[str, np.ndarray]:
    """Maps and pictures of several runs for the report by key; where several have one, that of the last."""
    found: dict[str, np.ndarray] = {}
    for folder in folders:
        found |= Store(folder).gallery()
    return found


def join(found: Sequence[Run], names: Sequence[str] = ()) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows and manifests of several runs as one. names: what to call them in errors.

    Where they are of several suites, versions or settings, the manifest lists these as ``origins``.

    Raises:
        XbenchError: they share a column and have different seeds or weights, or rows of equal identity have different values.
    """
    if len(found) > 1:
        _check_alike(found, names or [f"run {i}" for i in range(1, len(found) + 1)])
    parts = [manifest for _, manifest in found]
    merged: dict[str, Any] = {**parts[-1], "complete": all(m.get("complete", True) for m in parts)}
    for name in ("columns", "methods", "models", "datasets", "class_names"):
        merged[name] = {key: value for m in parts for key, value in m.get(name, {}).items()}
    origins: list[dict[str, Any]] = []
    for m in parts:
        origins += [o for o in m.get("origins", [{name: m.get(name) for name in ORIGIN}]) if o not in origins]
    if len(origins) > 1:
        merged["origins"] = origins
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


def merge(folders: Sequence[Path], out: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Write the rows, maps and pictures of several run directories into one; shards together are the undivided run. -> as ``read``.

    Raises:
        XbenchError: they were run with different seeds, batch sizes or dtypes, or make no table together (see ``join``), or one of
            them is no run directory, or a submission.
    """
    if len(folders) != len({folder.resolve() for folder in folders} - {out.resolve()}):
        raise XbenchError("merge needs different run directories, and another --out than these")
    found = [read(folder) for folder in folders]
    parts = [part for _, part in found]
    for folder, part in zip(folders, parts, strict=True):
        if "request" not in part:
            raise XbenchError(f"{folder} is a submission, not a run; for one table of both: xbench leaderboard RUN {folder}")
    sizes = {dataset: size for part in parts for dataset, size in part["batch_size"].items()}
    for name in ("seed", "dtype", "batch_size"):
        # A run has the batch sizes of its own tracks only.
        alike = {repr(part[name] if name != "batch_size" else sizes | part[name]) for part in parts}
        if len(alike) > 1:
            each = ", ".join(f"{folder}: {part.get(name)}" for folder, part in zip(folders, parts, strict=True))
            raise XbenchError(f"these runs differ in {name} ({each}); run them alike, or keep them apart")
    rows, manifest = join(found, [str(folder) for folder in folders])
    manifest["batch_size"] = sizes
    manifest["inputs"], manifest["libraries"] = _inputs(parts)
    manifest["unlisted"] = sorted({name for part in parts for name in part.get("unlisted", [])})
    _join_shards(manifest, parts)
    store = Store(out)
    with store.lock():
        store.clear()
        kept = gallery(folders)
        for folder in folders:
            for path in sorted(Store(folder).maps.rglob("*.safetensors")):
                copy = store.maps / path.relative_to(Store(folder).maps)
                copy.parent.mkdir(parents=True, exist_ok=True)
                write(copy, lambda tmp, path=path: shutil.copyfile(path, tmp))  # type: ignore[misc]
        store.write_gallery({key: kept[key] for key in sorted(kept)})
        store.write_rows(rows)
        store.write_manifest(manifest)
    return rows, manifest


def _inputs(parts: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Input files and libraries of all parts. What was not the same in all of them is never as at hand, for some rows are stale."""
    files: dict[str, Any] = {}
    libraries: dict[str, dict[str, None]] = {}
    for part in parts:
        for path, stamp in part["inputs"].items():
            if files.setdefault(path, stamp)[2] != stamp[2]:
                files[path] = manifests.GONE
        for name, version in part["libraries"].items():
            libraries.setdefault(name, {})[version] = None
    return files, {name: " and ".join(versions) for name, versions in libraries.items()}


def _join_shards(manifest: dict[str, Any], parts: Sequence[Mapping[str, Any]]) -> None:
    """Make one manifest of those of all shards: that of the undivided run where none is missing."""
    shards = [part["request"]["selection"].get("shard") for part in parts]
    alike = {repr({**part["request"], "selection": {**part["request"]["selection"], "shard": None}}) for part in parts}
    if len(alike) > 1 or not all(shards):
        manifest["request"] = None  # not one run: whoever continues it plans anew
        manifest["wanted"] = {
            name: list(dict.fromkeys(value for part in parts for value in part["wanted"][name]))
            for name in ("columns", "methods", "models")
        } | {"items": {}}
        return
    missing = sorted(set(range(1, shards[0][1] + 1)) - {i for i, _ in shards})
    if missing:
        manifest["complete"] = False
        lost = ", ".join(f"{i}/{shards[0][1]}" for i in missing)
        manifest["incomplete"] = f"INCOMPLETE: shard {lost} is missing; run it, and merge again"
        return
    manifest["request"] = {**manifest["request"], "selection": {**manifest["request"]["selection"], "shard": None}}
    columns: dict[str, dict[str, None]] = {}
    for part in parts:
        for column, items in part["wanted"]["items"].items():
            columns.setdefault(column, {}).update(dict.fromkeys(items))
    limited = manifest["request"]["selection"]["limit"] is not None
    manifest["wanted"] = {**manifest["wanted"], "items": {c: list(items) for c, items in columns.items()} if limited else {}}
