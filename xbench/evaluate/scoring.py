"""Maps to scores: against truth or by the model's responses (for those that explain again see reexplaining.py), and when not."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from xbench.data.geometry import NO_MASK
from xbench.data.samples import Score, Truth
from xbench.errors import NotApplicable, XbenchError
from xbench.maps.perturbation import Prober, Request
from xbench.maps.saliency import SaliencyMap
from xbench.plan.units import Explained, Unit
from xbench.plugins import reductions
from xbench.plugins.declarations import Method, Metric

NO_MAP = "there is no map of this item"
MOST_PIXELS = 2**26  # of maps that a metric gets at once: a 100-megapixel picture's maps come one by one
LEAST_VISIBLE = 0.5  # of a target's truth; with less of it in the model's input, an item is not applicable


def score_all(
    unit: Unit, explained: dict[Method, Explained], truths: dict[str, list[Truth]], prober: Prober
) -> dict[tuple[Method, Metric], list[Score]]:
    """Scores of all items for every cell of the unit but those that explain again; NaN for NaN maps.

    The curves of all metrics are probed in one go.
    """
    count = len(unit.items)
    scores = {cell: [Score(not_applicable=explained[cell[0]].not_applicable)] * count for cell in unit.cells}
    plans: dict[tuple[Method, Metric, int], list[Request]] = {}
    judges = {}
    for metric in dict.fromkeys(metric for _, metric in unit.cells):
        methods = [m for m, other in unit.cells if other is metric and not explained[m].not_applicable]
        with blame(metric, unit):
            if lacking := sorted(metric.info.needs - unit.scene.bound.info.provides):
                none = Score(not_applicable=f"needs {' and '.join(lacking)}, which {unit.scene.bound.name} does not have")
                scores |= {(m, metric): [none] * count for m in methods}
            elif metric.info.kind == "ground_truth":
                there = truths[metric.info.frame]
                rows = [_compare(metric, [explained[m].maps[i] for m in methods], truth) for i, truth in enumerate(there)]
                scores |= {(m, metric): [row[k] for row in rows] for k, m in enumerate(methods)}
            elif metric.info.kind == "faithfulness":
                judges[metric] = metric()
                for method in methods:
                    for i, map_ in enumerate(explained[method].maps):
                        if map_ is None:
                            scores[method, metric][i] = Score(not_applicable=NO_MAP)
                        elif not map_.nan:
                            plans[method, metric, i] = judges[metric].plan(map_)
    wanted = {request: number for number, request in enumerate(dict.fromkeys(r for requests in plans.values() for r in requests))}
    responses = prober.run(list(wanted))
    for (method, metric, i), requests in plans.items():
        map_ = explained[method].maps[i]
        with blame(metric, unit):
            scores[method, metric][i] = judges[metric].score(map_, [responses[wanted[request]] for request in requests])
    return scores


def _compare(metric: Metric, found: list[SaliencyMap | None], truth: Truth) -> list[Score]:
    """One item's maps by several methods against its truth."""
    if metric.info.needs and (why := unusable(truth, metric.info.needs)):
        return [Score(not_applicable=why)] * len(found)
    scores = [Score(not_applicable="" if map_ else NO_MAP) for map_ in found]
    valid = [(k, map_) for k, map_ in enumerate(found) if map_ and not map_.nan]
    if not valid:
        return scores
    size = valid[0][1].size if truth.mask is None else (truth.mask.shape[0], truth.mask.shape[1])
    most, vectors = max(1, MOST_PIXELS // (size[0] * size[1])), reductions.is_vector(metric.info.reduce)
    for start in range(0, len(valid), most):
        some = valid[start : start + most]
        try:
            values = metric(torch.stack([map_.at(size) for _, map_ in some]), truth)
        except NotApplicable as why:
            for k, _ in some:
                scores[k] = Score(not_applicable=str(why))
            continue
        if not isinstance(values, Tensor) or values.ndim != 1 + vectors or len(values) != len(some):
            wanted = f"a tensor [{len(some)}{', V' if vectors else ''}]"
            raise XbenchError(f"metric {metric.name} must return one {'vector' if vectors else 'value'} per map, {wanted}")
        for (k, _), value in zip(some, values.tolist(), strict=True):
            scores[k] = Score(vector=tuple(value)) if vectors else Score(value)
    return scores


def unusable(truth: Truth, needs: Collection[str] = ("mask",)) -> str:
    """Why nothing can be compared with a truth; empty where something can. needs: of it."""
    boxed = truth.boxes or truth.lacking == NO_MASK
    if truth.lacking and ("mask" in needs or not boxed):
        return truth.lacking
    return "" if truth.visible >= LEAST_VISIBLE else f"only {truth.visible:.0%} of the truth is visible to the model"


@contextmanager
def blame(metric: Metric, unit: Unit) -> Iterator[None]:
    """Name the metric in whatever error happens inside.

    Raises:
        XbenchError: whatever happens inside.
    """
    try:
        yield
    except XbenchError:
        raise
    except Exception as error:
        raise XbenchError(f"metric {metric.name} failed on {unit.scene.bound.name}: {type(error).__name__}: {error}") from error
