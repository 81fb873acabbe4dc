"""xbench: how good are this model's explanations, and did they just get worse?

The public names are imported on first use, so that ``import xbench`` and ``xbench --help`` are instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xbench.api import evaluate, run
    from xbench.classes import ClassList
    from xbench.data import Batch, Box, Dataset, Entry, Item, Sample, Score, Truth
    from xbench.errors import BrokenSample, NotApplicable, XbenchError
    from xbench.maps import Attribution, SaliencyMap
    from xbench.modelview import Model, ModelView, Preprocessing
    from xbench.plugins import Method
    from xbench.probing import Blends, Curve, Hidden, Request, Weighted
    from xbench.registry import dataset, method, metric, model, trainer
    from xbench.specs import Spec
    from xbench.training.contract import Opened, Step, Trainer
    from xbench.training.examples import Splits
    from xbench.training.recipes import ClipNetwork, Network, Recipe, Table, TimmNetwork
    from xbench.variations import Answer, Moved, Noisy, Randomised, Retargeted, Same, Variation

_HOME = {
    "xbench.api": ["evaluate", "run"],
    "xbench.classes": ["ClassList"],
    "xbench.data": ["Batch", "Box", "Dataset", "Entry", "Item", "Sample", "Score", "Truth"],
    "xbench.errors": ["BrokenSample", "NotApplicable", "XbenchError"],
    "xbench.maps": ["Attribution", "SaliencyMap"],
    "xbench.modelview": ["Model", "ModelView", "Preprocessing"],
    "xbench.probing": ["Blends", "Curve", "Hidden", "Request", "Weighted"],
    "xbench.plugins": ["Method"],
    "xbench.variations": ["Answer", "Moved", "Noisy", "Randomised", "Retargeted", "Same", "Variation"],
    "xbench.registry": ["dataset", "method", "metric", "model", "trainer"],
    "xbench.specs": ["Spec"],
    "xbench.training.contract": ["Opened", "Step", "Trainer"],
    "xbench.training.examples": ["Splits"],
    "xbench.training.recipes": ["ClipNetwork", "Network", "Recipe", "Table", "TimmNetwork"],
}
_WHERE = {name: home for home, names in _HOME.items() for name in names}
__all__ = [
    "Answer",
    "Attribution",
    "Batch",
    "Blends",
    "Box",
    "BrokenSample",
    "ClassList",
    "ClipNetwork",
    "Curve",
    "Dataset",
    "Entry",
    "Hidden",
    "Item",
    "Method",
    "Model",
    "ModelView",
    "Moved",
    "Network",
    "Noisy",
    "NotApplicable",
    "Opened",
    "Preprocessing",
    "Randomised",
    "Recipe",
    "Request",
    "Retargeted",
    "SaliencyMap",
    "Same",
    "Sample",
    "Score",
    "Spec",
    "Splits",
    "Step",
    "Table",
    "TimmNetwork",
    "Trainer",
    "Truth",
    "Variation",
    "Weighted",
    "XbenchError",
    "dataset",
    "evaluate",
    "method",
    "metric",
    "model",
    "run",
    "trainer",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'xbench' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
