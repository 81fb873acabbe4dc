"""A run from request to rows: plan, find what is missing, execute it, keep it. Imports nothing heavy until work is left to do.

A finished run is recognised by its manifest alone: what was asked, and digests of every input (plug-in sources, rule modules,
weights, pictures) and versions of every library. Nothing is imported or loaded to tell.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from xbench import keys, leaderboard, manifests, suite
from xbench.errors import XbenchError
from xbench.plugins import Method, Metric
from xbench.registry import registry
from xbench.report import tables
from xbench.store import IDENTITY, Store, write_text
from xbench.suite import Plan, PlannedTrack, Selection, Suite

if TYPE_CHECKING:
    from xbench.data import Item
    from xbench.runner import Scene, Unit


class Progress(Protocol):
    """What a run tells about itself."""

    def start(self, description: str, total: int) -> None: ...
    def advance(self, pictures: int) -> None: ...
    def finish_unit(self, done: int, total: int) -> None: ...


class Silent:
    """No progress."""

    def start(self, description: str, total: int) -> None: ...
    def advance(self, pictures: int) -> None: ...
    def finish_unit(self, done: int, total: int) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """A finished run. rows: those of this request. computed: how many rows were computed just now."""

    folder: Path
    rows: pd.DataFrame
    manifest: dict[str, Any]
    computed: int

    def leaderboard(self) -> leaderboard.Leaderboard:
        """The run's table, beside the committed reference rows of the same suite and protocol."""
        return leaderboard.build(self.rows, self.manifest, reference(self.manifest["suite"]))

    def nan_methods(self) -> dict[str, tuple[int, int]]:
        """Methods with NaN values: how many of their values, of how many."""
        bad = self.rows[self.rows["status"] == "nan"]
        return {str(m): (len(g), int((self.rows["method"] == m).sum())) for m, g in bad.groupby("method")}


def run(
    suite_name: str | Suite = "quick",
    selection: Selection | None = None,
    *,
    out: Path | None = None,
    plugins: Sequence[str] = (),
    fresh: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Run a suite, or what is left of it, into a directory.

    Args:
        suite_name: a suite's name, the path of a TOML file, or a Suite.
        selection: what to narrow or replace. out: the run directory, ``results/runs/<suite>`` by default.
        plugins: files or modules to load first. fresh: forget the directory's rows. threads: of torch, all cores by default.

    Raises:
        XbenchError: anything the user can mend; whole units that were done before stay.
    """
    selection, progress = selection or Selection(), progress or Silent()
    chosen = suite_name if isinstance(suite_name, Suite) else suite.load(suite.find(suite_name))
    store = Store(out or Path("results/runs") / chosen.name)
    plugin_files = {name: _plugin_digest(name) for name in plugins}
    asked = {"suite": chosen.model_dump(), "selection": dataclasses.asdict(selection), "plugins": plugin_files}
    request = json.loads(json.dumps(asked))  # as the manifest gives it back
    with store.lock():
        if fresh:
            store.clear()
        manifest = store.manifest()
        if manifest.get("complete") and manifest.get("request") == request and manifests.inputs_unchanged(manifest):
            return Outcome(store.folder, manifests.selected(store.rows(), manifest), manifest, 0)
        return _run(chosen, selection, request, plugins, store, manifest, threads, progress)


def _run(
    chosen: Suite,
    selection: Selection,
    request: dict[str, Any],
    plugins: Sequence[str],
    store: Store,
    old: dict[str, Any],
    threads: int | None,
    progress: Progress,
) -> Outcome:
    loaded = [registry.load(plugin) for plugin in plugins]
    plan = suite.plan(chosen, selection, registry)

    import torch

    from xbench.engines import local

    torch.set_num_threads(threads or os.cpu_count() or 1)
    scenes = _open(plan)
    expected = {k for scene, planned in scenes for k in _cache_keys(scene, planned, plan)}
    units = _missing(scenes, plan, expected - store.cache_keys())
    manifest = manifests.describe(plan, scenes, request, old, loaded)
    store.write_manifest(manifest | {"complete": False})
    computed, total = 0, sum(len(u.items) * len(u.cells) for u in units)
    if units:
        progress.start(f"{chosen.name}: {total} values in {len(units)} units", len(units))
        for done, (unit, rows, gallery) in enumerate(local.execute(units, progress.advance), 1):
            store.write_part(unit.id, rows, gallery)
            computed += len(rows)
            progress.finish_unit(done, len(units))
    merged = store.compact(expected)
    manifest["class_names"] = manifests.class_names(merged, scenes, old)
    manifest["complete"] = True
    store.write_manifest(manifest)
    return Outcome(store.folder, manifests.selected(merged, manifest), manifest, computed)


# -- planning --------------------------------------------------------------------------------------------------------------


def _plugin_digest(name: str) -> str:
    path = Path(name)
    if path.suffix == ".py":
        if not path.is_file():
            raise XbenchError(f"plug-in file {name} does not exist; give the path of a .py file or a module name")
        return keys.file_digest(path)
    return "module"


def _open(plan: Plan) -> list[tuple[Scene, PlannedTrack]]:
    """Load models and datasets, check that their classes agree, and prepare every key."""
    from xbench.runner import Scene

    scenes = []
    datasets = {planned.dataset.name: planned.dataset() for planned in plan.tracks}
    for bound in plan.models:
        model = bound()
        for planned in plan.tracks:
            dataset, track, size = datasets[planned.dataset.name], planned.track, planned.batch_size
            if not dataset.classes.same_as(model.classes):
                raise XbenchError(f"{planned.dataset.name} and {bound.name} have different classes; choose a model for its classes")
            protocol = {
                m.name: keys.protocol_key(planned.dataset, dataset.revision, track.target, track.only, track.view, m, keys.DTYPE)
                for m in planned.metrics
            }
            prefixes = {
                (method.name, metric.name): keys.digest(
                    keys.rules_digest(),
                    keys.libraries([method, metric, bound, planned.dataset]) | keys.core_libraries(),
                    [(b.plugin.id, b.all_params, keys.source_digest(b)) for b in (method, metric, bound, planned.dataset)],
                    protocol[metric.name],
                    model.digest,
                    size,
                    plan.suite.seed,
                )
                for method in plan.methods
                for metric in planned.metrics
            }
            scene = Scene(model, bound.name, dataset, planned.dataset, track, plan.suite.seed, size, protocol, prefixes)
            scenes.append((scene, planned))
    return scenes


def _cells(plan: Plan, planned: PlannedTrack) -> list[tuple[Method, Metric]]:
    return [(method, metric) for method in plan.methods for metric in planned.metrics]


def _cache_keys(scene: Scene, planned: PlannedTrack, plan: Plan) -> Iterator[str]:
    for item in scene.items(plan.limit):
        for method, metric in _cells(plan, planned):
            yield scene.cache_key(method.name, metric.name, item.id)


def _missing(scenes: list[tuple[Scene, PlannedTrack]], plan: Plan, missing: set[str]) -> list[Unit]:
    """The units that still have something to do, each with just the cells that are missing."""
    from xbench.runner import Unit

    units = []
    for scene, planned in scenes:
        items, block = scene.items(plan.limit), min(plan.suite.block, scene.batch_size)
        shown = frozenset(item.id for item in _spread(items, plan.suite.gallery))
        for start in range(0, len(items), block):
            part = tuple(items[start : start + block])
            cells = tuple(
                (method, metric)
                for method, metric in _cells(plan, planned)
                if any(scene.cache_key(method.name, metric.name, item.id) in missing for item in part)
            )
            if cells:
                id = keys.digest(scene.model_name, scene.bound.name, [i.id for i in part], [(a.name, b.name) for a, b in cells])
                units.append(Unit(id, scene, part, cells, shown))
    return units


def _spread(items: list[Item], count: int) -> list[Item]:
    """count items at equal distances."""
    return [items[i * len(items) // count] for i in range(count)] if len(items) > count else items


# -- reading results -------------------------------------------------------------------------------------------------------


def reference(name: str) -> tuple[pd.DataFrame, dict[str, Any]] | None:
    """Rows and manifest of the committed results of a suite, or None."""
    folder = Path(str(resources.files("xbench.results"))) / name
    store = Store(folder)
    manifest = store.manifest() if folder.is_dir() else {}
    return (store.rows(), manifest) if manifest else None


def read(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows and manifest of a run directory, complete or not.

    Raises:
        XbenchError: it is not one.
    """
    store = Store(folder)
    manifest = store.manifest()
    if not manifest:
        raise XbenchError(
            f"{folder} is not a run directory (it has no manifest.json); make one with: xbench run quick --out {folder}"
        )
    return store.rows(), manifest


def read_all(folders: Sequence[Path]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Several run directories as one: of rows of equal identity the last directory's count."""
    found = [read(folder) for folder in folders]
    manifests = [manifest for _, manifest in found]
    merged: dict[str, Any] = {**manifests[-1], "complete": all(m.get("complete", True) for m in manifests)}
    for name in ("columns", "methods", "models", "datasets", "class_names"):
        merged[name] = {key: value for m in manifests for key, value in m.get(name, {}).items()}
    together = pd.concat([rows for rows, _ in found], ignore_index=True).drop_duplicates(IDENTITY, keep="last")
    return together.sort_values(IDENTITY).reset_index(drop=True), merged


def publish(outcome: Outcome, folder: Path) -> None:
    """Write what the repository keeps of a run: rows and tables without timings, a manifest without this machine's paths."""
    drop = ("inputs", "machine", "request", "wanted")
    manifest = {k: v for k, v in outcome.manifest.items() if k not in drop}
    store = Store(folder)
    store.make()
    order = outcome.rows.sort_values(IDENTITY).assign(seconds=float("nan")).reset_index(drop=True)
    store.write_rows(order)
    store.write_manifest(manifest)
    board = leaderboard.build(order, manifest)
    texts = {"md": tables.to_markdown, "csv": tables.to_csv, "json": tables.to_json}
    for suffix, render in texts.items():
        write_text(folder / f"leaderboard.{suffix}", render(board, seconds=False))
