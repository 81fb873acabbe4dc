"""A projection of CLIP's tokens that is trained for explanation: ECLIP's masked max pooling (Li et al. 2022), reconstructed.

The authors published neither code nor the exact rule of the mask. Their text says: the backbone is frozen, attention pooling is
replaced by max pooling over tokens in the joint space where a mask lets it, the mask comes from a self-supervised network's
attention, and the loss is CLIP's. What else had to be decided is in ``CHOICES``, which cards repeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from xbench import attention, maps, towers, zero_shot
from xbench.errors import XbenchError
from xbench.keys import file_digest
from xbench.modelview import Model, Preprocessing, weights_digest
from xbench.registry import Registry
from xbench.training.examples import Splits, worker_count
from xbench.training.objectives import Captions, Objective, Step, contrastive_loss, prompt_sets
from xbench.training.recipes import Projection, Recipe

CHOICES = (
    "A reconstruction of ECLIP, whose code and masking rule are unpublished. xbench's own choices: the mask is the smallest set of "
    "patches with the share {share:g} of the last block's attention of the class token, mean over heads, resized bilinearly to the "
    "tokens' grid; the maximum is taken in each dimension, before any normalisation; the projection starts from CLIP's own; the "
    "temperature is CLIP's and stays; there is one projection, not two; without a mask at test time."
)
UNMASKED = "The maximum is taken over all tokens (share 1): no mask. Otherwise as the reconstruction of ECLIP."


def smallest(shares: Tensor, share: float) -> Tensor:
    """The smallest set of cells with a share of the mass, of equal cells the first: ``[B, h, w]`` >= 0 -> bool ``[B, h, w]``."""
    flat = shares.flatten(1).double()
    order = flat.argsort(dim=1, descending=True, stable=True)
    mass = flat.gather(1, order).cumsum(dim=1)
    enough = functional.pad(mass[:, :-1], (1, 0)) < share * mass[:, -1:]  # what lies before does not suffice
    return torch.zeros_like(enough).scatter(1, order, enough).reshape(shares.shape)


def masked_max(tokens: Tensor, mask: Tensor) -> Tensor:
    """v_d = max over j with m_j of t_jd: tokens ``[B, h, w, D]``, bool mask ``[B, h, w]`` -> ``[B, D]``."""
    return tokens.masked_fill(~mask[..., None], -torch.inf).flatten(1, 2).amax(dim=1)


@dataclass(frozen=True)
class Frozen:
    """What does not learn: a CLIP, its image tower, and the network whose attention is the mask, if any."""

    table: Projection
    clip: Model
    tower: towers.Tower
    encoder: Model | None

    def parts(self) -> dict[str, str]:
        """Specs and digests of all of it, as a card has them. file: sha256 of the CLIP's weights."""
        weights_file = next((path for path in self.clip.files if path.suffix != ".json"), None)
        found = {
            "clip": self.table.clip,
            "tower": weights_digest(cast(nn.Module, self.clip.network.visual)),
            "file": file_digest(weights_file) if weights_file else "",
        }
        return found | ({"encoder": self.table.encoder, "encoder_digest": self.encoder.digest} if self.encoder else {})

    @property
    def scale(self) -> Tensor:
        """Of the cosines: the inverse of CLIP's temperature."""
        return cast(Tensor, self.clip.network.logit_scale).exp()

    def _to(self, device: torch.device) -> None:
        """Move all of it; the text tower stays where it is."""
        for model in (self.clip, self.encoder):
            if model is not None:
                model.network.to(device)

    @torch.no_grad()
    def mask(self, pictures: Tensor, grid: tuple[int, int]) -> Tensor:
        """Where tokens are pooled, bool ``[B, *grid]``. pictures: the CLIP's inputs ``[B, 3, h, w]``."""
        if self.encoder is None:
            return torch.ones(len(pictures), *grid, dtype=torch.bool, device=pictures.device)
        seen = attention_map(self.encoder, _as_inputs(pictures, self.clip.preprocessing, self.encoder.preprocessing))
        return smallest(maps.resize(seen, grid), self.table.share)

    def pooled(self, projection: nn.Module, pictures: Tensor) -> Tensor:
        """Embeddings of pictures, float32 ``[B, D]`` of length 1: masked max pooling of what a projection makes of the tokens."""
        self._to(pictures.device)
        with torch.no_grad():
            places = self.tower.places(pictures)
            mask = self.mask(pictures, (places.shape[1], places.shape[2]))
        return functional.normalize(masked_max(projection(places).float(), mask), dim=-1)


def opened(table: Projection, registry: Registry) -> Frozen:
    """Load what a projection is trained between.

    Raises:
        XbenchError: no CLIP, or none whose tokens are known; an encoder without attention.
    """
    clip: Model = registry.model(table.clip)()
    tower = clip.tower
    if tower is None:
        raise XbenchError(f"{table.clip} is no CLIP of open_clip's own class; name one in [network], such as clip = 'scenes/clip'")
    encoder: Model | None = registry.model(table.encoder)() if table.encoder else None
    if encoder is not None and "attention" not in encoder.capabilities:
        raise XbenchError(f"{table.encoder} has no attention to make a mask of; name a vision transformer as encoder in [network]")
    return Frozen(table, clip, tower, encoder)


def original(tower: towers.Tower) -> nn.Linear:
    """CLIP's own projection of its tokens as a layer that can learn, float32."""
    weight, bias = tower.projection
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


@torch.no_grad()
def attention_map(encoder: Model, inputs: Tensor) -> Tensor:
    """The last block's attention of the tokens from which the model reads its output, mean over heads, ``[B, h, w]``."""
    assert encoder.layout is not None
    with attention.recorded(len(inputs), encoder.layout) as recorded:
        encoder.network(inputs)
    return attention.read_off(recorded[-1].float(), encoder.layout, encoder.attention_rows).mean(dim=1)


def _as_inputs(pictures: Tensor, given: Preprocessing, wanted: Preprocessing) -> Tensor:
    """Inputs of one model -> of another, of the same part of the picture."""
    if given == wanted:
        return pictures
    return wanted.normalise(maps.resize(given.plain(pictures), wanted.size))


class Pooled(nn.Module):
    """A projection as a zero-shot classifier of what is pooled as in training."""

    def __init__(self, frozen: Frozen, projection: nn.Module, texts: Tensor) -> None:
        super().__init__()
        self.frozen, self.projection, self.texts = frozen, projection, texts

    def forward(self, pictures: Tensor) -> Tensor:
        return self.frozen.scale * self.frozen.pooled(self.projection, pictures) @ self.texts.to(pictures.device).T


class MaskedMax(Objective):
    """Which caption belongs to which picture, for a projection alone; all else is frozen.

    Validation is zero-shot, of the pooled embedding; ``retrieval`` is the share of pictures whose nearest caption, among those of
    all validation pictures, is one of their own.
    """

    def __init__(self, recipe: Recipe, frozen: Frozen, splits: Splits) -> None:
        encode = frozen.clip.encode_text
        assert encode is not None
        self.frozen, self._encode, self._splits, self.recipe = frozen, encode, splits, recipe
        self.captions = Captions(splits.train, recipe.seed)
        sets = prompt_sets(recipe, splits.train.classes)
        self.texts = {name: zero_shot.text_embeddings(encode, prompts) for name, prompts in sets.items()}
        known = Captions(splits.validation, recipe.seed)
        self._sentences = known.sentences
        self._of_sentences = encode(known.sentences)

    def loss(self, module: nn.Module, step: Step) -> Tensor:
        device = step.pictures.device
        distinct, which = torch.unique(self.captions.drawn(step.places, step.epoch), return_inverse=True)  # a sentence is read once
        which = which.to(device)
        images = self.frozen.pooled(module, step.pictures)
        with torch.autocast(device.type, enabled=False):
            texts = self._encode([self.captions.sentences[row] for row in distinct.tolist()]).to(device)[which]
            return contrastive_loss(images, texts, which, self.frozen.scale)

    @torch.no_grad()
    def after_epoch(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        validation, right, seen = self._splits.validation, 0, 0
        for pictures, places in validation.in_order(self.recipe.training.batch_size, worker_count(self.recipe.data.workers)):
            embedded = self.frozen.pooled(module, validation.preprocessing.normalise(pictures).to(device)).cpu()
            nearest = (embedded @ self._of_sentences.T).argmax(dim=1).tolist()
            right += sum(
                self._sentences[n] in validation.captions[place] for n, place in zip(nearest, places.tolist(), strict=True)
            )
            seen += len(pictures)
        return {"retrieval": right / seen}

    def classifiers(self, network: nn.Module) -> dict[str, nn.Module]:
        return {name: Pooled(self.frozen, network, texts) for name, texts in self.texts.items()}
