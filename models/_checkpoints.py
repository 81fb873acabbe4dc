"""Weights from files: read without running code, and unwrapped."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from xbench.plugin import XbenchError

# Where training scripts put the weights; averaged ones first, since those are what their authors evaluate.
ENTRIES = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
PREFIXES = ("_orig_mod.", "module.", "model.", "net.")  # torch.compile, DistributedDataParallel, Lightning modules
SAVE = "save it again with torch.save(network.state_dict(), ...) or safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds. classes: names that it brings along. entry: which of its entries the tensors come from."""

    path: Path
    tensors: Mapping[str, Tensor]
    classes: tuple[str, ...] = ()
    entry: str = ""


def read(file: str | Path) -> Checkpoint:
    """Read a checkpoint: safetensors, or a torch file with nothing but tensors and plain values in it.

    Raises:
        XbenchError: the file is missing, damaged, no checkpoint, would run code, or has NaN in it.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise XbenchError(f"checkpoint {path} is not there; check the path behind the @, or in checkpoint=")
    found, classes = _safetensors(path) if path.suffix == ".safetensors" else (_pickled(path), ())
    entries = []
    while isinstance(found, Mapping) and (entry := next((e for e in ENTRIES if isinstance(found.get(e), Mapping)), "")):
        found = found[entry]
        entries.append(entry)
    tensors = _named_tensors(found)
    if not tensors:
        raise XbenchError(f"checkpoint {path} holds no tensors by name; {SAVE}")
    bad = [name for name, tensor in tensors.items() if tensor.is_floating_point() and bool(tensor.float().isnan().any())]
    if bad:
        raise XbenchError(
            f"checkpoint {path} has NaN in {len(bad)} of {len(tensors)} tensors, first in {bad[0]}; name an earlier one"
        )
    return Checkpoint(path, tensors, classes, ".".join(entries))


def _safetensors(path: Path) -> tuple[object, tuple[str, ...]]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            classes = json.loads((file.metadata() or {}).get("classes", "[]"))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise XbenchError(f"checkpoint {path} is no safetensors file, or a damaged one ({error}); {SAVE}") from error
    if not isinstance(classes, list):
        raise XbenchError(f"checkpoint {path}: its metadata 'classes' must be a JSON list; {SAVE}")
    return tensors, tuple(map(str, classes))


def _pickled(path: Path) -> object:
    try:
        # Plain values, which timm's training script adds; and no warning beside the one line that follows.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file ends torch's readers in many ways
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise XbenchError(
                f"checkpoint {path} holds more than tensors: it would run {code[1]}, which is refused; {SAVE}"
            ) from error
        if isinstance(error, pickle.UnpicklingError):
            what = "is no checkpoint, or a damaged one, or holds more than tensors and could run code, which is refused"
            raise XbenchError(f"checkpoint {path} {what}; {SAVE}") from error
        raise XbenchError(f"checkpoint {path} is no checkpoint, or a damaged one ({type(error).__name__}); {SAVE}") from error


def _named_tensors(found: object) -> OrderedDict[str, Tensor]:
    """The tensors of a state dict, by the names that they have in the bare network."""
    if not isinstance(found, Mapping):
        return OrderedDict()
    tensors = OrderedDict((name, tensor) for name, tensor in found.items() if isinstance(name, str) and isinstance(tensor, Tensor))
    tensors.pop("n_averaged", None)  # the counter of torch's own averaging
    prefixes = [p for p in PREFIXES if tensors and all(name.startswith(p) for name in tensors)]
    if not prefixes and hasattr(found, "_metadata"):
        tensors._metadata = found._metadata  # type: ignore[attr-defined]  # by it modules mend the names of older versions
    while prefixes:
        tensors = OrderedDict((name.removeprefix(prefixes[0]), tensor) for name, tensor in tensors.items())
        prefixes = [p for p in PREFIXES if all(name.startswith(p) for name in tensors)]
    return tensors
