"""What is asked: a TOML file that names models, datasets and pairs of families of classes, and these families by WordNet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from xbench.data.classes import ClassList
from xbench.data.wordnet import Synset, WordNet
from xbench.errors import XbenchError
from xbench.plugins import toml


class Pair(BaseModel):
    """Two families of classes by the synsets that they are below: pictures of ``inside`` are known, those of ``outside`` are to be
    noticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_/ -]+$")
    inside: str
    outside: str


class Experiment(BaseModel):
    """Each pair is told apart by each score of each model on each dataset. batch_size: pictures in every forward pass."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    experiment: Literal["ood"]
    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    version: str
    title: str = ""
    seed: int = 0
    batch_size: int = Field(default=32, ge=1)
    models: list[str] = Field(min_length=1)
    datasets: list[str] = Field(min_length=1)
    pairs: list[Pair] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Experiment:
        names = [pair.name for pair in self.pairs]
        twins = sorted({name for name in names if names.count(name) > 1})
        if twins:
            raise ValueError(f"several pairs are called {twins[0]!r}; give each its own name")
        return self


@dataclass(frozen=True)
class Family:
    """Classes of a dataset, by their places in its list, that lie below a synset, and the synset's leaves in the graph."""

    synset: Synset
    classes: tuple[int, ...]
    leaves: tuple[Synset, ...]


@dataclass(frozen=True)
class Families:
    """A pair among the classes of a dataset."""

    name: str
    inside: Family
    outside: Family


def load(path: Path) -> Experiment:
    """Read and validate an experiment.

    Raises:
        XbenchError: not TOML, an unknown key or a wrong value; names the key and its line.
    """
    return toml.load(path, Experiment, "suite")


def families(pair: Pair, classes: ClassList, graph: WordNet, dataset: str) -> Families:
    """A pair's families among a dataset's classes. Classes without a synset in the graph are in none.

    Raises:
        XbenchError: an unknown synset, a family without a class, or two that share one.
    """
    try:
        inside, outside = (_family(graph.synset(name), classes, graph) for name in (pair.inside, pair.outside))
    except XbenchError as error:
        raise XbenchError(f"pair {pair.name}: {error}") from error
    for family in (inside, outside):
        if not family.classes:
            known = "none of its classes has a synset" if not any(classes.synsets) else f"none of its {len(classes)} classes is"
            remedy = "choose a synset above some of them, or another dataset"
            raise XbenchError(f"pair {pair.name}: {dataset} has no class below {family.synset.name} ({known}); {remedy}")
    if both := sorted(set(inside.classes) & set(outside.classes)):
        names = f"{inside.synset.name} and {outside.synset.name}"
        raise XbenchError(
            f"pair {pair.name}: {classes.names[both[0]]!r} is below both {names}; choose families that share no class"
        )
    return Families(pair.name, inside, outside)


def unplaced(classes: ClassList, graph: WordNet) -> list[str]:
    """The classes that can be in no family: without a synset, or with one that is not in the graph."""
    synsets = classes.synsets or ("",) * len(classes)
    return [name for name, synset in zip(classes.names, synsets, strict=True) if synset not in graph]


def _family(root: Synset, classes: ClassList, graph: WordNet) -> Family:
    below = {synset.wnid for synset in graph.closure(root)}
    found = tuple(place for place, wnid in enumerate(classes.synsets) if wnid in below)
    return Family(root, found, graph.leaves(root))
