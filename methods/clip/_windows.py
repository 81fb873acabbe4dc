"""Square windows of a picture in a frame of noise: their embeddings, each computed once for all methods and concepts."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from xbench.plugin import Batch, ModelView, generator

Window = tuple[int, int, int]  # top, left and side, in pixels of the framed picture
PASSES = 4  # that windows are cut for at once
_FRAMED: WeakKeyDictionary[ModelView, dict[Hashable, Framed]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Framed:
    """A picture in its frame, ``[3, H + 2 margin, W + 2 margin]``, and the embeddings of its windows that were asked for."""

    picture: Tensor
    known: dict[Window, Tensor] = field(default_factory=dict)

    def embeddings(self, model: ModelView, batch: Batch, windows: Sequence[Window]) -> Tensor:
        """``[windows, D]``, of length 1; windows are resized to the model's input. Only those that nobody asked for yet are run;
        the method is charged for all."""
        new = [window for window in dict.fromkeys(windows) if window not in self.known]
        step = PASSES * (model.pass_size or len(batch))
        for start in range(0, len(new), step):
            some = new[start : start + step]
            found = model.embeddings(batch, self._cut(model, some))
            self.known.update(zip(some, found, strict=True))
        model.charge(forwards=(len(windows) - len(new)) / len(batch.items))
        return torch.stack([self.known[window] for window in windows])

    def _cut(self, model: ModelView, windows: Sequence[Window]) -> Tensor:
        """Windows at the model's input size, ``[windows, 3, H, W]``, kept within the range of pixels as preprocessing would."""
        how = model.model.preprocessing
        black, white = (how.normalise(torch.full((3, 1, 1), value)).to(self.picture.device) for value in (0, 255))
        found = []
        for _, alike in itertools.groupby(windows, key=lambda window: window[2]):
            cuts = torch.stack([self.picture[:, top : top + side, left : left + side] for top, left, side in alike])
            found.append(F.interpolate(cuts, how.size, mode="bicubic", antialias=True).clamp(black, white))
        return torch.cat(found)


def framed(model: ModelView, batch: Batch, row: int, margin: int) -> Framed:
    """The picture of a row within uniform noise of that width, which the run's seed and the sample determine; the same object
    for all methods that ask this view for the same picture."""
    picture, sample, run = batch.images[row], batch.items[row].sample, batch.seed.partition("/")[0]
    content = hashlib.sha256(picture.cpu().contiguous().numpy().tobytes()).digest()
    key, kept = (content, sample, run, margin), _FRAMED.setdefault(model, {})
    if key not in kept:
        height, width = batch.size
        size = (3, height + 2 * margin, width + 2 * margin)
        noise = torch.randint(0, 256, size, generator=generator(run, "frame", sample), dtype=torch.uint8)
        made = model.model.preprocessing.normalise(noise).to(picture.device)
        made[:, margin : margin + height, margin : margin + width] = picture
        kept[key] = Framed(made)
    return kept[key]
