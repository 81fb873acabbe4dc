"""Plants: maps that are worse than another one by a known degree. `xbench validate-metrics` puts metrics to the test with them."""

from __future__ import annotations

import torch
from torch import Tensor

from xbench.plugin import Batch, Method, ModelView, method

from .._shared import require


@method("shifted", control=True)
def shifted(model: ModelView, batch: Batch, inner: Method, share: float = 0.1) -> Tensor:
    """Another method's map moved right and down by ``share`` of its sides; what leaves comes back on the other side."""
    require(0 <= share <= 1, f"shifted: share must be from 0 to 1, not {share}")
    map_ = inner(model, batch)
    return map_.roll([round(share * side) for side in map_.shape[1:]], dims=(1, 2))


@method("blurred", control=True)
def blurred(model: ModelView, batch: Batch, inner: Method, share: float = 0.05) -> Tensor:
    """Another method's map under a Gaussian whose sigma is ``share`` of its shorter side, reflected at the borders."""
    from torchvision.transforms.functional import gaussian_blur  # two seconds of import

    require(share > 0, f"blurred: share must be positive, not {share}")
    map_ = inner(model, batch)
    sigma = share * min(map_.shape[1:])
    reach = min(round(3 * sigma), min(map_.shape[1:]) - 1)
    return gaussian_blur(map_[:, None], [2 * reach + 1] * 2, [sigma] * 2)[:, 0]


@method("scrambled", control=True)
def scrambled(model: ModelView, batch: Batch, inner: Method) -> Tensor:
    """Another method's map with its cells in random order, the item's own: the same values, nothing where it was."""
    map_ = inner(model, batch)
    orders = [torch.randperm(map_[0].numel(), generator=generator) for generator in batch.generators()]
    return torch.stack([m.flatten()[order.to(m.device)].reshape(m.shape) for m, order in zip(map_, orders, strict=False)])


@method("noisy", control=True)
def noisy(model: ModelView, batch: Batch, inner: Method, share: float = 0.5) -> Tensor:
    """Another method's map, scaled to its largest absolute value, and uniform noise on its grid, mixed: (1 - share) m + share u."""
    require(0 <= share <= 1, f"noisy: share must be from 0 to 1, not {share}")
    map_ = inner(model, batch)
    largest = map_.abs().amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return (1 - share) * map_ / largest + share * batch.rand(*map_.shape[1:])[: len(map_)].to(map_)
