"""What a plug-in is: what it declares, and what a spec string with its parameters resolves to."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xbench.plugins.specs import Spec

if TYPE_CHECKING:
    from pydantic import BaseModel

Kind = Literal["method", "metric", "dataset", "model", "trainer"]
KINDS: tuple[Kind, ...] = typing.get_args(Kind)
_PASSED: dict[Kind, int] = {"method": 2, "metric": 2, "dataset": 0, "model": 0, "trainer": 1}  # arguments that the harness passes


@dataclass(frozen=True)
class MethodInfo:
    """What a saliency method declares.

    needs: capabilities of the model (``feature_maps``, ``gradients``, ...) and ``truth``, which only the oracle may ask for.
    control: a floor (or ceiling) row, set apart in leaderboards and never ranked.
    grid: the granularity it is comparable with; ``any`` for controls that have none of their own.
    files: of its parameters, as keyword arguments, the files that it reads, such as weights: their bytes are part of keys.
    """

    needs: frozenset[str] = frozenset()
    control: bool = False
    grid: Literal["own", "any"] = "own"
    cite: str = ""
    files: Callable[..., Iterable[Path]] | None = None


MetricKind = Literal["ground_truth", "faithfulness", "re_explanation"]
Group = Literal["faithfulness", "localization", "randomisation", "robustness", "complexity"]


@dataclass(frozen=True)
class MetricInfo:
    """What a metric declares.

    kind: ``ground_truth`` is a function (maps [M, H, W], Truth) -> values [M], or vectors [M, V] where ``reduce`` wants them;
        ``faithfulness`` is a class with ``plan(map) -> requests`` and ``score(map, responses) -> Score``;
        ``re_explanation`` is a class with ``plan() -> variations`` and ``score(before, after) -> Score`` (variations.py).
    version: raised whenever a value can change; rows of two versions never share a column.
    direction: ``higher`` or ``lower`` is better. range: bounds of a value. chance: what an uninformed map scores, in words.
    needs: the truth it reads (``mask``, ``boxes``, ``parts``).
    frame: where maps and truth meet: ``input``, the model's, or ``image``, the part of the picture that the model sees in pixels of
        the picture as stored (the *window frame* of data/geometry.py).
    reduce: how rows become the table's figure: ``mean``, or one of reductions.py.
    group: which question it answers, by which tables order their columns.
    axes: what its vector is drawn over, from 0 to 1 in equal steps, and what it shows; nothing where it is no curve.
    """

    kind: MetricKind
    version: str
    direction: Literal["higher", "lower"]
    range: tuple[float, float] = (0.0, 1.0)
    chance: str = ""
    needs: frozenset[str] = frozenset()
    frame: Literal["input", "image"] = "input"
    reduce: str = "mean"
    group: Group = "localization"
    axes: tuple[str, str] | tuple[()] = ()
    cite: str = ""


@dataclass(frozen=True)
class DatasetInfo:
    """What a dataset declares: ``provides`` is the truth of its items (``mask``, ``boxes``, ``parts``); licence of its pictures."""

    provides: frozenset[str] = frozenset()
    licence: str = ""
    cite: str = ""


@dataclass(frozen=True)
class ModelInfo:
    """What a model declares: licence of its weights, and the source."""

    licence: str = ""
    cite: str = ""


@dataclass(frozen=True)
class TrainerInfo:
    """What a trainer declares.

    network: the schema of a recipe's table [network]. table: that of the table with the trainer's own id, None where there is none.
    use: how what it made is used, in words, ``{}`` for its folder.
    """

    network: type[BaseModel]
    table: type[BaseModel] | None = None
    use: str = "the model trained@{}"
    cite: str = ""


Info = MethodInfo | MetricInfo | DatasetInfo | ModelInfo | TrainerInfo


def first_sentence(documented: str) -> str:
    """The first sentence of a docstring, in one line."""
    paragraph = " ".join(documented.partition("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", paragraph)[0]


@dataclass(frozen=True)
class Plugin:
    """One registered function or class.

    names: lists the members of a family such as ``gradcam/<ClassName>``. refused: why some of them cannot be used, by name.
    path: of its source; of no file where it is defined in a notebook's cell. registered: the module that registers it, where that
    is not known to be ``module``, in which the function or class is defined.
    """

    kind: Kind
    id: str
    make: Callable[..., Any]
    info: Info
    module: str
    path: Path
    names: Callable[[], list[str]] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    registered: str = ""

    @property
    def prefix(self) -> str | None:
        """``gradcam/`` for the family ``gradcam/<ClassName>``, None for a single plug-in."""
        return self.id.partition("<")[0] if "<" in self.id else None

    @property
    def summary(self) -> str:
        """The first sentence of its docstring."""
        return first_sentence(inspect.getdoc(self.make) or "")

    @property
    def parameters(self) -> list[inspect.Parameter]:
        """What a spec string can give: the signature without what the harness passes. Of a trainer nothing: see ``tables``."""
        if self.kind == "trainer":
            return []
        found = list(inspect.signature(self.make).parameters.values())
        found = found if inspect.isclass(self.make) else found[_PASSED[self.kind] :]
        return found[1:] if self.prefix else found

    @property
    def tables(self) -> dict[str, type[BaseModel]]:
        """The tables of a recipe that a trainer says, by name."""
        if not isinstance(self.info, TrainerInfo):
            return {}
        return {"network": self.info.network} | ({self.id: self.info.table} if self.info.table else {})


@dataclass(frozen=True, eq=False)
class Bound:
    """A plug-in with its parameters: what a spec string resolves to. Calling it calls the plug-in with them."""

    plugin: Plugin
    spec: Spec
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The canonical spec string: parameters in signature order, defaults left out."""
        return str(self.spec)

    @property
    def inner(self) -> list[Bound]:
        """The plug-ins that this one wraps."""
        return [p for p in self.params.values() if isinstance(p, Bound)]

    @property
    def all_params(self) -> dict[str, str]:
        """Every parameter with its value, defaults included, as text: part of keys."""
        return {k: v.name if isinstance(v, Bound) else str(v) for k, v in self.params.items()}

    def __call__(self, *args: Any) -> Any:
        built = {k: v() if isinstance(v, BoundDataset) else v for k, v in self.params.items()}
        return self.plugin.make(*args, **built)


class Method(Bound):
    """A bound saliency method: ``method(model, batch) -> Tensor [B, h, w]``. Annotate a wrapper's argument with it.

    ``attribute`` gives the same with what the method says of its maps, a ``maps.Attribution``, where it says something; a wrapper's
    maps are others, of which its inner method has nothing to say.
    """

    xbench_kind = "method"

    def __call__(self, *args: Any) -> Any:
        found = self.attribute(*args)
        return getattr(found, "maps", found)

    def attribute(self, *args: Any) -> Any:
        """What the plug-in returns: maps, or an Attribution."""
        return super().__call__(*args)

    @property
    def info(self) -> MethodInfo:
        assert isinstance(self.plugin.info, MethodInfo)
        return self.plugin.info

    @property
    def files(self) -> frozenset[Path]:
        """What it and the methods that it wraps read.

        Raises:
            XbenchError: a file is not there.
        """
        own = self.info.files(**self.params) if self.info.files else ()
        return frozenset(own).union(*(m.files for m in self.inner if isinstance(m, Method)))

    @property
    def needs(self) -> frozenset[str]:
        """What it and the methods that it wraps need."""
        return self.info.needs.union(*(m.needs for m in self.inner if isinstance(m, Method)))


class Metric(Bound):
    """A bound metric; see MetricInfo for the two kinds."""

    xbench_kind = "metric"

    @property
    def info(self) -> MetricInfo:
        assert isinstance(self.plugin.info, MetricInfo)
        return self.plugin.info

    @property
    def range(self) -> tuple[float, float]:
        """Bounds of a value with these parameters: those of its class's ``range`` where it has one."""
        made = self() if inspect.isclass(self.plugin.make) else None
        found: tuple[float, float] = getattr(made, "range", self.info.range)
        return found


class BoundDataset(Bound):
    """A bound dataset: calling it builds the Dataset."""

    xbench_kind = "dataset"

    @property
    def info(self) -> DatasetInfo:
        assert isinstance(self.plugin.info, DatasetInfo)
        return self.plugin.info


class BoundModel(Bound):
    """A bound model: calling it loads the Model."""

    xbench_kind = "model"

    @property
    def info(self) -> ModelInfo:
        assert isinstance(self.plugin.info, ModelInfo)
        return self.plugin.info


class BoundTrainer(Bound):
    """A trainer: calling it with a recipe gives the ``Trainer`` of a training."""

    xbench_kind = "trainer"

    @property
    def info(self) -> TrainerInfo:
        assert isinstance(self.plugin.info, TrainerInfo)
        return self.plugin.info

    def open(self, card: Any, file: Path) -> Any:
        """What it made, opened again: see ``Trainer.open``."""
        trainer: Any = self.plugin.make
        return trainer.open(card, file)


BOUND: dict[Kind, type[Bound]] = {
    "method": Method,
    "metric": Metric,
    "dataset": BoundDataset,
    "model": BoundModel,
    "trainer": BoundTrainer,
}
