"""xbench: how good are this model's explanations, and did they just get worse?

These are the names that scripts and notebooks need; all that plug-ins may use is in ``xbench.plugin``. They are imported on first
use, so that ``import xbench`` and ``xbench --help`` are instant.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xbench.api import evaluate, leaderboard, run
    from xbench.data.classes import ClassList
    from xbench.data.samples import Batch, Box, Dataset, Entry, Item, Sample, Score, Truth
    from xbench.errors import BrokenSample, NotApplicable, XbenchError
    from xbench.maps.saliency import SaliencyMap
    from xbench.network.model import Model, ModelView, Preprocessing
    from xbench.plugins.registry import dataset, method, metric, model, trainer

_HOME = {
    "xbench.data.classes": ["ClassList"],
    "xbench.data.samples": ["Batch", "Box", "Dataset", "Entry", "Item", "Sample", "Score", "Truth"],
    "xbench.errors": ["BrokenSample", "NotApplicable", "XbenchError"],
    "xbench.maps.saliency": ["SaliencyMap"],
    "xbench.network.model": ["Model", "ModelView", "Preprocessing"],
    "xbench.plugins.registry": ["dataset", "method", "metric", "model", "trainer"],
    "xbench.api": ["evaluate", "leaderboard", "run"],
}
_WHERE = {name: home for home, names in _HOME.items() for name in names}
__all__ = [
    "Batch",
    "Box",
    "BrokenSample",
    "ClassList",
    "Dataset",
    "Entry",
    "Item",
    "Model",
    "ModelView",
    "NotApplicable",
    "Preprocessing",
    "SaliencyMap",
    "Sample",
    "Score",
    "Truth",
    "XbenchError",
    "dataset",
    "evaluate",
    "leaderboard",
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


class _Package(types.ModuleType):
    """Keeps ``xbench.run`` and ``xbench.evaluate`` functions: Python sets each imported room on its package, under its name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _WHERE and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
