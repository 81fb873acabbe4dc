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

import numpy as np
import torch
from torch import Tensor, nn

from xbench.maps import SaliencyMap
from xbench.probing import Curve, Prober, substrate
from xbench.registry import registry

STEPS = 10
ITEMS = 8
BATCH = 8
METRICS = (f"insertion(steps=exact({STEPS}))", f"deletion(steps=exact({STEPS}))")


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def scored(network: nn.Module, inputs: Tensor, targets: Tensor, maps: Tensor, batch: int) -> int:
    """Insertion and deletion of one map per item as a benchmark does it. -> forwards."""
    prober = Prober(network, inputs, targets, batch)
    judges = [registry.metric(spec)() for spec in METRICS]
    found = [SaliencyMap(m, (224, 224), i, f"0/{i}") for i, m in enumerate(maps)]
    plans: list[list[Curve]] = [judge.plan(map_) for map_ in found for judge in judges]
    answers = iter(prober.run([curve for plan in plans for curve in plan]))
    for k, plan in enumerate(plans):
        judges[k % 2].score([next(answers) for _ in plan])
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


def bare(network: nn.Module, pictures: Tensor, forwards: int) -> None:
    with torch.inference_mode():
        for _ in range(forwards):
            network(pictures)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    model, photos = registry.bind("model", "efficientnet_lite0")(), registry.bind("dataset", "photos")()
    inputs = model.inputs([photos.load(e.id).image for e in photos.entries()[:ITEMS]], "crop")
    maps = torch.rand(ITEMS, 7, 7, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        targets = model.network(inputs).argmax(dim=1)
    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    copies = {name: inputs.contiguous(memory_format=f) for name, f in formats.items()}

    times: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        for name, format_ in formats.items():
            network, pictures = model.network.to(memory_format=format_), copies[name]
            count = 0

            def packed(network: nn.Module = network, pictures: Tensor = pictures) -> None:
                nonlocal count
                count = scored(network, pictures, targets, maps, BATCH)

            results = {
                f"plain {name}": seconds(lambda n=network, p=pictures: plain(n, p, targets, maps)),  # type: ignore[misc]
                f"packed {name}": seconds(packed),
            }
            if name == "channels_last":
                # The same number of batches as scoring ran, before and after it in turn.
                batches = -(-count // BATCH)
                results["bare"] = seconds(lambda n=network, p=pictures, b=batches: bare(n, p, b)) * count / (batches * BATCH)  # type: ignore[misc]
                results["forwards"] = count
            if turn:  # the first round warms up
                for key, value in results.items():
                    times.setdefault(key, []).append(value)

    def ratio(a: str, b: str) -> str:
        found = sorted(x / y for x, y in zip(times[a], times[b], strict=True))
        return f"{statistics.median(found):.2f} [{found[0]:.2f} to {found[-1]:.2f}]"

    forwards = times["forwards"][0]
    print(f"EfficientNet-Lite0, {ITEMS} photographs, insertion and deletion in {STEPS} steps, batch {BATCH}, {rounds} rounds")
    print(f"bare forward passes: {forwards / statistics.median(times['bare']):.0f} pictures a second")
    print(f"scoring over bare passes (goal 0.95):              {ratio('bare', 'packed channels_last')}")
    print(f"plain loop over xbench, wall time:                 {ratio('plain contiguous', 'packed channels_last')}")
    print(f"  of it packing and sharing, contiguous:           {ratio('plain contiguous', 'packed contiguous')}")
    print(f"  of it packing and sharing, channels_last:        {ratio('plain channels_last', 'packed channels_last')}")
    print(f"  of it the memory format, one picture a pass:     {ratio('plain contiguous', 'plain channels_last')}")
    print(f"  of it the memory format, full batches:           {ratio('packed contiguous', 'packed channels_last')}")


if __name__ == "__main__":
    main()
