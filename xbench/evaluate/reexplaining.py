"""Re-explanation metrics: methods are asked again about changed inputs, targets or networks, and their maps compared.

One variation at a time: all methods explain it in one view, and of their maps only the native grids are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from xbench.data.samples import Batch, Score
from xbench.errors import NotApplicable
from xbench.evaluate.scoring import NO_MAP, blame
from xbench.evaluate.variations import Answer, Variation
from xbench.maps.saliency import SaliencyMap
from xbench.network.model import ModelView
from xbench.plan.units import Explained, Unit
from xbench.plugins.declarations import Method, Metric
from xbench.store.maps import StoredMethod

Ask = Callable[[Method, ModelView, Batch], Tensor]  # -> checked native maps, float32 [n, h, w] on the CPU
Cell = tuple[Method, Metric]


@dataclass(frozen=True)
class _Again:
    """One variation of a block: each method's answers by item, or why it has none."""

    answers: dict[Method, list[Answer]]
    reasons: dict[Method, str]


def score_all(unit: Unit, explained: dict[Method, Explained], view: ModelView, batch: Batch, ask: Ask) -> dict[Cell, list[Score]]:
    """Scores of all items for the unit's re-explanation cells; NaN where a map is NaN, before or after."""
    cells = [(m, metric) for m, metric in unit.cells if metric.info.kind == "re_explanation" and not explained[m].not_applicable]
    if not cells:
        return {}
    judges = {metric: metric() for metric in dict.fromkeys(metric for _, metric in cells)}
    plans: dict[Metric, list[Variation]] = {}
    for metric, judge in judges.items():
        with blame(metric, unit):
            plans[metric] = judge.plan()
    wanted: dict[Variation, list[Method]] = {}
    for method, metric in cells:
        for variation in plans[metric]:
            asked = wanted.setdefault(variation, [])
            if method not in asked:
                asked.append(method)
    before = _answers({m: [f.native if f else None for f in explained[m].maps] for m, _ in cells}, view, batch, unit)
    after = {variation: _again(variation, methods, unit, view, batch, ask) for variation, methods in wanted.items()}
    return {cell: _score(cell, judges[cell[1]], unit, before[cell[0]], [after[v] for v in plans[cell[1]]]) for cell in cells}


def _score(cell: Cell, judge: Metric, unit: Unit, before: list[Answer | None], after: list[_Again]) -> list[Score]:
    method, metric = cell
    reason = next((again.reasons[method] for again in after if method in again.reasons), "")
    scores = []
    for i, first in enumerate(before):
        if reason or first is None:
            scores.append(Score(not_applicable=reason or NO_MAP))
            continue
        others = [again.answers[method][i] for again in after]
        if any(answer.map_.nan for answer in (first, *others)):
            scores.append(Score())
            continue
        with blame(metric, unit):
            try:
                scores.append(judge.score(first, others))  # type: ignore[attr-defined]
            except NotApplicable as why:
                scores.append(Score(not_applicable=str(why)))
    return scores


def _again(variation: Variation, methods: list[Method], unit: Unit, view: ModelView, batch: Batch, ask: Ask) -> _Again:
    model, varied = variation.apply(view.model, batch)
    other = ModelView(model, view.progress)
    other.logits(varied)  # the view's own inputs are those that it meets first
    maps: dict[Method, list[Tensor | None]] = {}
    reasons: dict[Method, str] = {}
    for method in methods:
        if isinstance(method, StoredMethod):
            reasons[method] = "its maps are given, and it cannot be asked again"
        elif "truth" in method.needs:
            reasons[method] = "it reads the truth, which is that of the picture as it was"
        else:
            try:
                maps[method] = list(ask(method, other, varied.seeded(method.name, repr(variation))))
            except NotApplicable as why:
                reasons[method] = str(why)
    found = _answers(maps, other, varied, unit)
    return _Again({m: [answer for answer in answers if answer] for m, answers in found.items()}, reasons)


def _answers(
    maps: dict[Method, list[Tensor | None]], view: ModelView, batch: Batch, unit: Unit
) -> dict[Method, list[Answer | None]]:
    logits, inputs, targets = view.logits(batch).cpu(), batch.images.cpu(), batch.targets.tolist()

    def answer(native: Tensor | None, i: int) -> Answer | None:
        if native is None:
            return None
        map_ = SaliencyMap(native, batch.size, i, f"{unit.scene.seed}/{batch.items[i].id}")
        return Answer(map_, inputs[i], logits[i], targets[i])

    return {m: [answer(native, i) for i, native in enumerate(natives[: len(batch.items)])] for m, natives in maps.items()}
