"""`xbench validate-metrics`: does a metric tell better from worse where it is known which is which?

The suite ``validate`` explains generated scenes by planted maps. What each group of metrics must say of them:

faithfulness, localization   the object's mask is better than noise, a constant, its negation, and itself moved away; a small shift
                             does not make it better, nor does more of it
localization                 a slight blur does not make it better, nor does more of it
faithfulness                 blurred, it is better than noise (than itself it may be: the rim of an object is evidence too)
randomisation                a map that follows the network (Grad-CAM) changes with it more than edges or the picture's centre do
robustness                   Grad-CAM is stabler than itself half drowned in noise drawn anew, and that is stabler than noise
complexity                   the object's mask is more concise than its blur, and that than a constant; scrambling changes nothing

It runs twice, with two seeds: what differs between them is the metric's noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xbench.plan import suite
from xbench.plan.suite import Selection, Suite, Track
from xbench.plugins.registry import registry
from xbench.progress import Progress
from xbench.run import pipeline
from xbench.stats import agreement
from xbench.stats.bootstrap import Estimate
from xbench.tables import panels
from xbench.tables.panels import Panel
from xbench.tables.validation import Verdict

SUITE = "validate"
SEEDS = (0, 1)
SMALL, LARGE = "shifted(oracle)", "shifted(oracle, share=0.3)"
SOFT, SOFTER = "blurred(oracle, share=0.03)", "blurred(oracle, share=0.15)"
NOISY = "noisy(grad_cam)"

# Pairs (better, worse). SURE ones must differ for sure; of the others the worse one may not be better for sure.
POINTING = [("oracle", plant) for plant in ("random_grid", "constant", "inverted(oracle)", LARGE)]
SURE: Mapping[str, Sequence[tuple[str, str]]] = {
    "faithfulness": [*POINTING, (SOFT, "random_grid"), (SOFTER, "random_grid")],
    "localization": POINTING,
    "randomisation": [("grad_cam", "sobel"), ("grad_cam", "center")],
    "robustness": [("grad_cam", NOISY), (NOISY, "random_grid")],
    "complexity": [("oracle", SOFTER), (SOFTER, "constant")],
}
DEGREES = [("oracle", SMALL), (SMALL, LARGE), ("constant", "inverted(oracle)")]
AT_LEAST: Mapping[str, Sequence[tuple[str, str]]] = {
    "faithfulness": DEGREES,
    "localization": [*DEGREES, ("oracle", SOFT), (SOFT, SOFTER)],
    "randomisation": [("random_grid", "grad_cam"), (NOISY, "grad_cam")],
    "robustness": [],
    "complexity": [("oracle", "scrambled(oracle)"), ("scrambled(oracle)", "oracle")],
}


def validate(
    metrics: Sequence[str] | None,
    folder: Path,
    *,
    limit: int | None = None,
    plugins: Sequence[str] = (),
    workers: int = 1,
    progress: Progress | None = None,
) -> list[Verdict]:
    """Run the suite under both seeds into ``folder`` (continued where it stopped) and judge. metrics: instead of all that it has.

    Raises:
        XbenchError: anything the user can mend.
    """
    chosen = _suite(metrics, plugins)
    runs = []
    for seed in SEEDS:
        out, selection = folder / f"seed{seed}", Selection(seed=seed, limit=limit)
        runs.append(pipeline.run(chosen, selection, out=out, plugins=plugins, workers=workers, progress=progress))
    found = [list(panels.of_rows(done.rows, done.manifest.columns)) for done in runs]
    versions = {panel.column.metric: registry.metric(panel.column.metric).info.version for panel in found[0]}
    figures = {panel.column.metric: _figures(panel) for panel in found[0]}
    return [_judge(first, second, versions, figures, found[0]) for first, second in zip(*found, strict=True)]


def _suite(metrics: Sequence[str] | None, plugins: Sequence[str]) -> Suite:
    """The suite with some metrics only, and with others where it lacks them."""
    whole = suite.load(suite.find(SUITE))
    for name in plugins:
        registry.load(name)
    if metrics is None:
        return whole
    tracks = []
    for track in whole.tracks:
        known = [spec for spec in track.metrics if suite.named(spec, metrics)]
        if known:
            tracks.append(track.model_copy(update={"metrics": known}))
    others = [spec for spec in metrics if not any(suite.named(known, [spec]) for t in whole.tracks for known in t.metrics)]
    if others:
        tracks = _with(others, tracks, whole.tracks[0])
    return whole.model_copy(update={"tracks": tracks})


def _with(others: list[str], tracks: list[Track], first: Track) -> list[Track]:
    """Metrics that the suite lacks join its first track."""
    mine = next((track for track in tracks if track.dataset == first.dataset), first.model_copy(update={"metrics": []}))
    return [mine.model_copy(update={"metrics": [*mine.metrics, *others]}), *(t for t in tracks if t.dataset != first.dataset)]


def _judge(
    panel: Panel, again: Panel, versions: Mapping[str, str], figures: Mapping[str, dict[str, float]], all_: Sequence[Panel]
) -> Verdict:
    column = panel.column
    place = {method: m for m, method in enumerate(panel.methods)}
    wrong, separations = [], []
    for better, worse in SURE[column.group]:
        gain, apart = _gain(panel, place[better], place[worse])
        separations.append(apart)
        if not gain.low > 0:
            wrong.append(f"{better} <= {worse}" if gain.n else f"{better} or {worse} has no value")
    for better, worse in AT_LEAST[column.group]:
        gain, _ = _gain(panel, place[better], place[worse])
        if gain.high < 0:
            wrong.append(f"{better} < {worse}")
    alike = [figures[other.column.metric] for other in all_ if other.column.group == column.group and other is not panel]
    agrees = [tau for other in alike if (tau := _tau(figures[column.metric], other)) is not None]
    return Verdict(
        column.metric,
        versions[column.metric],
        column.group,
        tuple(wrong),
        min(separations),
        _noise(panel, again),
        float(np.mean(agrees)) if agrees else float("nan"),
    )


def _gain(panel: Panel, better: int, worse: int) -> tuple[Estimate, float]:
    """(how much better one plant scores than another, oriented; the same in standard deviations of one item's difference)."""
    (gain,) = panel.scores.differences([(better, worse)])
    if not gain.n:
        return gain, float("nan")
    error = float(panel.scores.gains(better, worse).errors()[0]) * gain.clusters**0.5
    return gain, gain.mean / error if error > 0 else float(np.sign(gain.mean)) * float("inf") if gain.mean else 0.0


def _figures(panel: Panel) -> dict[str, float]:
    """Plant -> figure, oriented so that more is better."""
    sign = panel.scores.sign
    return {m: sign * e.mean for m, e in zip(panel.methods, panel.scores.estimates(), strict=True) if e.n}


def _tau(mine: Mapping[str, float], other: Mapping[str, float]) -> float | None:
    """Kendall's tau-b over the plants that both have."""
    both = sorted(mine.keys() & other.keys())
    if len(both) < 3:
        return None
    tau = float(agreement.taus(np.array([[figures[m] for m in both] for figures in (mine, other)]))[0, 1])
    return tau if np.isfinite(tau) else None


def _noise(panel: Panel, again: Panel) -> float:
    """Standard deviation between seeds over that between items, of the plants that are the same maps under both."""
    between: list[float] = []
    for method in ("oracle", "grad_cam", "sobel", "center"):
        m, n = panel.methods.index(method), again.methods.index(method)
        a, b = (p.scores.data[k].mean(axis=-1) for p, k in ((panel, m), (again, n)))
        known = panel.scores.known[m] & again.scores.known[n]
        if known.sum() > 1 and a[known].std() > 0:
            between.append(float(((a - b)[known].std() / 2**0.5) / a[known].std()))
    return float(np.median(between)) if between else 0.0
