"""A few items of a run explained again, as the run's manifest says that it was made: pictures and maps for a closer look."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from xbench import host
from xbench.data.samples import Item
from xbench.errors import XbenchError
from xbench.evaluate.unit import run_unit
from xbench.plan import opening, suite
from xbench.plan.suite import Plan, Selection, Suite
from xbench.plan.units import Scene, Unit
from xbench.plugins import reductions
from xbench.plugins.registry import registry
from xbench.store.directory import Store
from xbench.store.gallery import Key
from xbench.store.manifests import Manifest
from xbench.store.maps import MapStore
from xbench.tables.panels import Column


@dataclass(frozen=True)
class Remade:
    """gallery: images and maps, as ``Store.gallery`` gives them. values: (method, item) -> the value made anew.

    keys: the same -> the cache key that its row would have here; see plan/keys.py.
    """

    gallery: dict[Key, np.ndarray] = field(default_factory=dict)
    values: dict[tuple[str, str], float] = field(default_factory=dict)
    keys: dict[tuple[str, str], str] = field(default_factory=dict)


@host.restored()
def explain(folder: Path, manifest: Manifest, model: str, column: Column, methods: Sequence[str], items: Collection[str]) -> Remade:
    """Explain some items of a run's column again, on the CPU and with the code at hand; maps that the run keeps are read.

    Raises:
        XbenchError: the run was merged of several, or it is of plug-ins, files or a protocol that are not at hand.
    """
    plan = _narrowed(_plan(manifest, methods), model, column)
    opened = opening.open_scenes(plan, MapStore(Store(folder).maps))
    scenes = [(scene, planned) for scene, planned in opened if column.key in scene.protocols.values()]
    if not scenes:
        raise XbenchError(f"{column.metric} on {column.dataset} has another protocol at hand than in {folder}")
    made = Remade()
    for scene, planned in scenes:
        cells = tuple((method, metric) for method in plan.methods for metric in planned.metrics)
        for part in _parts(scene, [item for item in scene.items(plan.limit) if item.id in items]):
            result = run_unit(Unit("", scene, part, cells, frozenset(items)))
            made.gallery.update(result.gallery)
            made.values.update({(row["method"], row["item"]): _value(row, column) for row in result.rows})
            made.keys.update({(row["method"], row["item"]): row["cache_key"] for row in result.rows})
    return made


def _value(row: Mapping[str, Any], column: Column) -> float:
    """A row's value, or the only entry of its vector where the column's figure is made of such."""
    vector: list[float] | None = row["vector"]
    if reductions.is_vector(column.reduce) and vector is not None and len(vector) == 1:
        return vector[0]
    return float(row["value"])


def _parts(scene: Scene, items: Sequence[Item]) -> Iterator[tuple[Item, ...]]:
    """Items whose pictures have one shape under the track's view, as many at once as a forward pass takes."""
    shapes: dict[tuple[int, int], list[Item]] = {}
    for item in items:
        view = scene.model.preprocessing.view(scene.track.view, *scene.dataset.size(item.sample))
        shapes.setdefault(view.size, []).append(item)
    for alike in shapes.values():
        for start in range(0, len(alike), scene.batch_size):
            yield tuple(alike[start : start + scene.batch_size])


def _plan(manifest: Manifest, methods: Sequence[str]) -> Plan:
    request = manifest.local.request if manifest.local else None
    if request is None:
        raise XbenchError("the run is merged of several or published, and keeps no request to repeat")
    for plugin in request.plugins:
        registry.load(plugin)
    try:
        chosen, selection = Suite.model_validate(request.suite), Selection(**request.selection)
    except (pydantic.ValidationError, TypeError) as error:
        raise XbenchError(f"the run's request is of another version of xbench ({manifest.xbench})") from error
    return suite.plan(chosen, dataclasses.replace(selection, methods=methods, device="cpu"), registry)


def _narrowed(plan: Plan, model: str, column: Column) -> Plan:
    """The plan for one model and column, so that nothing else is opened."""
    tracks = []
    for planned in plan.tracks:
        models = tuple(bound for bound in planned.models if bound.name == model)
        metrics = tuple(metric for metric in planned.metrics if metric.name == column.metric)
        if planned.dataset.name == column.dataset and models and metrics:
            tracks.append(dataclasses.replace(planned, models=models, metrics=metrics))
    if not tracks:
        raise XbenchError(f"the run's last request had no {column.metric} on {column.dataset} with {model}")
    return dataclasses.replace(plan, models=tracks[0].models, tracks=tuple(tracks))
