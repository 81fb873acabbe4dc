"""Every network of timm that classifies, with its pretrained weights or with a checkpoint of one's own."""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Literal, cast, get_args

import huggingface_hub
import huggingface_hub.errors
import timm
from timm.data.config import resolve_model_data_config
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import nn

from xbench.plugin import ClassList, Model, Preprocessing, XbenchError, model

from ._checkpoints import Checkpoint, read
from ._classlists import class_list
from ._downloads import absent, cached, downloads
from ._fitting import class_count, fit

FILES = ("model.safetensors", "pytorch_model.bin")  # names in a hub repository, the safe one first
Interpolation = Literal["bicubic", "bilinear"]


@functools.cache
def names() -> list[str]:
    """All networks, and all with a tag that says which of their weights are meant."""
    return sorted({*timm.list_models(), *timm.list_models(pretrained=True)})


@model("timm/<name>", licence="the card names that of the weights", cite="wightman2019timm", names=names)
def timm_zoo(name: str, checkpoint: str = "", classes: str = "", layer: str = "") -> Model:
    """A network of timm: ``timm/resnet50``, ``timm/resnet50.a1_in1k``, ``timm/resnet50@mine.safetensors``.

    Pretrained weights come from the local caches; XBENCH_DOWNLOAD=1 allows to fetch them. Those without a classifier, such as
    DINO's, give features: something to read attention from, no model of a suite. checkpoint: a file of your own; the number of
    classes is read from it. classes: a file that names them, one a line, or a JSON list. layer: the feature layer, where
    it is not to be found by itself.
    """
    spec = f"timm/{name}"
    known = get_pretrained_cfg(name) or PretrainedCfg()
    found = read(checkpoint or _locate(spec, known))
    build = functools.partial(_build, name)
    count = class_count(build, found.tensors) or known.num_classes
    network = build(count)
    found = _converted(name, network, found)
    converted = class_count(build, found.tensors)
    if converted not in (count, None):
        network, count = build(converted), converted
    fit(network, found, spec)
    listed, files = (
        class_list(classes, found.classes, count, f"model {spec}", known=not checkpoint) if count else (ClassList(()), ())
    )
    preprocessing, remark = _preprocessing(spec, network)
    source = f"checkpoint {found.path}" if checkpoint else known.hf_hub_id or known.url
    entry = f", entry {found.entry}" if found.entry else ""
    licence = "not known" if checkpoint else known.license or "not stated"
    tag = f" (configuration {known.tag})" if known.tag else ""
    card = f"timm {timm.__version__}: {name}{tag}; weights: {source}{entry}; licence of the weights: {licence}.{remark}"
    return Model(spec, network, preprocessing, listed, layer, files=(found.path, *files), card=card)


def _build(name: str, classes: int) -> nn.Module:
    return timm.create_model(name, pretrained=False, num_classes=classes)


def _preprocessing(spec: str, network: nn.Module) -> tuple[Preprocessing, str]:
    """timm's own evaluation transform, and what of it a Preprocessing cannot say."""
    config = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    if config["interpolation"] not in get_args(Interpolation) or config["input_size"][0] != 3:
        raise XbenchError(
            f"model {spec} wants {config['input_size'][0]} channels, resized {config['interpolation']}; "
            f"xbench has RGB, {' or '.join(get_args(Interpolation))}: take another"
        )
    height, width = config["input_size"][1:]
    mean, std = (cast("tuple[float, float, float]", tuple(255 * v for v in config[which])) for which in ("mean", "std"))
    share = height / math.floor(height / config["crop_pct"])
    remark = {
        "squash": " timm stretches whole pictures to the input before it crops: the view `squash` comes closest.",
        "border": " timm pads whole pictures to the input: the view `keep_aspect` comes closest, without the border.",
    }.get(config["crop_mode"], "")
    return Preprocessing((height, width), share, mean, std, cast(Interpolation, config["interpolation"])), remark


def _locate(spec: str, known: PretrainedCfg) -> Path:
    """The file of the pretrained weights: in a cache, or downloaded where that is allowed."""
    if not known.has_weights:
        raise XbenchError(f"timm has no weights for {spec}; name a checkpoint: {spec}@FILE")
    if not known.hf_hub_id:
        return cached(str(known.url), spec)
    repository, _, revision = known.hf_hub_id.partition("@")
    files = (known.hf_hub_filename,) if known.hf_hub_filename else FILES
    for file in files:
        path = huggingface_hub.try_to_load_from_cache(repository, file, revision=revision or None)
        if isinstance(path, str):
            return Path(path)
    if known.url:
        with suppress(XbenchError):
            if not downloads():
                return cached(str(known.url), spec)
    if not downloads():
        where = f"https://huggingface.co/{repository}"
        raise XbenchError(absent(spec, files[0], where, f"get it with `hf download {repository} {files[0]}`"))
    for file in files:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, file, revision=revision or None))
        except huggingface_hub.errors.RemoteEntryNotFoundError:
            continue  # older repositories have no safetensors
        except Exception as error:  # the hub's client has no common one
            raise XbenchError(
                f"model {spec}: the download of {file} of {repository} failed: {str(error).splitlines()[0]}"
            ) from error
    raise XbenchError(f"model {spec}: {repository} has none of {', '.join(files)}; name a checkpoint: {spec}@FILE")


def _converted(name: str, network: nn.Module, found: Checkpoint) -> Checkpoint:
    """Files as their authors published them name tensors otherwise; timm's own filters know how to read them."""
    entry = timm.models.model_entrypoint(name.partition(".")[0])
    convert = getattr(sys.modules[entry.__module__], "checkpoint_filter_fn", None)
    if convert is None or found.tensors.keys() == network.state_dict().keys():
        return found
    arguments = [OrderedDict(found.tensors), network][: len(inspect.signature(convert).parameters)]
    with suppress(Exception):  # what it cannot read, `fit` describes
        return Checkpoint(found.path, OrderedDict(convert(*arguments)), found.classes, found.entry)
    return found
