"""CLIP as a classifier: the class whose sentences lie nearest to the picture (Radford et al. 2021, section 3.1).

A class stands for its prompts. Their embeddings have length 1, their mean too, and a class's logit is the cosine between that mean
and the picture's embedding, times the temperature that CLIP learned.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xbench.data.classes import ClassList
from xbench.errors import XbenchError
from xbench.network import towers
from xbench.network.model import CAPABILITIES, Model, Preprocessing

Encode = Callable[[Sequence[str]], Tensor]
SENTENCES = 64  # that a text tower reads at once
SHOWN = 60  # characters of a sentence in an error
EXAMPLES = 3  # prompts that a card shows
REMEMBERED = 32  # lists of sentences whose embeddings are kept, such as a whole vocabulary's


def fill(templates: Sequence[str], names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Prompts for each class: every template with the class's name in place of its ``{}``.

    Raises:
        XbenchError: there is no template, or one has no ``{}``.
    """
    if not templates:
        raise XbenchError("there is no template; write at least one, such as 'a photo of a {}.'")
    for template in templates:
        if "{}" not in template:
            raise XbenchError(f"template {template!r} has no {{}} for the class's name; write it like 'a photo of a {{}}.'")
    return tuple(tuple(template.replace("{}", name) for template in templates) for name in names)


def sentence_embeddings(encode: Encode, sentences: Sequence[str]) -> Tensor:
    """Embeddings of length 1, float32 ``[n, D]``, without a graph; the text tower reads them in batches.

    encode: sentences -> embeddings of any length, ``[n, D]``.

    Raises:
        XbenchError: there are no sentences.
    """
    if not sentences:
        raise XbenchError("there are no sentences to embed; give at least one")
    with torch.no_grad():
        parts = [encode(sentences[start : start + SENTENCES]) for start in range(0, len(sentences), SENTENCES)]
    return F.normalize(torch.cat(parts).float(), dim=-1)


class Tokenizer(Protocol):
    """Sentences -> int64 ``[n, context_length]``, those that are longer cut."""

    context_length: int

    def __call__(self, sentences: Sequence[str]) -> Tensor: ...

    def encode(self, sentence: str) -> list[int]:
        """Without the tokens that begin and end it."""


def counted(tokenizer: Tokenizer) -> tuple[Callable[[str], int], int]:
    """(how many tokens a sentence has, with those that begin and end it; how many are read), as Encoder wants them."""
    return lambda sentence: len(tokenizer.encode(sentence)) + 2, tokenizer.context_length


class Encoder:
    """A text tower: sentences -> embeddings of length 1, float32 ``[n, D]``. What it was asked last is remembered.

    encode: sentences -> embeddings of any length. count: the tokens of a sentence, with those that begin and end it. context: how
    many of them the tower reads, and longer sentences are cut; 0 where that is not known.
    """

    def __init__(self, encode: Encode, count: Callable[[str], int] = len, context: int = 0) -> None:
        self._count, self._context = count, context
        self._remembered = functools.lru_cache(REMEMBERED)(lambda given: sentence_embeddings(encode, given))

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        return self._remembered(tuple(sentences))

    def whole(self, sentence: str) -> bool:
        """Whether the tower reads a sentence to its end."""
        return not self._context or self._count(sentence) <= self._context

    def check(self, sentences: Iterable[str]) -> None:
        """Raises XbenchError for a sentence that would be cut: what it says at its end would not count."""
        for sentence in sentences:
            if not self.whole(sentence):
                shown = sentence if len(sentence) <= SHOWN else f"{sentence[:SHOWN]}..."
                tokens = self._count(sentence)
                raise XbenchError(f"{shown!r} has {tokens} tokens, and the text tower reads {self._context}; shorten it")


def text_embeddings(encode: Encode, prompts: Sequence[Sequence[str]]) -> Tensor:
    """One embedding of length 1 for each class, float32 ``[classes, D]``: the mean of its prompts' (prompt ensembling).

    Raises:
        XbenchError: there are no classes, or one has no prompt.
    """
    if not prompts or not all(prompts):
        raise XbenchError("there must be classes, each with at least one prompt; name the classes, and sentences for each")
    embeddings = sentence_embeddings(encode, [sentence for sentences in prompts for sentence in sentences])
    of_class = torch.split(embeddings, [len(sentences) for sentences in prompts])
    return F.normalize(torch.stack([own.mean(dim=0) for own in of_class]), dim=-1)


class ZeroShot(nn.Module):
    """Pictures ``[B, 3, H, W]`` -> logits, float32 ``[B, classes]``: exp(logit_scale) * cosine, plus logit_bias where there is one.

    clip: has ``visual``, ``logit_scale`` and perhaps ``logit_bias``, as all models of open_clip; its text tower is left behind, so
    that copies and digests are cheap. texts: ``[classes, D]``, of length 1; a buffer, so that the weights' digest covers it.
    Inputs may have another size than the tower's own where it is one that towers.py knows: its positions are interpolated then.
    """

    logit_scale: Tensor
    logit_bias: Tensor | None
    texts: Tensor

    def __init__(self, clip: nn.Module, texts: Tensor) -> None:
        super().__init__()
        self.visual = clip.get_submodule("visual")
        bias = getattr(clip, "logit_bias", None)
        self.register_buffer("logit_scale", clip.get_parameter("logit_scale").detach().float())
        self.register_buffer("logit_bias", None if bias is None else bias.detach().float())
        self.register_buffer("texts", texts.detach().float())

    @property
    def tower(self) -> towers.Tower | None:
        """The image tower to look into, if it is of a kind that is known."""
        return towers.of(self.visual)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.embed(images))

    def logits(self, embeddings: Tensor) -> Tensor:
        """Embeddings of pictures, of length 1, ``[B, D]`` -> logits, float32 ``[B, classes]``."""
        with torch.autocast(embeddings.device.type, enabled=False):  # in bfloat16 logits of 25 would be off by 0.1
            logits = self.logit_scale.exp() * embeddings @ self.texts.T
            return logits if self.logit_bias is None else logits + self.logit_bias

    def embed(self, images: Tensor) -> Tensor:
        """Pictures ``[B, 3, H, W]`` -> embeddings of length 1, float32 ``[B, D]``."""
        tower = self.tower
        resized = tower.resized((images.shape[-2], images.shape[-1])) if tower else {}
        found = torch.func.functional_call(self.visual, resized, (images,)) if resized else self.visual(images)
        features = found[0] if isinstance(found, tuple) else found  # CoCa's tower returns its tokens too
        return F.normalize(features.float(), dim=-1)

    def cosines(self, logits: Tensor) -> Tensor:
        """What logits were before temperature and bias, in [-1, 1]."""
        shifted = logits if self.logit_bias is None else logits - self.logit_bias
        return shifted / self.logit_scale.exp()


def classifier(
    id: str,
    clip: nn.Module,
    encode: Encode | Encoder,
    classes: ClassList,
    prompts: Sequence[Sequence[str]],
    preprocessing: Preprocessing,
    layer: str = "",
    files: tuple[Path, ...] = (),
    card: str = "",
) -> Model:
    """A Model with the capability ``text``, and ``patch_tokens`` where its tower can be opened (towers.py).

    clip: see ZeroShot. encode: sentences -> ``[n, D]``, by the same clip, which is put in evaluation mode. prompts: for each class;
    see ``fill``. The card is extended by what the classes are called.

    Raises:
        XbenchError: there are no classes, prompts for another number of them, or one that is longer than the text tower reads.
    """
    sentences = tuple(map(tuple, prompts))
    if len(sentences) != len(classes):
        raise XbenchError(f"model {id} has {len(classes)} classes and prompts for {len(sentences)}; give each class its own")
    clip.eval().requires_grad_(False)
    encoder = encode if isinstance(encode, Encoder) else Encoder(encode)
    try:
        encoder.check(sentence for own in sentences for sentence in own)
        texts = text_embeddings(encoder, sentences)
    except XbenchError as error:
        raise XbenchError(f"model {id}: {error}") from error
    network = ZeroShot(clip, texts)
    return Model(
        id,
        network,
        preprocessing,
        classes,
        layer,
        CAPABILITIES | {"text"} | ({"patch_tokens"} if network.tower else set()),
        files,
        f"{card} {_described(sentences)}".strip(),
        prompts=sentences,
        encode_text=encoder,
    )


def retold(model: Model, classes: ClassList, prompts: Sequence[Sequence[str]]) -> Model:
    """The same CLIP, asked about other classes. prompts: for each class its sentences.

    Raises:
        XbenchError: the model is no CLIP, a class has no prompt, or one is longer than the text tower reads.
    """
    if model.encode_text is None or not isinstance(model.network, ZeroShot):
        raise XbenchError(f"model {model.id} has no text; a sentence needs a CLIP, such as scenes/clip")
    sentences = tuple(map(tuple, prompts))
    if isinstance(model.encode_text, Encoder):
        model.encode_text.check(sentence for own in sentences for sentence in own)
    network = copy.copy(model.network)
    network._buffers = {**network._buffers, "texts": text_embeddings(model.encode_text, sentences).to(network.texts)}
    return replace(model, network=network, classes=classes, prompts=sentences)


def _described(prompts: tuple[tuple[str, ...], ...]) -> str:
    shown = " | ".join(prompts[0][:EXAMPLES]) + (" | ..." if len(prompts[0]) > EXAMPLES else "")
    text = f"Zero-shot: {sum(map(len, prompts))} prompts for {len(prompts)} classes ({shown})."
    twins = len(prompts) - len(set(prompts))
    return f"{text} Classes with the prompts of another, whose logits tie: {twins}." if twins else text
