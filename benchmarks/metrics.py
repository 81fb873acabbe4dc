"""What the rules for scoring maps gain, as ratios of processor times that are measured in one run.

    python benchmarks/metrics.py [--rounds N] [--threads N] [--sections a,b]

All works of a section are timed in turn within each round, in an order that rotates, after one round that warms up; figures are
medians of the rounds' ratios, with the least and the greatest. Above 1 is a gain. A section is a function from rounds to rows.
Time is this process's own, so that others on the machine disturb least; with one thread it is the wall's on an idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from xbench.classes import imagenet_1k
from xbench.data import Batch, Item
from xbench.engines.local import keep_memory
from xbench.folding import folded
from xbench.maps import SaliencyMap
from xbench.modelview import Model, ModelView, Preprocessing
from xbench.probing import Prober
from xbench.registry import registry

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """A line of the table. ratios: one a round; none where it could not be measured, and note says why."""

    what: str
    ratios: Sequence[float]
    goal: float | None = None
    note: str = ""

    def __str__(self) -> str:
        if not self.ratios:
            return f"{self.what:70} {self.note}"
        found = f"{statistics.median(self.ratios):6.2f} [{min(self.ratios):.2f} to {max(self.ratios):.2f}]"
        return f"{self.what:70}{found:24}{f'goal {self.goal}  ' if self.goal else ''}{self.note}".rstrip()


def alternated(works: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of every work in every round."""
    names, times = list(works), {name: [0.0] * rounds for name in works}
    for turn in range(-1, rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.process_time()
            works[name]()
            if turn >= 0:
                times[name][turn] = time.process_time() - start
    return times


def ratios(times: Mapping[str, Sequence[float]], slow: str, fast: str) -> list[float]:
    return [a / b for a, b in zip(times[slow], times[fast], strict=True)]


# -- probing: deletion in 12 steps of one Grad-CAM map for each picture -----------------------------------------------------------

STEPS = 12  # quantus wants features_in_step to divide 224 * 224, and walks through 3 * 224 * 224 of them


def probing(rounds: int) -> Iterator[Row]:
    lite = registry.bind("model", "efficientnet_lite0")()
    yield from _deletion("EfficientNet-Lite0", lite, 8, 8, rounds)
    yield from _deletion("EfficientNet-Lite0", lite, 16, 16, rounds)
    yield from _deletion("ResNet-50, random weights", _random_resnet50(), 4, 8, min(rounds, 3))


def _deletion(name: str, model: Model, count: int, size: int, rounds: int) -> list[Row]:
    inputs, targets, maps = _explained(model, count)
    rows = inputs.contiguous()
    plain_network = copy.deepcopy(model.network).to(memory_format=torch.contiguous_format)
    quick, quick_rows = folded(model.network, inputs[:1]), folded(plain_network, rows[:1])
    batches = -(-count * (STEPS + 1) // size)
    works: dict[str, Work] = {
        "xbench": lambda: _xbench(quick, inputs, targets, maps, size),
        "no folding": lambda: _xbench(model.network, inputs, targets, maps, size),
        "no format": lambda: _xbench(quick_rows, rows, targets, maps, size),
        "no packing": lambda: _loop(quick, inputs, targets, maps, size),
        "plain": lambda: _loop(plain_network, rows, targets, maps, size),
        "bare": lambda: _bare(quick, inputs[torch.arange(size) % count], batches),
    }
    quantus = _quantus(plain_network, rows, targets, maps, size)
    if quantus:
        works["quantus"] = quantus
    times = alternated(works, rounds)
    head = f"{name}, batch {size}:"
    theirs = ratios(times, "quantus", "xbench") if quantus else []
    speed = f"{count * (STEPS + 1) / statistics.median(times['xbench']):.0f} pictures a second"
    flips = f"flips channel values, not pixels; {STEPS} points, not {STEPS + 1}" if quantus else "quantus is not installed"
    return [
        Row(f"{head} quantus PixelFlipping / xbench", theirs, 1.7, flips),
        Row(f"{head} plain loop / xbench", ratios(times, "plain", "xbench"), 2.5, speed),
        Row(f"{head}   without channels_last", ratios(times, "no format", "xbench")),
        Row(f"{head}   without packing (loop)", ratios(times, "no packing", "xbench")),
        Row(f"{head}   without folding", ratios(times, "no folding", "xbench")),
        Row(f"{head} bare passes of as many batches / xbench", ratios(times, "bare", "xbench"), 0.95),
    ]


def _random_resnet50() -> Model:
    import torchvision

    torch.manual_seed(0)
    how = Preprocessing((224, 224), 0.875, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    network = torchvision.models.resnet50(weights=None)
    return Model(
        "resnet50", network, how, imagenet_1k(), feature_layer="layer4", capabilities=frozenset({"feature_maps", "gradients"})
    )


def _explained(model: Model, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(inputs ``[n, 3, H, W]`` of photographs, their predicted classes, Grad-CAM maps at the network's own grid)."""
    photos = registry.bind("dataset", "photos")()
    entries = photos.entries()[:count]
    inputs = model.inputs([photos.load(entry.id).image for entry in entries], "crop")
    with torch.inference_mode():
        targets = model(inputs).argmax(dim=1)
    items = tuple(Item(e.id, e.id, int(t), e.id) for e, t in zip(entries, targets, strict=True))
    batch = Batch(inputs, targets.clone(), items)
    return inputs, batch.targets, registry.method("grad_cam")(ModelView(model), batch)


def _xbench(network: nn.Module, inputs: Tensor, targets: Tensor, maps: Tensor, size: int) -> list[float]:
    """As a run scores: resizing and ranking of maps, substrates, packed passes, areas."""
    judge = registry.metric(f"deletion(steps=exact({STEPS}))")()
    found = [SaliencyMap(m, (224, 224), i, f"0/{i}") for i, m in enumerate(maps)]
    plans = [judge.plan(map_) for map_ in found]
    answers = iter(Prober(network, inputs, targets, size).run([curve for plan in plans for curve in plan]))
    return [judge.score(map_, [next(answers) for _ in plan]).value for map_, plan in zip(found, plans, strict=True)]


def _loop(network: nn.Module, inputs: Tensor, targets: Tensor, maps: Tensor, size: int) -> list[float]:
    """As users write it: for each picture its steps by copies, batches of them, the softmax of all classes, the area."""
    scores = []
    side, pixels = inputs.shape[-1], inputs.shape[-2] * inputs.shape[-1]
    big = nn.functional.interpolate(maps[:, None], inputs.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    for picture, target, map_ in zip(inputs, targets, big, strict=True):
        order = np.argsort(-map_.numpy().reshape(-1))
        current, steps = picture.clone().numpy(), []
        for step in range(STEPS + 1):
            chosen = order[round((step - 1) * pixels / STEPS) if step else 0 : round(step * pixels / STEPS)]
            current[:, chosen // side, chosen % side] = 0
            steps.append(torch.from_numpy(current.copy()))
        curve: list[Tensor] = []
        with torch.no_grad():
            for part in torch.stack(steps).split(size):
                batch = part.contiguous(memory_format=torch.channels_last) if _is_channels_last(inputs) else part
                curve.append(network(batch).softmax(dim=1)[:, target])
        scores.append(float(np.trapezoid(torch.cat(curve).numpy(), dx=1 / STEPS)))
    return scores


def _is_channels_last(inputs: Tensor) -> bool:
    return inputs.is_contiguous(memory_format=torch.channels_last)


def _quantus(network: nn.Module, inputs: Tensor, targets: Tensor, maps: Tensor, size: int) -> Work | None:
    try:
        import quantus
    except ImportError:
        return None
    # Its areas per sample call numpy.trapz, which numpy 2.4 has not: curves are what is asked for.
    metric = quantus.PixelFlipping(features_in_step=3 * 224 * 224 // STEPS, disable_warnings=True)
    big = nn.functional.interpolate(maps[:, None], inputs.shape[-2:], mode="bilinear", align_corners=False)
    pictures, classes, attributions = inputs.numpy(), targets.numpy(), big.numpy()

    def work() -> object:
        with contextlib.redirect_stdout(io.StringIO()):
            return metric(network, pictures, classes, a_batch=attributions, batch_size=size, device="cpu")

    assert np.shape(work()) == (len(inputs), STEPS), "not the steps that are compared"
    return work


def _bare(network: nn.Module, pictures: Tensor, batches: int) -> None:
    with torch.inference_mode():
        for _ in range(batches):
            network(pictures)


SECTIONS: dict[str, Callable[[int], Iterable[Row]]] = {"probing": probing}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sections", default=",".join(SECTIONS))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    keep_memory()
    print(f"{options.rounds} rounds, {options.threads} thread(s), torch {torch.__version__}")
    for name in options.sections.split(","):
        print(f"\n{name}", flush=True)
        for row in SECTIONS[name](options.rounds):
            print(f"  {row}", flush=True)


if __name__ == "__main__":
    main()
