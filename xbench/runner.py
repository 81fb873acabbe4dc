"""One work unit: a block of items of one dataset on one model, with all methods and metrics inside.

images -> maps -> values -> rows. Clean, baseline and blurred responses, features and gradients are computed once for all.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from xbench import keys, maps
from xbench.data import Batch, Dataset, Item, Sample, Score, Truth
from xbench.errors import XbenchError
from xbench.geometry import View
from xbench.maps import SaliencyMap
from xbench.modelview import Cost, Model, ModelView
from xbench.plugins import BoundDataset, Method, Metric
from xbench.probing import Curve, Prober
from xbench.suite import Track

GALLERY_PIXELS = 224  # longest side of what the report's gallery keeps
LEAST_VISIBLE = 0.5  # of a target's truth; with less of it in the model's input, an item is not applicable


@dataclass
class Scene:
    """A track on a model, opened: what its units share. Nothing in it but caches changes."""

    model: Model
    model_name: str
    dataset: Dataset
    bound: BoundDataset
    track: Track
    seed: int
    batch_size: int
    protocols: dict[str, str]  # metric name -> protocol key
    prefixes: dict[tuple[str, str], str]  # (method, metric) -> what its cache keys begin with
    sources: dict[str, bool] = field(default_factory=dict)  # source picture -> the model gets it right

    def items(self, limit: int | None) -> list[Item]:
        """The track's items, or the first ones only."""
        return self.dataset.items(self.track.target)[:limit]

    def cache_key(self, method: str, metric: str, item: str) -> str:
        return hashlib.sha256(f"{self.prefixes[method, metric]}/{item}".encode()).hexdigest()[: keys.KEY_LENGTH]


@dataclass(frozen=True)
class Unit:
    """A block of items and the (method, metric) cells that are wanted of it. gallery: items whose maps are kept."""

    id: str
    scene: Scene
    items: tuple[Item, ...]
    cells: tuple[tuple[Method, Metric], ...]
    gallery: frozenset[str] = frozenset()


@dataclass
class Explained:
    """One method's maps of a unit, or why there are none."""

    maps: list[SaliencyMap] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    not_applicable: str = ""


def run_unit(unit: Unit, progress: Callable[[int], None] | None = None) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Explain and score a unit. -> (rows, gallery). Bit-equal whatever the unit's other items, methods and metrics.

    Raises:
        XbenchError: a method or metric breaks its contract or fails; the message names it.
    """
    scene, count = unit.scene, len(unit.items)
    samples = [scene.dataset.load(item.sample) for item in unit.items]
    inputs = _inputs(scene, samples)
    padded = torch.cat([inputs, inputs[-1:].expand(scene.batch_size - count, -1, -1, -1)])
    padded = padded.contiguous(memory_format=scene.model.memory_format)
    batch = Batch(padded, torch.zeros(scene.batch_size, dtype=torch.int64), unit.items, seed=str(scene.seed))

    view = ModelView(scene.model)
    predicted = view.logits(batch).argmax(dim=1)
    targets = _targets(scene, unit.items, predicted)
    confidences = view.logits(batch).softmax(dim=1).gather(1, targets[:, None])[:, 0]
    items = tuple(dataclasses.replace(i, target=int(t)) for i, t in zip(unit.items, targets, strict=False))
    batch = dataclasses.replace(batch, targets=targets, items=items)
    truths = [_view(scene, s).truth(s, int(t)) for s, t in zip(samples, targets, strict=False)]
    view.prober = Prober(scene.model.network, padded[:count], targets[:count], scene.batch_size, progress)

    methods = list(dict.fromkeys(method for method, _ in unit.cells))
    explained = {method: _explain(method, view, batch, truths, scene) for method in methods}
    scores = _score(unit, explained, truths, view.prober)

    rows = []
    for i, (item, sample) in enumerate(zip(items, samples, strict=True)):
        quality = {
            "correct": int(predicted[i]) in sample.labels,
            "confidence": float(confidences[i]),
            "sources_correct": _sources_correct(scene, sample),
        }
        for method, metric in unit.cells:
            score = scores[method, metric][i]
            if "truth" in method.needs and not score.not_applicable and (why := _unusable(truths[i])):
                score = Score(not_applicable=why)
            if scene.track.only == "sources_correct" and not quality["sources_correct"]:
                score = Score(not_applicable="the model does not get all sources right")
            rows.append(_row(scene, item, method, metric, explained[method], score, i) | quality)
    return rows, _gallery(unit, samples, explained)


def _inputs(scene: Scene, samples: Sequence[Sample]) -> Tensor:
    try:
        return scene.model.inputs([sample.image for sample in samples], scene.track.view)
    except RuntimeError as error:
        shapes = sorted({tuple(sample.image.shape[-2:]) for sample in samples})
        raise XbenchError(
            f"{scene.bound.name}: pictures of sizes {shapes} do not fit one batch under view {scene.track.view!r}; use view 'crop'"
        ) from error


def _view(scene: Scene, sample: Sample) -> View:
    return scene.model.preprocessing.view(scene.track.view, sample.image.shape[-2], sample.image.shape[-1])


def _targets(scene: Scene, items: Sequence[Item], predicted: Tensor) -> Tensor:
    """Targets by policy, padded by repeating the last. A class that the model does not have is an error."""
    classes = len(scene.model.classes)
    targets = [int(predicted[i]) if item.target is None else item.target for i, item in enumerate(items)]
    for item, target in zip(items, targets, strict=True):
        if not 0 <= target < classes:
            raise XbenchError(
                f"{scene.bound.name}: item {item.id} has class index {target}, but {scene.model_name} has classes 0 to "
                f"{classes - 1}; correct the label"
            )
    return torch.tensor(targets + targets[-1:] * (scene.batch_size - len(targets)))


def _explain(method: Method, view: ModelView, batch: Batch, truths: list[Truth], scene: Scene) -> Explained:
    available = scene.model.capabilities | ({"truth"} if "mask" in scene.bound.info.provides else set())
    lacking = sorted(method.needs - available)
    if lacking:
        of = scene.bound.name if lacking == ["truth"] else scene.model_name
        return Explained(not_applicable=f"needs {' and '.join(lacking)}, which {of} does not have")
    batch = batch.seeded(method.name)
    if "truth" in method.needs:
        nothing = torch.zeros(batch.size, dtype=torch.bool)
        batch = dataclasses.replace(batch, truth=tuple(t if t.mask is not None else Truth(nothing) for t in truths))
    try:
        with view.account() as cost:
            raw = method(view, batch)
    except XbenchError:
        raise
    except Exception as error:
        where = f"items {batch.items[0].id} to {batch.items[-1].id} of {scene.bound.name}"
        raise XbenchError(f"method {method.name} failed on {where}: {type(error).__name__}: {error}") from error
    valid = maps.validated(raw, len(batch), batch.size, method.name)
    found = [SaliencyMap(valid[i], batch.size, i, f"{scene.seed}/{item.id}") for i, item in enumerate(batch.items)]
    return Explained(found, cost)


def _score(
    unit: Unit, explained: dict[Method, Explained], truths: list[Truth], prober: Prober
) -> dict[tuple[Method, Metric], list[Score]]:
    """Scores of all items for every cell of the unit; NaN for NaN maps. The curves of all metrics are probed in one go."""
    scores = {cell: [Score(not_applicable=explained[cell[0]].not_applicable)] * len(truths) for cell in unit.cells}
    plans: dict[tuple[Method, Metric, int], list[Curve]] = {}
    judges = {}
    for metric in dict.fromkeys(metric for _, metric in unit.cells):
        methods = [m for m, other in unit.cells if other is metric and not explained[m].not_applicable]
        with _blame(metric, unit):
            if lacking := sorted(metric.info.needs - unit.scene.bound.info.provides):
                none = Score(not_applicable=f"needs {' and '.join(lacking)}, which {unit.scene.bound.name} does not have")
                scores |= {(m, metric): [none] * len(truths) for m in methods}
            elif metric.info.kind == "ground_truth":
                rows = [_compare(metric, [explained[m].maps[i] for m in methods], truth) for i, truth in enumerate(truths)]
                scores |= {(m, metric): [row[k] for row in rows] for k, m in enumerate(methods)}
            else:
                judges[metric] = metric()
                for method in methods:
                    for i, map_ in enumerate(explained[method].maps):
                        if not map_.nan:
                            plans[method, metric, i] = judges[metric].plan(map_)
    wanted = {curve: number for number, curve in enumerate(dict.fromkeys(c for curves in plans.values() for c in curves))}
    responses = prober.run(list(wanted))
    for (method, metric, i), curves in plans.items():
        with _blame(metric, unit):
            scores[method, metric][i] = judges[metric].score([responses[wanted[curve]] for curve in curves])
    return scores


def _compare(metric: Metric, found: list[SaliencyMap], truth: Truth) -> list[Score]:
    """One item's maps by several methods against its truth."""
    if metric.info.needs and (why := _unusable(truth)):
        return [Score(not_applicable=why)] * len(found)
    valid = [k for k, map_ in enumerate(found) if not map_.nan]
    scores = [Score() for _ in found]
    if valid:
        values = metric(torch.stack([found[k].full for k in valid]), truth)
        if not isinstance(values, Tensor) or values.shape != (len(valid),):
            raise XbenchError(f"metric {metric.name} must return one value per map, a tensor [{len(valid)}]")
        for k, value in zip(valid, values.tolist(), strict=True):
            scores[k] = Score(value)
    return scores


def _unusable(truth: Truth) -> str:
    """Why nothing can be compared with a truth; empty where something can."""
    if truth.mask is None:
        return "the explained class has no truth in this picture"
    return "" if truth.visible >= LEAST_VISIBLE else f"only {truth.visible:.0%} of the truth is visible to the model"


@contextmanager
def _blame(metric: Metric, unit: Unit) -> Iterator[None]:
    try:
        yield
    except XbenchError:
        raise
    except Exception as error:
        raise XbenchError(f"metric {metric.name} failed on {unit.scene.bound.name}: {type(error).__name__}: {error}") from error


def _sources_correct(scene: Scene, sample: Sample) -> bool | None:
    """Whether the model classifies every source of a composed picture right; None where there are no sources."""
    if not sample.sources:
        return None
    for source in sample.sources:
        if source.id not in scene.sources:
            image = scene.model.inputs([source.image], "crop").expand(scene.batch_size, -1, -1, -1)
            with torch.inference_mode():
                logits = scene.model.network(image.contiguous(memory_format=scene.model.memory_format))
            scene.sources[source.id] = int(logits[0].argmax()) in source.labels
    return all(scene.sources[source.id] for source in sample.sources)


def _row(scene: Scene, item: Item, method: Method, metric: Metric, done: Explained, score: Score, i: int) -> dict[str, Any]:
    map_ = done.maps[i] if done.maps else None
    status = "not_applicable" if score.not_applicable else "ok" if np.isfinite(score.value) else "nan"
    return {
        "cache_key": scene.cache_key(method.name, metric.name, item.id),
        "protocol_key": scene.protocols[metric.name],
        "method": method.name,
        "model": scene.model_name,
        "dataset": scene.bound.name,
        "metric": metric.name,
        "item": item.id,
        "cluster": item.cluster,
        "target": item.target,
        "target_policy": scene.track.target,
        "status": status,
        "reason": score.not_applicable or None,
        "value": score.value if status == "ok" else float("nan"),
        "vector": score.vector,
        "constant": map_.constant if map_ else None,
        "tie_mass": map_.tie_mass if map_ else None,
        "grid": map_.grid if map_ else None,
        "forwards": done.cost.forwards,
        "backwards": done.cost.backwards,
        "seconds": done.cost.seconds / scene.batch_size,
    }


def _gallery(unit: Unit, samples: Sequence[Sample], explained: dict[Method, Explained]) -> dict[str, np.ndarray]:
    """Pictures as the model sees them (uint8 [h, w, 3]) and maps (float16 in [-1, 1]) of the unit's chosen items, made small."""
    kept: dict[str, np.ndarray] = {}
    for i, (item, sample) in enumerate(zip(unit.items, samples, strict=True)):
        if item.id not in unit.gallery:
            continue
        prefix = f"{unit.scene.model_name}|{unit.scene.bound.name}|{item.id}"
        picture = _shrink(_view(unit.scene, sample).image(sample.image).float())
        kept[f"{prefix}|"] = picture.round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
        for method, done in explained.items():
            if done.maps and not done.maps[i].nan:
                map_ = _shrink(done.maps[i].native[None])[0]
                scaled = map_ / map_.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
                kept[f"{prefix}|{method.name}"] = scaled.half().contiguous().numpy()
    return kept


def _shrink(tensor: Tensor) -> Tensor:
    """``[C, h, w]`` averaged down to at most GALLERY_PIXELS."""
    size = (min(tensor.shape[-2], GALLERY_PIXELS), min(tensor.shape[-1], GALLERY_PIXELS))
    return functional.adaptive_avg_pool2d(tensor[None], size)[0]
