"""Class activation maps: one line each on the feature layer's activations A and gradients G = dS/dA, S the target's logit.

Shapes: A, G are [B, K, h, w]; every map is [B, h, w] at that grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xbench import Batch, ModelView, method

CAM = {"feature_maps", "gradients"}
EPS = 1e-7


@method("grad_cam", needs=CAM, cite="selvaraju2017gradcam")
def grad_cam(model: ModelView, batch: Batch) -> Tensor:
    """ReLU of the activations weighted by their mean gradients (eqs. 1 and 2). Unsigned."""
    activations, gradients = model.feature_gradients(batch)
    return _weighted(gradients.mean(dim=(2, 3)), activations).relu()


@method("grad_cam_plus_plus", needs=CAM, cite="chattopadhay2018gradcampp")
def grad_cam_plus_plus(model: ModelView, batch: Batch) -> Tensor:
    """Weights from alpha = G^2 / (2 G^2 + sum(A) G^3) and the positive gradients (eqs. 5 and 19). Unsigned.

    The closed form assumes the score exp(S); like most implementations it is fed the gradients of S itself.
    """
    activations, gradients = model.feature_gradients(batch)
    total = activations.sum(dim=(2, 3), keepdim=True)
    alpha = gradients**2 / (2 * gradients**2 + total * gradients**3 + 1e-6)
    alpha = torch.where(gradients != 0, alpha, 0.0)
    return _weighted((alpha * gradients.relu()).sum(dim=(2, 3)), activations).relu()


@method("xgrad_cam", needs=CAM, cite="fu2020xgradcam")
def xgrad_cam(model: ModelView, batch: Batch) -> Tensor:
    """Weights sum(G A) / sum(A), which satisfy sensitivity and conservation best (eq. 8). Unsigned."""
    activations, gradients = model.feature_gradients(batch)
    weights = (gradients * activations).sum(dim=(2, 3)) / (activations.sum(dim=(2, 3)) + EPS)
    return _weighted(weights, activations).relu()


@method("hires_cam", needs=CAM, cite="draelos2020hirescam")
def hires_cam(model: ModelView, batch: Batch) -> Tensor:
    """Gradient times activation at each place, summed over channels. Unsigned."""
    activations, gradients = model.feature_gradients(batch)
    return (activations * gradients).sum(dim=1).relu()


@method("layer_cam", needs=CAM, cite="jiang2021layercam")
def layer_cam(model: ModelView, batch: Batch) -> Tensor:
    """Positive gradient times activation at each place, summed over channels (eqs. 6 and 7). Unsigned."""
    activations, gradients = model.feature_gradients(batch)
    return (activations * gradients.relu()).sum(dim=1).relu()


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


@method("eigen_grad_cam", needs=CAM, cite="muhammad2020eigencam")
def eigen_grad_cam(model: ModelView, batch: Batch) -> Tensor:
    """First principal component of A * G over places, centred (the grad-cam library's class-specific Eigen-CAM). Its sign is the
    one that correlates with the sum of A * G. Signed."""
    activations, gradients = model.feature_gradients(batch)
    places = _places(activations * gradients)
    projection, _ = _first_component(places - places.mean(dim=1, keepdim=True))
    return _grid(_along(projection, places.sum(dim=2)), activations)


def _weighted(weights: Tensor, activations: Tensor) -> Tensor:
    """[B, K] and [B, K, h, w] -> [B, h, w]."""
    return (weights[:, :, None, None] * activations).sum(dim=1)


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
