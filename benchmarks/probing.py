"""How close scoring comes to bare forward passes, and what format and packing gain over a plain loop. All in one run.

    python benchmarks/probing.py [--rounds N]

Everything is measured in alternation within each round, so that a machine whose speed drifts slows all alike; the figures are
medians of the rounds' ratios. Wall times include all that scoring needs: resizing and ranking maps, substrates, areas.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from xbench.engines.local import keep_memory
from xbench.maps import SaliencyMap
from xbench.probing import Curve, Prober, substrate
from xbench.registry import registry

T = TypeVar("T")
STEPS = 10
ITEMS = 8
BATCH = 8
METRICS = (f"insertion(steps=exact({STEPS}))", f"deletion(steps=exact({STEPS}))")


def timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def scored(network: nn.Module, inputs: Tensor, targets: Tensor, maps: Tensor, batch: int) -> int:
    """Insertion and deletion of one map per item as a benchmark does it. -> forwards."""
    prober = Prober(network, inputs, targets, batch)
    judges = [registry.metric(spec)() for spec in METRICS]
    found = [SaliencyMap(m, (224, 224), i, f"0/{i}") for i, m in enumerate(maps)]
    plans: list[tuple[SaliencyMap, list[Curve]]] = [(map_, judge.plan(map_)) for map_ in found for judge in judges]
    answers = iter(prober.run([curve for _, plan in plans for curve in plan]))
    for k, (map_, plan) in enumerate(plans):
        judges[k % 2].score(map_, [next(answers) for _ in plan])
    return prober.forwards


def plain(network: nn.Module, inputs: Tensor, targets: Tensor, maps: Tensor) -> int:
    """The loop that papers' scripts use: for each picture and step one forward of one picture, then the next pixels are copied."""
    forwards = 0
    big = torch.nn.functional.interpolate(maps[:, None], (224, 224), mode="bilinear", align_corners=False)[:, 0]
    for i in range(len(inputs)):
        order = np.flip(np.argsort(big[i].numpy().reshape(-1)))
        picture = inputs[i : i + 1]
        for start, end in ((substrate("rise_blur", picture), picture), (picture, torch.zeros_like(picture))):
            current, final, curve = start.clone(), end.contiguous().numpy().reshape(3, -1), []
            for step in range(STEPS + 1):
                with torch.no_grad():
                    curve.append(float(network(current).softmax(dim=1)[0, targets[i]]))
                forwards += 1
                a, b = round(step * 224 * 224 / STEPS), round((step + 1) * 224 * 224 / STEPS)
                pixels = order[a:b].copy()
                flat = current.contiguous().numpy().reshape(3, -1).copy()
                flat[:, pixels] = final[:, pixels]
                current = torch.from_numpy(flat.reshape(1, 3, 224, 224)).contiguous(
                    memory_format=torch.channels_last
                    if picture.is_contiguous(memory_format=torch.channels_last)
                    else torch.contiguous_format
                )
            np.trapezoid(curve, dx=1 / STEPS)
    return forwards


def bare(network: nn.Module, pictures: Tensor, batches: int) -> None:
    with torch.inference_mode():
        for _ in range(batches):
            network(pictures)


def measure(network: nn.Module, inputs: Tensor, targets: Tensor, maps: Tensor, batches: int) -> dict[str, float]:
    """Seconds of one round. Bare passes run half before and half after scoring, as many as scoring needs."""
    first, _ = timed(lambda: bare(network, inputs, batches - batches // 2))
    packed, forwards = timed(lambda: scored(network, inputs, targets, maps, BATCH))
    second, _ = timed(lambda: bare(network, inputs, batches // 2))
    loop, _ = timed(lambda: plain(network, inputs, targets, maps))
    return {"bare": (first + second) * forwards / (batches * BATCH), "packed": packed, "plain": loop, "forwards": forwards}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    keep_memory()
    model, photos = registry.bind("model", "efficientnet_lite0")(), registry.bind("dataset", "photos")()
    inputs = model.inputs([photos.load(e.id).image for e in photos.entries()[:ITEMS]], "crop")
    maps = torch.rand(ITEMS, 7, 7, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        targets = model.network(inputs).argmax(dim=1)
    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    copies = {name: inputs.contiguous(memory_format=f) for name, f in formats.items()}

    batches = -(-scored(model.network, inputs, targets, maps, BATCH) // BATCH)
    times: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        for name, format_ in formats.items():
            found = measure(model.network.to(memory_format=format_), copies[name], targets, maps, batches)
            if turn:  # the first round warms up
                for key, value in found.items():
                    times.setdefault(f"{key} {name}", []).append(value)

    def ratio(a: str, b: str) -> str:
        found = sorted(x / y for x, y in zip(times[a], times[b], strict=True))
        return f"{statistics.median(found):.2f} [{found[0]:.2f} to {found[-1]:.2f}]"

    bare_speed = [n / t for n, t in zip(times["forwards channels_last"], times["bare channels_last"], strict=True)]
    print(f"EfficientNet-Lite0, {ITEMS} photographs, insertion and deletion in {STEPS} steps, batch {BATCH}, {rounds} rounds")
    print(f"bare forward passes: {statistics.median(bare_speed):.0f} pictures a second")
    print(f"scoring over bare passes (goal 0.95):              {ratio('bare channels_last', 'packed channels_last')}")
    print(f"plain loop over xbench, wall time:                 {ratio('plain contiguous', 'packed channels_last')}")
    print(f"  of it packing and sharing, contiguous:           {ratio('plain contiguous', 'packed contiguous')}")
    print(f"  of it packing and sharing, channels_last:        {ratio('plain channels_last', 'packed channels_last')}")
    print(f"  of it the memory format, one picture a pass:     {ratio('plain contiguous', 'plain channels_last')}")
    print(f"  of it the memory format, full batches:           {ratio('packed contiguous', 'packed channels_last')}")


if __name__ == "__main__":
    main()
