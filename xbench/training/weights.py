"""The weights that a training leaves behind: half precision on the disk, single precision everywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from xbench.errors import XbenchError
from xbench.keys import file_digest
from xbench.store import write
from xbench.training import networks
from xbench.training.cards import Card
from xbench.training.recipes import ClipNetwork
from xbench.zero_shot import Encoder


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
    found = file_digest(weights)
    if found != card.sha256:
        raise XbenchError(
            f"{weights} is not the file of its card: sha256 {found[:16]}, not {card.sha256[:16]}; train or copy it anew"
        )
    with torch.random.fork_rng(devices=[]):
        built = networks.build(card.network, len(card.classes), card.preprocessing.size)
    try:
        built.load_state_dict(restored(safetensors.torch.load_file(weights)))
    except (RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise XbenchError(f"{weights} does not fit its card's network: {reason}; train it anew") from error
    return built.eval()


def encoder(card: Card, clip: nn.Module) -> Encoder:
    """Sentences -> embeddings, by the text tower of a CLIP with its card's tokenizer."""
    assert isinstance(card.network, ClipNetwork)
    tokenize = networks.tokenizer(card.network)
    return Encoder(
        networks.text_encoder(clip, tokenize), lambda sentence: len(tokenize.encode(sentence)) + 2, tokenize.context_length
    )
