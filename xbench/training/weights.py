"""The weights that a training leaves behind: half precision on the disk, single precision everywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from xbench.errors import XbenchError
from xbench.keys import file_digest
from xbench.modelview import Model, weights_digest
from xbench.store import write
from xbench.training import networks
from xbench.training.cards import Card
from xbench.training.recipes import ClipNetwork, Projection
from xbench.zero_shot import Encoder, counted


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict for the disk: float tensors as float16 where that can hold them; integers as they are."""
    found = {}
    for name, tensor in state.items():
        half = tensor.half() if tensor.is_floating_point() else tensor
        found[name] = (half if bool(half.isfinite().all()) else tensor).detach().cpu().contiguous()
    return found


def restored(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What ``halved`` wrote, with all float tensors as float32 again."""
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def save(path: Path, state: Mapping[str, Tensor]) -> str:
    """Write a state dict, as ``halved`` gives it. -> the file's sha256.

    Raises:
        XbenchError: it cannot be written.
    """
    write(path, lambda tmp: safetensors.torch.save_file(dict(state), tmp))
    return file_digest(path)


def network(card: Card, weights: Path) -> nn.Module:
    """The network of a card with its weights, float32, in evaluation mode.

    Raises:
        XbenchError: the weights are not those that the card is about, or do not fit.
    """
    _check(card, weights)
    assert not isinstance(card.network, Projection)
    with torch.random.fork_rng(devices=[]):
        built = networks.build(card.network, len(card.classes), card.preprocessing.size)
    try:
        built.load_state_dict(restored(safetensors.torch.load_file(weights)))
    except (RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise XbenchError(f"{weights} does not fit its card's network: {reason}; train it anew") from error
    return built.eval()


def projection(card: Card, weights: Path) -> tuple[Tensor, Tensor | None]:
    """The projection of a card: weight ``[D, W]`` and bias ``[D]`` or None, float32.

    Raises:
        XbenchError: the weights are not those that the card is about, or no projection.
    """
    if card.task != "masked_max":
        raise XbenchError(f"{weights} is a model of the task {card.task}, no projection; name what xbench train eclip made")
    _check(card, weights)
    found = restored(safetensors.torch.load_file(weights))
    return found["weight"], found.get("bias")


def fits(card: Card, model: Model) -> bool:
    """Whether a projection was trained for a CLIP: by the file of its weights, which copies with other weights name too, or else by
    the weights of the image tower."""
    if not card.parts:
        return False
    if card.parts["file"] in (file_digest(path) for path in model.files):
        return True
    return card.parts["tower"] == weights_digest(cast(nn.Module, model.network.visual))


def _check(card: Card, weights: Path) -> None:
    found = file_digest(weights)
    if found != card.sha256:
        raise XbenchError(
            f"{weights} is not the file of its card: sha256 {found[:16]}, not {card.sha256[:16]}; train or copy it anew"
        )


def encoder(card: Card, clip: nn.Module) -> Encoder:
    """Sentences -> embeddings, by the text tower of a CLIP with its card's tokenizer."""
    assert isinstance(card.network, ClipNetwork)
    tokenize = networks.tokenizer(card.network)
    return Encoder(networks.text_encoder(clip, tokenize), *counted(tokenize))
