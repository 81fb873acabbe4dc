"""Explain a picture, or some of a dataset, outside a benchmark: a sheet of overlays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from xbench import maps
from xbench.data import Batch, Item
from xbench.errors import XbenchError, did_you_mean
from xbench.modelview import Model, ModelView
from xbench.pictures import read
from xbench.plugins import Method
from xbench.registry import registry
from xbench.report import pictures

COLUMNS = 6


def explain_picture(path: Path, model_spec: str, methods: Sequence[str], target: str | None, out: Path) -> str:
    """Write a sheet with the picture as the model sees it and an overlay per method. -> a sentence that says what it shows.

    target: a class of the model, None for its prediction.

    Raises:
        XbenchError: not a picture, an unknown plug-in or class, a method that needs what the model or a single picture lacks.
    """
    bound = [registry.method(spec) for spec in methods]
    model: Model = registry.bind("model", model_spec)()
    row, explained, probability = _row(model, read(path), path.name, bound, None if target is None else _class(model, target))
    pictures.sheet([row[i : i + COLUMNS] for i in range(0, len(row), COLUMNS)], out)
    return f"{model.classes.names[explained]} (p = {probability:.2f}) explained by {', '.join(methods)}: {out}"


def explain_dataset(spec: str, count: int, model_spec: str, methods: Sequence[str], target: str | None, out: Path) -> str:
    """The same for the first pictures of a dataset, a row each. target: a class of the model, None for each picture's label.

    Raises:
        XbenchError: as above, or the model lacks a class of the dataset.
    """
    bound = [registry.method(method) for method in methods]
    model: Model = registry.bind("model", model_spec)()
    dataset = registry.dataset(spec)()
    known = dataset.classes.translation(model.classes)
    if known is None:
        raise XbenchError(f"{spec} and {model_spec} have different classes; choose a model for its classes")
    rows = []
    for entry in dataset.entries()[:count]:
        wanted = known[entry.labels[0]] if target is None else _class(model, target)
        row, explained, probability = _row(model, dataset.load(entry.id).image, entry.id, bound, wanted)
        rows.append([(f"{model.classes.names[explained]}, p = {probability:.2f}", row[0][1]), *row[1:]])
    pictures.sheet(rows, out)
    return f"{len(rows)} pictures of {spec} explained by {', '.join(methods)}: {out}"


def _row(
    model: Model, image: Tensor, name: str, methods: Sequence[Method], target: int | None
) -> tuple[list[tuple[str, pictures.Pixels]], int, float]:
    """(captioned pictures: as the model sees it, then an overlay per method; the explained class; its probability)."""
    inputs = model.inputs([image], "crop")
    view = ModelView(model)
    item = Item(name, name, None, name)
    batch = Batch(inputs, torch.zeros(1, dtype=torch.int64), (item,), seed="0")
    probabilities = view.logits(batch).softmax(dim=1)[0]
    explained = int(probabilities.argmax()) if target is None else target
    batch = Batch(inputs, torch.tensor([explained]), (item,), seed="0")
    window = model.preprocessing.view("crop", *image.shape[-2:])
    seen = window.image(image, model.preprocessing.interpolation).permute(1, 2, 0).numpy()
    row = [("picture", seen)]
    for method in methods:
        if lacking := sorted(method.needs - model.capabilities):
            raise XbenchError(f"method {method.name} needs {' and '.join(lacking)}, which a single picture on {model.id} lacks")
        try:
            raw = method(view, batch.seeded(method.name))
        except XbenchError:
            raise
        except Exception as error:
            raise XbenchError(f"method {method.name} failed on {name}: {type(error).__name__}: {error}") from error
        map_ = maps.validated(raw, 1, 1, batch.size, method.name)[0]
        row.append((method.name, pictures.overlay(seen, map_.numpy())))
    return row, explained, float(probabilities[explained])


def _class(model: Model, target: str) -> int:
    try:
        return model.classes.index(target)
    except KeyError:
        hint = f"; classes are 0 to {len(model.classes) - 1}" if target.isdigit() else did_you_mean(target, model.classes.names)
        raise XbenchError(f"model {model.id} has no class {target!r}{hint}") from None
