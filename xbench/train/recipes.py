"""Recipes: a training as a TOML file, validated."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, create_model, field_validator, model_validator

from xbench.errors import XbenchError, did_you_mean
from xbench.plugins import toml
from xbench.plugins.declarations import TrainerInfo
from xbench.plugins.registry import registry

if TYPE_CHECKING:
    from xbench.network.model import Preprocessing

Triple = tuple[float, float, float]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


class Table(BaseModel):
    """A table of a recipe: its keys are those of its class, and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(Table):
    """A recipe's table [network], of which every trainer says its own. told_by: the key that no other has. wanted: what to write,
    for who has written another.
    """

    told_by: ClassVar[str] = ""
    wanted: ClassVar[str] = ""


class TimmNetwork(Network):
    """A classifier of timm: its name, and any keyword arguments of ``timm.create_model``.

    init: what to start from: a checkpoint file (a state dict), a model that xbench knows, or ``mimetic`` for a vision transformer.
    """

    model_config = ConfigDict(extra="allow")

    told_by: ClassVar[str] = "timm"
    wanted: ClassVar[str] = "a classifier; write [network] with timm = NAME"

    timm: str
    init: str = ""

    @property
    def arguments(self) -> dict[str, Any]:
        """What is passed on to ``timm.create_model``."""
        return dict(self.model_extra or {})


class ClipNetwork(Network):
    """A CLIP of open_clip's own class.

    vision, text: fields of ``open_clip.model.CLIPVisionCfg`` and ``CLIPTextCfg``. embed_dim: of the space that they share.
    stem: channels of a convolution before the patches of a vision transformer, as timm's hybrids have it; 0 for none.
    """

    told_by: ClassVar[str] = "open_clip"
    wanted: ClassVar[str] = "a CLIP; write [network] with open_clip = 'CLIP', embed_dim, vision and text"

    open_clip: Literal["CLIP"]
    embed_dim: int = Field(ge=1)
    vision: dict[str, Any]
    text: dict[str, Any]
    quick_gelu: bool = False
    stem: int = Field(default=0, ge=0)
    init: str = ""


class Input(Table):
    """How pictures become the network's input: see ``xbench.Preprocessing``. size: height and width. mean, std: on 0..255."""

    size: int = Field(default=96, ge=1)
    mean: Triple = (127.5, 127.5, 127.5)
    std: Triple = (127.5, 127.5, 127.5)
    share: float = Field(default=1.0, gt=0, le=1)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    def preprocessing(self) -> Preprocessing:
        """The same as the contract of a model has it."""
        from xbench.network.model import Preprocessing

        return Preprocessing((self.size, self.size), self.share, self.mean, self.std, self.interpolation)

    @classmethod
    def of(cls, known: Preprocessing) -> Input:
        """The inverse, of a square input."""
        (size, _), mean, std = known.size, known.mean, known.std
        return cls(size=size, mean=mean, std=std, share=known.share, interpolation=known.interpolation)


class Data(Table):
    """Which pictures. Datasets are spec strings.

    test: one dataset, or several by name, the main one first. Without ``validation`` and ``test``, each gets the share ``holdout``
    of ``train``, chosen by a digest of the source photograph. view: see data/geometry.py. cache_gb: pictures are kept in memory
    when they fit into that, and read anew in every epoch otherwise. workers: processes that read them, None for one per core.
    """

    train: str
    validation: str = ""
    test: str | dict[str, str] = ""
    holdout: float = Field(default=0.1, gt=0, lt=0.5)
    view: Literal["crop", "squash"] = "crop"
    cache_gb: float = Field(default=4.0, ge=0)
    workers: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _held_out(self) -> Data:
        if bool(self.validation) != bool(self.test):
            raise ValueError("give both validation and test, or neither, and both are held out of train")
        return self

    @property
    def tests(self) -> dict[str, str]:
        """Held-out datasets by name."""
        return self.test if isinstance(self.test, dict) else {"test": self.test} if self.test else {}


class Training(Table):
    """How it is minimised: AdamW, the rate rising over the share ``warmup`` of all steps and falling to 0 along a cosine.

    batch_size: on each device. flip: mirror half of the pictures. shift: move them by up to that many pixels, their borders
    repeated. clip: largest norm of the gradient, 0 for any. ema: decay per step of a moving average of the weights, which is then
    what is selected and kept; 0 for none.
    """

    epochs: int = Field(ge=1)
    batch_size: int = Field(default=128, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup: float = Field(default=0.05, ge=0, lt=1)
    precision: Precision = "32-true"
    flip: bool = False
    shift: int = Field(default=0, ge=0)
    clip: float = Field(default=1.0, ge=0)
    ema: float = Field(default=0.0, ge=0, lt=1)


class Recipe(Table):
    """A training.

    task: the id of the trainer, which says what [network] may be and what a table of its own id holds: see ``of``.
    template: of the prompts that what learns from captions is validated by. prompts: more of them by name, reported beside it: a
    template, or a sentence for each class.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    title: str = ""
    seed: int = 0
    task: str
    template: str = "a picture of a {}"
    prompts: dict[str, str | list[str]] = {}
    network: Network
    preprocessing: Input = Input()
    data: Data
    training: Training

    @property
    def table(self) -> Any:
        """The trainer's own table, of the class that it declares; None where it has none."""
        return getattr(self, self.task, None)

    @model_validator(mode="before")
    @classmethod
    def _of_this_task(cls, given: Any) -> Any:
        if isinstance(given, dict) and "task" in given:
            others = set(registry.ids("trainer")) - set(cls.model_fields) - {given["task"]}
            for key in given:
                if key in others and cls is not _Unknown:
                    raise ValueError(f"the table [{key}] is of the task {key}, not {given['task']}; leave it out")
        return given

    @field_validator("task")
    @classmethod
    def _known(cls, task: str) -> str:
        if task not in (known := registry.ids("trainer")):
            raise ValueError(f"unknown task {task!r}{did_you_mean(task, known)}; a trainer in a file of yours needs --plugin FILE")
        return task

    @field_validator("template")
    @classmethod
    def _placeholder(cls, template: str) -> str:
        if "{}" not in template:
            raise ValueError(f"template {template!r} has no {{}} for the class's name; write it like 'a picture of a {{}}'")
        return template

    @field_validator("network", mode="before")
    @classmethod
    def _fitting(cls, table: Any, known: ValidationInfo) -> Any:
        schema: Any = cls.model_fields["network"].annotation
        if isinstance(table, dict) and issubclass(schema, Network) and schema.told_by not in {"", *table}:
            raise ValueError(f"the task {known.data.get('task')} needs {schema.wanted}")
        return table

    def on(self, dataset: str) -> Recipe:
        """The same recipe on another dataset, of which validation and test are held out."""
        data = self.data.model_copy(update={"train": dataset, "validation": "", "test": ""})
        return self.model_copy(update={"data": data})


def recipes() -> list[str]:
    """The names of the recipes that ship."""
    return toml.shipped("xbench.recipes")


def find(name_or_path: str) -> Path:
    """The TOML file of a recipe given by name or path.

    Raises:
        XbenchError: there is none.
    """
    return toml.find(name_or_path, "xbench.recipes", "recipe")


def title(path: Path) -> str:
    """The title of a recipe, which is not validated."""
    return toml.load(path, _Head, "recipe").title


def load(path: Path) -> Recipe:
    """Read and validate a recipe.

    Raises:
        XbenchError: not TOML, an unknown key or a wrong value; names the key and its line.
    """
    return toml.load(path, _schema, "recipe")


def of(tables: Mapping[str, Any]) -> Recipe:
    """A recipe from its tables, such as those in a card.

    Raises:
        pydantic.ValidationError: an unknown key or a wrong value.
        XbenchError: its trainer cannot be loaded.
    """
    return _schema(tables).model_validate(tables)


class _Head(BaseModel):
    """What lists show of a recipe."""

    title: str = ""


class _Unknown(Recipe):
    """A recipe of an unknown task: nobody knows what its network and further tables may hold."""

    model_config = ConfigDict(extra="ignore")

    network: Any = None


def _schema(tables: Mapping[str, Any]) -> type[Recipe]:
    """What a recipe of that task may hold."""
    task = tables.get("task")
    if task not in registry.ids("trainer"):
        return _Unknown
    return _schema_of(task, registry.trainer(task).info)


@functools.cache
def _schema_of(task: str, info: TrainerInfo) -> type[Recipe]:
    if task in Recipe.model_fields or hasattr(Recipe, task):
        raise XbenchError(f"trainer {task!r} has a name that means something else in every recipe; rename it")
    tables: dict[str, Any] = {"network": (info.network, ...)}
    for schema in filter(None, (info.network, info.table)):
        if schema.model_config.get("extra") not in ("forbid", "allow"):
            raise XbenchError(f"trainer {task!r}: its table {schema.__name__} forgives unknown keys; derive it from xbench.Table")
    if info.table is not None:
        needed = any(field.is_required() for field in info.table.model_fields.values())
        tables[task] = (info.table, ... if needed else info.table())
    return create_model("Recipe", __base__=Recipe, **tables)
