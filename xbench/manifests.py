"""The manifest of a run: what readers need beside the rows, and what tells whether a finished run still stands."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from xbench import importing, keys
from xbench.errors import XbenchError
from xbench.plugins import Bound
from xbench.sources import Closure
from xbench.suite import Plan, PlannedTrack

if TYPE_CHECKING:
    from xbench.data import Item
    from xbench.units import Scene

    Block = tuple[Scene, PlannedTrack, tuple[Item, ...]]

# What every manifest describes by name, and what it must say of each.
DESCRIBED: dict[str, tuple[str, ...]] = {
    "columns": ("dataset", "metric", "direction", "chance", "protocol"),
    "methods": ("control",),
    "models": (),
    "datasets": (),
}
GONE = [-1, 0, ""]  # the stamp of a file that is never as it was


def describe(
    plan: Plan,
    scenes: list[tuple[Scene, PlannedTrack]],
    blocks: list[Block],
    request: dict[str, Any],
    old: dict[str, Any],
    loaded: list[Path],
) -> dict[str, Any]:
    """All that readers need beside the rows, and all that tells whether a finished run still stands. blocks: of items, planned."""
    bounds: list[Bound] = [*plan.methods, *plan.models]
    columns: dict[str, Any] = {}
    closures: list[Closure] = []
    files = {*keys.rule_files(), *loaded}
    for scene, planned in scenes:
        bounds += [planned.dataset, *planned.metrics]
        files |= {*scene.model.files, *scene.dataset.files}
        closures.append(scene.closure)
        for metric in planned.metrics:
            info, track = metric.info, planned.track
            only = f", only items with {track.only}" if track.only else ""
            only += f", {plan.dtype}" if plan.dtype != "float32" else ""
            columns[scene.protocols[metric.name]] = {
                "dataset": scene.bound.name,
                "metric": metric.name,
                "version": info.version,
                "direction": info.direction,
                "range": [None if abs(v) == float("inf") else v for v in metric.range],
                "chance": info.chance,
                "reduce": info.reduce,
                "group": info.group,
                "axes": list(info.axes),
                "cite": info.cite,
                "protocol": f"target {track.target}, view {track.view}, v{info.version}, {metric.spec}{only}",
            }
    of_plugins = {f"the {b.plugin.kind} {b.name}": keys.closure(b) for b in bounds}
    closures += of_plugins.values()
    files |= {path for closure in closures for path in closure.files} | {path for bound in bounds for path in keys.files(bound)}
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
    models = {
        s.model_name: {"digest": s.model.digest, "card": s.model.card, "cite": cites[s.model_name], "classes": len(s.model.classes)}
        for s, _ in scenes
    }
    datasets = {
        s.bound.name: {
            "revision": s.dataset.revision,
            "licence": s.bound.info.licence,
            "cite": s.bound.info.cite,
            "notes": list(dict.fromkeys(n for other, _ in scenes if other.bound.name == s.bound.name for n in other.dataset.notes)),
        }
        for s, _ in scenes
    }
    previous = {name: old.get(name, {}) for name in ("columns", "methods", "models", "datasets")}
    return {
        "format": 1,
        "xbench": xbench_version(),
        "suite": plan.suite.name,
        "suite_version": plan.suite.version,
        "title": plan.suite.title,
        "request": request,
        "wanted": {
            "columns": list(columns),
            "methods": [m.name for m in plan.methods],
            "models": [m.name for m in plan.models],
            # Under a limit or a shard the directory may hold rows of more items than were asked for.
            "items": {} if plan.limit is None and plan.shard is None else _items(blocks),
        },
        "columns": columns | {k: v for k, v in previous["columns"].items() if k not in columns},
        "methods": methods | {k: v for k, v in previous["methods"].items() if k not in methods},
        "datasets": datasets | {k: v for k, v in previous["datasets"].items() if k not in datasets},
        "models": models | {k: v for k, v in previous["models"].items() if k not in models},
        "batch_size": {scene.bound.name: scene.batch_size for scene, _ in scenes},
        "seed": plan.suite.seed,
        "dtype": plan.dtype,
        "device": plan.device,
        "unlisted": sorted(
            {f"the model {s.model_name}" for s, _ in scenes if not s.model.files}
            | {f"the dataset {s.bound.name}" for s, _ in scenes if not s.dataset.files and not s.dataset.generated}
            | {name for name, closure in of_plugins.items() if closure.cells}
            | {f"the model {s.model_name}" for s, _ in scenes if s.closure.cells}
        ),
        "inputs": {str(path.resolve()): _stamp(path) for path in sorted(files)},
        "modules": {name: place for closure in closures for name, place in sorted(closure.modules)},
        "libraries": keys.libraries(closures) | keys.core_libraries(),
        "machine": {"system": platform.platform(), "python": platform.python_version(), "processor": platform.machine()},
        "folder": str(Path.cwd()),
        "class_names": old.get("class_names", {}),
    }


def _items(blocks: list[Block]) -> dict[str, list[str]]:
    """Column -> ids of the items that were asked for, in order."""
    found: dict[str, dict[str, None]] = {}
    for scene, _, part in blocks:
        for key in scene.protocols.values():
            found.setdefault(key, {}).update(dict.fromkeys(item.id for item in part))
    return {key: list(items) for key, items in found.items()}


def class_names(rows: pd.DataFrame, scenes: list[tuple[Scene, PlannedTrack]], old: dict[str, Any]) -> dict[str, Any]:
    """Model -> class index -> name, of the classes that rows explain: what the report says beside a picture."""
    names = dict(old.get("class_names", {}))
    for scene, _ in scenes:
        targets = sorted(set(rows[rows["model"] == scene.model_name]["target"].dropna().astype(int)))
        names[scene.model_name] = {str(t): scene.model.classes.names[t] for t in targets}
    return names


def _stamp(path: Path) -> list[Any]:
    try:
        status = path.stat()
        return [status.st_size, status.st_mtime_ns, keys.file_digest(path)]
    except OSError:  # a picture that is gone, which its rows say: whoever runs again plans anew
        return GONE


def check(manifest: Mapping[str, Any], folder: Path) -> None:
    """Raises XbenchError where a manifest lacks what every reader needs."""
    lacking = [name for name in DESCRIBED if not isinstance(manifest.get(name), dict)]
    lacking += [name for name in ("suite",) if name not in manifest]
    if not lacking:
        for name, needed in DESCRIBED.items():
            lacking += [f"{name}: {key}: {k}" for key, its in manifest[name].items() for k in needed if k not in its]
    if lacking:
        raise XbenchError(f"{folder}/manifest.json is damaged (it lacks {lacking[0]}); delete it and run again")


def unlike(one: Mapping[str, Any], other: Mapping[str, Any], models: Iterable[str]) -> str:
    """Why rows of two manifests' runs make no table together: other seeds, or other weights of a model; empty where they do."""
    seeds = [{origin.get("seed") for origin in m.get("origins", [m])} for m in (one, other)]
    if not seeds[0] & seeds[1]:
        return f"seed {' and '.join(map(str, seeds[0]))}, not {' and '.join(map(str, seeds[1]))}"
    for model in sorted(models):
        digests = [m.get("models", {}).get(model, {}).get("digest") for m in (one, other)]
        if all(digests) and digests[0] != digests[1]:
            return f"other weights of {model}"
    return ""


def changed_input(manifest: Mapping[str, Any]) -> str:
    """An input that is not as it was (same size and time, or else same bytes; same library versions); empty if there is none.

    It tells nothing of ``unlisted``, the models and datasets that name no files: whoever runs again opens them, and sees.
    """
    if elsewhere := _elsewhere(manifest):
        return elsewhere
    for name, (size, modified, sha256) in manifest["inputs"].items():
        path = Path(name)
        if not path.is_file():
            return f"{name} is gone"
        if path.stat().st_size != size or (path.stat().st_mtime_ns != modified and keys.file_digest(path) != sha256):
            return f"{name} has changed"
    for name, version in manifest["libraries"].items():
        try:
            if (now := keys.version(name)) != version:
                return f"{name} is {now}, not {version}"
        except importlib.metadata.PackageNotFoundError:
            return f"{name} is not installed"
    return ""


def _elsewhere(manifest: Mapping[str, Any]) -> str:
    """Whether its files are others than those at hand, for it was run in another folder or by another xbench; empty if not."""
    if (folder := manifest.get("folder", "another folder")) != str(Path.cwd()):  # relative paths in specs may lead elsewhere
        return f"it was run in {folder}"
    for name, place in manifest.get("modules", {}).items():  # PYTHONPATH may lead elsewhere
        if (found := importing.places(name)) and place not in found:
            return f"the module {name} is {found[0]}, not {place}"
    others = [path for path in keys.rule_files() if str(path.resolve()) not in manifest["inputs"]]
    return f"it was run by another xbench than that in {others[0].parent}" if others else ""


def selected(rows: pd.DataFrame, manifest: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of the last request; the directory may hold more."""
    wanted = manifest["wanted"]
    mine = (
        rows["protocol_key"].isin(wanted["columns"]) & rows["method"].isin(wanted["methods"]) & rows["model"].isin(wanted["models"])
    )
    for column, items in wanted["items"].items():
        mine &= (rows["protocol_key"] != column) | rows["item"].isin(items)
    return rows[mine].reset_index(drop=True)


def xbench_version() -> str:
    """The version at hand, or ``unknown``."""
    try:
        return keys.version("xbench-xai")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
