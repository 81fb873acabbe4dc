"""What makes a run's manifest of its plan, and tells whether what a manifest names is still at hand."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pandas as pd

from xbench.plan import keys
from xbench.plan.suite import Plan, PlannedTrack
from xbench.plugins import importing
from xbench.plugins.declarations import Bound
from xbench.plugins.sources import Closure
from xbench.store.manifests import GONE, AboutColumn, AboutDataset, AboutMethod, AboutModel, Asked, Local, Manifest, Stamp, Wanted

if TYPE_CHECKING:
    from xbench.data.samples import Item
    from xbench.plan.units import Scene

    Block = tuple[Scene, PlannedTrack, tuple[Item, ...]]

About = TypeVar("About")


def describe(
    plan: Plan,
    scenes: list[tuple[Scene, PlannedTrack]],
    blocks: list[Block],
    request: Asked,
    old: Manifest | None,
    loaded: list[Path],
) -> Manifest:
    """The manifest of a run that begins. blocks: of items, planned. old: of what the directory held before."""
    bounds: list[Bound] = [*plan.methods, *plan.models]
    columns: dict[str, AboutColumn] = {}
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
            low, high = (None if abs(v) == float("inf") else v for v in metric.range)
            columns[scene.protocols[metric.name]] = AboutColumn(
                dataset=scene.bound.name,
                metric=metric.name,
                version=info.version,
                direction=info.direction,
                range=(low, high),
                chance=info.chance,
                reduce=info.reduce,
                group=info.group,
                axes=tuple(info.axes),
                cite=info.cite,
                protocol=f"target {track.target}, view {track.view}, v{info.version}, {metric.spec}{only}",
            )
    of_plugins = {f"the {b.plugin.kind} {b.name}": keys.closure(b) for b in bounds}
    closures += of_plugins.values()
    files |= {path for closure in closures for path in closure.files} | {path for bound in bounds for path in keys.files(bound)}
    methods = {
        m.name: AboutMethod(
            control=m.info.control,
            ceiling="truth" in m.needs,
            any_grid=m.info.grid == "any",
            cite=m.info.cite,
            summary=m.plugin.summary,
        )
        for m in plan.methods
    }
    cites = {bound.name: bound.info.cite for bound in plan.models}
    models = {
        s.model_name: AboutModel(digest=s.model.digest, card=s.model.card, cite=cites[s.model_name], classes=len(s.model.classes))
        for s, _ in scenes
    }
    datasets = {
        s.bound.name: AboutDataset(
            revision=s.dataset.revision,
            licence=s.bound.info.licence,
            cite=s.bound.info.cite,
            notes=tuple(dict.fromkeys(n for other, _ in scenes if other.bound.name == s.bound.name for n in other.dataset.notes)),
        )
        for s, _ in scenes
    }
    wanted = Wanted(
        columns=list(columns),
        methods=[m.name for m in plan.methods],
        models=[m.name for m in plan.models],
        # Under a limit or a shard the directory may hold rows of more items than were asked for.
        items={} if plan.limit is None and plan.shard is None else _items(blocks),
    )
    local = Local(
        request=request,
        wanted=wanted,
        unlisted=sorted(
            {f"the model {s.model_name}" for s, _ in scenes if not s.model.files}
            | {f"the dataset {s.bound.name}" for s, _ in scenes if not s.dataset.files and not s.dataset.generated}
            | {name for name, closure in of_plugins.items() if closure.cells}
            | {f"the model {s.model_name}" for s, _ in scenes if s.closure.cells}
        ),
        inputs={str(path.resolve()): _stamp(path) for path in sorted(files)},
        modules={name: place for closure in closures for name, place in sorted(closure.modules)},
        machine={"system": platform.platform(), "python": platform.python_version(), "processor": platform.machine()},
        folder=str(Path.cwd()),
    )
    return Manifest(
        format=2,
        xbench=xbench_version(),
        suite=plan.suite.name,
        suite_version=plan.suite.version,
        title=plan.suite.title,
        columns=_with(columns, old.columns if old else {}),
        methods=_with(methods, old.methods if old else {}),
        datasets=_with(datasets, old.datasets if old else {}),
        models=_with(models, old.models if old else {}),
        batch_size={scene.bound.name: scene.batch_size for scene, _ in scenes},
        seed=plan.suite.seed,
        dtype=plan.dtype,
        device=plan.device,
        libraries=keys.libraries(closures) | keys.core_libraries(),
        class_names=old.class_names if old else {},
        complete=False,
        local=local,
    )


def _with(described: dict[str, About], before: Mapping[str, About]) -> dict[str, About]:
    """And after it what was described before, and is not now."""
    return described | {name: about for name, about in before.items() if name not in described}


def _items(blocks: list[Block]) -> dict[str, list[str]]:
    """Column -> ids of the items that were asked for, in order."""
    found: dict[str, dict[str, None]] = {}
    for scene, _, part in blocks:
        for key in scene.protocols.values():
            found.setdefault(key, {}).update(dict.fromkeys(item.id for item in part))
    return {key: list(items) for key, items in found.items()}


def class_names(rows: pd.DataFrame, scenes: list[tuple[Scene, PlannedTrack]], old: Manifest | None) -> dict[str, dict[str, str]]:
    """Model -> class index -> name, of the classes that rows explain: what the report says beside a picture."""
    names = dict(old.class_names) if old else {}
    for scene, _ in scenes:
        targets = sorted(set(rows[rows["model"] == scene.model_name]["target"].dropna().astype(int)))
        names[scene.model_name] = {str(t): scene.model.classes.names[t] for t in targets}
    return names


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
        return Stamp(status.st_size, status.st_mtime_ns, keys.file_digest(path))
    except OSError:  # a picture that is gone, which its rows say: whoever runs again plans anew
        return GONE


def changed_input(manifest: Manifest) -> str:
    """An input that is not as it was (same size and time, or else same bytes; same library versions); empty if there is none.

    It tells nothing of ``unlisted``, the models and datasets that name no files: whoever runs again opens them, and sees.
    """
    if manifest.local is None:
        return "it was submitted, and names no files"
    return _elsewhere(manifest.local) or _changed_file(manifest.local.inputs) or _changed_library(manifest.libraries)


def _elsewhere(local: Local) -> str:
    """Whether its files are others than those at hand, for it was run in another folder or by another xbench; empty if not."""
    if local.folder != str(Path.cwd()):  # relative paths in specs may lead elsewhere
        return f"it was run in {local.folder or 'another folder'}"
    for name, place in local.modules.items():  # PYTHONPATH may lead elsewhere
        if (found := importing.places(name)) and place not in found:
            return f"the module {name} is {found[0]}, not {place}"
    others = [path for path in keys.rule_files() if str(path.resolve()) not in local.inputs]
    return f"it was run by another xbench than that in {others[0].parent}" if others else ""


def _changed_file(inputs: Mapping[str, Stamp]) -> str:
    for name, stamp in inputs.items():
        path = Path(name)
        if not path.is_file():
            return f"{name} is gone"
        if path.stat().st_size != stamp.size or (
            path.stat().st_mtime_ns != stamp.modified and keys.file_digest(path) != stamp.sha256
        ):
            return f"{name} has changed"
    return ""


def _changed_library(libraries: Mapping[str, str]) -> str:
    for name, version in libraries.items():
        try:
            if (now := keys.version(name)) != version:
                return f"{name} is {now}, not {version}"
        except importlib.metadata.PackageNotFoundError:
            return f"{name} is not installed"
    return ""


def xbench_version() -> str:
    """The version at hand, or ``unknown``."""
    try:
        return keys.version("xbench-xai")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
