"""Seconds an image of each method, ours and its library called the ordinary way; same numbers of samples, in alternation.

    python benchmarks/methods.py [--rounds N] [--methods a,b]

EfficientNet-Lite0 on photographs. Ours runs as a benchmark has it: one view of the model per batch, perturbed pictures packed into
full batches. The library gets the same batch in one call, or a loop where it takes one picture. Cost in passes is ours.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from xbench.data.samples import Batch, Item
from xbench.host import keep_memory
from xbench.network.model import Model, ModelView
from xbench.plugins.registry import registry

Library = Callable[[Model, Batch], Any]


def cam(name: str) -> Library:
    def work(model: Model, batch: Batch) -> Any:
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        targets = [ClassifierOutputTarget(int(t)) for t in batch.targets]
        with contextlib.redirect_stderr(io.StringIO()), getattr(pytorch_grad_cam, name)(model.network, [model.layer]) as method:
            return method(batch.images.clone().requires_grad_(), targets)

    return work


def attribution(name: str, **options: Any) -> Library:
    def work(model: Model, batch: Batch) -> Any:
        import captum.attr

        found = getattr(captum.attr, name)(model.network)
        return found.attribute(batch.images.clone().requires_grad_(), target=batch.targets, **options)

    return work


def smooth_grad(model: Model, batch: Batch) -> Any:
    from captum.attr import NoiseTunnel, Saliency

    tunnel = NoiseTunnel(Saliency(model.network))
    return tunnel.attribute(batch.images.clone().requires_grad_(), target=batch.targets, nt_samples=25, stdevs=0.5, abs=False)


def gradient_shap(model: Model, batch: Batch) -> Any:
    from captum.attr import GradientShap

    grey = torch.zeros_like(batch.images[:1])
    return GradientShap(model.network).attribute(
        batch.images.clone(), baselines=grey, target=batch.targets, n_samples=50, stdevs=0.3
    )


def occlusion(model: Model, batch: Batch) -> Any:
    from captum.attr import Occlusion

    probability = nn.Sequential(model.network, nn.Softmax(dim=1))
    return Occlusion(probability).attribute(
        batch.images, target=batch.targets, sliding_window_shapes=(3, 64, 64), strides=(3, 16, 16)
    )


def rise(model: Model, batch: Batch, n: int = 200, cells: int = 7) -> Any:
    """The authors' script: all masks first, then one picture at a time through them in batches."""
    side, cell = batch.size[0], -(-batch.size[0] // cells)
    grids = (torch.rand(n, 1, cells, cells) < 0.5).float()
    whole = nn.functional.interpolate(grids, (cell * (cells + 1),) * 2, mode="bilinear", align_corners=False)
    shifts = torch.randint(0, cell, (n, 2)).tolist()
    masks = torch.stack([m[:, y : y + side, x : x + side] for m, (y, x) in zip(whole, shifts, strict=True)])
    with torch.no_grad():
        for image, target in zip(batch.images, batch.targets, strict=True):
            parts = [model.network(image * some).softmax(dim=1)[:, target] for some in masks.split(50)]
            (torch.cat(parts)[:, None, None] * masks[:, 0]).mean(dim=0)


# Ours -> (its library, pictures a round: few where a picture takes seconds).
PAIRS: dict[str, tuple[Library, int]] = {
    "grad_cam": (cam("GradCAM"), 8),
    "score_cam": (cam("ScoreCAM"), 1),
    "ablation_cam": (cam("AblationCAM"), 1),
    "gradient": (attribution("Saliency"), 8),
    "integrated_gradients": (attribution("IntegratedGradients", n_steps=50), 4),
    "smooth_grad": (smooth_grad, 4),
    "gradient_shap": (gradient_shap, 4),
    "guided_backprop": (attribution("GuidedBackprop"), 8),
    "occlusion": (occlusion, 4),
    "rise(n=200)": (rise, 4),
}


def explain(name: str, model: Model, batch: Batch) -> tuple[Tensor, float, float]:
    view = ModelView(model)
    view.logits(batch)
    with view.account() as cost:
        maps = registry.method(name)(view, batch.seeded(name))
    return maps, cost.forwards, cost.backwards


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", default=",".join(PAIRS))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    keep_memory()
    model, photos = registry.bind("model", "efficientnet_lite0")(), registry.bind("dataset", "photos")()
    entries = photos.entries()[:8]
    inputs = model.inputs([photos.load(e.id).image for e in entries], "crop")
    items = tuple(Item(e.id, e.id, e.labels[0], e.id) for e in entries)
    print(f"EfficientNet-Lite0, seconds an image, {options.rounds} rounds")
    print(f"{'method':24}{'ours':>9}{'library':>9}   library / ours        forwards backwards")
    for name in options.methods.split(","):
        library, count = PAIRS[name]
        batch = Batch(inputs[:count], torch.tensor([i.target for i in items[:count]]), items[:count], seed="0")
        times: dict[str, list[float]] = {"ours": [], "library": []}
        for turn in range(options.rounds + 1):
            start = time.perf_counter()
            _, forwards, backwards = explain(name, model, batch)
            middle = time.perf_counter()
            library(model, batch)
            if turn or options.rounds == 1:
                times["ours"].append((middle - start) / count)
                times["library"].append((time.perf_counter() - middle) / count)
        found = sorted(b / a for a, b in zip(times["ours"], times["library"], strict=True))
        each = "".join(f"{statistics.median(t):9.3f}" for t in times.values())
        spread = f"{statistics.median(found):6.2f} [{found[0]:.2f} to {found[-1]:.2f}]"
        print(f"{name:24}{each}   {spread:22}{forwards:8g} {backwards:9g}", flush=True)


if __name__ == "__main__":
    main()
