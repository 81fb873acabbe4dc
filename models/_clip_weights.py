"""The weights of CLIPs: where they lie, and by which names open_clip knows their tensors."""

from __future__ import annotations

import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict

from xbench.plugin import XbenchError, file_digest

from ._checkpoints import Checkpoint
from ._downloads import absent, cached, downloads
from ._hub import download, in_cache

FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # names in a hub repository, the safe one first
# Numbers among the tensors of OpenAI's own files, and a buffer that transformers kept until 4.31.
NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "text.transformer.embeddings.position_ids")


def locate(spec: str, architecture: str, known: Mapping[str, Any]) -> Path:
    """The file of the pretrained weights that a configuration of open_clip names: in a cache, or downloaded where that is allowed.

    Raises:
        XbenchError: there are none, they are not here and may not be downloaded, or the file is not the one that its name says.
    """
    if not known:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture))
        which = f"one of its weights, {spec}/<{tags}>, or " if tags else ""
        raise XbenchError(f"model {spec} is an architecture without weights; name {which}a checkpoint: {spec}@FILE")
    repository, _, file = known.get("hf_hub", "").rpartition("/")
    files = (f"{Path(file).stem}.safetensors", file) if file else FILES
    path = (in_cache(repository, files) if repository else None) or _in_clips_cache(spec, known.get("url", ""))
    if path:
        return path
    if not repository:
        return cached(known["url"], spec)
    if downloads():
        return download(spec, repository, files)
    wanted = file or FILES[0]
    raise XbenchError(
        absent(spec, wanted, f"https://huggingface.co/{repository}", f"get it with `hf download {repository} {wanted}`")
    )


def _in_clips_cache(spec: str, url: str) -> Path | None:
    """The file of a URL where OpenAI's library and open_clip place theirs."""
    path = Path("~/.cache/clip", url.rpartition("/")[2]).expanduser()
    if not url or not path.is_file():
        return None
    digest = re.search(r"[-/]([0-9a-f]{8,64})[/.]", url)
    if digest and not file_digest(path).startswith(digest[1]):
        raise XbenchError(f"model {spec}: {path} is not the file of {url} (sha256 differs); delete it and get it again")
    return path


def refuse_torchscript(path: Path, known: Mapping[str, Any]) -> None:
    """OpenAI's own files are programs.

    Raises:
        XbenchError: the file is a TorchScript archive.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith("/constants.pkl") for name in archive.namelist()):
            return
    repository = known.get("hf_hub", "").rpartition("/")[0]
    remedy = f"get the same weights with `hf download {repository} {FILES[0]}`" if repository else "name a file of tensors"
    raise XbenchError(f"checkpoint {path} is a TorchScript archive, which holds code: refused; {remedy}")


def converted(network: Any, found: Checkpoint) -> Checkpoint:
    """Tensors of other libraries and of older versions by the names that open_clip has now."""
    wanted = network.state_dict()
    tensors = OrderedDict((k, v) for k, v in found.tensors.items() if k in wanted or k not in NO_WEIGHTS)
    with suppress(Exception):  # what it cannot read, `fit` describes
        tensors = OrderedDict(convert_state_dict(network, tensors))
    if hasattr(network, "text"):
        tensors = OrderedDict(convert_to_custom_text_state_dict(tensors))
    for key in ("logit_scale", "logit_bias"):  # a number, or a list of one
        if key in tensors and key in wanted and tensors[key].numel() == 1:
            tensors[key] = tensors[key].reshape(wanted[key].shape)
    return replace(found, tensors=tensors)
