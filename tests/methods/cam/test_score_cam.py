"""Score-CAM against plain loops."""

import numpy as np
import pytest
import torch
from torch import nn

from xbench.errors import XbenchError
from xbench.network.model import ModelView
from xbench.plugins.registry import registry


def probability(model, image, target) -> float:
    with torch.no_grad():
        return float(model(image[None]).softmax(dim=1)[0, target])


def score_cam_by_loop(model, image, target, channels) -> np.ndarray:
    """Channel by channel, baseline and all."""
    side = image.shape[-1]
    baseline = probability(model, torch.zeros_like(image), target)
    increases, live = [], []
    for k, channel in enumerate(channels):
        if channel.max() == channel.min():
            continue
        mask = nn.functional.interpolate(channel[None, None], (side, side), mode="bilinear", align_corners=False)[0, 0]
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        increases.append(probability(model, image * mask, target) - baseline)
        live.append(k)
    exponentials = np.exp(increases)
    weights = exponentials / exponentials.sum()
    return np.maximum(sum(w * channels[k].numpy() for w, k in zip(weights, live, strict=True)), 0)


def test_score_cam_is_the_plain_loop_and_flat_channels_have_no_weight(tiny_model, batch):
    tiny_model.network.second.bias.data[:2] = -1e6  # two dead channels
    tiny_model.network.second.weight.data[2] = 0  # a flat one that is not zero
    tiny_model.network.second.bias.data[2] = 5.0
    view = ModelView(tiny_model)
    maps = registry.method("score_cam")(view, batch)
    assert maps.shape == (3, 8, 8)
    for row in range(3):
        expected = score_cam_by_loop(tiny_model, batch.images[row], batch.targets[row], view.features(batch)[row])
        assert maps[row].numpy() == pytest.approx(expected, abs=1e-5)
        assert expected.max() > 0.1


def test_score_cam_of_a_dead_layer_is_zero(tiny_model, batch):
    tiny_model.network.second.bias.data[:] = -1e6
    assert torch.equal(registry.method("score_cam")(ModelView(tiny_model), batch), torch.zeros(3, 8, 8))


def test_score_cam_top_takes_the_channels_with_the_largest_range(lite, photos):
    view = ModelView(lite)
    maps = registry.method("score_cam(top=3)")(view, photos)
    for row in range(2):
        channels = view.features(photos)[row]
        ranges = channels.flatten(1).max(dim=1).values - channels.flatten(1).min(dim=1).values
        best = sorted(range(len(ranges)), key=lambda k: -float(ranges[k]))[:3]
        expected = score_cam_by_loop(lite, photos.images[row], photos.targets[row], channels[best])
        assert maps[row].numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("score_cam(top=-1)", "top must not be negative"),
    ],
)
def test_wrong_parameters_are_named(spec, says, tiny_model, batch):
    with pytest.raises(XbenchError, match=says):
        registry.method(spec)(ModelView(tiny_model), batch)
