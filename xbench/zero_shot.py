"""CLIP as a classifier: the class whose sentences lie nearest to the picture (Radford et al. 2021, section 3.1).

A class stands for its prompts. Their embeddings have length 1, their mean too, and a class's logit is the cosine between that mean
and the picture's embedding, times the temperature that CLIP learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xbench.classes import ClassList
from xbench.errors import XbenchError
from xbench.modelview import CAPABILITIES, Model, Preprocessing

Encode = Callable[[Sequence[str]], Tensor]
SENTENCES = 64  # that a text tower reads at once
EXAMPLES = 3  # prompts that a card shows


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

    def forward(self, images: Tensor) -> Tensor:
        found = self.visual(images)
        features = found[0] if isinstance(found, tuple) else found  # CoCa's tower returns its tokens too
        with torch.autocast(images.device.type, enabled=False):  # in bfloat16 logits of 25 would be off by 0.1
            logits = self.logit_scale.exp() * F.normalize(features.float(), dim=-1) @ self.texts.T
            return logits if self.logit_bias is None else logits + self.logit_bias


def classifier(
    id: str,
    clip: nn.Module,
    encode: Encode,
    classes: ClassList,
    prompts: Sequence[Sequence[str]],
    preprocessing: Preprocessing,
    layer: str = "",
    files: tuple[Path, ...] = (),
    card: str = "",
) -> Model:
    """A Model with the capability ``text``. clip: see ZeroShot. encode: sentences -> ``[n, D]``, by the same clip, which is put in
    evaluation mode. prompts: for each class; see ``fill``. The card is extended by what the classes are called.

    Raises:
        XbenchError: there are no classes, or prompts for another number of them.
    """
    sentences = tuple(map(tuple, prompts))
    if len(sentences) != len(classes):
        raise XbenchError(f"model {id} has {len(classes)} classes and prompts for {len(sentences)}; give each class its own")
    clip.eval().requires_grad_(False)
    try:
        texts = text_embeddings(encode, sentences)
    except XbenchError as error:
        raise XbenchError(f"model {id}: {error}") from error
    return Model(
        id,
        ZeroShot(clip, texts),
        preprocessing,
        classes,
        layer,
        CAPABILITIES | {"text"},
        files,
        f"{card} {_described(sentences)}".strip(),
        prompts=sentences,
        encode_text=lambda given: sentence_embeddings(encode, given),
    )


def _described(prompts: tuple[tuple[str, ...], ...]) -> str:
    shown = " | ".join(prompts[0][:EXAMPLES]) + (" | ..." if len(prompts[0]) > EXAMPLES else "")
    text = f"Zero-shot: {sum(map(len, prompts))} prompts for {len(prompts)} classes ({shown})."
    twins = len(prompts) - len(set(prompts))
    return f"{text} Classes with the prompts of another, whose logits tie: {twins}." if twins else text
