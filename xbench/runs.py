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
from xbench.store import Store, canonical, concat, write

ORIGIN = ("suite", "suite_version", "xbench", "seed", "dtype", "batch_size")  # what a leaderboard says of a run


def reference(*suites: str) -> tuple[pd.DataFrame, dict[str, Any]] | None:
    """Rows and manifest of the committed results of one or more suites; None where there are none."""
    folders = [Path(str(resources.files("xbench.results"))) / name for name in suites]
    found = [read(folder) for folder in folders if folder.is_dir() and Store(folder).manifest()]
    return (found[0] if len(found) == 1 else join(found)) if found else None


def beside_reference(run: tuple[pd.DataFrame, dict[str, Any]]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A run with the committed reference rows of its suite that stand beside it in its leaderboard, of methods that it lacks."""
    rows, manifest = run
    found = reference(*suites(manifest))
    if found is None:
        return run
    return filters.beside(rows, found[0]), {**manifest, "methods": {**found[1]["methods"], **manifest["methods"]}}


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
    """Several run directories as one: of rows of equal identity the last directory's count."""
    return join([read(folder) for folder in folders])


def join(found: Sequence[tuple[pd.DataFrame, dict[str, Any]]]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows and manifests of several runs as one: of rows of equal identity the last run's count.

    Where they are of several suites, versions or settings, the manifest lists these as ``origins``.
    """
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


def merge(folders: Sequence[Path], out: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Write the rows, maps and pictures of several run directories into one; shards together are the undivided run. -> as ``read``.

    Raises:
        XbenchError: they were run with different seeds, batch sizes or dtypes, or one of them is no run directory or a submission.
    """
    if len(folders) != len({folder.resolve() for folder in folders} - {out.resolve()}):
        raise XbenchError("merge needs different run directories, and another --out than these")
    rows, manifest = read_all(folders)
    parts = [Store(folder).manifest() for folder in folders]
    for folder, part in zip(folders, parts, strict=True):
        if "request" not in part:
            raise XbenchError(f"{folder} is a submission, not a run; for one table of both: xbench leaderboard RUN {folder}")
    sizes = {dataset: size for part in parts for dataset, size in part["batch_size"].items()}
    for name in ("seed", "dtype", "batch_size"):
        # A run has the batch sizes of its own tracks only.
        alike = {repr(part[name] if name != "batch_size" else sizes | part[name]) for part in parts}
        if len(alike) > 1:
            found = ", ".join(f"{folder}: {part.get(name)}" for folder, part in zip(folders, parts, strict=True))
            raise XbenchError(f"these runs differ in {name} ({found}); run them alike, or keep them apart")
    manifest["batch_size"] = sizes
    manifest["inputs"], manifest["libraries"] = _inputs(parts)
    manifest["unlisted"] = sorted({name for part in parts for name in part.get("unlisted", [])})
    _join_shards(manifest, parts)
    store = Store(out)
    with store.lock():
        store.clear()
        gallery: dict[str, np.ndarray] = {}
        for folder in folders:
            gallery |= Store(folder).gallery()
            for path in sorted(Store(folder).maps.rglob("*.safetensors")):
                copy = store.maps / path.relative_to(Store(folder).maps)
                copy.parent.mkdir(parents=True, exist_ok=True)
                write(copy, lambda tmp, path=path: shutil.copyfile(path, tmp))  # type: ignore[misc]
        store.write_gallery({key: gallery[key] for key in sorted(gallery)})
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
