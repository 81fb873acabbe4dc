"""Perturbation: lazy requests of all metrics, methods and images become full forward batches. The only place that perturbs.

A Curve replaces pixels of a *start* picture by those of an *end* picture, in an order, and wants the target's probability at some
counts of replaced pixels. Weighted shows the picture through a map, Blends through many soft masks. Pictures are named substrates
of the item's own input, so that end points (the clean picture, the blurred one, ...) are computed once for all methods and metrics.
No perturbed picture exists before the batch it is packed into.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from xbench.errors import XbenchError, did_you_mean
from xbench.maps import Ranking, SaliencyMap

T = TypeVar("T")


@dataclass(frozen=True)
class Curve:
    """A request. counts: how many pixels of the ranking show the end picture at each point, ascending."""

    ranking: Ranking
    counts: tuple[int, ...]
    start: str
    end: str


@dataclass(frozen=True)
class Weighted:
    """A request: the target's probability on ``weights * picture + (1 - weights) * substrate``, with a map's own weights."""

    map_: SaliencyMap
    substrate: str = "zero"


@dataclass(frozen=True, eq=False)
class Blends:
    """A request: the target's probability on ``mask * picture + (1 - mask) * substrate``, for every mask on every row.

    rows: batch rows. count: how many masks. mask: i -> float ``[H, W]`` in [0, 1] for all rows, or ``[len(rows), H, W]``.
    """

    rows: tuple[int, ...]
    count: int
    mask: Callable[[int], Tensor]
    substrate: str = "zero"


def _zero(inputs: Tensor) -> Tensor:
    """Zero in the *normalised* space (RISE): the preprocessing's mean, a grey."""
    return torch.zeros_like(inputs)


def _rise_taps() -> Tensor:
    """RISE's 11 x 11 kernel: a delta filtered by a Gaussian of sigma 5 with reflecting borders, nearly a box (.00774 to .00883)."""
    size, sigma = 11, 5.0
    radius = int(4.0 * sigma + 0.5)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    delta = np.zeros(size)
    delta[size // 2] = 1.0
    line = np.convolve(np.pad(delta, radius, mode="symmetric"), taps, mode="valid")
    return torch.from_numpy(np.outer(line, line)).float()


def _rise_blur(inputs: Tensor) -> Tensor:
    """RISE's blur: its kernel, zero padding (borders are pulled to grey)."""
    kernel = _rise_taps().to(inputs.device).expand(inputs.shape[1], 1, 11, 11)
    return functional.conv2d(inputs, kernel, padding=5, groups=inputs.shape[1])


def _gaussian_blur(inputs: Tensor) -> Tensor:
    """A true Gaussian of sigma 10 pixels per 224 of the input's shorter side, cut at 3 sigma, reflecting borders."""
    sigma = 10.0 * min(inputs.shape[-2:]) / 224
    radius = min(round(3 * sigma), min(inputs.shape[-2:]) - 1)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float32) / sigma) ** 2)
    kernel = (taps / taps.sum()).to(inputs.device).expand(inputs.shape[1], 1, 1, -1)
    padded = functional.pad(inputs, (radius,) * 4, mode="reflect")
    across = functional.conv2d(padded, kernel, groups=inputs.shape[1])
    return functional.conv2d(across, kernel.transpose(2, 3), groups=inputs.shape[1])


SUBSTRATES: dict[str, Callable[[Tensor], Tensor]] = {
    "image": lambda inputs: inputs,
    "zero": _zero,
    "rise_blur": _rise_blur,
    "gaussian_blur": _gaussian_blur,
}


def check_substrate(name: str) -> None:
    """Raises XbenchError for a name that is not in SUBSTRATES."""
    if name not in SUBSTRATES:
        raise XbenchError(f"unknown substrate {name!r}{did_you_mean(name, SUBSTRATES)}")


def substrate(name: str, inputs: Tensor) -> Tensor:
    """The picture that stands in for removed evidence, made from inputs ``[n, 3, H, W]``; same shape.

    Raises:
        XbenchError: unknown name.
    """
    check_substrate(name)
    # One picture at a time: the result is then the same whatever the companions.
    return torch.cat([SUBSTRATES[name](inputs[i : i + 1]) for i in range(len(inputs))])


class Prober:
    """Answers curves for one batch of items.

    model: images ``[B, 3, H, W]`` -> logits. inputs: ``[n, 3, H, W]``, the items' model inputs. targets: ``[n]``. Each forward pass
    has exactly ``batch_size`` pictures: a last short one is padded, so an answer does not depend on what it was packed with.

    progress is told the number of pictures after every forward pass.

    Attributes:
        forwards: pictures evaluated so far, padding left out. rows: n.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        inputs: Tensor,
        targets: Tensor,
        batch_size: int,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.model, self.inputs, self.targets, self.batch_size = model, inputs, targets, batch_size
        self._progress = progress
        self.rows = len(inputs)
        self.forwards = 0
        self._pictures: dict[str, Tensor] = {"image": inputs}
        self._ends: dict[tuple[int, str], float] = {}  # (row, substrate) -> probability of the untouched picture
        format_ = torch.channels_last if inputs.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        self._buffer = inputs.new_empty(batch_size, *inputs.shape[1:]).to(memory_format=format_)

    def run(self, requests: Sequence[Curve | Weighted | Blends]) -> list[Tensor]:
        """The target's softmax probability, on the CPU: float64 ``[points]`` per Curve, ``[1]`` per Weighted, ``[rows, masks]`` per
        Blends."""
        along = iter(self._along([r for r in requests if not isinstance(r, Blends)]))
        return [self._through(request) if isinstance(request, Blends) else next(along) for request in requests]

    def _along(self, curves: Sequence[Curve | Weighted]) -> list[Tensor]:
        answers = [torch.empty(len(curve.counts) if isinstance(curve, Curve) else 1, dtype=torch.float64) for curve in curves]
        ends: dict[tuple[int, str], list[tuple[int, int]]] = {}
        jobs: list[tuple[int, int]] = []  # (curve, point) that need a perturbed picture
        for c, curve in enumerate(curves):
            if isinstance(curve, Weighted):
                jobs.append((c, 0))
                continue
            for p, count in enumerate(curve.counts):
                if 0 < count < curve.ranking.ranks.numel():
                    jobs.append((c, p))
                else:
                    name = curve.end if count else curve.start
                    ends.setdefault((curve.ranking.row, name), []).append((c, p))
        missing = [key for key in ends if key not in self._ends]
        for chunk in _chunks(missing, self.batch_size):
            for slot, (row, name) in enumerate(chunk):
                self._buffer[slot] = self._picture(name)[row]
            for key, value in zip(chunk, self._forward([row for row, _ in chunk]), strict=True):
                self._ends[key] = value
        for key, places in ends.items():
            for c, p in places:
                answers[c][p] = self._ends[key]
        known, ranks = -1, torch.empty(0)
        for batch in _chunks(jobs, self.batch_size):
            rows = []
            for slot, (c, p) in enumerate(batch):
                curve = curves[c]
                if isinstance(curve, Weighted):
                    rows.append(curve.map_.row)
                    behind, seen = self._picture(curve.substrate)[rows[-1]], self.inputs[rows[-1]]
                    torch.lerp(behind, seen, curve.map_.weights.to(self.inputs), out=self._buffer[slot])
                    continue
                row = curve.ranking.row
                rows.append(row)
                if known != c:
                    known, ranks = c, self._spread(curve.ranking.ranks)
                start, end = self._picture(curve.start)[row], self._picture(curve.end)[row]
                torch.where(ranks < curve.counts[p], end, start, out=self._buffer[slot])
            for (c, p), value in zip(batch, self._forward(rows), strict=True):
                answers[c][p] = value
        return answers

    def _through(self, request: Blends) -> Tensor:
        answers = torch.empty(len(request.rows), request.count, dtype=torch.float64)
        jobs = [(i, k) for i in range(request.count) for k in range(len(request.rows))]
        behind, known, masks = self._picture(request.substrate), -1, torch.empty(0)
        for batch in _chunks(jobs, self.batch_size):
            for slot, (i, k) in enumerate(batch):
                if known != i:
                    known, masks = i, request.mask(i).to(self.inputs)
                mask, row = masks if masks.ndim == 2 else masks[k], request.rows[k]
                torch.lerp(behind[row], self.inputs[row], mask, out=self._buffer[slot])
            rows = [request.rows[k] for _, k in batch]
            for (i, k), value in zip(batch, self._forward(rows), strict=True):
                answers[k, i] = value
        return answers

    def _spread(self, ranks: Tensor) -> Tensor:
        """Ranks ``[H, W]`` repeated over the channels in the very layout of a picture, where comparing and choosing is fastest."""
        spread = torch.empty_like(self._buffer[0], dtype=ranks.dtype)
        return spread.copy_(ranks.expand_as(spread))

    def _picture(self, name: str) -> Tensor:
        if name not in self._pictures:
            self._pictures[name] = substrate(name, self.inputs)
        return self._pictures[name]

    def _forward(self, rows: list[int]) -> list[float]:
        """Evaluate the first len(rows) pictures of the buffer; the rest repeats one, so that no shape but one is ever run."""
        self._buffer[len(rows) :] = self._buffer[0]
        with torch.inference_mode():
            probabilities = self.model(self._buffer).softmax(dim=1)
        self.forwards += len(rows)
        if self._progress:
            self._progress(len(rows))
        values: list[float] = probabilities[: len(rows)].gather(1, self.targets[rows][:, None])[:, 0].tolist()
        return values


def _chunks(jobs: list[T], size: int) -> list[list[T]]:
    return [jobs[i : i + size] for i in range(0, len(jobs), size)]
