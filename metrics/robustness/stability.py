"""Does a map stay where the picture hardly changes, and move where the picture moves?

With x' = x + noise, uniform in [-radius, radius] on the network's input, and e, e' the maps at the method's own grid:

sensitivity_max           max |e' - e| / |e|                                             Yeh et al. 2019, def. 3.1
relative_input_stability  ln max |(e' - e) / e| / |(x' - x) / x|, element by element     Agarwal et al. 2022, eq. 2
ses                       mean rank correlation of the moved map and the map of the moved picture, for a mirrored, a turned, an
                          enlarged and a shifted one, on the pixels that both show   equivariance, Crabbe and van der Schaar 2023

Variations under which the network names another class do not count: there the map has a reason to change. Both ratios are free of
the map's scale. A division by an element near 0 takes its floor instead, FLOOR of the root mean square, without which one dead cell
would be the whole value; the stability is a logarithm because its ratios spread over orders of magnitude.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from xbench.plugin import Answer, Moved, Noisy, NotApplicable, Score, Variation, metric

from .._shared import at_least
from .._similarity import spearman

FLOOR = 0.01
LEAST = 1e-6  # ratio, for maps that do not change at all
ANY = (float("-inf"), float("inf"))
MOVES = (Moved(mirror=True), Moved(turn=10.0), Moved(zoom=1.15), Moved(right=0.1, down=0.05))


def _unchanged(before: Answer, after: list[Answer]) -> list[int]:
    """The variations under which the network names the same class."""
    same = [i for i, answer in enumerate(after) if answer.logits.argmax() == before.logits.argmax()]
    if not same:
        raise NotApplicable("the network names another class under every variation")
    return same


@dataclass(frozen=True)
class _Noise:
    """n: draws of noise. radius: its largest value, in the network's normalised input."""

    n: int = 10
    radius: float = 0.2

    def __post_init__(self) -> None:
        at_least(1, n=self.n)

    def plan(self) -> list[Variation]:
        """Each draw of noise."""
        return [Noisy(self.radius, number) for number in range(self.n)]


@metric("sensitivity_max", kind="re_explanation", version="1", direction="lower", range=(0, ANY[1]), cite="yeh2019on")
@dataclass(frozen=True)
class SensitivityMax(_Noise):
    """Largest change of a map under slight noise, relative to the map. Lower is better; 0 = none. Not applicable to a zero map."""

    def score(self, before: Answer, after: list[Answer]) -> Score:
        """Over the draws that count."""
        first = before.map_.native.double()
        if not first.any():
            return Score(not_applicable="the map is zero everywhere")
        changes = [float((after[i].map_.native.double() - first).norm() / first.norm()) for i in _unchanged(before, after)]
        return Score(max(changes))


@metric("relative_input_stability", kind="re_explanation", version="1", direction="lower", range=ANY, cite="agarwal2022rethinking")
@dataclass(frozen=True)
class RelativeInputStability(_Noise):
    """Logarithm of the largest relative change of a map over that of the input. Lower is better. Not applicable to a zero map."""

    def score(self, before: Answer, after: list[Answer]) -> Score:
        """Over the draws that count."""
        if not before.map_.native.any():
            return Score(not_applicable="the map is zero everywhere")
        ratios = [
            _relative(before.map_.native, after[i].map_.native) / _relative(before.input, after[i].input)
            for i in _unchanged(before, after)
        ]
        return Score(math.log(max(*ratios, LEAST)))


def _relative(old: Tensor, new: Tensor) -> float:
    """|(new - old) / old|, with a floor below the divisors."""
    old, new = old.double(), new.double()
    return float(((new - old) / old.abs().clamp(min=FLOOR * float(old.square().mean().sqrt()))).norm())


@metric("ses", kind="re_explanation", version="1", direction="higher", range=(-1, 1), chance="0", cite="crabbe2023evaluating")
@dataclass(frozen=True)
class Equivariance:
    """Rank correlation of the moved map with the map of the moved picture. Higher is better; 1 = it moves along."""

    def plan(self) -> list[Variation]:
        """MOVES."""
        return list(MOVES)

    def score(self, before: Answer, after: list[Answer]) -> Score:
        """The mean over the moves that count."""
        found = []
        for i in _unchanged(before, after):
            seen = MOVES[i].seen(before.map_.size)
            found.append(spearman(MOVES[i].place(before.map_.full)[seen], after[i].map_.full[seen]))
        return Score(sum(found) / len(found))
