"""The weights that a training leaves behind: half precision on the disk, single precision everywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from xbench.errors import XbenchError
from xbench.network.zero_shot import Encoder, counted
from xbench.plan.keys import file_digest
from xbench.store.directory import write
from xbench.train import networks
from xbench.train.cards import Card
from xbench.train.recipes import ClipNetwork


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
    """The network of a card, as networks.py builds it, with its weights, float32, in evaluation mode.

    Raises:
        XbenchError: the weights are not those that the card is about, or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        built = networks.build(networks.table(card.network), len(card.classes), card.preprocessing.size)
    return fill(built, card, weights)


def fill(built: nn.Module, card: Card, weights: Path) -> nn.Module:
    """A network of one's own with the weights of a card, float32, in evaluation mode.

    Raises:
        XbenchError: the weights are not those that the card is about, or do not fit.
    """  # noqa: DOC501
    try:
        built.load_state_dict(tensors(card, weights))
    except RuntimeError as error:
        raise _unfit(weights, error) from error
    return built.eval()


def tensors(card: Card, weights: Path) -> dict[str, Tensor]:
    """The weights of a card by name, float32.

    Raises:
        XbenchError: the weights are not those that the card is about.
    """  # noqa: DOC501
    _check(card, weights)
    try:
        return restored(safetensors.torch.load_file(weights))
    except safetensors.SafetensorError as error:
        raise _unfit(weights, error) from error


def _unfit(weights: Path, error: Exception) -> XbenchError:
    reason = str(error).strip().splitlines()[0]
    return XbenchError(f"{weights} does not fit its card's network: {reason}; train it anew")


def _check(card: Card, weights: Path) -> None:
    found = file_digest(weights)
    if found != card.sha256:
        raise XbenchError(
            f"{weights} is not the file of its card: sha256 {found[:16]}, not {card.sha256[:16]}; train or copy it anew"
        )


def encoder(card: Card, clip: nn.Module) -> Encoder:
    """Sentences -> embeddings, by the text tower of a CLIP with its card's tokenizer."""
    tokenize = networks.tokenizer(ClipNetwork.model_validate(card.network))
    return Encoder(networks.text_encoder(clip, tokenize), *counted(tokenize))
