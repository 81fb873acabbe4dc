"""Which rows a leaderboard shows: the reference's beside a run's, one version of each metric, and what was asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from xbench.errors import XbenchError, did_you_mean
from xbench.store import manifests
from xbench.store.directory import concat
from xbench.store.manifests import AboutColumn, AboutMethod, Columns, Manifest, Run


@dataclass(frozen=True)
class Filter:
    """What to show; None is everything. A name is a spec, or an id that stands for all its specs: ``insertion`` also means
    ``insertion(steps=exact(10))``. Controls stay, whatever the methods. group: of metrics, such as ``localization``.
    """

    models: Sequence[str] | None = None
    datasets: Sequence[str] | None = None
    metrics: Sequence[str] | None = None
    methods: Sequence[str] | None = None
    group: str | None = None


def id_of(spec: str) -> str:
    """``insertion`` of ``insertion(steps=exact(10))``."""
    return spec.partition("(")[0].strip()


def joined(run: Run, reference: Run | None) -> tuple[pd.DataFrame, dict[str, AboutMethod], list[str]]:
    """What stands in a run's table: (rows with their ``source``, descriptions of all methods, notes on reference rows left out).

    The leaderboard and compare both begin here, so that they judge the same methods.
    """
    rows, manifest = run
    if reference is None:
        return rows.assign(source="run"), manifest.methods, []
    usable, notes = fitting(*reference, manifest, rows["model"].unique())
    return beside(rows, usable), reference[1].methods | manifest.methods, notes


def fitting(reference: pd.DataFrame, about: Manifest, manifest: Manifest, models: Iterable[str]) -> tuple[pd.DataFrame, list[str]]:
    """(the reference's rows that make a table with a run's: of its seed and its models' weights; a note on those left out).

    about, manifest: the reference's manifest, and the run's.
    """
    reasons = {model: manifests.unlike(about, manifest, [model]) for model in set(models) & set(reference["model"])}
    apart = {model: why for model, why in sorted(reasons.items()) if why}
    return reference[~reference["model"].isin(list(apart))], [
        f"{model}: the reference has {why}; its rows are left out" for model, why in apart.items()
    ]


def beside(rows: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """A run's rows, and after them the reference's of methods that it lacks; a column ``source`` says ``run`` or ``reference``.

    Only of the run's own models, protocols and items: a limited run is compared on equal terms.
    """
    alike = _in(reference, rows, ["model", "protocol_key", "item"])
    keep = alike & ~_in(reference, rows, ["model", "protocol_key", "method"])
    mine = rows.assign(source="run")
    return concat([mine, reference[keep].assign(source="reference")]) if keep.any() else mine


def _in(rows: pd.DataFrame, others: pd.DataFrame, names: list[str]) -> pd.Series[bool]:
    """Which rows have an equal among others, in some columns."""
    known = pd.MultiIndex.from_frame(others[names].drop_duplicates().astype(str))
    return pd.Series(pd.MultiIndex.from_frame(rows[names].astype(str)).isin(known), index=rows.index)


def newest(columns: Columns) -> tuple[Columns, list[str]]:
    """(columns without superseded versions, a note on each that is left out).

    A metric with equal parameters on datasets of one id is shown in its newest version only, whatever else the protocols say.
    """
    versions: dict[tuple[str, str], set[str]] = {}
    for about in columns.values():
        versions.setdefault(_what(about), set()).add(about.version)
    kept, notes = {}, []
    for key, about in columns.items():
        mine, latest = about.version, max(versions[_what(about)], key=_ordered)
        if mine == latest:
            kept[key] = about
        else:
            where = f"{about.metric} on {about.dataset}"
            notes.append(f"{where}: version {mine or 'unknown'} is superseded by version {latest} and left out; run it again")
    return kept, notes


def _what(about: AboutColumn) -> tuple[str, str]:
    return id_of(about.dataset), about.metric


def _ordered(version: str) -> list[tuple[int, str]]:
    """``10`` comes after ``9``, and any version after none."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"\W", version)]


def narrowed(rows: pd.DataFrame, columns: Columns, controls: Iterable[str], asked: Filter) -> tuple[pd.DataFrame, Columns]:
    """The rows and columns that were asked for.

    Raises:
        XbenchError: a name that is not among them, groups that an old manifest does not say, or nothing is left.
    """
    if asked.datasets is not None:
        wanted = _chosen("dataset", asked.datasets, [about.dataset for about in columns.values()])
        columns = {key: about for key, about in columns.items() if about.dataset in wanted}
    if asked.metrics is not None:
        wanted = _chosen("metric", asked.metrics, [about.metric for about in columns.values()])
        columns = {key: about for key, about in columns.items() if about.metric in wanted}
    if asked.group is not None:
        columns = _grouped(columns, asked.group)
    keep = rows["protocol_key"].isin(list(columns))
    if asked.models is not None:
        keep &= rows["model"].isin(_chosen("model", asked.models, rows["model"].unique()))
    if asked.methods is not None:
        keep &= rows["method"].isin(_chosen("method", asked.methods, rows["method"].unique()) | set(controls))
    if asked != Filter() and not keep.any():
        raise XbenchError(
            "nothing is left: no row is of all the models, datasets, metrics and methods that were asked for together"
        )
    return (rows if keep.all() else rows[keep]), columns


def _chosen(kind: str, asked: Sequence[str], names: Iterable[str]) -> set[str]:
    """Those of the names that are asked for."""
    known = {str(name) for name in names}
    found = set()
    for name in asked:
        matching = {spec for spec in known if name.replace(" ", "") in (spec.replace(" ", ""), id_of(spec))}
        matching = matching & {name} or matching
        if not matching:
            raise XbenchError(f"there is no {kind} {name!r} here{did_you_mean(name, {*known, *map(id_of, known)})}")
        found |= matching
    return found


def _grouped(columns: Columns, group: str) -> Columns:
    silent = [f"{about.metric} on {about.dataset}" for about in columns.values() if not about.group]
    if silent:
        raise XbenchError(
            f"the run does not say of which group {silent[0]} is, since an older xbench wrote it; start the run again to have it "
            "described, or choose columns with --metrics"
        )
    known = {about.group for about in columns.values()}
    if group not in known:
        raise XbenchError(f"there is no metric of the group {group!r} here{did_you_mean(group, known)}")
    return {key: about for key, about in columns.items() if about.group == group}
