"""Every CLIP of open_clip as a zero-shot classifier, with its pretrained weights or with a checkpoint of one's own."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import open_clip
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn

from xbench.plugin import (
    ClassList,
    Encoder,
    Model,
    Preprocessing,
    XbenchError,
    classifier,
    counted,
    fill,
    imagenet_1k,
    model,
    towers,
)

from ._checkpoints import Checkpoint, read
from ._classlists import _lines, _parse
from ._clip_weights import converted, locate, refuse_torchscript
from ._downloads import downloads
from ._fitting import fit
from ._hub import in_cache
from ._templates import EXAMPLE, templates

TOKENIZERS = ("tokenizer.json", "tokenizer_config.json")


@functools.cache
def names() -> list[str]:
    """All architectures, and all with a tag that says which of their weights are meant: ``ViT-B-32/openai``."""
    return sorted({*open_clip.list_models(), *map("/".join, open_clip.list_pretrained())})


@model("open_clip/<name>", licence="the card names that of the weights", cite="ilharco2021openclip", names=names)
def open_clip_zoo(
    name: str, checkpoint: str = "", classes: str = "", template: str = EXAMPLE, layer: str = "", size: int = 0
) -> Model:
    """A CLIP as a zero-shot classifier: ``open_clip/ViT-B-32/openai``, ``open_clip/ViT-B-32@mine.safetensors``.

    Pretrained weights come from the local caches; XBENCH_DOWNLOAD=1 allows to fetch them. checkpoint: a file of your own; behind a
    tag it has that tag's activation and preprocessing, without one open_clip's default. classes: a file that names them, one a
    line, or a JSON list; without one ImageNet's 1,000. template: a sentence with ``{}`` for the class's name, or a file of
    several, one a line, or ``openai_80`` or ``openai_7``; embeddings of several are averaged. layer: the feature layer, where it
    is not to be found by itself. size: side of the input where it is not the network's own, best a multiple of the patch's;
    positions are interpolated.
    """
    spec = f"open_clip/{name}"
    architecture, _, tag = name.partition("/")
    known = open_clip.get_pretrained_cfg(architecture, tag)
    path = Path(checkpoint).expanduser() if checkpoint else locate(spec, architecture, known)
    refuse_torchscript(path, known)
    found = read(path)
    listed, spoken, list_files = _classes(classes, found.classes)
    sentences, template_files = templates(spec, template)
    tokenizer, network = _tokenizer(spec, architecture), _network(spec, architecture, known)
    fit(network, converted(network, found), spec)
    known_length = counted(tokenizer) if isinstance(tokenizer, open_clip.SimpleTokenizer) else ()  # others cut in other ways
    encode = Encoder(functools.partial(_encode, network, tokenizer), *known_length)
    preprocessing, remark = _preprocessing(spec, network, known)
    if size:
        preprocessing = _resized(spec, network, preprocessing, size)
    card = _card(architecture, tag, found, known.get("hf_hub", "") if not checkpoint else "")
    files = (found.path, *list_files, *template_files)
    prompts = fill(sentences, spoken)
    return classifier(spec, network, encode, listed, prompts, preprocessing, layer, files, f"{card}{remark}")


def _classes(file: str, brought: tuple[str, ...]) -> tuple[ClassList, Sequence[str], tuple[Path, ...]]:
    """The classes, what they are called in prompts, and the file that they were read from."""
    if not file and not brought:
        return imagenet_1k(), open_clip.IMAGENET_CLASSNAMES, ()  # which tell the crane that flies from the one that lifts
    path = Path(file).expanduser()
    listed = _parse(_lines(path) if file else list(brought))
    if not len(listed):
        raise XbenchError(f"{path} lists no classes; write one class a line, or a JSON list")
    return listed, listed.names, (path,) if file else ()


def _tokenizer(spec: str, architecture: str) -> Any:
    """open_clip's own, in its package, or one of transformers from the hub's cache."""
    repository = open_clip.get_model_config(architecture)["text_cfg"].get("hf_tokenizer_name")
    if not repository:
        return open_clip.get_tokenizer(architecture)
    _need(spec, "tokenizer", repository, TOKENIZERS)
    try:
        return open_clip.get_tokenizer(architecture, local_files_only=not downloads())
    except Exception as error:  # transformers have no common one
        why = str(error).partition("\n")[0]
        raise XbenchError(
            f"model {spec} cannot open the tokenizer {repository}: {why}; it needs `pip install transformers`"
        ) from error


def _network(spec: str, architecture: str, known: Mapping[str, Any]) -> Any:
    """The network with random weights, as open_clip's factory makes it."""
    config = open_clip.get_model_config(architecture)
    text = config["text_cfg"]
    if text.get("hf_model_name"):
        path = _need(spec, "text tower's configuration", text["hf_model_name"], ("config.json",))
        # A folder is read without a question to the hub.
        text.update(hf_model_name=str(path.parent) if path else text["hf_model_name"], hf_model_pretrained=False)
    custom = config.pop("custom_text", False) or text.get("hf_model_name")
    kind = (open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP) if custom else open_clip.CLIP
    # An architecture does not know how each of its weights was trained: ViT-B-32's of OpenAI with QuickGELU, LAION-2B's without.
    config["quick_gelu"] = config.get("quick_gelu", False) or known.get("quick_gelu", False)
    return kind(**config)


def _encode(network: Any, tokenizer: Any, sentences: Sequence[str]) -> Tensor:
    """Embeddings of any length, ``[n, D]``."""
    tokens = tokenizer(list(sentences))
    if not isinstance(network, open_clip.CLIP) or network.attn_mask is None or network.text_pool_type != "argmax":
        return network.encode_text(tokens)
    # No token sees those behind it, so what fills up the rows behind the last sentence's end is left out: five times as fast.
    length = int(tokens.argmax(dim=1).max()) + 1
    positions, mask = network.positional_embedding, network.attn_mask
    network.positional_embedding, network.attn_mask = nn.Parameter(positions[:length]), mask[:length, :length]
    try:
        return network.encode_text(tokens[:, :length])
    finally:
        network.positional_embedding, network.attn_mask = positions, mask


def _resized(spec: str, network: Any, how: Preprocessing, size: int) -> Preprocessing:
    tower = towers.of(network.visual)
    if tower is None:
        raise XbenchError(f"model {spec} is made for inputs of {how.size[0]} pixels only; leave size out")
    if min(tower.grid((size, size))) < 2:
        raise XbenchError(
            f"model {spec}: an input of {size} pixels has no two places a side; choose at least {2 * tower.stride[0]}"
        )
    return dataclasses.replace(how, size=(size, size))


def _need(spec: str, what: str, repository: str, files: Sequence[str]) -> Path | None:
    """The first of these files in the hub's cache; None where the download is left to the library that wants them."""
    path = in_cache(repository, files)
    if path is None and not downloads():
        raise XbenchError(
            f"model {spec} needs the {what} of https://huggingface.co/{repository}, which is not on this machine; "
            f"get it with `hf download {repository}`, or set XBENCH_DOWNLOAD=1 to allow the download"
        )
    return path


def _preprocessing(spec: str, network: Any, known: Mapping[str, Any]) -> tuple[Preprocessing, str]:
    """open_clip's own evaluation transform, and what of it a Preprocessing cannot say."""
    config = {**dataclasses.asdict(PreprocessCfg()), **known}
    side = network.visual.image_size
    height, width = side if isinstance(side, tuple) else (side, side)
    if config["interpolation"] not in ("bicubic", "bilinear"):
        raise XbenchError(f"model {spec} wants pictures resized {config['interpolation']}; xbench has bicubic and bilinear")
    mean, std = (cast("tuple[float, float, float]", tuple(255 * v for v in config[which])) for which in ("mean", "std"))
    remark = {
        "squash": " open_clip stretches whole pictures to the input: the view `squash` is the same.",
        "longest": " open_clip pads whole pictures to the input: the view `keep_aspect` comes closest, without the border.",
    }.get(config["resize_mode"], "")
    return Preprocessing((height, width), 1.0, mean, std, config["interpolation"]), remark


def _card(architecture: str, tag: str, found: Checkpoint, hub: str) -> str:
    like = f" (configuration {tag})" if tag else ""
    entry = f", entry {found.entry}" if found.entry else ""
    source = f"{hub.strip('/')}, file {found.path.name}" if hub else f"checkpoint {found.path}{entry}"
    licence = f"see https://huggingface.co/{hub.rpartition('/')[0]}" if hub else "not known"
    return f"open_clip {open_clip.__version__}: {architecture}{like}; weights: {source}; licence of the weights: {licence}."
