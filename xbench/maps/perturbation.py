"""Perturbation: lazy requests of all metrics, methods and images become full forward batches. The only place that perturbs.

A Request asks for the target's probability, or another output, on some pictures made from one item's input. A Curve replaces
pixels of a *start* picture by those of an *end* picture, in an order; Weighted shows the picture through a map; Hidden takes
regions away; metrics may bring their own. Blends, which methods ask for, show many items through the same soft masks. Substrates
are named pictures made from the item's own input, so that end points (the clean picture, the blurred one, ...) are computed once
for all methods and metrics; equal requests are answered once. No perturbed picture exists before the batch it is packed into.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from xbench.data.samples import generator
from xbench.errors import XbenchError, did_you_mean
from xbench.maps.saliency import Ranking, SaliencyMap

T = TypeVar("T")


class Request(ABC):
    """The model's answer on ``points`` pictures of one batch row. Frozen and hashable: equal ones are answered once."""

    output: str = "probability"  # what of the answer: one of OUTPUTS

    @property
    @abstractmethod
    def row(self) -> int:
        """The batch row."""

    @property
    def points(self) -> int:
        """How many pictures."""
        return 1

    def plain(self, point: int) -> str | None:
        """The substrate that a picture simply is; None where it has to be drawn."""
        return None

    @abstractmethod
    def draw(self, point: int, pictures: Pictures, out: Tensor) -> None:
        """Paint a picture into ``out``, float ``[3, H, W]``."""


@dataclass(frozen=True)
class Along(Request):
    """Pictures along an order of pixels. counts: how many of the ranking have changed at each point, ascending."""

    ranking: Ranking
    counts: tuple[int, ...]

    @property
    def row(self) -> int:
        return self.ranking.row

    @property
    def points(self) -> int:
        return len(self.counts)


@dataclass(frozen=True)
class Curve(Along):
    """Pixels of the start picture replaced by the end picture's, first those of the lowest ranks."""

    start: str
    end: str
    output: str = "probability"

    def plain(self, point: int) -> str | None:
        count = self.counts[point]
        if 0 < count < self.ranking.ranks.numel():
            return None
        return self.end if count else self.start

    def draw(self, point: int, pictures: Pictures, out: Tensor) -> None:
        start, end = (pictures.of(name, self.row) for name in (self.start, self.end))
        torch.where(pictures.spread(self.ranking) < self.counts[point], end, start, out=out)


@dataclass(frozen=True)
class Weighted(Request):
    """``weights * picture + (1 - weights) * substrate``, with a map's own weights."""

    map_: SaliencyMap
    substrate: str = "zero"

    @property
    def row(self) -> int:
        return self.map_.row

    def draw(self, point: int, pictures: Pictures, out: Tensor) -> None:
        seen, behind = (pictures.of(name, self.row) for name in ("image", self.substrate))
        torch.lerp(behind, seen, self.map_.weights.to(seen), out=out)


class Masks(Protocol):
    """Regions of a picture: hashable, so that all methods share the answers where regions do not depend on their maps."""

    @property
    def count(self) -> int: ...

    def mask(self, i: int) -> Tensor:
        """bool ``[H, W]``, the i-th region."""


@dataclass(frozen=True)
class Hidden(Request):
    """The picture with a region replaced by the substrate, for each region. of: the batch row."""

    of: int
    masks: Masks
    substrate: str = "zero"

    @property
    def row(self) -> int:
        return self.of

    @property
    def points(self) -> int:
        return self.masks.count

    def draw(self, point: int, pictures: Pictures, out: Tensor) -> None:
        seen, behind = (pictures.of(name, self.row) for name in ("image", self.substrate))
        torch.where(self.masks.mask(point).to(seen.device), behind, seen, out=out)


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
    kernel = _rise_taps().to(inputs).expand(inputs.shape[1], 1, 11, 11)
    return functional.conv2d(inputs, kernel, padding=5, groups=inputs.shape[1])


def _gaussian_blur(inputs: Tensor) -> Tensor:
    """A true Gaussian of sigma 10 pixels per 224 of the input's shorter side, cut at 3 sigma, reflecting borders."""
    sigma = 10.0 * min(inputs.shape[-2:]) / 224
    radius = min(round(3 * sigma), min(inputs.shape[-2:]) - 1)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float32) / sigma) ** 2)
    kernel = (taps / taps.sum()).to(inputs).expand(inputs.shape[1], 1, 1, -1)
    padded = functional.pad(inputs, (radius,) * 4, mode="reflect")
    across = functional.conv2d(padded, kernel, groups=inputs.shape[1])
    return functional.conv2d(across, kernel.transpose(2, 3), groups=inputs.shape[1])


def _noise(inputs: Tensor) -> Tensor:
    """Uniform between each channel's smallest and largest value (Samek et al. 2017); the same draw for all pictures of a size."""
    low, high = (f(inputs, dim=(2, 3), keepdim=True) for f in (torch.amin, torch.amax))
    drawn = torch.rand(inputs.shape[1:], generator=generator("substrate", "noise"))
    return low + (high - low) * drawn.to(inputs)


SUBSTRATES: dict[str, Callable[[Tensor], Tensor]] = {
    "image": lambda inputs: inputs,
    "zero": _zero,
    "rise_blur": _rise_blur,
    "gaussian_blur": _gaussian_blur,
    "noise": _noise,
}


OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "probability": lambda logits: logits.softmax(dim=1),
    "logit": lambda logits: logits,
}
COSINE = "cosine"  # of picture and text: of CLIPs, before their temperature


def check_output(name: str) -> None:
    """Raises XbenchError for a name that is neither in OUTPUTS nor COSINE."""
    if name not in (*OUTPUTS, COSINE):
        raise XbenchError(f"unknown output {name!r}{did_you_mean(name, (*OUTPUTS, COSINE))}")


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


class Pictures:
    """The items' inputs and the substrates made from them, each made once. inputs: ``[n, 3, H, W]``."""

    def __init__(self, inputs: Tensor) -> None:
        self._made = {"image": inputs}
        self._spread: tuple[Ranking, Tensor] | None = None

    def of(self, name: str, row: int) -> Tensor:
        """A row's picture of that name, ``[3, H, W]``; ``image`` is its input."""
        if name not in self._made:
            self._made[name] = substrate(name, self._made["image"])
        return self._made[name][row]

    def spread(self, ranking: Ranking) -> Tensor:
        """Ranks ``[H, W]`` repeated over the channels in the very layout of a picture, where comparing and choosing is fastest."""
        if self._spread is None or self._spread[0] is not ranking:
            like = torch.empty_like(self._made["image"][0], dtype=ranking.ranks.dtype)
            self._spread = ranking, like.copy_(ranking.ranks.expand_as(like))
        return self._spread[1]


class Prober:
    """Answers requests for one batch of items.

    model: images ``[B, 3, H, W]`` -> logits. inputs: ``[n, 3, H, W]``, the items' model inputs. targets: ``[n]``. Each forward pass
    has exactly ``batch_size`` pictures: a last short one is padded, so an answer does not depend on what it was packed with.

    outputs: what of the logits ``[B, classes]`` can be asked for, by name.

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
        outputs: Mapping[str, Callable[[Tensor], Tensor]] = OUTPUTS,
    ) -> None:
        self.model, self.inputs, self.targets, self.batch_size, self.outputs = model, inputs, targets, batch_size, outputs
        self._progress = progress
        self.rows = len(inputs)
        self.forwards = 0
        self._pictures = Pictures(inputs)
        self._ends: dict[tuple[int, str], dict[str, float]] = {}  # (row, substrate) -> outputs of the untouched picture
        format_ = torch.channels_last if inputs.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        self._buffer = inputs.new_empty(batch_size, *inputs.shape[1:]).to(memory_format=format_)

    def run(self, requests: Sequence[Request | Blends]) -> list[Tensor]:
        """The target's output, on the CPU: float64 ``[points]`` per Request; ``[rows, masks]`` per Blends, of probabilities.

        Raises:
            XbenchError: an output that the model does not have.
        """
        single = iter(self._single([r for r in requests if isinstance(r, Request)]))
        return [self._through(request) if isinstance(request, Blends) else next(single) for request in requests]

    def _single(self, requests: Sequence[Request]) -> list[Tensor]:
        for request in requests:
            if request.output not in self.outputs:
                raise XbenchError(f"the model has no {request.output}, which CLIPs have; ask for {' or '.join(self.outputs)}")
        answers = [torch.empty(request.points, dtype=torch.float64) for request in requests]
        ends: dict[tuple[int, str], list[tuple[int, int]]] = {}
        jobs: list[tuple[int, int]] = []  # (request, point) that need a perturbed picture
        for r, request in enumerate(requests):
            for p in range(request.points):
                name = request.plain(p)
                if name is None:
                    jobs.append((r, p))
                else:
                    ends.setdefault((request.row, name), []).append((r, p))
        missing = [key for key in ends if key not in self._ends]
        for chunk in _chunks(missing, self.batch_size):
            for slot, (row, name) in enumerate(chunk):
                self._buffer[slot] = self._pictures.of(name, row)
            for key, value in zip(chunk, self._forward([row for row, _ in chunk]), strict=True):
                self._ends[key] = value
        for key, places in ends.items():
            for r, p in places:
                answers[r][p] = self._ends[key][requests[r].output]
        for batch in _chunks(jobs, self.batch_size):
            for slot, (r, p) in enumerate(batch):
                requests[r].draw(p, self._pictures, self._buffer[slot])
            for (r, p), values in zip(batch, self._forward([requests[r].row for r, _ in batch]), strict=True):
                answers[r][p] = values[requests[r].output]
        return answers

    def _through(self, request: Blends) -> Tensor:
        answers = torch.empty(len(request.rows), request.count, dtype=torch.float64)
        jobs = [(i, k) for i in range(request.count) for k in range(len(request.rows))]
        known, masks = -1, torch.empty(0)
        for batch in _chunks(jobs, self.batch_size):
            for slot, (i, k) in enumerate(batch):
                if known != i:
                    known, masks = i, request.mask(i).to(self.inputs)
                mask, row = masks if masks.ndim == 2 else masks[k], request.rows[k]
                torch.lerp(self._pictures.of(request.substrate, row), self.inputs[row], mask, out=self._buffer[slot])
            rows = [request.rows[k] for _, k in batch]
            for (i, k), values in zip(batch, self._forward(rows), strict=True):
                answers[k, i] = values["probability"]
        return answers

    def _forward(self, rows: list[int]) -> list[dict[str, float]]:
        """Outputs of the first len(rows) pictures of the buffer, by name; the rest repeats one, so that no shape but one is run."""
        self._buffer[len(rows) :] = self._buffer[0]
        with torch.inference_mode():
            logits = self.model(self._buffer)
        self.forwards += len(rows)
        if self._progress:
            self._progress(len(rows))
        targets = self.targets[rows][:, None]
        found = {name: of(logits)[: len(rows)].gather(1, targets)[:, 0].tolist() for name, of in self.outputs.items()}
        return [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]


def _chunks(jobs: list[T], size: int) -> list[list[T]]:
    return [jobs[i : i + size] for i in range(0, len(jobs), size)]
