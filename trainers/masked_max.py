"""A projection of CLIP's tokens that is trained for explanation: ECLIP's masked max pooling (Li et al. 2022), reconstructed.

The authors published neither code nor the exact rule of the mask. Their text says: the backbone is frozen, attention pooling is
replaced by max pooling over tokens in the joint space where a mask lets it, the mask comes from a self-supervised network's
attention, and the loss is CLIP's. What else had to be decided is in ``CHOICES``, which cards repeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from xbench.plugin import (
    Captions,
    Card,
    Input,
    Model,
    Network,
    Opened,
    Preprocessing,
    Recipe,
    Splits,
    Step,
    Tower,
    Trainer,
    XbenchError,
    contrastive_loss,
    file_digest,
    prompt_sets,
    read_off,
    recorded,
    registry,
    resize,
    text_embeddings,
    trainer,
    weights_digest,
    worker_count,
)

CHOICES = (
    "A reconstruction of ECLIP, whose code and masking rule are unpublished. xbench's own choices: the mask is the smallest set of "
    "patches with the share {share:g} of the last block's attention of the class token, mean over heads, resized bilinearly to the "
    "tokens' grid; the maximum is taken in each dimension, before any normalisation; the projection starts from CLIP's own; the "
    "temperature is CLIP's and stays; there is one projection, not two; without a mask at test time."
)
UNMASKED = "The maximum is taken over all tokens (share 1): no mask. Otherwise as the reconstruction of ECLIP."


class Projection(Network):
    """A new projection of a CLIP's image tokens into its joint space; all else of the CLIP stays as it is.

    clip: a CLIP that xbench knows, such as ``scenes/clip``. encoder: a vision transformer that xbench knows, such as
    ``scenes/simclr``, whose attention is the mask: tokens are pooled where the share ``share`` of it lies; 1 for no mask, and then
    no encoder.
    """

    told_by: ClassVar[str] = "clip"
    wanted: ClassVar[str] = "a trained CLIP; write [network] with clip = MODEL, encoder and share"

    clip: str
    encoder: str = ""
    share: float = Field(default=0.7, gt=0, le=1)

    @model_validator(mode="after")
    def _mask(self) -> Projection:
        if (self.share < 1) != bool(self.encoder):
            raise ValueError("the mask needs an encoder, such as 'scenes/simclr', and share below 1; without it write share = 1.0")
        return self


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
    tower: Tower
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
        return smallest(resize(seen, grid), self.table.share)

    def pooled(self, projection: nn.Module, pictures: Tensor) -> Tensor:
        """Embeddings of pictures, float32 ``[B, D]`` of length 1: masked max pooling of what a projection makes of the tokens."""
        self._to(pictures.device)
        with torch.no_grad():
            places = self.tower.places(pictures)
            mask = self.mask(pictures, (places.shape[1], places.shape[2]))
        return functional.normalize(masked_max(projection(places).float(), mask), dim=-1)


def opened(table: Projection) -> Frozen:
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


def original(tower: Tower) -> nn.Linear:
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
    with recorded(len(inputs), encoder.layout) as seen:
        encoder.network(inputs)
    return read_off(seen[-1].float(), encoder.layout, encoder.attention_rows).mean(dim=1)


def _as_inputs(pictures: Tensor, given: Preprocessing, wanted: Preprocessing) -> Tensor:
    """Inputs of one model -> of another, of the same part of the picture."""
    if given == wanted:
        return pictures
    return wanted.normalise(resize(given.plain(pictures), wanted.size))


class Pooled(nn.Module):
    """A projection as a zero-shot classifier of what is pooled as in training."""

    def __init__(self, frozen: Frozen, projection: nn.Module, texts: Tensor) -> None:
        super().__init__()
        self.frozen, self.projection, self.texts = frozen, projection, texts

    def forward(self, pictures: Tensor) -> Tensor:
        return self.frozen.scale * self.frozen.pooled(self.projection, pictures) @ self.texts.to(pictures.device).T


USE = "the method eclip(projection={})"


@trainer("masked_max", network=Projection, use=USE, cite="li2022exploring")
class MaskedMax(Trainer):
    """Which caption belongs to which picture, for a projection alone; all else is frozen.

    Validation is zero-shot, of the pooled embedding; ``retrieval`` is the share of pictures whose nearest caption, among those of
    all validation pictures, is one of their own.
    """

    captions = ("train", "validation")

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        assert isinstance(recipe.network, Projection)
        if recipe.preprocessing != Input():
            raise XbenchError(f"recipe {recipe.name}: masked_max reads pictures as its CLIP does; leave [preprocessing] out")
        self.frozen = opened(recipe.network)
        self.parts = self.frozen.parts()
        self.remarks = CHOICES.format(share=recipe.network.share) if self.frozen.encoder else UNMASKED

    @property
    def preprocessing(self) -> Preprocessing:
        return self.frozen.clip.preprocessing

    def build(self, classes: int) -> tuple[nn.Module, str]:
        return original(self.frozen.tower), f"the projection of {self.frozen.table.clip}"

    def begin(self, splits: Splits) -> None:
        super().begin(splits)
        encode = self.frozen.clip.encode_text
        assert encode is not None
        self._encode, self.spoken = encode, Captions(splits.train, self.recipe.seed)
        sets = prompt_sets(self.recipe, splits.train.classes)
        self.texts = {name: text_embeddings(encode, prompts) for name, prompts in sets.items()}
        self._sentences = Captions(splits.validation, self.recipe.seed).sentences
        self._of_sentences = encode(self._sentences)

    def loss(self, module: nn.Module, step: Step) -> Tensor:
        device = step.pictures.device
        distinct, which = torch.unique(self.spoken.drawn(step.places, step.epoch), return_inverse=True)  # a sentence is read once
        which = which.to(device)
        images = self.frozen.pooled(module, step.pictures)
        with torch.autocast(device.type, enabled=False):
            texts = self._encode([self.spoken.sentences[row] for row in distinct.tolist()]).to(device)[which]
            return contrastive_loss(images, texts, which, self.frozen.scale)

    @torch.no_grad()
    def after_epoch(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        validation, right, seen = self.splits.validation, 0, 0
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

    @classmethod
    def open(cls, card: Card, file: Path) -> Opened:
        raise XbenchError(f"{file} is a projection for {card.parts['clip']}; give it to {USE.format(file)}")
