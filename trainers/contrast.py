"""A CLIP that learns which caption belongs to which picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from xbench.plugin import (
    Captions,
    Card,
    ClipNetwork,
    Opened,
    Recipe,
    Splits,
    Step,
    Trainer,
    ZeroShot,
    contrastive_loss,
    networks,
    prompt_sets,
    text_embeddings,
    trainer,
    weights,
)


@trainer("contrast", network=ClipNetwork, cite="radford2021clip")
class Contrast(Trainer):
    """Which caption belongs to which picture (Radford et al. 2021), where one caption may be true of several pictures.

    In each epoch each picture has one of its captions. Validation is zero-shot.
    """

    captions = ("train",)

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        assert isinstance(recipe.network, ClipNetwork)
        self._tokenize = networks.tokenizer(recipe.network)

    def begin(self, splits: Splits) -> None:
        super().begin(splits)
        self.spoken = Captions(splits.train, self.recipe.seed)
        self.tokens = self._tokenize(self.spoken.sentences).to(torch.int32)
        self.prompts = prompt_sets(self.recipe, splits.train.classes)

    def loss(self, module: nn.Module, step: Step) -> Tensor:
        clip, device = cast(Any, module), step.pictures.device
        distinct, which = torch.unique(self.spoken.drawn(step.places, step.epoch), return_inverse=True)  # a sentence is read once
        which = which.to(device)
        texts = clip.encode_text(self.tokens[distinct].long().to(device), normalize=True)[which]
        images = clip.encode_image(step.pictures, normalize=True)
        with torch.autocast(device.type, enabled=False):  # the scale is up to 100, and bfloat16 has three digits
            return contrastive_loss(images.float(), texts.float(), which, clip.logit_scale.exp())

    def after_step(self, module: nn.Module, done: float) -> None:
        with torch.no_grad():
            cast(Any, module).logit_scale.clamp_(0, torch.tensor(100.0).log())

    def classifiers(self, network: nn.Module) -> dict[str, nn.Module]:
        encode = networks.text_encoder(network, self._tokenize)
        return {name: ZeroShot(network, text_embeddings(encode, prompts)) for name, prompts in self.prompts.items()}

    @classmethod
    def open(cls, card: Card, file: Path) -> Opened:
        clip = weights.network(card, file)
        return Opened(clip, weights.encoder(card, clip))
