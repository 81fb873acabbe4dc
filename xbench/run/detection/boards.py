"""The figures of one model on one dataset: which pictures are in which family, what each score says of them, and what to know."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from xbench.data import wordnet
from xbench.data.samples import Dataset, Entry
from xbench.errors import XbenchError
from xbench.network.model import Model
from xbench.progress import Progress
from xbench.run.detection import scores
from xbench.run.detection.experiment import Experiment, Families, families, unplaced
from xbench.run.detection.figures import Figures, Scored, measure
from xbench.run.detection.scores import Answers

SHOWN = 60  # characters of a gloss in a note


@dataclass(frozen=True)
class Line:
    """A pair with its figures. pictures, classes: inside and outside."""

    pair: Families
    pictures: tuple[int, int]
    figures: Figures


@dataclass(frozen=True)
class Board:
    """The figures of one model on one dataset. mean: over the pairs; None of a single one. notes: what to know, in lines."""

    model: str
    dataset: str
    lines: tuple[Line, ...]
    mean: Figures | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A model and a dataset, with the names that results have for them. limit: the first pictures of the dataset."""

    model_name: str
    model: Model
    dataset_name: str
    dataset: Dataset
    limit: int | None = None


@dataclass(frozen=True)
class _Members:
    """The pictures of a pair by id, and whether they are inside. both: how many have classes of both families, and are left out."""

    pair: Families
    inside: dict[str, bool]
    both: int


def board(asked: Experiment, task: Task, progress: Progress) -> tuple[Board, pd.DataFrame]:
    """The figures, and a row for each picture of each pair with its scores, NaN where a score does not apply.

    Raises:
        XbenchError: the pairs do not fit the dataset's classes, the model lacks one, or no pair has pictures on both sides.
    """
    graph, classes = wordnet.compact(), task.dataset.classes
    pairs = [families(pair, classes, graph, task.dataset_name) for pair in asked.pairs]
    columns = {pair.name: scores.columns(task.model, classes, pair.inside) for pair in pairs}
    entries = list(task.dataset.entries())[: task.limit]
    members = [_members(pair, entries) for pair in pairs]
    wanted = list(dict.fromkeys(id for m in members for id in m.inside))
    batches = -(-len(wanted) // asked.batch_size)
    progress.start(f"{asked.name}: {len(wanted)} pictures of {task.dataset_name} on {task.model_name}", batches)
    found = scores.answers(task.model, task.dataset, wanted, asked.batch_size, progress)
    read = {id: place for place, id in enumerate(found.ids)}
    members = [replace(m, inside={id: inside for id, inside in m.inside.items() if id in read}) for m in members]
    kept = [m for m in members if len(set(m.inside.values())) == 2]
    if not kept:
        remedy = "get pictures of more of its classes, or choose a larger --limit"
        raise XbenchError(f"no pair has pictures on both sides in {task.dataset_name}; {remedy}")
    noise = scores.random(found.ids, asked.seed)
    clusters = {entry.id: entry.clusters[0] for entry in entries}
    scored, frames = [], []
    for m in kept:
        values = {"max_logit": scores.max_logit(found, columns[m.pair.name])}
        if found.embeddings is not None:
            values["gloss"] = scores.gloss(found, task.model, m.pair.inside)
            values["leaf_glosses"] = scores.leaf_glosses(found, task.model, m.pair.inside)
        values["random"] = noise
        places = np.array([read[id] for id in m.inside])
        mine = Scored(places, np.array(list(m.inside.values())), {name: of_all[places] for name, of_all in values.items()})
        scored.append(mine)
        who = {"model": task.model_name, "dataset": task.dataset_name, "pair": m.pair.name, "picture": list(m.inside)}
        side = {"cluster": [clusters[id] for id in m.inside], "inside": mine.inside}
        frames.append(pd.DataFrame({**who, **side, **{name: mine.values.get(name, np.nan) for name in scores.SCORES}}))
    figures, mean = measure(scored, np.array([clusters[id] for id in found.ids]))
    lines = tuple(_line(m, figure) for m, figure in zip(kept, figures, strict=True))
    notes = _notes(task, members, kept, found)
    return Board(task.model_name, task.dataset_name, lines, mean, notes), pd.concat(frames, ignore_index=True)


def _members(pair: Families, entries: Sequence[Entry]) -> _Members:
    inside, outside = set(pair.inside.classes), set(pair.outside.classes)
    sides = {entry.id: (not inside.isdisjoint(entry.labels), not outside.isdisjoint(entry.labels)) for entry in entries}
    both = sum(one and other for one, other in sides.values())
    return _Members(pair, {id: one for id, (one, other) in sides.items() if one != other}, both)


def _line(members: _Members, figures: Figures) -> Line:
    inside = sum(members.inside.values())
    return Line(members.pair, (inside, len(members.inside) - inside), figures)


def _notes(task: Task, members: Sequence[_Members], kept: Sequence[_Members], found: Answers) -> tuple[str, ...]:
    notes = [f"{task.dataset_name} are generated pictures, no photographs"] if task.dataset.generated else []
    notes += task.dataset.notes
    if alone := unplaced(task.dataset.classes, wordnet.compact()):
        notes.append(f"classes without a synset among WordNet's nouns here, in no family: {len(alone)} (first: {alone[0]})")
    if found.broken:
        notes.append(f"pictures that cannot be read: {len(found.broken)} (first: {found.broken[0]})")
    if absent := [m.pair.name for m in members if m not in kept]:
        notes.append(f"pairs left out, without pictures on one side: {', '.join(absent)}")
    notes += [f"{m.pair.name}: pictures of both families, left out: {m.both}" for m in kept if m.both]
    if found.embeddings is None:
        notes.append(f"{task.model_name} reads no text, so glosses have no figures; choose a CLIP for them")
    short = dict.fromkeys(gloss for m in kept for gloss in scores.cut(task.model, m.pair.inside))
    if short:
        shown = textwrap.shorten(next(iter(short)), SHOWN, placeholder=" ...")
        notes.append(f"glosses that are longer than the text tower reads, and were cut: {len(short)} (first: {shown!r})")
    return tuple(notes)
