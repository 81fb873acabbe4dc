"""Every classifier of torchvision, with its pretrained weights or with a checkpoint of one's own."""

from __future__ import annotations

import functools
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, cast

import torchvision
from torch import Tensor, nn
from torchvision import models

from xbench.plugin import Model, Preprocessing, XbenchError, model

from ._checkpoints import Checkpoint, read
from ._classlists import class_list
from ._downloads import cached
from ._fitting import class_count, fit

# Module names may hold no dots any more, but published DenseNets' still do.
DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")


@functools.cache
def names() -> list[str]:
    """All classifiers, and all with the name of one of their weights."""
    found = {name: models.get_model_weights(name) for name in models.list_models(module=models)}
    return sorted({*found, *(f"{name}.{entry.name}" for name, entries in found.items() for entry in entries if _complete(entry))})


@model("torchvision/<name>", licence="the card names that of the weights", cite="torchvision2016", names=names)
def torchvision_zoo(name: str, checkpoint: str = "", classes: str = "", layer: str = "") -> Model:
    """A torchvision classifier: ``torchvision/resnet50``, ``torchvision/resnet50.IMAGENET1K_V1``, ``torchvision/resnet18@mine.pt``.

    Pretrained weights come from the local cache; XBENCH_DOWNLOAD=1 allows to fetch them. checkpoint: a file of your own; the
    number of classes is read from it, the preprocessing is that of torchvision's weights. classes: a file that names them, one a
    line, or a JSON list. layer: the feature layer, where it is not to be found by itself.
    """
    spec = f"torchvision/{name}"
    architecture, _, tag = name.partition(".")
    entries = models.get_model_weights(architecture)
    entry: Any = entries[tag] if tag else entries.DEFAULT
    found = read(checkpoint or cached(entry.url, spec))
    if architecture.startswith("densenet"):
        renamed = OrderedDict((DENSENET.sub(r"\1\2", key), tensor) for key, tensor in found.tensors.items())
        found = replace(found, tensors=renamed)
    build = functools.partial(_build, architecture, entry, found.tensors)
    count = class_count(build, found.tensors) or len(entry.meta["categories"])
    network = build(count)
    fit(network, found, spec)
    listed, files = class_list(classes, found.classes, count, f"model {spec}", known=False)
    card = _card(entry, found, bool(checkpoint))
    return Model(spec, network, _preprocessing(spec, entry), listed, layer, files=(found.path, *files), card=card)


def _complete(entry: Any) -> bool:
    """Whether weights have a classifier: VGG16's IMAGENET1K_FEATURES have not."""
    return len(entry.meta["categories"] or ()) > 1


def _build(architecture: str, entry: Any, tensors: Mapping[str, Tensor], classes: int) -> nn.Module:
    arguments: dict[str, Any] = {}
    if architecture.startswith("vit_"):
        arguments["image_size"] = entry.transforms().crop_size[0]
    if architecture in ("googlenet", "inception_v3"):
        # As torchvision itself builds them for its weights; auxiliary heads are there to be filled, and say nothing in evaluation.
        auxiliary = any(key.startswith(("aux1.", "AuxLogits.")) for key in tensors)
        arguments = {"aux_logits": auxiliary, "transform_input": True, "init_weights": False}
    return cast(nn.Module, models.get_model(architecture, weights=None, num_classes=classes, **arguments))


def _preprocessing(spec: str, entry: Any) -> Preprocessing:
    how = entry.transforms()
    if how.interpolation.value not in ("bicubic", "bilinear"):
        raise XbenchError(f"model {spec} wants pictures resized {how.interpolation.value}; xbench has bicubic and bilinear")
    size, share = how.crop_size[0], how.crop_size[0] / how.resize_size[0]
    mean, std = (cast("tuple[float, float, float]", tuple(255 * v for v in values)) for values in (how.mean, how.std))
    return Preprocessing((size, size), share, mean, std, cast(Literal["bicubic", "bilinear"], how.interpolation.value))


def _card(entry: Any, found: Checkpoint, own: bool) -> str:
    source = f"checkpoint {found.path}, preprocessing of {entry}" if own else f"{entry}, {entry.url}"
    part = f", entry {found.entry}" if found.entry else ""
    licence = "not known" if own else entry.meta.get("license", "not stated; torchvision itself is BSD-3-Clause")
    inner = ""
    if str(entry).startswith(("GoogLeNet", "Inception")):
        inner = " The network maps pictures normalised for ImageNet to [-1, 1] itself, as torchvision builds it for its weights."
    return f"torchvision {torchvision.__version__}; weights: {source}{part}; licence of the weights: {licence}.{inner}"
