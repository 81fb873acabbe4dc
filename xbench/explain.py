"""Explain one picture outside a benchmark: a sheet of overlays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from xbench import maps
from xbench.data import Batch, Item
from xbench.errors import XbenchError, did_you_mean
from xbench.modelview import Model, ModelView
from xbench.pictures import read
from xbench.registry import registry
from xbench.report import pictures


def explain_picture(path: Path, model_spec: str, methods: Sequence[str], target: str | None, out: Path) -> str:
    """Write a sheet with the picture as the model sees it and an overlay per method. -> a sentence that says what it shows.

    Raises:
        XbenchError: not a picture, an unknown plug-in or class, a method that needs what the model or a single picture lacks.
    """
    bound = [registry.method(spec) for spec in methods]
    model: Model = registry.bind("model", model_spec)()
    image = read(path)
    inputs = model.inputs([image], "crop")
    view = ModelView(model)
    item = Item(path.name, path.name, None, path.name)
    batch = Batch(inputs, torch.zeros(1, dtype=torch.int64), (item,), seed="0")
    probabilities = view.logits(batch).softmax(dim=1)[0]
    explained = int(probabilities.argmax()) if target is None else _class(model, target)
    batch = Batch(inputs, torch.tensor([explained]), (item,), seed="0")
    window = model.preprocessing.view("crop", *image.shape[-2:])
    seen = window.image(image, model.preprocessing.interpolation).permute(1, 2, 0).numpy()
    row = [("picture", seen)]
    for method in bound:
        if lacking := sorted(method.needs - model.capabilities):
            raise XbenchError(f"method {method.name} needs {' and '.join(lacking)}, which a single picture on {model.id} lacks")
        try:
            raw = method(view, batch.seeded(method.name))
        except XbenchError:
            raise
        except Exception as error:
            raise XbenchError(f"method {method.name} failed on {path}: {type(error).__name__}: {error}") from error
        map_ = maps.validated(raw, 1, 1, batch.size, method.name)[0]
        row.append((method.name, pictures.overlay(seen, map_.numpy())))
    pictures.sheet([row[i : i + 6] for i in range(0, len(row), 6)], out)
    return f"{model.classes.names[explained]} (p = {float(probabilities[explained]):.2f}) explained by {', '.join(methods)}: {out}"


def _class(model: Model, target: str) -> int:
    try:
        return model.classes.index(target)
    except KeyError:
        hint = f"; classes are 0 to {len(model.classes) - 1}" if target.isdigit() else did_you_mean(target, model.classes.names)
        raise XbenchError(f"model {model.id} has no class {target!r}{hint}") from None
