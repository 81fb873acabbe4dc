"""A run from request to rows: plan, find what is missing, execute it, keep it. Imports nothing heavy until work is left to do.

A finished run is recognised by its manifest alone: what was asked, and digests of every input (plug-in sources, the core's rooms,
weights, pictures) and versions of every library. Nothing is imported or loaded to tell.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from xbench import host
from xbench.errors import XbenchError
from xbench.plan import keys, recording, suite
from xbench.plan.suite import Plan, Selection, Suite
from xbench.plugins.registry import registry
from xbench.progress import Progress, Silent
from xbench.store import manifests
from xbench.store.directory import Store, plain
from xbench.store.manifests import Asked, Manifest

if TYPE_CHECKING:
    from xbench.plan.units import Result, Unit
    from xbench.store.maps import MapStore


@dataclass(frozen=True)
class _Spread:
    """Over how many processes, and what these need to open the same plan."""

    workers: int
    suite: Suite
    selection: Selection
    plugins: Sequence[str]


@dataclass(frozen=True)
class Outcome:
    """A finished run. rows: those of this request, strings as strings. computed: how many rows were computed just now."""

    folder: Path
    rows: pd.DataFrame
    manifest: Manifest
    computed: int

    def nan_methods(self) -> dict[str, tuple[int, int]]:
        """Methods with NaN values: how many of their values, of how many."""
        bad = self.rows[self.rows["status"] == "nan"]
        return {str(m): (len(g), int((self.rows["method"] == m).sum())) for m, g in bad.groupby("method", observed=True)}

    def check_finite(self) -> None:
        """Raises XbenchError where a method has NaN values."""
        for name, (bad, of) in self.nan_methods().items():
            raise XbenchError(
                f"method {name} returned NaN or infinite maps: {bad} of {of} values are NaN and not ranked; mend the method"
            )


def run(
    suite_name: str | Suite = "quick",
    selection: Selection | None = None,
    *,
    out: Path | None = None,
    plugins: Sequence[str] = (),
    fresh: bool = False,
    save_maps: bool = False,
    tuned: bool = False,
    threads: int | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Outcome:
    """Run a suite, or what is left of it, into a directory.

    Args:
        suite_name: a suite's name, the path of a TOML file, or a Suite.
        selection: what to narrow or replace.
        out: the run directory, ``results/runs/<suite>`` by default, of a shard ``results/runs/<suite>-<i>of<n>``, of another seed
            than the suite's ``results/runs/<suite>-seed<s>``.
        plugins: files or modules to load first.
        fresh: forget the directory's rows.
        save_maps: keep every map, too.
        tuned: choose the batch size by measurement, or as the directory's last run did; see network/batching.py.
        threads: of torch, all cores by default.
        workers: processes that share the units and the threads, each with its own models.
        progress: what is told of the run; nothing by default.

    Raises:
        XbenchError: anything the user can mend; whole units that were done before stay.
    """
    selection, progress = selection or Selection(), progress or Silent()
    chosen = suite_name if isinstance(suite_name, Suite) else suite.load(suite.find(suite_name))
    store = Store(out or _default_folder(chosen, selection))
    with store.lock():
        if fresh:
            store.clear()
        manifest = store.manifest()
        _check_seed(store, manifest, chosen.seed if selection.seed is None else selection.seed)
        if tuned:
            size = _recorded_size(manifest) or _measured_size(chosen, selection, plugins, threads, workers)
            selection = dataclasses.replace(selection, batch_size=size)
            chosen = chosen.model_copy(update={"block": size})  # pictures that only pad a batch would cost what was gained
        request = _request(chosen, selection, plugins, {"save_maps": save_maps})
        if manifest and _finished(manifest, request):
            return Outcome(store.folder, plain(manifests.selected(store.rows(), manifest)), manifest, 0)
        loaded = [registry.load(plugin) for plugin in plugins]
        plan = suite.plan(chosen, selection, registry)
        return _run(
            plan, request, store, manifest, loaded, save_maps, threads, progress, _Spread(workers, chosen, selection, plugins)
        )


def score(
    maps: Path,
    name: str,
    suite_name: str | Suite = "quick",
    selection: Selection | None = None,
    *,
    out: Path | None = None,
    plugins: Sequence[str] = (),
    threads: int | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Score maps that were made elsewhere under a suite's protocol, as a method called ``name``. See store/maps.py.

    The outcome has all rows of the directory, so that the maps stand beside what was run there before.

    Raises:
        XbenchError: the name is a method's, no map is for an item of the suite, or a map does not fit the model's input.
    """
    from xbench.store.maps import GivenMaps, StoredMethod

    selection, progress = selection or Selection(), progress or Silent()
    chosen = suite_name if isinstance(suite_name, Suite) else suite.load(suite.find(suite_name))
    loaded = [registry.load(plugin) for plugin in plugins]
    if name in registry.ids("method"):
        raise XbenchError(f"{name!r} is a method's own name; choose another --name for the maps")
    method = StoredMethod(name, GivenMaps(maps))
    store = Store(out or _default_folder(chosen, selection))
    request = _request(chosen, selection, plugins, {"maps": method.all_params["maps"], "name": name})
    with store.lock():
        _check_seed(store, store.manifest(), chosen.seed)
        plan = dataclasses.replace(suite.plan(chosen, selection, registry), methods=(method,))
        done = _run(plan, request, store, store.manifest(), loaded, False, threads, progress)
    return dataclasses.replace(done, rows=plain(store.rows()))


def items(suite_name: str | Suite, selection: Selection | None = None, *, plugins: Sequence[str] = ()) -> pd.DataFrame:
    """What a suite explains, one row per item: its target class, and the window of its picture that becomes the model's input.

    For maps of one's own: explain these classes, on these windows resized to these input sizes.
    """
    chosen = suite_name if isinstance(suite_name, Suite) else suite.load(suite.find(suite_name))
    for plugin in plugins:
        registry.load(plugin)
    plan = suite.plan(chosen, selection or Selection(), registry)

    from xbench.evaluate.unit import list_unit
    from xbench.plan import opening
    from xbench.plan.units import Unit

    with host.restored():
        blocks = opening.blocks(opening.open_scenes(plan), plan)
        return pd.DataFrame([row for scene, _, part in blocks for row in list_unit(Unit("", scene, part, ()))])


def check_device(device: str) -> None:
    """Raises XbenchError where nothing can be computed on a device."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0].rstrip(".")
        raise XbenchError(f"cannot compute on {device}: {why}; choose another --device") from error


def _default_folder(chosen: Suite, selection: Selection) -> Path:
    part = f"-seed{selection.seed}" if selection.seed not in (None, chosen.seed) else ""
    part += f"-{selection.shard[0]}of{selection.shard[1]}" if selection.shard else ""
    return Path("results/runs") / f"{chosen.name}{part}"


def _finished(manifest: Manifest, request: Asked) -> bool:
    """Whether a directory has all rows of a request, computed by what is at hand, and says so of all that they depend on."""
    local = manifest.local
    done = manifest.complete and local is not None and local.request == request and not local.unlisted
    return done and not recording.changed_input(manifest)


def _check_seed(store: Store, manifest: Manifest | None, seed: int) -> None:
    """Raises XbenchError where a directory has rows of another seed: a table of both would be of neither."""
    if manifest and manifest.seed != seed:
        was = manifest.seed
        raise XbenchError(f"{store.folder} was run with seed {was}, not {seed}; choose another --out, or forget its rows: --fresh")


def _recorded_size(manifest: Manifest | None) -> int | None:
    """The batch size that the directory's last run was given."""
    asked = manifest.local.request if manifest and manifest.local else None
    size: int | None = asked.selection.get("batch_size") if asked else None
    return size


def _measured_size(chosen: Suite, selection: Selection, plugins: Sequence[str], threads: int | None, workers: int) -> int:
    import torch

    from xbench.network import batching

    for plugin in plugins:
        registry.load(plugin)
    with host.restored():
        torch.set_num_threads(max(1, (threads or os.cpu_count() or 1) // workers))
        plan = suite.plan(chosen, selection, registry)
        models = [dataclasses.replace(bound(), device=plan.device, dtype=plan.dtype) for bound in plan.models]
        return batching.best(models, plan.limit)


def _request(chosen: Suite, selection: Selection, plugins: Sequence[str], more: dict[str, Any]) -> Asked:
    """What was asked, as the manifest gives it back."""
    plugin_files = {name: _plugin_digest(name) for name in plugins}
    asked = {"suite": chosen.model_dump(), "selection": dataclasses.asdict(selection), "plugins": plugin_files, **more}
    return Asked.model_validate_json(json.dumps(asked))


@host.restored()
def _run(
    plan: Plan,
    request: Asked,
    store: Store,
    old: Manifest | None,
    loaded: list[Path],
    save_maps: bool,
    threads: int | None,
    progress: Progress,
    spread: _Spread | None = None,
) -> Outcome:
    import torch

    from xbench.plan import opening
    from xbench.run.engines import local, processes
    from xbench.store.maps import MapStore, StoredMethod

    threads = threads or os.cpu_count() or 1
    torch.set_num_threads(threads)
    check_device(plan.device)
    kept = MapStore(store.maps)
    scenes = opening.open_scenes(plan, kept)
    blocks = opening.blocks(scenes, plan)
    for method in plan.methods:
        if isinstance(method, StoredMethod):
            method.check({(scene.bound.name, item.id) for scene, _, part in blocks for item in part})
    expected = set(opening.cache_keys(blocks, plan))
    units = opening.units(blocks, plan, expected - store.cache_keys(), save_maps)
    manifest = recording.describe(plan, scenes, blocks, request, old, loaded)
    store.write_manifest(manifest)
    computed, total = 0, sum(len(u.items) * len(u.cells) for u in units)
    if units:
        sizes = "/".join(str(size) for size in sorted({scene.batch_size for scene, _ in scenes}))
        progress.start(f"{plan.suite.name}: {total} values in {len(units)} units, {sizes} pictures a pass", len(units))
        if spread and spread.workers > 1:
            each = max(1, threads // spread.workers)
            job = processes.Job(spread.suite, spread.selection, tuple(spread.plugins), store.maps, save_maps, each)
            results = processes.execute(units, scenes, job, spread.workers, progress.advance)
        else:
            results = local.execute(units, progress.advance)
        for done, (unit, result) in enumerate(results, 1):
            if save_maps:
                _save_maps(unit, result, kept)
            store.write_part(unit.id, result.rows, result.gallery)
            computed += len(result.rows)
            progress.finish_unit(done, len(units))
    merged = store.compact(expected)
    manifest = manifest.but(class_names=recording.class_names(merged, scenes, old), complete=True)
    store.write_manifest(manifest)
    return Outcome(store.folder, plain(manifests.selected(merged, manifest)), manifest, computed)


def _save_maps(unit: Unit, result: Result, kept: MapStore) -> None:
    """Keep a unit's maps, before its rows: rows mark it as done."""
    scene = unit.scene
    for method in dict.fromkeys(name for name, _ in result.maps):
        maps = {item: map_ for (name, item), map_ in result.maps.items() if name == method}
        facts = {item: result.facts[method, item] for item in maps}
        kept.save(scene.model_name, scene.bound.name, method, unit.id, maps, scene.map_keys[method], facts)


def _plugin_digest(name: str) -> str:
    path = Path(name)
    if path.suffix == ".py":
        if not path.is_file():
            raise XbenchError(f"plug-in file {name} does not exist; give the path of a .py file or a module name")
        return keys.file_digest(path)
    return "module"
