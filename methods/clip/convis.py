"""Concept Visualization (Giulivi & Boracchi 2024): where do windows of the picture mean a concept of WordNet, or a kind of it?

A CLIP reads windows of the picture at two scales. What a window means is the rank of the concept among all nouns of a vocabulary by
the cosine of the window with their glosses; the best rank of the concept and all below it counts, 0 = nearest of all. After the
authors' text and code. Ours are the vocabulary (docs/clip.md), sizes as shares of the input's side, noise that is the same for
all concepts, windows without a dark rim, means of each scale, and that what the paper does to a picture is done to the input.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from xbench.plugin import Batch, ModelView, generator, method, min_max

from .._shared import require
from ._concepts import Ranks, ranks
from ._windows import Window

CHUNK = 16  # windows that are proposed at once


@method("convis", needs={"text"}, cite="giulivi2024convis")
def convis(model: ModelView, batch: Batch, concept: str = "", large: float = 0.8, vocabulary: str = "compact") -> Tensor:
    """Minus the concept's mean rank in the windows over each pixel, from 0 to 1 over the picture (algorithm 1). A further concept
    of the same picture needs no pass.

    Windows of 128 and 64 pixels at steps of 16, of an input of 224, in a frame of noise; those beside the picture are left out,
    which changes nothing. concept: a synset such as ``bird.n.01``; the target's own where it is empty. large: weight of the large
    windows' mean; the plain sum of the authors' code is 0.8. vocabulary: ``compact``, or ``full`` by nltk. [items, H, W], unsigned.

    Raises:
        NotApplicable: a class of the model is not in the vocabulary.
        XbenchError: no such concept.
    """
    require(0 <= large <= 1, f"convis: large must be in [0, 1], not {large}")
    margin, small, step = (_pixels(batch, n) for n in (128, 64, 16))
    found = []
    for row in range(len(batch.items)):
        of = ranks(model, batch, row, margin, concept, vocabulary)
        means = [_mean(of, batch.size, margin, side, step) for side in (margin, small)]
        found.append(-(large * means[0] + (1 - large) * means[1]))
    return min_max(torch.stack(found)).float()


@method("convis_stochastic", needs={"text"}, cite="giulivi2024convis")
def convis_stochastic(
    model: ModelView,
    batch: Batch,
    concept: str = "",
    blocks: int = 6,
    draws: int = 100,
    eps: float = 0.002,
    gamma: float = 5.0,
    cutoff: int = 91,
    vocabulary: str = "compact",
) -> Tensor:
    """The faster search of the authors' code: windows are drawn where the map is high, and multiply what they cover.

    They do so by 1 + eps (2 exp(-gamma rank / cutoff) - 1), from rank cutoff on by 1 - eps. The map is one when a block of draws
    begins; blocks are summed; the first half of them draws large windows. Corners are drawn in proportion to the map there, by
    rejection, so that another concept mostly looks at the same windows, which are not run again. The run's seed and the sample
    determine the draws.
    concept, vocabulary, errors: as of ``convis``. [items, H, W], from 0 to 1, unsigned.
    """
    require(min(blocks, draws, cutoff) >= 1, "convis_stochastic: blocks, draws and cutoff must be positive")
    require(0 < eps < 1, f"convis_stochastic: eps must be between 0 and 1, not {eps}")
    margin, small = (_pixels(batch, n) for n in (128, 64))
    found = []
    for row, item in enumerate(batch.items):
        of = ranks(model, batch, row, margin, concept, vocabulary)
        factors = functools.partial(_factors, of, eps, gamma, cutoff)
        total = torch.zeros(*(n + 2 * margin for n in batch.size), dtype=torch.float64)
        for block in range(blocks):
            side = margin if 2 * block < blocks else small
            drawn = generator(batch.seed.partition("/")[0], "convis", item.sample, block)
            total += _searched(factors, total.shape, margin, side, draws, drawn)
        found.append(total[margin:-margin, margin:-margin])
    return min_max(torch.stack(found)).float()


def _pixels(batch: Batch, of_224: int) -> int:
    return max(1, round(of_224 * min(batch.size) / 224))


def _mean(of: Ranks, size: tuple[int, int], margin: int, side: int, step: int) -> Tensor:
    """Of each pixel the mean rank of the windows over it, float64 ``[H, W]``."""
    tops, lefts = ([k for k in range(0, margin + n, step) if k + side > margin] for n in size)
    windows = [(top, left, side) for top in tops for left in lefts]
    total, count = torch.zeros(2, *size, dtype=torch.float64)
    for (top, left, _), rank in zip(windows, of(windows).tolist(), strict=True):
        over = tuple(slice(max(0, k - margin), k - margin + side) for k in (top, left))
        total[over] += rank
        count[over] += 1
    return total / count


def _factors(of: Ranks, eps: float, gamma: float, cutoff: int, windows: Sequence[Window]) -> Tensor:
    """What each window multiplies the map by, float64 ``[windows]``."""
    rank = of(windows).double()
    return 1 + eps * (torch.where(rank < cutoff, 2 * (-gamma * rank / cutoff).exp(), 0.0) - 1)


def _searched(factors: Ranks, size: torch.Size, margin: int, side: int, draws: int, drawn: torch.Generator) -> Tensor:
    """The map of a block of draws, with its frame."""
    map_, taken = torch.ones(size, dtype=torch.float64), 0
    corners = map_[:-margin, :-margin]
    while True:
        places = torch.rand(CHUNK, 2, dtype=torch.float64, generator=drawn) * torch.tensor(corners.shape)
        chances = torch.rand(CHUNK, dtype=torch.float64, generator=drawn).tolist()
        windows = [(top, left, side) for top, left in places.long().tolist()]
        for (top, left, _), chance, factor in zip(windows, chances, factors(windows).tolist(), strict=True):
            if chance * corners.max() < corners[top, left]:
                map_[top : top + side, left : left + side] *= factor
                taken += 1
            if taken == draws:
                return map_
