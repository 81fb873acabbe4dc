"""How much a picture looks like one of the inside family, by several rules: the higher, the more.

max_logit      the largest logit over the family's classes (Hendrycks et al. 2022; Vaze et al. 2022)
gloss          the cosine between the picture and the definition of the family's root in WordNet
leaf_glosses   the largest cosine over the definitions of all leaves below the root (Giulivi and Boracchi 2024)
random         noise, a control

The paper's max_logit is that of a linear layer which it trained on the logits of a ResNet-50, with a softmax too many before the
loss. Ours trains nothing: a CLIP's logits are those of its prompts for the classes, as in zero-shot classification, and another
classifier's are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xbench.data.classes import ClassList
from xbench.data.samples import Dataset, generator
from xbench.errors import BrokenSample, XbenchError
from xbench.network.model import Model
from xbench.network.zero_shot import Encoder, ZeroShot
from xbench.progress import Progress
from xbench.run.detection.experiment import Family

SCORES = ("max_logit", "gloss", "leaf_glosses", "random")
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model says of N pictures. logits: ``[N, classes]``. embeddings: ``[N, D]`` of length 1; None without text.

    ids: of the pictures, in order. broken: what is wrong with those that could not be read, which are not among them.
    """

    ids: tuple[str, ...]
    logits: Tensor
    embeddings: Tensor | None
    broken: tuple[str, ...] = ()


def answers(model: Model, dataset: Dataset, ids: Sequence[str], batch_size: int, progress: Progress) -> Answers:
    """A model's answers to pictures of a dataset, seen as the model crops them, in passes of one shape.

    Raises:
        XbenchError: an answer is NaN or infinite, or no picture can be read.
    """
    known: list[str] = []
    broken: list[str] = []
    logits: list[Tensor] = []
    embeddings: list[Tensor] = []
    parts = [ids[start : start + batch_size] for start in range(0, len(ids), batch_size)]
    for done, part in enumerate(parts, 1):
        images = []
        for id in part:
            try:
                images.append(dataset.load(id).image)
                known.append(id)
            except BrokenSample as error:
                broken.append(str(error))
        if images:
            inputs = model.inputs(images + images[-1:] * (batch_size - len(images)), "crop")
            says, embedded = _answer(model, inputs)
            logits.append(says[: len(images)].cpu())
            if embedded is not None:
                embeddings.append(embedded[: len(images)].cpu())
        progress.advance(len(images))
        progress.finish_unit(done, len(parts))
    if not known:
        raise XbenchError(f"none of {len(ids)} pictures can be read: {broken[0] if broken else 'there are none'}")
    found = Answers(tuple(known), torch.cat(logits), torch.cat(embeddings) if embeddings else None, tuple(broken))
    wrong = ~torch.isfinite(found.logits).all(dim=1)
    if wrong.any():
        first = known[int(wrong.nonzero()[0])]
        raise XbenchError(f"model {model.id} gives NaN or infinite logits on {int(wrong.sum())} pictures (first: {first}); mend it")
    return found


def max_logit(found: Answers, columns: Sequence[int]) -> Array:
    """``[N]``: the largest logit over the model's classes of the inside family."""
    return _array(found.logits[:, list(columns)].amax(dim=1))


def gloss(found: Answers, model: Model, family: Family) -> Array:
    """``[N]``, in [-1, 1]: the cosine with the definition of the family's root. Of a model with text."""
    return _array(_cosines(found, model, [family.synset.gloss])[:, 0])


def leaf_glosses(found: Answers, model: Model, family: Family) -> Array:
    """``[N]``, in [-1, 1]: the largest cosine with the definition of a leaf below the root. Of a model with text."""
    return _array(_cosines(found, model, [leaf.gloss for leaf in family.leaves]).amax(dim=1))


def random(ids: Sequence[str], seed: int) -> Array:
    """``[N]``: a number in [0, 1) for each picture, that of (seed, picture) whatever the other pictures are."""
    return np.array([float(torch.rand((), generator=generator(seed, "ood", id), dtype=torch.float64)) for id in ids])


def columns(model: Model, classes: ClassList, family: Family) -> tuple[int, ...]:
    """The model's classes that are the family's, by WordNet id where both know them, else by name.

    Raises:
        XbenchError: the model lacks one.
    """
    synsets = tuple(classes.synsets[place] for place in family.classes)
    mine = ClassList(tuple(classes.names[place] for place in family.classes), synsets)
    found = mine.translation(model.classes)
    if found is None:
        remedy = "choose a model for these classes, or give a CLIP a list of them: classes=FILE"
        raise XbenchError(f"model {model.id} lacks classes of {family.synset.name} ({', '.join(mine.names[:3])} ...); {remedy}")
    return found


def cut(model: Model, family: Family) -> list[str]:
    """The glosses of a family, root and leaves, that are longer than the model's text tower reads, and so are cut."""
    glosses = dict.fromkeys(synset.gloss for synset in (family.synset, *family.leaves))
    encoder = model.encode_text
    return [one for one in glosses if not encoder.whole(one)] if isinstance(encoder, Encoder) else []


def _answer(model: Model, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits, and embeddings where the model has text: from one pass."""
    with torch.inference_mode():
        if isinstance(model.network, ZeroShot):
            embedded = model.embed(inputs)
            return model.network.logits(embedded), embedded
        return model.infer(inputs), None


def _cosines(found: Answers, model: Model, sentences: Sequence[str]) -> Tensor:
    assert found.embeddings is not None, "glosses need a model with text"
    assert model.encode_text is not None
    return found.embeddings @ model.encode_text(sentences).T


def _array(values: Tensor) -> Array:
    return values.double().numpy()
