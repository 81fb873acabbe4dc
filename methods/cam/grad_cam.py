"""Activations A of the feature layer, weighted by their gradients G = dS/dA, S the target's logit: one line each.

Shapes: A, G are [B, K, h, w]; every map is [B, h, w] at that grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xbench.plugin import Batch, ModelView, method

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


def _weighted(weights: Tensor, activations: Tensor) -> Tensor:
    """[B, K] and [B, K, h, w] -> [B, h, w]."""
    return (weights[:, :, None, None] * activations).sum(dim=1)
