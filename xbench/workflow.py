"""A run from request to rows: plan, find what is missing, execute it, keep it. Imports nothing heavy until work is left to do.

A finished run is recognised by its manifest alone: what was asked, and digests of every input (plug-in sources, rule modules,
weights, pictures) and versions of every library. Nothing is imported or loaded to tell.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from xbench import keys, leaderboard, suite
from xbench.errors import XbenchError
from xbench.registry import Bound, registry
from xbench.store import IDENTITY, Store
from xbench.suite import Plan, PlannedTrack, Selection, Suite

if TYPE_CHECKING:
    from xbench.runner import Scene, Unit

DTYPE = "float32"
# Libraries of the core that values depend on; those of plug-ins are found from their imports.
CORE_LIBRARIES = ("numpy", "pillow", "torch")


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
        if manifest.get("complete") and manifest.get("request") == request and _inputs_unchanged(manifest):
            return Outcome(store.folder, _selected(store.rows(), manifest), manifest, 0)
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
    manifest = _describe(plan, scenes, request, old, loaded)
    store.write_manifest(manifest | {"complete": False})
    computed, total = 0, sum(len(u.items) * len(u.cells) for u in units)
    if units:
        progress.start(f"{chosen.name}: {total} values in {len(units)} units", len(units))
        for done, (unit, rows, gallery) in enumerate(local.execute(units, progress.advance), 1):
            store.write_part(unit.id, rows, gallery)
            computed += len(rows)
            progress.finish_unit(done, len(units))
    merged = store.compact(expected)
    manifest["class_names"] = _class_names(merged, scenes, old)
    manifest["complete"] = True
    store.write_manifest(manifest)
    return Outcome(store.folder, _selected(merged, manifest), manifest, computed)


# -- planning --------------------------------------------------------------------------------------------------------------


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
                m.name: keys.protocol_key(planned.dataset, dataset.revision, track.target, track.only, track.view, m, DTYPE)
                for m in planned.metrics
            }
            prefixes = {
                (method.name, metric.name): keys.digest(
                    keys.rules_digest(),
                    keys.libraries([method, metric, bound, planned.dataset]) | _core_libraries(),
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


def _items(scene: Scene, plan: Plan) -> list[Any]:
    items = scene.dataset.items(scene.track.target)
    return items if plan.limit is None else items[: plan.limit]


def _cells(plan: Plan, planned: PlannedTrack) -> list[tuple[Any, Any]]:
    return [(method, metric) for method in plan.methods for metric in planned.metrics]


def _cache_keys(scene: Scene, planned: PlannedTrack, plan: Plan) -> Iterator[str]:
    for item in _items(scene, plan):
        for method, metric in _cells(plan, planned):
            yield scene.cache_key(method.name, metric.name, item.id)


def _missing(scenes: list[tuple[Scene, PlannedTrack]], plan: Plan, missing: set[str]) -> list[Unit]:
    """The units that still have something to do, each with just the cells that are missing."""
    from xbench.runner import Unit

    units = []
    for scene, planned in scenes:
        items, block = _items(scene, plan), min(plan.suite.block, scene.batch_size)
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


def _spread(items: list[Any], count: int) -> list[Any]:
    """count items at equal distances."""
    return [items[i * len(items) // count] for i in range(count)] if len(items) > count else items


# -- the manifest ----------------------------------------------------------------------------------------------------------


def _describe(
    plan: Plan, scenes: list[tuple[Scene, PlannedTrack]], request: dict[str, Any], old: dict[str, Any], loaded: list[Path]
) -> dict[str, Any]:
    """All that readers need beside the rows, and all that tells whether a finished run still stands."""
    bounds: list[Bound] = [*plan.methods, *plan.models]
    columns: dict[str, Any] = {}
    files = {*keys.rule_files(), *loaded}
    for scene, planned in scenes:
        bounds += [planned.dataset, *planned.metrics]
        files |= {*scene.model.files, *scene.dataset.files}
        for metric in planned.metrics:
            info, track = metric.info, planned.track
            only = f", only items with {track.only}" if track.only else ""
            columns[scene.protocols[metric.name]] = {
                "dataset": scene.bound.name,
                "metric": metric.name,
                "version": info.version,
                "direction": info.direction,
                "range": [None if abs(v) == float("inf") else v for v in info.range],
                "chance": info.chance,
                "reduce": info.reduce,
                "cite": info.cite,
                "protocol": f"target {track.target}, view {track.view}, v{info.version}, {metric.spec}{only}",
            }
    files |= {path for bound in bounds for path in keys.sources(bound)}
    methods = {
        m.name: {
            "control": m.info.control,
            "ceiling": "truth" in m.needs,
            "any_grid": m.info.grid == "any",
            "cite": m.info.cite,
            "summary": m.plugin.summary,
        }
        for m in plan.methods
    }
    cites = {bound.name: bound.info.cite for bound in plan.models}
    models = {s.model_name: {"digest": s.model.digest, "card": s.model.card, "cite": cites[s.model_name]} for s, _ in scenes}
    datasets = {
        s.bound.name: {"revision": s.dataset.revision, "licence": s.bound.info.licence, "cite": s.bound.info.cite}
        for s, _ in scenes
    }
    previous = {name: old.get(name, {}) for name in ("columns", "methods", "models", "datasets")}
    return {
        "format": 1,
        "xbench": _version(),
        "suite": plan.suite.name,
        "suite_version": plan.suite.version,
        "title": plan.suite.title,
        "request": request,
        "wanted": {
            "columns": list(columns),
            "methods": [m.name for m in plan.methods],
            "models": [m.name for m in plan.models],
            # Under a limit the directory may hold rows of more items than were asked for.
            "items": {} if plan.limit is None else {s.bound.name: [i.id for i in _items(s, plan)] for s, _ in scenes},
        },
        "columns": columns | {k: v for k, v in previous["columns"].items() if k not in columns},
        "methods": methods | {k: v for k, v in previous["methods"].items() if k not in methods},
        "datasets": datasets | {k: v for k, v in previous["datasets"].items() if k not in datasets},
        "models": models | {k: v for k, v in previous["models"].items() if k not in models},
        "batch_size": {scene.bound.name: scene.batch_size for scene, _ in scenes},
        "seed": plan.suite.seed,
        "dtype": DTYPE,
        "inputs": {str(path.resolve()): _stamp(path) for path in sorted(files)},
        "libraries": keys.libraries(bounds) | _core_libraries(),
        "machine": {"system": platform.platform(), "python": platform.python_version(), "processor": platform.machine()},
        "class_names": old.get("class_names", {}),
    }


def _class_names(rows: pd.DataFrame, scenes: list[tuple[Scene, PlannedTrack]], old: dict[str, Any]) -> dict[str, Any]:
    names = dict(old.get("class_names", {}))
    for scene, _ in scenes:
        targets = sorted(set(rows[rows["model"] == scene.model_name]["target"].dropna().astype(int)))
        names[scene.model_name] = {str(t): scene.model.classes.names[t] for t in targets}
    return names


def _stamp(path: Path) -> list[Any]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, keys.file_digest(path)]


def _inputs_unchanged(manifest: dict[str, Any]) -> bool:
    """Whether every input is as it was: same size and time, or else same bytes; same library versions."""
    for name, (size, modified, sha256) in manifest["inputs"].items():
        path = Path(name)
        if not path.is_file() or path.stat().st_size != size:
            return False
        if path.stat().st_mtime_ns != modified and keys.file_digest(path) != sha256:
            return False
    try:
        return all(keys.version(name) == version for name, version in manifest["libraries"].items())
    except importlib.metadata.PackageNotFoundError:
        return False


def _selected(rows: pd.DataFrame, manifest: dict[str, Any]) -> pd.DataFrame:
    """The rows of the last request; the directory may hold more."""
    wanted = manifest["wanted"]
    mine = (
        rows["protocol_key"].isin(wanted["columns"]) & rows["method"].isin(wanted["methods"]) & rows["model"].isin(wanted["models"])
    )
    for dataset, items in wanted["items"].items():
        mine &= (rows["dataset"] != dataset) | rows["item"].isin(items)
    return rows[mine].reset_index(drop=True)


def _plugin_digest(name: str) -> str:
    path = Path(name)
    if path.suffix == ".py":
        if not path.is_file():
            raise XbenchError(f"plug-in file {name} does not exist; give the path of a .py file or a module name")
        return keys.file_digest(path)
    return "module"


def _core_libraries() -> dict[str, str]:
    return {name: keys.version(name) for name in CORE_LIBRARIES}


def _version() -> str:
    try:
        return keys.version("xbench-xai")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


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
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(folder)
    order = outcome.rows.sort_values(IDENTITY).assign(seconds=float("nan")).reset_index(drop=True)
    store.write_rows(order)
    store.write_manifest(manifest)
    board = leaderboard.build(order, manifest)
    texts = {"md": leaderboard.to_markdown, "csv": leaderboard.to_csv, "json": leaderboard.to_json}
    for suffix, render in texts.items():
        (folder / f"leaderboard.{suffix}").write_text(render(board, seconds=False), encoding="utf-8")
