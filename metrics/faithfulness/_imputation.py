"""Noisy linear imputation (ROAD, Rong et al. 2022): a removed pixel becomes the mean of its neighbours, plus a little noise.

Edge neighbours weigh 1/6, corner neighbours 1/12, those outside the picture nothing, and the mean is over the weights left: for
each removed pixel i, sum_j w_ij (x_i - x_j) = 0. That system is symmetric and positive definite: conjugate gradients solve it. A
multigrid V-cycle preconditions each step: without it their number would grow with the width of the holes, with it a dozen reach
what float32 resolves. Coarse grids keep the fine one's stencil, as a Laplacian in two dimensions may; a cell is removed if any
pixel below it is, and tied to what is known as strongly as all of those together.

Elsewhere: the authors' code, pytorch-grad-cam and quantus solve the same equations, by sparse LU, and add the same noise, from the
global generator; with nothing known their matrix is singular.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from xbench.plugin import XbenchError

NOISE = 0.01
STEPS = 100  # no mask is known that needs more than 20
SWEEPS = 4  # on the coarsest grid, 2 x 2
RESOLUTION = torch.finfo(torch.float32).eps
TINY = torch.finfo(torch.float64).tiny  # in place of 0 / 0 where a channel is solved from the start


def impute(picture: Tensor, removed: Tensor) -> Tensor:
    """The picture with every removed pixel the weighted mean of its eight neighbours; known pixels are returned as they are.

    picture: float32 ``[C, H, W]``. removed: bool ``[H, W]``. -> float32 ``[C, H, W]``, within 1e-6 of the exact solution if the
    picture is normalised. Where nothing is known nothing is defined: zero then, the mean colour of the preprocessing.

    Raises:
        XbenchError: no convergence.
    """
    height, width = removed.shape
    unknown = _even(removed.double())
    inside = _even(torch.ones_like(removed, dtype=torch.float64))
    known = _even(torch.where(removed, 0, picture).contiguous().double())
    grids, weights = _grids(removed), unknown * _spread(inside)
    solution, residual = torch.zeros_like(known), unknown * _spread(known)
    direction, slope = torch.zeros_like(known), torch.ones_like(known[:, :1, :1])
    for _ in range(STEPS):
        corrected = _cycle(grids, residual.float()).double()
        before, slope = slope, (residual * corrected).sum(dim=(1, 2), keepdim=True)
        direction = corrected.addcmul_(direction, slope / before.clamp(min=TINY))
        image = (weights * direction).addcmul_(unknown, _spread(direction), value=-1)
        length = slope / (direction * image).sum(dim=(1, 2), keepdim=True).clamp(min=TINY)
        solution.addcmul_(length, direction)
        residual.addcmul_(length, image, value=-1)
        largest = (length * direction.abs().amax(dim=(1, 2), keepdim=True)).max()
        if not largest > RESOLUTION * known.abs().max():  # NaN ends here too
            return torch.where(removed, solution[:, :height, :width].float(), picture)
    raise XbenchError(f"the imputation of a picture did not converge in {STEPS} steps")


def noisy(imputed: Tensor, removed: Tensor, generator: torch.Generator) -> Tensor:
    """Normal noise of standard deviation 0.01, in the picture's units, on every channel of removed pixels. -> ``[C, H, W]``.

    A pixel's noise depends on the generator alone, not on which others are removed.
    """
    noise = NOISE * torch.randn(imputed.shape, generator=generator, device=generator.device)
    return torch.where(removed, imputed + noise.to(imputed.device), imputed)


class _Grid(NamedTuple):
    """float32 ``[h, w]``, h and w even: 1 where removed, else 0; sum of a pixel's weights; its inverse where removed, else 0."""

    unknown: Tensor
    weights: Tensor
    sweep: Tensor


def _grids(removed: Tensor) -> list[_Grid]:
    """From fine to coarse. What is added to make sides even is neither removed nor known."""
    unknown = _even(removed.float())
    ties = unknown * _spread(_even((~removed).float()))
    grids = []
    while True:
        weights = _spread(unknown) + ties
        grids.append(_Grid(unknown, weights, unknown / weights.clamp(min=RESOLUTION)))
        if max(unknown.shape) == 2:
            return grids
        unknown, ties = (_even(_halved(unknown)) > 0).float(), _even(_halved(ties))


def _cycle(grids: list[_Grid], residual: Tensor) -> Tensor:
    """Nearly what solves the system for the residual, float32 ``[C, h, w]``: one V-cycle, symmetric as conjugate gradients need."""
    (unknown, weights, sweep), *coarser = grids
    found = sweep * residual
    if coarser:
        rest = _spread(found).addcmul_(weights, found, value=-1).add_(residual).mul_(unknown)
        h, w = unknown.shape[0] // 2, unknown.shape[1] // 2
        correction = _cycle(coarser, _even(_halved(rest)))[:, :h, :w].repeat_interleave(2, dim=2)
        found.view(-1, h, 2, 2 * w).add_(correction[:, :, None])
        found *= unknown
    for _ in range(1 if coarser else SWEEPS):
        found += _spread(found).addcmul_(weights, found, value=-1).add_(residual).mul_(sweep)
    return found


def _spread(x: Tensor) -> Tensor:
    """[1 2 1] down and across, zeros beyond the borders: 12 times a neighbours' mean, and 4 times the pixel on both sides alike."""
    padded = functional.pad(x, (1, 1, 1, 1))
    rows = (padded[..., :-2] + padded[..., 2:]).add_(padded[..., 1:-1], alpha=2)
    return (rows[..., :-2, :] + rows[..., 2:, :]).add_(rows[..., 1:-1, :], alpha=2)


def _halved(x: Tensor) -> Tensor:
    """Sums of 2 x 2 pixels."""
    rows = x[..., ::2, :] + x[..., 1::2, :]
    return rows[..., ::2] + rows[..., 1::2]


def _even(x: Tensor) -> Tensor:
    """Zeros at the right and the bottom until both sides are even."""
    return functional.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2)) if x.shape[-1] % 2 or x.shape[-2] % 2 else x
