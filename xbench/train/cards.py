"""Cards: what a trained model is, what it was made of, and how good it is on pictures that it never saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from xbench.data.classes import ClassList
from xbench.errors import XbenchError
from xbench.train.recipes import Input


class SplitCard(BaseModel):
    """A dataset as it was read. pictures: how many. unreadable: of those, left out."""

    model_config = ConfigDict(extra="forbid")

    dataset: str
    revision: str
    pictures: int
    unreadable: int


class FigureCard(BaseModel):
    """A held-out figure; see ``objectives.Figure``."""

    model_config = ConfigDict(extra="forbid")

    value: float
    standard_error: float
    n: int


class Card(BaseModel):
    """What is known of a trained model.

    task: the trainer, which opens it again. network: the recipe's table [network], as that trainer reads it. template, prompts: of
    a CLIP, as its recipe has them.
    data: by split, "train", "validation", "test/...". held_out: figures by test set. generated: the pictures are no photographs.
    recipe: all that was asked for. seconds: of all epochs together. versions: of the libraries. sha256: of the weights' file.
    parts: what it was trained on top of, where it is no model of its own: specs and digests. remarks: what else is to be said.
    """

    model_config = ConfigDict(extra="ignore")  # of newer versions

    name: str
    title: str
    task: str
    generated: bool
    classes: list[str]
    synsets: list[str]
    template: str
    prompts: dict[str, str | list[str]]
    network: dict[str, Any]
    preprocessing: Input
    held_out: dict[str, dict[str, FigureCard]]
    data: dict[str, SplitCard]
    recipe: dict[str, Any]
    started_from: str
    seed: int
    epochs: int
    selected_epoch: int
    parameters: int
    seconds: float
    machine: dict[str, str | int]
    versions: dict[str, str]
    parts: dict[str, str] = {}
    remarks: str = ""
    sha256: str

    @property
    def class_list(self) -> ClassList:
        return ClassList(tuple(self.classes), tuple(self.synsets))

    def sentence(self) -> str:
        """The card in a few words, as reports show it."""
        generated = ", generated pictures that are no photographs" if self.generated else ""
        figures = [
            f"{name.replace('_', ' ')} {100 * figure.value:.1f} % ± {100 * figure.standard_error:.1f} on {test} (n = {figure.n})"
            for test, found in self.held_out.items()
            for name, figure in found.items()
        ]
        remarks = f" {self.remarks}" if self.remarks else ""
        return (
            f"{self.title or self.name}: {self.parameters:,} parameters, trained by xbench itself (recipe {self.name}, epoch "
            f"{self.selected_epoch} of {self.epochs}) on {self.data['train'].dataset}{generated}. Held out: {'; '.join(figures)}. "
            f"sha256 of the weights: {self.sha256[:16]}.{remarks}"
        )


def find(place: Path) -> tuple[Path, Path]:
    """The card and the weights of a model given by its folder, its card or its weights.

    Raises:
        XbenchError: one of them is not there.
    """
    stem = place / "model" if place.is_dir() else place.with_suffix("")
    card, weights = stem.with_suffix(".json"), stem.with_suffix(".safetensors")
    for path, what in ((card, "card"), (weights, "weights")):
        if not path.is_file():
            raise XbenchError(f"no trained model at {place}: its {what} {path} is not there; name what xbench train made")
    return card, weights


def read(path: Path) -> Card:
    """Read a card.

    Raises:
        XbenchError: it is no card.
    """
    try:
        return Card.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise XbenchError(f"{path} is no card of a trained model ({where}: {first['msg']}); name what xbench train made") from error
