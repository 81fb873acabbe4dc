"""Figures that papers report, beside the measured ones and never among them.

Their models, pictures and protocols are the papers' own, so they enter no mean, no rank and no test. ``results/published.toml``
holds them as printed, with source and evidence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pydantic

from xbench.errors import did_you_mean
from xbench.plugins import toml
from xbench.tables import citations

EVIDENCE = {
    "P": "read in the paper or a page on it",
    "S": "read in its abstract",
    "R": "read in a public repository",
    "I": "read in an issue thread",
    "C": "computed from what was read",
    "2nd": "read in a third party's notes",
}


@dataclass(frozen=True)
class Figure:
    """One figure of a paper: method, model, dataset and metric by the paper's names, the value as printed in its unit.

    source: key of the citation. where: table or file. tag: how it was read, such as ``[R:repository file]``; see EVIDENCE.
    """

    method: str
    model: str
    dataset: str
    metric: str
    value: float
    unit: str
    source: str
    where: str
    tag: str

    @property
    def text(self) -> str:
        """``60.0 % (VGG; choe2020evaluating [R])``."""
        kind = self.tag.strip("[]").partition(":")[0]
        return f"{self.value}{' ' + self.unit if self.unit else ''} ({self.model}; {self.source} [{kind}])"


class Reported(pydantic.BaseModel):
    """One metric on one dataset, as a paper prints it. values: method -> a figure for each of models."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    source: str
    where: str
    tag: str
    dataset: str
    metric: str
    unit: str = ""
    models: list[str] = pydantic.Field(min_length=1)
    values: dict[str, list[pydantic.FiniteFloat]] = pydantic.Field(min_length=1)

    @pydantic.field_validator("source")
    @classmethod
    def _is_cited(cls, source: str) -> str:
        known = citations.bibliography()
        if source not in known:
            raise ValueError(f"source {source!r} is not in references.bib; add its BibTeX{did_you_mean(source, known)}")
        return source

    @pydantic.field_validator("tag")
    @classmethod
    def _was_read(cls, tag: str) -> str:
        kind = re.fullmatch(r"\[(\w+)(:[^\[\]]+)?\]", tag)
        if kind and kind[1] == "M":
            raise ValueError("figures from memory, [M], are not published ones; read them first, and say where")
        if not kind or kind[1] not in EVIDENCE:
            raise ValueError(f"tag {tag!r} is not of the form [KIND:where], KIND one of {', '.join(EVIDENCE)}")
        return tag

    @pydantic.model_validator(mode="after")
    def _has_a_figure_per_model(self) -> Reported:
        for method, figures in self.values.items():
            if len(figures) != len(self.models):
                raise ValueError(f"{method!r} has {len(figures)} figures for {len(self.models)} models; give one for each")
        return self


class Ids(pydantic.BaseModel):
    """What xbench calls what papers name: paper's name -> id of a plug-in."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    methods: dict[str, str] = {}
    datasets: dict[str, str] = {}
    metrics: dict[str, str] = {}


class Published(pydantic.BaseModel):
    """A file of published figures."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    ids: Ids = Ids()
    reported: list[Reported] = []

    def figures(self) -> list[Figure]:
        """All figures, in the order of the file."""
        return [
            Figure(method, model, r.dataset, r.metric, value, r.unit, r.source, r.where, r.tag)
            for r in self.reported
            for method, values in r.values.items()
            for model, value in zip(r.models, values, strict=True)
        ]

    def by_ids(self) -> Mapping[tuple[str, str, str], Sequence[Figure]]:
        """(method id, dataset id, metric id) -> figures, of all whose method, dataset and metric xbench has."""
        found: dict[tuple[str, str, str], list[Figure]] = {}
        for figure in self.figures():
            names = (self.ids.methods, self.ids.datasets, self.ids.metrics)
            method, dataset, metric = (
                of.get(name) for of, name in zip(names, (figure.method, figure.dataset, figure.metric), strict=True)
            )
            if method and dataset and metric:
                found.setdefault((method, dataset, metric), []).append(figure)
        return found


def listing(published: Published) -> dict[str, str]:
    """What was reported -> the figure and where it was read, in the order of the file."""
    return {
        f"{f.method}, {f.model}: {f.metric} on {f.dataset} ({f.source})": f"{f.value} {f.unit}".rstrip() + f", {f.where} {f.tag}"
        for f in published.figures()
    }


def load(path: Path | None = None) -> Published:
    """Read a file of published figures, by default the one that ships.

    Raises:
        XbenchError: the file is wrong: a figure from memory, an unknown source, a row that does not fit its models.
    """
    shipped = Path(str(resources.files("xbench.results") / "published.toml"))
    return toml.load(path or shipped, Published, "published figures")
