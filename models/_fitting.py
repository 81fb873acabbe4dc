"""Fitting the tensors of a file into a network: strictly, and with a line that says what does not fit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from xbench.plugin import XbenchError

from ._checkpoints import Checkpoint

PROBE = 9973  # a number of classes that no layer has by chance


def fit(network: nn.Module, checkpoint: Checkpoint, what: str) -> None:
    """Load all tensors into a network.

    Raises:
        XbenchError: a tensor is missing, left over, or of another shape.
    """
    wanted, given = network.state_dict(), checkpoint.tensors
    shapes = [k for k in wanted if k in given and wanted[k].shape != given[k].shape]
    fitting = OrderedDict((k, v) for k, v in given.items() if k not in shapes)
    root = {"": wanted._metadata[""]}  # type: ignore[attr-defined]
    fitting._metadata = getattr(given, "_metadata", root)  # type: ignore[attr-defined]
    try:
        result = network.load_state_dict(fitting, strict=False)
    except RuntimeError as error:
        raise XbenchError(f"checkpoint {checkpoint.path} does not fit {what}: {' '.join(str(error).split())[:300]}") from error
    missing, unexpected = [k for k in result.missing_keys if k not in shapes], list(result.unexpected_keys)
    if not (shapes or missing or unexpected):
        return
    if not any(v.ndim and k in wanted and v.shape == wanted[k].shape for k, v in given.items()):
        faults = f"none of its {len(given)} tensors does (such as {next(iter(given))}); name the architecture that it is of"
    else:
        different = [f"{k} {tuple(given[k].shape)} instead of {tuple(wanted[k].shape)}" for k in shapes]
        named = {"missing": missing, "unexpected": unexpected, "of another shape": different}
        faults = ", ".join(f"{len(keys)} {how} ({_few(keys)})" for how, keys in named.items() if keys)
        faults += "; name the architecture that it was trained with"
    raise XbenchError(f"checkpoint {checkpoint.path} does not fit {what}: {faults}")


def class_count(build: Callable[[int], nn.Module], tensors: Mapping[str, Tensor]) -> int | None:
    """For how many classes a checkpoint was trained: the length of the tensor that follows the number of classes in a network
    that ``build`` makes; None where the checkpoint has none of that name."""
    try:
        with torch.device("meta"):
            shapes = {k: v.shape for k, v in build(PROBE).state_dict().items()}
    except NotImplementedError:  # some networks compute with numbers while they are built
        shapes = {k: v.shape for k, v in build(PROBE).state_dict().items()}
    heads = [k for k, shape in shapes.items() if shape[:1] == (PROBE,) and k in tensors and tensors[k].ndim]
    return tensors[heads[-1]].shape[0] if heads else None


def _few(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
