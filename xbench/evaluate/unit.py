"""One work unit: a block of items of one dataset on one model, with all methods and metrics inside.

images -> maps -> values -> rows. Clean, baseline and blurred responses, features and gradients are computed once for all.
Pictures that cannot be read become rows that say so, and count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from xbench.data.geometry import View
from xbench.data.samples import Batch, Item, Sample, Score, Truth
from xbench.errors import BrokenSample, NotApplicable, XbenchError
from xbench.evaluate import reexplaining, scoring
from xbench.maps import saliency
from xbench.maps.saliency import Attribution, SaliencyMap
from xbench.network.model import Cost, ModelView
from xbench.plan.units import Explained, Result, Scene, Unit
from xbench.plugins import reductions
from xbench.plugins.declarations import Method, Metric
from xbench.store.gallery import Key
from xbench.store.maps import Facts, StoredMethod

GALLERY_PIXELS = 224  # longest side of what the report's gallery keeps


def run_unit(unit: Unit, progress: Callable[[int], None] | None = None) -> Result:
    """Explain and score a unit. Bit-equal whatever the unit's other items, methods and metrics.

    Raises:
        XbenchError: a method or metric breaks its contract or fails; the message names it.
    """
    unit, samples, broken = _readable(unit)
    rows = [_row(unit.scene, item, *cell, broken=why) for item, why in broken for cell in unit.cells]
    if not samples:
        return Result(rows, {})
    done = _run(unit, samples, progress)
    return dataclasses.replace(done, rows=rows + done.rows)


def list_unit(unit: Unit) -> list[dict[str, Any]]:
    """What a unit explains: per readable item its target and the window of its picture that the model sees, in pixels."""
    unit, samples, _ = _readable(unit)
    if not samples:
        return []
    batch, _ = _batch(unit, samples, ModelView(unit.scene.model))
    found = []
    for item, sample in zip(batch.items, samples, strict=True):
        seen = _view(unit.scene, sample)
        found.append(
            {
                "model": unit.scene.model_name,
                "dataset": unit.scene.bound.name,
                "item": item.id,
                "sample": item.sample,
                "target": item.target,
                "class": unit.scene.model.classes.names[item.target or 0],
                **{name: getattr(seen, name) for name in ("left", "top", "width", "height")},
                "input_height": seen.size[0],
                "input_width": seen.size[1],
            }
        )
    return found


def _readable(unit: Unit) -> tuple[Unit, list[Sample], list[tuple[Item, str]]]:
    """The unit with the items whose samples can be read, these samples, and why the others cannot."""
    loaded = [(item, _load(unit.scene, item)) for item in unit.items]
    good = [(item, found) for item, found in loaded if isinstance(found, Sample)]
    broken = [(item, str(found)) for item, found in loaded if isinstance(found, BrokenSample)]
    return dataclasses.replace(unit, items=tuple(item for item, _ in good)), [sample for _, sample in good], broken


def _load(scene: Scene, item: Item) -> Sample | BrokenSample:
    try:
        return scene.dataset.load(item.sample)
    except BrokenSample as error:
        return error
    except XbenchError:
        raise
    except Exception as error:
        raise XbenchError(f"{scene.bound.name}: sample {item.sample} failed: {type(error).__name__}: {error}") from error


def _batch(unit: Unit, samples: list[Sample], view: ModelView) -> tuple[Batch, Tensor]:
    """(the unit's items with their inputs and targets, padded to the batch shape; the predicted classes ``[B]``)."""
    scene, count = unit.scene, len(unit.items)
    inputs = _inputs(scene, samples)
    padded = torch.cat([inputs, inputs[-1:].expand(scene.batch_size - count, -1, -1, -1)])
    padded = padded.contiguous(memory_format=scene.model.memory_format)
    unknown = torch.zeros(scene.batch_size, dtype=torch.int64, device=padded.device)
    batch = Batch(padded, unknown, unit.items, seed=str(scene.seed))
    predicted = _logits(scene, view, batch).argmax(dim=1)
    targets = _targets(scene, unit.items, predicted)
    items = tuple(dataclasses.replace(i, target=int(t)) for i, t in zip(unit.items, targets, strict=False))
    return dataclasses.replace(batch, targets=targets, items=items), predicted


def _run(unit: Unit, samples: list[Sample], progress: Callable[[int], None] | None) -> Result:
    scene, view = unit.scene, ModelView(unit.scene.model, progress)
    batch, predicted = _batch(unit, samples, view)
    items, targets = batch.items, batch.targets
    confidences = view.logits(batch).softmax(dim=1).gather(1, targets[:, None])[:, 0]
    truths = {frame: [_truth(scene, s, int(t), frame) for s, t in zip(samples, targets, strict=False)] for frame in _frames(unit)}

    methods = list(dict.fromkeys(method for method, _ in unit.cells))
    explained = {method: _explain(method, view, batch, truths["input"], scene) for method in methods}
    scores = scoring.score_all(unit, explained, truths, view.prober(batch))
    scores |= reexplaining.score_all(unit, explained, view, batch, lambda method, view, batch: _ask(method, view, batch, scene))

    rows = []
    for i, (item, sample) in enumerate(zip(items, samples, strict=True)):
        quality = {
            "correct": _correct(int(predicted[i]), sample),
            "confidence": float(confidences[i]),
            "sources_correct": _sources_correct(scene, sample),
        }
        for method, metric in unit.cells:
            score = scores[method, metric][i]
            if "truth" in method.needs and not score.not_applicable and (why := scoring.unusable(truths["input"][i])):
                score = Score(not_applicable=why)
            if scene.track.only == "sources_correct" and not quality["sources_correct"]:
                score = Score(not_applicable="the model does not get all sources right")
            rows.append(_row(scene, item, method, metric, explained[method], score, i) | quality)
    native = {(m.name, item.id): f.native for m, e in explained.items() for item, f in zip(items, e.maps, strict=False) if f}
    facts = {(m.name, item.id): its for m, e in explained.items() for item, its in zip(items, e.facts, strict=False)}
    return Result(rows, _gallery(unit, samples, explained), native, facts)


def _inputs(scene: Scene, samples: Sequence[Sample]) -> Tensor:
    try:
        return scene.model.inputs([sample.image for sample in samples], scene.track.view)
    except RuntimeError as error:
        shapes = sorted({tuple(sample.image.shape[-2:]) for sample in samples})
        raise XbenchError(
            f"{scene.bound.name}: pictures of sizes {shapes} do not fit one batch under view {scene.track.view!r}; "
            "their dataset's size() and load() contradict each other"
        ) from error


def _logits(scene: Scene, view: ModelView, batch: Batch) -> Tensor:
    try:
        return view.logits(batch)
    except (RuntimeError, AssertionError, ValueError) as error:
        height, width = batch.size
        if batch.size == scene.model.preprocessing.size:
            raise XbenchError(f"model {scene.model_name} failed on {scene.bound.name}: {type(error).__name__}: {error}") from error
        raise XbenchError(
            f"model {scene.model_name} does not take pictures of {height} x {width}, which view {scene.track.view!r} gives it; "
            "use view 'crop' or 'squash'"
        ) from error


def _view(scene: Scene, sample: Sample) -> View:
    return scene.model.preprocessing.view(scene.track.view, sample.image.shape[-2], sample.image.shape[-1])


def _truth(scene: Scene, sample: Sample, target: int, frame: str) -> Truth:
    view = _view(scene, sample)
    return (view if frame == "input" else view.window).truth(sample, target)


def _frames(unit: Unit) -> list[str]:
    return sorted({"input", *(metric.info.frame for _, metric in unit.cells)})


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
    return torch.tensor(targets + targets[-1:] * (scene.batch_size - len(targets)), device=scene.model.device)


def _explain(method: Method, view: ModelView, batch: Batch, truths: list[Truth], scene: Scene) -> Explained:
    available = scene.model.capabilities | ({"truth"} if "mask" in scene.bound.info.provides else set())
    lacking = sorted(method.needs - available)
    if lacking:
        of = scene.bound.name if lacking == ["truth"] else scene.model_name
        return Explained(not_applicable=f"needs {' and '.join(lacking)}, which {of} does not have")
    stored = _stored(method, batch, scene)
    if stored is not None:
        return stored
    batch = batch.seeded(method.name)
    if "truth" in method.needs:
        nothing = torch.zeros(batch.size, dtype=torch.bool)
        batch = dataclasses.replace(batch, truth=tuple(t if t.mask is not None else Truth(nothing) for t in truths))
    try:
        with view.account() as cost:
            found = _attribute(method, view, batch, scene)
    except NotApplicable as reason:
        return Explained(not_applicable=str(reason))
    count = len(batch.items)
    return Explained([_map(native, batch, i, scene) for i, native in enumerate(found.maps[:count])], _facts(found, cost, count))


def _facts(found: Attribution, cost: Cost, count: int) -> list[Facts]:
    """Of each item's map; the cost is that of all alike, unless the method says more."""
    passes = [(cost.forwards, cost.backwards)] * count if found.passes is None else found.passes[:count].tolist()
    residuals = found.residual[:count].tolist()
    return [Facts(there, back, cost.seconds, missing) for (there, back), missing in zip(passes, residuals, strict=True)]


def _ask(method: Method, view: ModelView, batch: Batch, scene: Scene) -> Tensor:
    """A method's maps of a batch, checked."""
    return _attribute(method, view, batch, scene).maps


def _attribute(method: Method, view: ModelView, batch: Batch, scene: Scene) -> Attribution:
    """A method's maps of a batch, checked, with what it says of them."""
    try:
        raw = method.attribute(view, batch)
    except XbenchError:
        raise
    except Exception as error:
        where = f"items {batch.items[0].id} to {batch.items[-1].id} of {scene.bound.name}"
        raise XbenchError(f"method {method.name} failed on {where}: {type(error).__name__}: {error}") from error
    return saliency.attributed(raw, len(batch), len(batch.items), batch.size, method.name)


def _map(native: Tensor, batch: Batch, i: int, scene: Scene) -> SaliencyMap:
    return SaliencyMap(native, batch.size, i, f"{scene.seed}/{batch.items[i].id}")


def _stored(method: Method, batch: Batch, scene: Scene) -> Explained | None:
    """Maps that exist already: somebody's own, or those of an earlier run where it has all of them."""
    if isinstance(method, StoredMethod):
        given = [method.map_of(scene.bound.name, item.id, batch.size) for item in batch.items]
        found = [None if g is None else _map(g, batch, i, scene) for i, g in enumerate(given)]
        return Explained(found, [Facts()] * len(found))
    if scene.maps is None:
        return None
    where, key = (scene.model_name, scene.bound.name, method.name), scene.map_keys[method.name]
    known = [scene.maps.get(*where, item.id, key) for item in batch.items]
    if not all(known):
        return None
    pairs = [k for k in known if k]
    return Explained([_map(native, batch, i, scene) for i, (native, _) in enumerate(pairs)], [facts for _, facts in pairs])


def _correct(predicted: int, sample: Sample) -> bool | None:
    """Whether a prediction is one of a picture's labels; None where its label is not known, or no class of the model."""
    return predicted in sample.labels if sample.labels and sample.labels[0] >= 0 else None


def _sources_correct(scene: Scene, sample: Sample) -> bool | None:
    """Whether the model classifies every source of a composed picture right; None where there are no sources, or the label of one
    is not known."""
    if not sample.sources or not all(source.labels and source.labels[0] >= 0 for source in sample.sources):
        return None
    for source in sample.sources:
        if source.id not in scene.sources:
            image = scene.model.inputs([source.image], "crop").expand(scene.batch_size, -1, -1, -1)
            with torch.inference_mode():
                logits = scene.model(image.contiguous(memory_format=scene.model.memory_format))
            scene.sources[source.id] = bool(_correct(int(logits[0].argmax()), source))
    return all(scene.sources[source.id] for source in sample.sources)


def _row(
    scene: Scene,
    item: Item,
    method: Method,
    metric: Metric,
    done: Explained | None = None,
    score: Score | None = None,
    i: int = 0,
    broken: str = "",
) -> dict[str, Any]:
    """One row; done, score and i are the method's maps, their score and the item's place, or ``broken`` says why there are none."""
    map_ = done.maps[i] if done and done.maps else None
    facts = done.facts[i] if map_ and done else Facts()
    value, vector, reason = (score.value, score.vector, score.not_applicable) if score else (float("nan"), None, broken)
    if score and not reason:
        known = np.isfinite(value) or (vector is not None and reductions.is_vector(metric.info.reduce))
        status = "ok" if known else "nan"
    else:
        status = "not_applicable" if score else "unreadable"
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
        "reason": reason or None,
        "value": value if status == "ok" else float("nan"),
        "vector": list(vector) if vector is not None else None,
        "constant": map_.constant if map_ else None,
        "tie_mass": map_.tie_mass if map_ else None,
        "grid": map_.grid if map_ else None,
        "residual": facts.residual,
        "correct": None,
        "confidence": None,
        "sources_correct": None,
        "forwards": facts.forwards,
        "backwards": facts.backwards,
        "seconds": facts.seconds / scene.batch_size,
    }


def _gallery(unit: Unit, samples: Sequence[Sample], explained: dict[Method, Explained]) -> dict[Key, np.ndarray]:
    """Pictures as the model sees them (uint8 [h, w, 3]) and maps (float16 in [-1, 1]) of the unit's chosen items, made small."""
    kept: dict[Key, np.ndarray] = {}
    for i, (item, sample) in enumerate(zip(unit.items, samples, strict=True)):
        if item.id not in unit.gallery:
            continue
        key = Key(unit.scene.model_name, unit.scene.bound.name, item.id)
        picture = _shrink(_view(unit.scene, sample).image(sample.image, unit.scene.model.preprocessing.interpolation).float())
        kept[key] = picture.round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
        for method, done in explained.items():
            kept_map = done.maps[i] if done.maps else None
            if kept_map and not kept_map.nan:
                map_ = _shrink(kept_map.native[None])[0]
                scaled = map_ / map_.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
                kept[key.of(method.name)] = scaled.half().contiguous().numpy()
    return kept


def _shrink(tensor: Tensor) -> Tensor:
    """``[C, h, w]`` averaged down to at most GALLERY_PIXELS."""
    size = (min(tensor.shape[-2], GALLERY_PIXELS), min(tensor.shape[-1], GALLERY_PIXELS))
    return functional.adaptive_avg_pool2d(tensor[None], size)[0]
