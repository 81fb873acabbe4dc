"""The first principal component of what the feature layer sees: of its activations A, or of A times their gradients G = dS/dA.

Shapes: A, G are [B, K, h, w]; every map is [B, h, w] at that grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xbench.plugin import Batch, ModelView, method

EPS = 1e-7


@method("eigen_cam", needs={"feature_maps"}, cite="muhammad2020eigencam")
def eigen_cam(model: ModelView, batch: Batch) -> Tensor:
    """Projection on the first right singular vector of the *uncentred* activations, its sign such that the vector's sum is
    not negative. Class-agnostic; on non-negative activations it is well defined and not negative (Perron-Frobenius)."""
    places = _places(model.features(batch))
    projection, vector = _first_component(places)
    flip = torch.where(vector.sum(dim=1) < 0, -1.0, 1.0)
    return _grid(projection * flip[:, None], model.features(batch))


@method("eigen_cam_centered", needs={"feature_maps"}, cite="muhammad2020eigencam")
def eigen_cam_centered(model: ModelView, batch: Batch) -> Tensor:
    """The same after the mean over places is removed (PCA, as the grad-cam library does). Its sign is free: it is the one that
    correlates with the mean activation. Class-agnostic, signed."""
    activations = model.features(batch)
    places = _places(activations)
    projection, _ = _first_component(places - places.mean(dim=1, keepdim=True))
    return _grid(_along(projection, places.mean(dim=2)), activations)


@method("eigen_grad_cam", needs={"feature_maps", "gradients"}, cite="muhammad2020eigencam")
def eigen_grad_cam(model: ModelView, batch: Batch) -> Tensor:
    """First principal component of A * G over places, centred (the grad-cam library's class-specific Eigen-CAM). Its sign is the
    one that correlates with the sum of A * G. Signed."""
    activations, gradients = model.feature_gradients(batch)
    places = _places(activations * gradients)
    projection, _ = _first_component(places - places.mean(dim=1, keepdim=True))
    return _grid(_along(projection, places.sum(dim=2)), activations)


def _places(activations: Tensor) -> Tensor:
    """[B, K, h, w] -> [B, h * w, K] in float64: one row of channels per place."""
    return activations.flatten(2).transpose(1, 2).double()


def _grid(projection: Tensor, like: Tensor) -> Tensor:
    return projection.reshape(len(like), *like.shape[2:]).float()


def _first_component(places: Tensor) -> tuple[Tensor, Tensor]:
    """X [B, n, K] -> (X v [B, n], v [B, K]), v the first right singular vector; through the small matrix X X^T, since n << K."""
    values, vectors = torch.linalg.eigh(places @ places.transpose(1, 2))
    first = vectors[:, :, -1]
    size = values[:, -1].clamp(min=0).sqrt()
    right = torch.einsum("bnk,bn->bk", places, first) / size.clamp(min=EPS)[:, None]
    return first * size[:, None], right


def _along(projection: Tensor, guide: Tensor) -> Tensor:
    """Flip each projection [B, n] that correlates negatively with its guide [B, n]."""
    correlation = ((projection - projection.mean(1, keepdim=True)) * (guide - guide.mean(1, keepdim=True))).sum(dim=1)
    return projection * torch.where(correlation < 0, -1.0, 1.0)[:, None]
