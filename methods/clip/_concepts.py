"""What a window of a picture means: the rank of a concept among all nouns of a vocabulary, by their glosses."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from torch import Tensor

from xbench.plugin import Batch, ModelView, NotApplicable, Synset, WordNet, XbenchError, compact, did_you_mean, full

from ._windows import Window, framed

VOCABULARIES: dict[str, Callable[[], WordNet]] = {"compact": compact, "full": full}
Ranks = Callable[[Sequence[Window]], Tensor]  # of a concept in windows, int64 [windows]


def ranks(model: ModelView, batch: Batch, row: int, margin: int, concept: str, vocabulary: str) -> Ranks:
    """For windows of a row's picture the best rank of a concept and all below it, 0 where none of the others is nearer.

    concept: the target's own where it is empty. margin: width of the frame.

    Raises:
        NotApplicable: a class of the model is not in the vocabulary.
        XbenchError: no such concept, or no such vocabulary.
    """
    graph, order = _vocabulary(vocabulary)
    meant = graph.synset(concept) if concept else _target(model, int(batch.targets[row]), graph)
    kinds = [order[synset] for synset in graph.closure(meant)]
    picture = framed(model, batch, row, margin)
    # In double precision, so that a rank does not depend on how many windows are asked about at once.
    texts = model.sentences([synset.gloss for synset in order]).double()

    def of(windows: Sequence[Window]) -> Tensor:
        cosines = picture.embeddings(model, batch, windows).double() @ texts.T
        return (cosines > cosines[:, kinds].amax(dim=1, keepdim=True)).sum(dim=1)

    return of


@functools.cache
def _vocabulary(name: str) -> tuple[WordNet, dict[Synset, int]]:
    """The graph, and its synsets by the length of their glosses, which a text tower reads faster so."""
    if name not in VOCABULARIES:
        raise XbenchError(f"method convis: no vocabulary {name!r}{did_you_mean(name, VOCABULARIES)}")
    graph = VOCABULARIES[name]()
    return graph, {synset: i for i, synset in enumerate(sorted(graph, key=lambda s: (len(s.gloss), s.wnid)))}


def _target(model: ModelView, target: int, graph: WordNet) -> Synset:
    classes = model.model.classes
    if not classes.synsets:
        raise NotApplicable(f"the classes of {model.model.id} have no synsets; name one, such as concept=bird.n.01")
    # Of any class, not the target alone: whether the method applies must not depend on the items that share a batch.
    lacking = [name for name, synset in zip(classes.names, classes.synsets, strict=True) if synset not in graph]
    if lacking:
        raise NotApplicable(f"{model.model.id} has classes that are not in the vocabulary, such as {lacking[0]!r}; name a concept")
    return graph.synset(classes.synsets[target])
