"""How many pictures a forward pass should have, measured on this machine when a run begins: ``xbench run --batch-size auto``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch

from xbench.network.model import Model

SIZES = (4, 8, 16, 32, 64)
ROUNDS = 3
NEAR = 1.05  # of the least time: larger batches cost memory, and padding where a block of items is not full


def best(models: Sequence[Model], limit: int | None = None) -> int:
    """The least of SIZES with which models, at their own input sizes, need no more than NEAR times the least time in all.

    limit: of the items of a dataset; no size is greater, but the least one.
    """
    allowed = [size for size in SIZES if limit is None or size <= max(limit, SIZES[0])]
    return choose({size: sum(_seconds(model, size) for model in models) for size in allowed})


def choose(seconds: Mapping[int, float]) -> int:
    """Size -> seconds a picture: the least size that is near the fastest."""
    fastest = min(seconds.values())
    return min(size for size, value in seconds.items() if value <= NEAR * fastest)


def _seconds(model: Model, size: int) -> float:
    """Seconds a picture, the least of some passes after one that warms up; infinite where a GPU's memory does not suffice."""
    try:
        pictures = torch.zeros(size, 3, *model.preprocessing.size).to(model.device, memory_format=model.memory_format)
        times = []
        with torch.inference_mode():
            for _ in range(1 + ROUNDS):
                start = time.perf_counter()
                model.infer(pictures).sum().item()  # which waits for a device that computes by itself
                times.append(time.perf_counter() - start)
    except torch.OutOfMemoryError:
        return float("inf")
    return min(times[1:]) / size
