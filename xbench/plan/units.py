"""Work units and what they share and give: Scene, Unit, Explained, Result."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from xbench.data.samples import Dataset, Item
from xbench.maps.saliency import SaliencyMap
from xbench.network.model import Model
from xbench.plan import keys
from xbench.plan.suite import Track
from xbench.plugins.declarations import BoundDataset, Method, Metric
from xbench.plugins.sources import Closure
from xbench.store.gallery import Key
from xbench.store.maps import Facts, MapStore


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
    map_keys: dict[str, str] = field(default_factory=dict)  # method -> what its maps depend on, the item left out
    maps: MapStore | None = None  # maps of earlier runs
    closure: Closure = field(default_factory=Closure)  # code that the opened model and dataset brought
    sources: dict[str, bool] = field(default_factory=dict)  # source picture -> the model gets it right

    def items(self, limit: int | None) -> list[Item]:
        """The track's items, or the first ones only."""
        return self.dataset.items(self.track.target)[:limit]

    def cache_key(self, method: str, metric: str, item: str) -> str:
        return hashlib.sha256(f"{self.prefixes[method, metric]}/{item}".encode()).hexdigest()[: keys.KEY_LENGTH]


@dataclass(frozen=True)
class Unit:
    """A block of items and the (method, metric) cells that are wanted of it. gallery: items whose maps the report shows.

    items are of one shape under the track's view.
    """

    id: str
    scene: Scene
    items: tuple[Item, ...]
    cells: tuple[tuple[Method, Metric], ...]
    gallery: frozenset[str] = frozenset()


@dataclass
class Explained:
    """One method's maps of a unit, None where an item has none, or why there are none at all.

    facts: what each map took and how good it is, by the item's place.
    """

    maps: list[SaliencyMap | None] = field(default_factory=list)
    facts: list[Facts] = field(default_factory=list)
    not_applicable: str = ""


@dataclass(frozen=True)
class Result:
    """What a unit gives. gallery: images and maps for the report. maps, facts: (method, item) -> native map, its facts."""

    rows: list[dict[str, Any]]
    gallery: dict[Key, np.ndarray]
    maps: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    facts: dict[tuple[str, str], Facts] = field(default_factory=dict)
