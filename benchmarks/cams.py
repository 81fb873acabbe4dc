"""The CAM family from one shared forward and backward pass, against the grad-cam library's classes one after the other.

    python benchmarks/cams.py [--rounds N]

Both are measured in alternation in one run; the figure is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time

import pytorch_grad_cam
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from xbench.data.samples import Batch, Item
from xbench.host import keep_memory
from xbench.maps.saliency import resize
from xbench.network.model import Model, ModelView
from xbench.plugins.registry import registry

PAIRS = {
    "grad_cam": "GradCAM",
    "grad_cam_plus_plus": "GradCAMPlusPlus",
    "xgrad_cam": "XGradCAM",
    "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
    "eigen_cam_centered": "EigenCAM",
    "eigen_grad_cam": "EigenGradCAM",
}


def ours(model: Model, batch: Batch) -> None:
    """Every map, brought to the input size as the library does."""
    view = ModelView(model)
    for name in PAIRS:
        resize(registry.method(name)(view, batch), batch.size)


def library(model: Model, batch: Batch) -> None:
    targets = [ClassifierOutputTarget(int(t)) for t in batch.targets]
    for name in PAIRS.values():
        with getattr(pytorch_grad_cam, name)(model.network, [model.layer]) as cam:
            cam(batch.images.clone().requires_grad_(), targets)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    keep_memory()
    model, photos = registry.bind("model", "efficientnet_lite0")(), registry.bind("dataset", "photos")()
    print(f"EfficientNet-Lite0, {len(PAIRS)} CAMs, {rounds} rounds")
    for size in (1, 8):
        entries = photos.entries()[:size]
        items = tuple(Item(e.id, e.id, e.labels[0], e.id) for e in entries)
        inputs = model.inputs([photos.load(e.id).image for e in entries], "crop")
        batch = Batch(inputs, torch.tensor([item.target for item in items]), items, seed="0")
        times: dict[str, list[float]] = {"ours": [], "library": []}
        for turn in range(rounds + 1):
            for name, work in (("ours", ours), ("library", library)):
                start = time.perf_counter()
                work(model, batch)
                if turn:
                    times[name].append(time.perf_counter() - start)
        found = sorted(b / a for a, b in zip(times["ours"], times["library"], strict=True))
        each = [f"{statistics.median(t) / size:.3f}" for t in times.values()]
        print(
            f"batch {size}: library over shared pass (goal 2.5) {statistics.median(found):.2f} "
            f"[{found[0]:.2f} to {found[-1]:.2f}]; {each[0]} s an image shared, {each[1]} s by the library"
        )


if __name__ == "__main__":
    main()
