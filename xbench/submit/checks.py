"""What may be wrong with a run that is to be kept: where it is not what its suite asks for, and where its rows deny themselves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from xbench.errors import XbenchError, did_you_mean
from xbench.plan import suite
from xbench.plan.suite import Selection, Suite
from xbench.plugins import reductions
from xbench.plugins.registry import registry
from xbench.store.directory import IDENTITY
from xbench.store.manifests import AboutColumn, Manifest

if TYPE_CHECKING:
    from xbench.plan.units import Scene

ROUNDING = 1e-6  # of values in float32: how far beyond a metric's range they may be

Rows = pd.DataFrame


def suite_problems(rows: Rows, manifest: Manifest, chosen: Suite) -> Iterator[str]:
    """Where a run is not what its suite asks for; whole tracks, models and methods may be chosen."""
    if manifest.suite != chosen.name:
        yield f"it is a run of the suite {manifest.suite}, not of {chosen.name}; name its own with --suite"
    if manifest.suite_version != chosen.version:
        yield f"it is of version {manifest.suite_version} of the suite, which is at version {chosen.version}; run it again"
    if manifest.seed != chosen.seed:
        yield f"it has seed {manifest.seed}, the suite has {chosen.seed}; run it without --seed"
    methods = sorted(set(rows["method"]))
    controls = [registry.method(name).name for name in chosen.controls]
    lacking = [name for name in controls if name not in methods]
    if lacking:
        wanted = ",".join([*methods, *lacking])
        yield f'it lacks the controls {", ".join(lacking)}; run: xbench run {chosen.name} --methods "{wanted}", then submit'
    scenes = _scenes(rows, manifest, chosen)
    known = {(scene.model_name, key) for scene in scenes for key in scene.protocols.values()}
    columns = rows[["model", "protocol_key"]].drop_duplicates().itertuples(index=False)
    for key in [key for model, key in columns if (model, key) not in known]:
        yield _stranger(manifest.columns[key], chosen)
    for scene in scenes:
        yield from _scene_problems(rows[rows["model"] == scene.model_name], scene, methods)


def _scenes(rows: Rows, manifest: Manifest, chosen: Suite) -> list[Scene]:
    """The tracks of a suite that a run has, opened with the run's methods and models, and computed as it was."""
    from xbench.plan import opening

    present, sizes = set(rows["dataset"]), manifest.batch_size
    names = [registry.dataset(track.dataset).name for track in chosen.tracks]
    tracks = [
        track.model_copy(update={"batch_size": sizes[name]})
        for track, name in zip(chosen.tracks, names, strict=True)
        if name in present
    ]
    if unknown := sorted(present - set(names)):
        raise XbenchError(f"suite {chosen.name} has no dataset {unknown[0]!r}{did_you_mean(unknown[0], names)}")
    selection = Selection(methods=sorted(set(rows["method"])), models=sorted(set(rows["model"])), device=manifest.device)
    return [s for s, _ in opening.open_scenes(suite.plan(chosen.model_copy(update={"tracks": tracks}), selection, registry))]


def _stranger(column: AboutColumn, chosen: Suite) -> str:
    """Why a column is none of its suite's."""
    where = f"{column.metric} on {column.dataset}"
    alike = [registry.metric(m) for t in chosen.tracks for m in t.metrics if registry.dataset(t.dataset).name == column.dataset]
    for metric in alike:
        if metric.name == column.metric and metric.info.version != column.version:
            return f"{where} is of the metric's version {column.version}, which {metric.info.version} supersedes; run it again"
    return f"the protocol of {where} ({column.protocol}) is not the one of suite {chosen.name} today; run it again as it stands"


def _scene_problems(rows: Rows, scene: Scene, methods: Sequence[str]) -> Iterator[str]:
    """Where a run has not just the rows of a track, computed by the code at hand; it may have none."""
    metrics = {key: name for name, key in scene.protocols.items()}
    rows = rows[rows["protocol_key"].isin(metrics)]
    if rows.empty:
        return
    items = {item.id for item in scene.items(None)}
    groups = rows.groupby(["method", "protocol_key"], observed=True).indices
    for method, (key, metric) in itertools.product(methods, metrics.items()):
        mine = rows.iloc[groups.get((method, key), [])]
        where = f"{method}, {metric} on {scene.bound.name}, {scene.model_name}"
        if missing := items - set(mine["item"]):
            how = "run it without --limit, --metrics and --shard, or merge the shards"
            yield f"{where}: {len(missing)} of {len(items)} items are missing, such as {min(missing)}; {how}"
        if more := set(mine["item"]) - items:
            yield f"{where}: {len(more)} items are none of the suite's, such as {min(more)}; run it anew with --fresh"
        if any(
            cached != scene.cache_key(method, metric, item) for item, cached in zip(mine["item"], mine["cache_key"], strict=True)
        ):
            yield f"{where}: not computed by the code at hand; run it again"


def row_problems(rows: Rows, manifest: Manifest) -> Iterator[str]:
    """Where rows contradict each other or their manifest."""
    if rows.duplicated(IDENTITY).any():
        row = rows[rows.duplicated(IDENTITY)].iloc[0]
        yield f"{row['method']}, {row['metric']} on {row['dataset']}, item {row['item']} is there twice"
    described: dict[str, tuple[str, Collection[str]]] = {
        "columns": ("protocol_key", manifest.columns),
        "methods": ("method", manifest.methods),
        "models": ("model", manifest.models),
        "datasets": ("dataset", manifest.datasets),
    }
    for name, (column, its) in described.items():
        if unknown := sorted(set(rows[column]) - set(its)):
            yield f"its manifest does not describe {unknown[0]!r} under {name}"
    for (model, key), group in rows.groupby(["model", "protocol_key"], observed=True):
        if (about := manifest.columns.get(str(key))) is None:
            continue
        where = f"{about.metric} on {about.dataset}, {model}"
        counts = group["method"].astype(str).value_counts()
        methods = set(rows[rows["model"] == model]["method"])
        for method in sorted(methods):
            if counts.get(method, 0) != group["item"].nunique():
                yield f"{method} has {counts.get(method, 0)} of {group['item'].nunique()} items of {where}"
        yield from (f"{where}: {problem}" for problem in _value_problems(group, about))


def _value_problems(rows: Rows, column: AboutColumn) -> Iterator[str]:
    """Values of one column beyond its metric's range, and such as their status denies."""
    if unknown := sorted(set(rows["status"]) - {"ok", "nan", "not_applicable", "unreadable"}):
        yield f"{unknown[0]!r} is no status"
    ok = rows["status"] == "ok"
    if rows[~ok]["value"].notna().any():
        yield "there is a value where the status says that there is none"
    if rows[rows["status"].isin(["not_applicable", "unreadable"])]["reason"].isna().any():
        yield "a value is missing, and the row does not say why"
    if reductions.is_vector(column.reduce):
        vectors = rows[ok]["vector"]
        if vectors.isna().any() or len(set(vectors.map(len))) > 1 or not all(np.isfinite(v).all() for v in vectors):
            yield "a vector is missing, of another length or not finite, though its status is ok"
        return
    low, high = (math.copysign(math.inf, s) if v is None else v for v, s in zip(column.range, (-1, 1), strict=True))
    values = rows[ok]["value"]
    for value in values[~np.isfinite(values) | (values < low - ROUNDING) | (values > high + ROUNDING)]:
        yield f"{value:g} is not within the metric's range, {low:g} to {high:g}"
