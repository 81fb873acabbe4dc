"""What ROAD's imputation costs: xbench's solver, a sparse factorisation, and the libraries' own functions. All in one run.

    python benchmarks/road.py

The most and the least salient 10, 30, 50, 70 and 90 % of a photograph's pixels at 224 x 224 are imputed by maps of three kinds:
wide smooth holes, scattered ones, and noise. Everything runs on one thread, in alternation for each mask; a figure is the median
over photographs of the ratio of the masks' total times. quantus is compared where it is installed.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu
from torch import Tensor
from xbench.metrics._imputation import impute

from xbench.data import Batch, Item
from xbench.engines.local import keep_memory
from xbench.maps import SaliencyMap
from xbench.modelview import ModelView
from xbench.registry import registry

Imputer = Callable[[Tensor, Tensor], Tensor]  # (picture [C, H, W], removed [H, W]) -> picture
METHODS = ("grad_cam", "gradient", "random")
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
PHOTOS = 3
PAIRS = ((0, 1, 2), (1, 0, 2), (1, 1, 1), (1, -1, 1))  # a neighbour's place, and 12 times its weight


def factorised(picture: Tensor, removed: Tensor) -> Tensor:
    """The same system, assembled at once and solved by SuperLU as a symmetric one: what an exact solver can reach."""
    mask, values = removed.numpy(), picture.numpy().astype(np.float64)
    height, width = mask.shape
    count = int(mask.sum())
    number = np.zeros(mask.shape, dtype=np.int64)
    number[mask] = np.arange(count)
    total, right = np.zeros(mask.shape), np.zeros(values.shape)
    known = np.where(mask, 0, values)
    entries = []
    for down, across, weight in PAIRS:
        one = np.s_[: height - down, max(0, -across) : width - max(0, across)]
        two = np.s_[down:, max(0, across) : width - max(0, -across)]
        for here, there in ((one, two), (two, one)):
            total[here] += weight
            right[:, *here] += weight * known[:, *there]
            both = mask[here] & mask[there]
            entries.append((np.full(both.sum(), -float(weight)), number[here][both], number[there][both]))
    entries.append((total[mask], np.arange(count), np.arange(count)))
    data, rows, columns = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    system = csc_matrix((data, (rows, columns)), shape=(count, count))
    factors = splu(system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0, options={"SymmetricMode": True})
    found = picture.clone()
    found[:, removed] = torch.from_numpy(factors.solve(right[:, mask].T).T).float()
    return found


def by_gradcam(picture: Tensor, removed: Tensor) -> Tensor:
    return NoisyLinearImputer(noise=0)(picture, (~removed).float())


def by_quantus(function: Callable[..., np.ndarray], picture: Tensor, removed: Tensor) -> Tensor:
    return torch.from_numpy(function(picture.numpy(), np.flatnonzero(removed.numpy()), noise=0)).float()


def imputers() -> dict[str, Imputer]:
    found: dict[str, Imputer] = {"xbench": impute, "SuperLU": factorised, "pytorch-grad-cam": by_gradcam}
    try:
        module = importlib.import_module("quantus.functions.perturb_func")
    except ImportError as error:
        print(f"without quantus: {error}")
        return found
    return {**found, "quantus": partial(by_quantus, module.noisy_linear_imputation)}


def examples() -> tuple[Tensor, dict[str, list[Tensor]]]:
    """Photographs ``[N, 3, 224, 224]``, and for each kind of map their pixels' ranks."""
    model, photos = registry.bind("model", "efficientnet_lite0")(), registry.bind("dataset", "photos")()
    entries = photos.entries()[:PHOTOS]
    items = tuple(Item(e.id, e.id, e.labels[0], e.id) for e in entries)
    inputs = model.inputs([photos.load(e.id).image for e in entries], "crop")
    batch = Batch(inputs, torch.tensor([item.target for item in items]), items, seed="0")
    ranks = {}
    for name in METHODS:
        maps = registry.method(name)(ModelView(model), batch).detach()
        ranks[name] = [SaliencyMap(m, batch.size, i, str(i)).rankings[0].ranks for i, m in enumerate(maps)]
    return inputs.contiguous(), ranks


def masks(ranks: Tensor) -> list[Tensor]:
    pixels = ranks.numel()
    return [mask for share in SHARES for mask in (ranks < round(share * pixels), ranks >= pixels - round(share * pixels))]


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_memory()
    pictures, ranks = examples()
    solvers = imputers()
    for solve in solvers.values():  # warm
        solve(pictures[0], ranks["random"][0] < 5000)
    wrong = dict.fromkeys(solvers, 0.0)
    print(f"imputation of {PHOTOS} photographs, 224 x 224, {2 * len(SHARES)} masks each: milliseconds a mask, times over xbench's")
    print(f"{'':12}" + "".join(f"{name:>28}" for name in solvers))
    for kind, orders in ranks.items():
        times: dict[str, list[float]] = {name: [] for name in solvers}
        for picture, order in zip(pictures, orders, strict=True):
            spent = dict.fromkeys(solvers, 0.0)
            for mask in masks(order):
                found = {}
                for name, solve in solvers.items():
                    start = time.perf_counter()
                    found[name] = solve(picture, mask)
                    spent[name] += time.perf_counter() - start
                for name, values in found.items():
                    wrong[name] = max(wrong[name], float((values - found["SuperLU"]).abs().max()))
            for name, total in spent.items():
                times[name].append(total)
        cells = []
        for seconds in times.values():
            ratios = sorted(a / b for a, b in zip(seconds, times["xbench"], strict=True))
            each = statistics.median(seconds) / (2 * len(SHARES)) * 1000
            cells.append(f"{each:.0f} ms  {statistics.median(ratios):.1f} [{ratios[0]:.1f} to {ratios[-1]:.1f}]")
        print(f"{kind:12}" + "".join(f"{cell:>28}" for cell in cells))
    print(f"{'difference':12}" + "".join(f"{value:>28.0e}" for value in wrong.values()))


if __name__ == "__main__":
    main()
