"""Recipes: a training as a TOML file, validated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from xbench import toml

if TYPE_CHECKING:
    from xbench.modelview import Preprocessing

Triple = tuple[float, float, float]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


class TimmNetwork(BaseModel):
    """A classifier of timm: its name, and any keyword arguments of ``timm.create_model``.

    init: what to start from: a checkpoint file (a state dict), a model that xbench knows, or ``mimetic`` for a vision transformer.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    timm: str
    init: str = ""

    @property
    def arguments(self) -> dict[str, Any]:
        """What is passed on to ``timm.create_model``."""
        return dict(self.model_extra or {})


class ClipNetwork(BaseModel):
    """A CLIP of open_clip's own class.

    vision, text: fields of ``open_clip.model.CLIPVisionCfg`` and ``CLIPTextCfg``. embed_dim: of the space that they share.
    stem: channels of a convolution before the patches of a vision transformer, as timm's hybrids have it; 0 for none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    open_clip: Literal["CLIP"]
    embed_dim: int = Field(ge=1)
    vision: dict[str, Any]
    text: dict[str, Any]
    quick_gelu: bool = False
    stem: int = Field(default=0, ge=0)
    init: str = ""


class Projection(BaseModel):
    """A new projection of a CLIP's image tokens into its joint space; all else of the CLIP stays as it is.

    clip: a CLIP that xbench knows, such as ``scenes/clip``. encoder: a vision transformer that xbench knows, such as
    ``scenes/simclr``, whose attention is the mask: tokens are pooled where the share ``share`` of it lies; 1 for no mask, and then
    no encoder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    clip: str
    encoder: str = ""
    share: float = Field(default=0.7, gt=0, le=1)

    @model_validator(mode="after")
    def _mask(self) -> Projection:
        if (self.share < 1) != bool(self.encoder):
            raise ValueError("the mask needs an encoder, such as 'scenes/simclr', and share below 1; without it write share = 1.0")
        return self


def _which(table: Any) -> str:
    if not isinstance(table, dict):
        return type(table).__name__
    kind = Projection if "clip" in table else ClipNetwork if "open_clip" in table else TimmNetwork
    return kind.__name__


Network = Annotated[
    Annotated[TimmNetwork, Tag("TimmNetwork")]
    | Annotated[ClipNetwork, Tag("ClipNetwork")]
    | Annotated[Projection, Tag("Projection")],
    Discriminator(_which),
]


class Input(BaseModel):
    """How pictures become the network's input: see ``xbench.Preprocessing``. size: height and width. mean, std: on 0..255."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(default=96, ge=1)
    mean: Triple = (127.5, 127.5, 127.5)
    std: Triple = (127.5, 127.5, 127.5)
    share: float = Field(default=1.0, gt=0, le=1)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    def preprocessing(self) -> Preprocessing:
        """The same as the contract of a model has it."""
        from xbench.modelview import Preprocessing

        return Preprocessing((self.size, self.size), self.share, self.mean, self.std, self.interpolation)

    @classmethod
    def of(cls, known: Preprocessing) -> Input:
        """The inverse, of a square input."""
        (size, _), mean, std = known.size, known.mean, known.std
        return cls(size=size, mean=mean, std=std, share=known.share, interpolation=known.interpolation)


class Data(BaseModel):
    """Which pictures. Datasets are spec strings.

    test: one dataset, or several by name, the main one first. Without ``validation`` and ``test``, each gets the share ``holdout``
    of ``train``, chosen by a digest of the source photograph. view: see ``xbench.geometry``. cache_gb: pictures are kept in memory
    when they fit into that, and read anew in every epoch otherwise. workers: processes that read them, None for one per core.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

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


class Training(BaseModel):
    """How it is minimised: AdamW, the rate rising over the share ``warmup`` of all steps and falling to 0 along a cosine.

    batch_size: on each device. flip: mirror half of the pictures. shift: move them by up to that many pixels, their borders
    repeated. token_labels: weight of a second loss for vision transformers of timm, by which the classifier must also know each
    patch that an object covers (Jiang et al. 2021, here with exact masks); 0 for none. clip: largest norm of the gradient, 0 for
    any. ema: decay per step of a moving average of the weights, which is then what is selected and kept; 0 for none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(ge=1)
    batch_size: int = Field(default=128, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup: float = Field(default=0.05, ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    precision: Precision = "32-true"
    flip: bool = False
    shift: int = Field(default=0, ge=0)
    token_labels: float = Field(default=0.0, ge=0)
    clip: float = Field(default=1.0, ge=0)
    ema: float = Field(default=0.0, ge=0, lt=1)


class Simclr(BaseModel):
    """How a network learns from pictures alone (SimCLR): to tell which views are of one picture.

    hidden, outputs: widths of the projection head. side: of the views in pixels. scale: the share of the picture that a view shows,
    drawn from that range. temperature: of the cosines. colour: strength of changes of colour, 0 for none, 1 for those of BYOL.
    blur: how many of the views are blurred. clouds: strength of smooth random colours that are added to each view, 0 for none as in
    the paper: where backgrounds are soft, and would tell pictures apart better than what stands before them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden: int = Field(default=512, ge=1)
    outputs: int = Field(default=64, ge=1)
    side: int = Field(default=96, ge=1)
    scale: tuple[float, float] = (0.4, 1.0)
    temperature: float = Field(default=0.2, gt=0)
    colour: float = Field(default=1.0, ge=0, le=1)
    blur: float = Field(default=0.5, ge=0, le=1)
    clouds: float = Field(default=0.0, ge=0, le=2)

    @field_validator("scale")
    @classmethod
    def _range(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale is a range of shares of the picture, such as [0.4, 1.0], not {list(scale)}")
        return scale


class Recipe(BaseModel):
    """A training.

    task: ``classify`` learns the labels of pictures; ``contrast`` learns which caption belongs to which picture (CLIP); ``simclr``
    learns from pictures alone, as ``simclr`` says; ``masked_max`` learns a projection of a CLIP's tokens (ECLIP).
    template: of the prompts that what learns from captions is validated by. prompts: more of them by name, reported beside it: a
    template, or a sentence for each class.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    title: str = ""
    seed: int = 0
    task: Literal["classify", "contrast", "simclr", "masked_max"]
    template: str = "a picture of a {}"
    prompts: dict[str, str | list[str]] = {}
    network: Network
    preprocessing: Input = Input()
    data: Data
    training: Training
    simclr: Simclr | None = None

    @field_validator("template")
    @classmethod
    def _placeholder(cls, template: str) -> str:
        if "{}" not in template:
            raise ValueError(f"template {template!r} has no {{}} for the class's name; write it like 'a picture of a {{}}'")
        return template

    @model_validator(mode="after")
    def _fitting(self) -> Recipe:
        if self.task in ("classify", "simclr") and not isinstance(self.network, TimmNetwork):
            raise ValueError(f"the task {self.task} needs a classifier; write [network] with timm = NAME")
        if self.task == "contrast" and not isinstance(self.network, ClipNetwork):
            raise ValueError("the task contrast needs a CLIP; write [network] with open_clip = 'CLIP', embed_dim, vision and text")
        if self.task == "masked_max" and not isinstance(self.network, Projection):
            raise ValueError("the task masked_max needs a trained CLIP; write [network] with clip = MODEL, encoder and share")
        if self.task == "masked_max" and self.preprocessing != Input():
            raise ValueError("the task masked_max reads pictures as its CLIP does; leave [preprocessing] out")
        if self.task != "simclr" and self.simclr:
            raise ValueError(f"the table [simclr] is of the task simclr, not {self.task}; leave it out")
        return self

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


def load(path: Path) -> Recipe:
    """Read and validate a recipe.

    Raises:
        XbenchError: not TOML, an unknown key or a wrong value; names the key and its line.
    """
    return toml.load(path, Recipe, "recipe")
