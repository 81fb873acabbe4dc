"""From a plan to work units: models and datasets are opened, keys made, items cut into blocks, and what is missing is found."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from xbench.data.samples import Dataset, Item, Relabelled, TargetPolicy
from xbench.errors import BrokenSample, XbenchError
from xbench.network.model import Model
from xbench.plan import keys
from xbench.plan.suite import Plan, PlannedTrack
from xbench.plan.units import Scene, Unit
from xbench.plugins import sources
from xbench.plugins.declarations import Bound, BoundDataset, BoundModel, Method, Metric
from xbench.plugins.sources import Closure
from xbench.store.maps import MapStore

_REMEDY = 'explain what the model predicts: target = "prediction"'
Block = tuple[Scene, PlannedTrack, tuple[Item, ...]]


def open_scenes(plan: Plan, maps: MapStore | None = None) -> list[tuple[Scene, PlannedTrack]]:
    """Load models and datasets, reconcile their classes, and prepare every key. maps: of earlier runs.

    Raises:
        XbenchError: a track's targets are labels, and its dataset has none, or none that the model has.
    """
    scenes = []
    described = functools.cache(_describe)
    datasets = {planned.dataset.name: planned.dataset() for planned in plan.tracks}
    for planned in plan.tracks:  # before models are opened, which takes longer
        dataset = datasets[planned.dataset.name]
        if dataset.entries() and not dataset.items(planned.track.target):
            raise XbenchError(f"{planned.dataset.name} has no labels to explain; {_REMEDY}")
    for bound in plan.models:
        model: Model = dataclasses.replace(bound().classifier(), device=plan.device, dtype=plan.dtype)
        for planned in (p for p in plan.tracks if bound.name in {m.name for m in p.models}):
            dataset = _fitting(datasets[planned.dataset.name], planned, model, bound)
            scenes.append((_scene(plan, bound, model, planned, dataset, maps, described), planned))
    return scenes


def blocks(scenes: list[tuple[Scene, PlannedTrack]], plan: Plan) -> list[Block]:
    """The items of all scenes, or of the plan's shard, in blocks of one input shape each."""
    found = []
    for scene, planned in scenes:
        size = min(plan.suite.block, scene.batch_size)
        for group in _by_shape(scene, scene.items(plan.limit)):
            found += [(scene, planned, tuple(group[start : start + size])) for start in range(0, len(group), size)]
    mine, of = plan.shard or (1, 1)
    return found[mine - 1 :: of]


def cache_keys(found: list[Block], plan: Plan) -> Iterator[str]:
    """The keys of all rows of some blocks."""
    for scene, planned, part in found:
        for item in part:
            for method, metric in _cells(plan, planned):
                yield scene.cache_key(method.name, metric.name, item.id)


def units(found: list[Block], plan: Plan, missing: set[str], save_maps: bool) -> list[Unit]:
    """The units that still have something to do, each with just the cells that are missing.

    missing: keys of rows that are. save_maps: cells whose maps are not kept yet are missing too.
    """
    made = []
    shown: dict[int, frozenset[str]] = {}
    for scene, planned, part in found:
        if id(scene) not in shown:
            shown[id(scene)] = frozenset(item.id for item in _spread(scene.items(plan.limit), plan.suite.gallery))
        unmapped = {m.name for m in plan.methods if save_maps and not _kept(scene, m, part)}
        cells = tuple(
            (method, metric)
            for method, metric in _cells(plan, planned)
            if method.name in unmapped or any(scene.cache_key(method.name, metric.name, item.id) in missing for item in part)
        )
        if cells:
            id_ = keys.digest(scene.model_name, scene.bound.name, [i.id for i in part], [(a.name, b.name) for a, b in cells])
            made.append(Unit(id_, scene, part, cells, shown[id(scene)]))
    return made


def _fitting(dataset: Dataset, planned: PlannedTrack, model: Model, of: BoundModel) -> Dataset:
    """The dataset, its labels translated into the model's classes. What has to be left out is told in its notes."""
    fitted, target = dataset, planned.track.target
    if not dataset.classes.same_as(model.classes):
        fitted = Relabelled(dataset, model.classes, dataset.classes.matches(model.classes))
    if fitted.entries() and not fitted.items(target):
        lacking = next((name for name in dataset.classes.names if name not in model.classes.names), dataset.classes.names[0])
        what = f"{planned.dataset.name} and {of.name} have different classes ({lacking!r}, for one)"
        raise XbenchError(f"{what}; choose a model for its classes, or {_REMEDY}")
    noted = copy.copy(fitted)
    noted.notes = (*fitted.notes, *_left_out(fitted, target, of.name))
    return noted


def _left_out(dataset: Dataset, target: TargetPolicy, model: str) -> Iterator[str]:
    """What the model cannot be asked about, with its number and an example each."""
    entries = dataset.entries()
    nameless = [e.id for e in entries if not e.labels]
    unknown = [e.id for e in entries if any(label < 0 for label in (e.labels if target == "present" else e.labels[:1]))]
    fate = "of which it is not known whether the model is right" if target == "prediction" else "left out"
    kinds = {"pictures without a label": nameless, f"pictures with a label that {model} does not have": unknown}
    for kind, ids in kinds.items():
        if ids:
            yield f"{kind}, {fate}: {len(ids):,} (first: {ids[0]})"


def _scene(
    plan: Plan,
    bound: BoundModel,
    model: Model,
    planned: PlannedTrack,
    dataset: Dataset,
    maps: MapStore | None,
    described: Callable[[Bound], Described],
) -> Scene:
    track, size = planned.track, planned.batch_size
    policies = (dataset.revision, track.target, track.only, track.view)
    protocols = {m.name: keys.protocol_key(planned.dataset, *policies, m, plan.dtype) for m in planned.metrics}
    brought = _brought(bound, model).union(_brought(planned.dataset, dataset))
    opened = (model.structure, keys.content_digest(model.files), keys.content_digest(dataset.files), _translation(dataset))
    run = (model.digest, size, plan.suite.seed, plan.device, keys.code_digest(brought), keys.libraries([brought]), *opened)

    def depends(*bounds: Bound) -> tuple[object, ...]:
        """Rules, libraries and plug-ins that a value depends on."""
        found = [described(b) for b in (*bounds, bound, planned.dataset)]
        libraries = keys.libraries(one.closure for one in found) | keys.core_libraries()
        return keys.rules_digest(), libraries, [one.said for one in found]

    prefixes = {
        (method.name, metric.name): keys.digest(*depends(method, metric), protocols[metric.name], *run)
        for method in plan.methods
        for metric in planned.metrics
    }
    map_keys = {m.name: keys.digest(*depends(m), *policies, plan.dtype, *run) for m in plan.methods}
    scene = Scene(model, bound.name, dataset, planned.dataset, track, plan.suite.seed, size, protocols, prefixes)
    return dataclasses.replace(scene, map_keys=map_keys, maps=maps, closure=brought)


@dataclass(frozen=True)
class Described:
    """What a plug-in has of keys. said: its id and parameters, digests of its closure and of the files that it reads."""

    said: tuple[str, Mapping[str, str], str, str]
    closure: Closure


def _describe(bound: Bound) -> Described:
    closure = keys.closure(bound)
    said = (bound.plugin.id, bound.all_params, keys.code_digest(closure), keys.content_digest(keys.files(bound)))
    return Described(said, closure)


def _brought(bound: BoundModel | BoundDataset, opened: Model | Dataset) -> Closure:
    """Code that an opened model or dataset brought, wherever its plug-in has it from: its classes, and functions that it keeps."""
    objects: list[object] = [opened]
    objects += opened.network.modules() if isinstance(opened, Model) else _inside(opened)
    objects += [] if isinstance(opened, Model) else itertools.islice(opened.entries(), 1)
    objects += [value for found in tuple(objects) for value in getattr(found, "__dict__", {}).values()]
    owner = bound.plugin.registered or bound.plugin.module
    return sources.of_objects(f"{bound.plugin.kind} {bound.name}", objects, owner)


def _inside(dataset: Dataset) -> Iterator[Dataset]:
    """The datasets that a dataset is made of, and those that these are made of."""
    for value in vars(dataset).values():
        several = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        for found in several:
            if isinstance(found, Dataset):
                yield found
                yield from _inside(found)


def _translation(dataset: Dataset) -> list[int | None]:
    """How labels became the model's classes; nothing where they are the same."""
    return list(dataset.translation) if isinstance(dataset, Relabelled) else []


def _cells(plan: Plan, planned: PlannedTrack) -> list[tuple[Method, Metric]]:
    return [(method, metric) for method in plan.methods for metric in planned.metrics]


def _by_shape(scene: Scene, items: list[Item]) -> list[list[Item]]:
    """Items whose pictures have one shape under the track's view, in groups; what cannot be read is a group of its own."""
    if scene.track.view in ("crop", "squash"):
        return [items]
    shapes: dict[str, tuple[int, int] | None] = {}
    groups: dict[tuple[int, int] | None, list[Item]] = {}
    for item in items:
        if item.sample not in shapes:
            try:
                size = scene.dataset.size(item.sample)
                shapes[item.sample] = scene.model.preprocessing.view(scene.track.view, *size).size
            except BrokenSample:
                shapes[item.sample] = None
        groups.setdefault(shapes[item.sample], []).append(item)
    return list(groups.values())


def _kept(scene: Scene, method: Method, part: tuple[Item, ...]) -> bool:
    if scene.maps is None:
        return False
    key = scene.map_keys[method.name]
    return all(scene.maps.get(scene.model_name, scene.bound.name, method.name, item.id, key) for item in part)


def _spread(items: list[Item], count: int) -> list[Item]:
    """count items at equal distances."""
    return [items[i * len(items) // count] for i in range(count)] if len(items) > count else items
