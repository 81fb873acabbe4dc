"""Random views of pictures for learning without labels: crops, mirrors, colours, blur and clouds, drawn per picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

RATIO = 4 / 3  # of the sides of a crop, at most, either way
JITTER = (0.4, 0.4, 0.2, 0.1)  # of brightness, contrast, saturation and hue (Grill et al. 2020, appendix B)
JITTERED, GREY = 0.8, 0.2  # shares of the views
SIGMA = (0.1 / 224, 2.0 / 224)  # of the blur, in sides of the view
LATTICES = (2, 3, 5)  # points along a side of the fields that make up clouds
YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def crops(pictures: Tensor, side: int, scale: tuple[float, float], flip: bool, draw: torch.Generator) -> Tensor:
    """A random part of each picture, resized: ``[B, C, h, w]`` -> ``[B, C, side, side]``.

    scale: range of the share of the picture that is shown. flip: mirror half of them. Bilinear, without a filter before it: a crop
    should not be shrunk to less than half. draw: on the CPU.
    """
    count = len(pictures)
    area = _uniform(draw, count, *scale)
    ratio = _uniform(draw, count, -math.log(RATIO), math.log(RATIO)).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    across, down = (_uniform(draw, count, -1, 1) * (1 - size) for size in (width, height))
    mirrored = torch.rand(count, generator=draw) < (0.5 if flip else 0.0)
    zero = torch.zeros(count)
    rows = torch.stack([torch.where(mirrored, -width, width), zero, across, zero, height, down], dim=1).reshape(count, 2, 3)
    grid = functional.affine_grid(rows.to(pictures), [count, pictures.shape[1], side, side], align_corners=False)
    return functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def coloured(pictures: Tensor, strength: float, draw: torch.Generator) -> Tensor:
    """Other brightness, contrast, saturation and hue for most pictures, no colour for some. RGB in 0..1, ``[B, 3, h, w]``.

    strength: 0 for none, 1 for the changes of BYOL. draw: on the CPU.
    """
    count = len(pictures)
    jittered = torch.rand(count, generator=draw) < JITTERED
    brightness, contrast, saturation = (
        torch.where(jittered, _uniform(draw, count, 1 - strength * j, 1 + strength * j), torch.ones(count)) for j in JITTER[:3]
    )
    turn = torch.where(jittered, _uniform(draw, count, -strength, strength) * JITTER[3] * 2 * math.pi, torch.zeros(count))
    saturation = torch.where(torch.rand(count, generator=draw) < GREY * strength, torch.zeros(count), saturation)
    chroma = torch.zeros(count, 3, 3)
    chroma[:, 0, 0] = 1
    chroma[:, 1, 1] = chroma[:, 2, 2] = saturation * turn.cos()
    chroma[:, 2, 1] = saturation * turn.sin()
    chroma[:, 1, 2] = -chroma[:, 2, 1]
    matrix = brightness[:, None, None] * (torch.linalg.inv(YIQ) @ chroma @ YIQ)
    found = torch.einsum("bij,bjhw->bihw", matrix.to(pictures), pictures)
    grey = torch.einsum("j,bjhw->b", YIQ[0].to(pictures), found) / found[0, 0].numel()
    contrast = contrast.to(pictures)
    return (found * contrast[:, None, None, None] + (grey * (1 - contrast))[:, None, None, None]).clamp(0, 1)


def blurred(pictures: Tensor, share: float, draw: torch.Generator) -> Tensor:
    """A Gaussian blur of random width for that share of the pictures, ``[B, C, h, w]``. draw: on the CPU."""
    count, channels, height, width = pictures.shape
    sigma = _uniform(draw, count, *SIGMA) * width
    chosen = torch.rand(count, generator=draw) < share
    reach = math.ceil(3 * SIGMA[1] * width)
    kernel = torch.softmax(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma[:, None] ** 2), dim=1)
    kernel = torch.where(chosen[:, None], kernel, functional.one_hot(torch.tensor(reach), 2 * reach + 1).float())
    weights = kernel.repeat_interleave(channels, dim=0).to(pictures)[:, None]
    stacked = functional.pad(pictures, (reach,) * 4, mode="replicate").reshape(1, count * channels, height + 2 * reach, -1)
    across = functional.conv2d(stacked, weights[:, :, None], groups=count * channels)
    return functional.conv2d(across, weights[..., None], groups=count * channels).reshape(pictures.shape)


def clouded(pictures: Tensor, strength: float, draw: torch.Generator) -> Tensor:
    """Smooth random colours added to each picture, RGB in 0..1, ``[B, 3, h, w]``: what is broad and soft tells none apart.

    The sum of one field for each of LATTICES: values at its points, uniform in +-strength / 2 / sqrt(fields), bicubic between them.
    strength: 0 for none. draw: on the CPU.
    """
    found = pictures
    for points in LATTICES if strength else ():
        values = _uniform(draw, len(pictures) * 3 * points**2, -0.5, 0.5) * strength / math.sqrt(len(LATTICES))
        field = values.to(pictures).reshape(len(pictures), 3, points, points)
        found = found + functional.interpolate(field, size=pictures.shape[-2:], mode="bicubic", align_corners=True)
    return found.clamp(0, 1)


def _uniform(draw: torch.Generator, count: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=draw)
