"""A linear classifier on the frozen features of a network of timm, by logistic regression."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from xbench.plugin import Examples, soft_targets, worker_count

PROBED = 5000  # pictures that the linear classifier is fitted to, at most
DECAY = 1e-3  # of its weights, for features of variance 1
ITERATIONS = 100


def features(network: nn.Module, pictures: Tensor) -> Tensor:
    """What timm's network gives its classifier, ``[B, width]``; of a vision transformer its class token."""
    timm = cast(Any, network)
    return cast(Tensor, timm.forward_head(timm.forward_features(pictures), pre_logits=True))


def fit_classifier(network: nn.Module, train: Examples, batch_size: int, device: torch.device) -> None:
    """Fit the classifier of timm's network to its frozen features, by logistic regression on up to 5,000 training pictures."""
    found, places, mode = [], [], network.training
    network.eval()
    every = math.ceil(len(train) / PROBED)
    with torch.no_grad():
        for pictures, where in train.in_order(batch_size, worker_count(None), every):
            found.append(features(network, train.preprocessing.normalise(pictures[:, :3]).to(device)).double().cpu())
            places.append(where)
    network.train(mode)
    seen, targets = torch.cat(found), soft_targets(train.present)[torch.cat(places)].double()
    weight, bias = logistic_regression(seen, targets)
    with torch.no_grad():
        classifier = cast(Any, network).get_classifier()
        classifier.weight.copy_(weight)
        classifier.bias.copy_(bias)


@torch.enable_grad()
def logistic_regression(seen: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Weight ``[classes, width]`` and bias ``[classes]`` for features ``[n, width]`` and soft targets ``[n, classes]``.

    Cross-entropy plus half ``DECAY`` times the squared weights, which are those of features of mean 0 and variance 1.
    """
    mean, spread = seen.mean(dim=0), seen.std(dim=0, correction=0).clamp(min=1e-6)
    inputs = (seen - mean) / spread
    weight = torch.zeros(targets.shape[1], seen.shape[1], dtype=seen.dtype, requires_grad=True)
    bias = torch.zeros(targets.shape[1], dtype=seen.dtype, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = functional.cross_entropy(inputs @ weight.T + bias, targets) + DECAY / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    scaled = weight.detach() / spread
    return scaled, bias.detach() - scaled @ mean
