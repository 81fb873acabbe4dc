"""Localization metrics per 1,000 maps of 224 x 224: ours, quantus's counterparts, and a plain loop over the maps; peak memory.

    python benchmarks/localization.py [--rounds N] [--items N]

All are measured in alternation in one run; figures are medians of the rounds. quantus is not a dependency (it brings another build
of OpenCV): `pip install --no-deps quantus scikit-image cachetools` beside xbench; without it its columns stay empty. Its values are
not compared here: its pointing game has no tolerance and counts ties as hits, its relevance mass lets signed maps leave [0, 1].
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from xbench.data.samples import Box, Truth
from xbench.maps.saliency import resize
from xbench.plugins.reductions import is_vector
from xbench.plugins.registry import registry

SIDE, METHODS = 224, 10  # maps per item, as a run has them
QUANTUS = {
    "pointing_game": "PointingGame",
    "energy_pointing_game": "AttributionLocalisation",
    "relevance_mass": "RelevanceMassAccuracy",
    "relevance_rank": "RelevanceRankAccuracy",
    "auc_mask": "AUC",
}
NAMES = [*QUANTUS, "mask_iou", "pxap", "max_box_acc", "max_box_acc_v2", "box_iou"]
Map, Mask = NDArray[np.float32], NDArray[np.bool_]


def items(count: int, coarsest: bool = False) -> Iterator[tuple[torch.Tensor, Truth]]:
    """Maps [METHODS, H, W] of an item, half of them 7 x 7 as class activation maps are, half smooth at pixels (all coarse where
    ``coarsest``), and its truth."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        coarse = torch.rand(METHODS if coarsest else METHODS // 2, 7, 7, generator=generator).pow(3)
        fine = torch.rand(METHODS - len(coarse), 56, 56, generator=generator)
        x0, y0 = (int(v) for v in torch.randint(0, 120, (2,), generator=generator))
        width, height = (int(v) for v in torch.randint(40, 100, (2,), generator=generator))
        mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        mask[y0 : y0 + height, x0 : x0 + width] = True
        maps = torch.cat([resize(grid, (SIDE, SIDE)) for grid in (coarse, fine) if len(grid)])
        yield maps, Truth(mask, (Box(0, x0, y0, x0 + width, y0 + height),))


def ours(name: str, data: list[tuple[torch.Tensor, Truth]]) -> None:
    metric = registry.metric(name)
    for maps, truth in data:
        metric(maps, truth)


def by_quantus(name: str, data: list[tuple[torch.Tensor, Truth]]) -> None:
    import quantus

    metric = getattr(quantus, QUANTUS[name])(disable_warnings=True, display_progressbar=False)
    maps = np.concatenate([m.numpy() for m, _ in data])[:, None]
    masks = np.concatenate([t.mask.expand(METHODS, -1, -1).numpy() for _, t in data if t.mask is not None])[:, None]
    pictures = np.zeros((len(maps), 1, SIDE, SIDE), dtype=np.float32)
    metric(model=None, x_batch=pictures, y_batch=np.zeros(len(maps), dtype=int), a_batch=maps, s_batch=masks.astype(int))


# -- the plain loop: one map at a time, as a script would have it ------------------------------------------------------------------


def _pointing(map_: Map, mask: Mask) -> float:
    y, x = np.unravel_index(map_.argmax(), map_.shape)
    return float(ndimage.distance_transform_edt(~mask)[y, x] < 15)


def _mass(map_: Map, mask: Mask) -> float:
    positive = np.clip(map_, 0, None)
    return float(positive[mask].sum() / positive.sum())


def _rank(map_: Map, mask: Mask) -> float:
    size = int(mask.sum())
    return float(mask.ravel()[np.argsort(-map_, axis=None)[:size]].mean())


def _auc(map_: Map, mask: Mask) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(mask.ravel(), map_.ravel()))


def _grey(map_: Map) -> NDArray[np.uint8]:
    return ((map_ - map_.min()) / (map_.max() - map_.min()) * 255).astype(np.uint8)


def _ious(map_: Map, mask: Mask) -> list[float]:
    grey = _grey(map_)
    return [float(((grey > t * 255) & mask).sum() / ((grey > t * 255) | mask).sum()) for t in np.arange(100) / 100]


def _precision(map_: Map, mask: Mask) -> None:
    grey = _grey(map_)
    for level in range(256):
        np.count_nonzero(grey[mask] == level), np.count_nonzero(grey[~mask] == level)


def _boxes(map_: Map, mask: Mask, largest: bool) -> None:
    grey, (rows, columns) = _grey(map_), np.nonzero(mask)
    x0, y0, x1, y1 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    for t in range(100):
        _, binary = cv2.threshold(grey, int(t / 100 * 255), 255, cv2.THRESH_BINARY)
        contours, _ = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        for contour in [max(contours, key=cv2.contourArea)] if largest and contours else contours:
            x, y, width, height = cv2.boundingRect(contour)
            overlap = max(0, min(x + width, x1) - max(x, x0)) * max(0, min(y + height, y1) - max(y, y0))
            overlap / (width * height + (x1 - x0) * (y1 - y0) - overlap)


PLAIN: dict[str, Callable[[Map, Mask], Any]] = {
    "pointing_game": _pointing,
    "energy_pointing_game": _mass,
    "relevance_mass": _mass,
    "relevance_rank": _rank,
    "auc_mask": _auc,
    "mask_iou": _ious,
    "pxap": _precision,
    "max_box_acc": lambda map_, mask: _boxes(map_, mask, True),
    "max_box_acc_v2": lambda map_, mask: _boxes(map_, mask, False),
    "box_iou": lambda map_, mask: _boxes(map_, mask, True),
}


def plain(name: str, data: list[tuple[torch.Tensor, Truth]]) -> None:
    for maps, truth in data:
        assert truth.mask is not None
        for map_ in maps.numpy():
            PLAIN[name](map_, truth.mask.numpy())


def has_quantus() -> bool:
    try:
        import quantus  # noqa: F401
    except ImportError:
        return False
    return True


def _blocks(data: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while block := list(itertools.islice(data, size)):
        yield block


def peak(count: int) -> float:
    """Peak memory in MB of a process that scores so many items by all metrics and reduces them to figures, as a run does."""
    command = [sys.executable, __file__, "--memory", str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_memory(count: int) -> None:
    import tempfile
    from pathlib import Path

    import pyarrow as pa
    import pyarrow.parquet as pq

    metrics = [registry.metric(name) for name in NAMES]
    with tempfile.TemporaryDirectory() as folder:
        for number, block in enumerate(_blocks(items(count, True), 8)):  # a work unit's rows go to disk
            rows = []
            for maps, truth in block:
                for metric in metrics:
                    vectors = is_vector(metric.info.reduce)
                    rows += [{"vector": v if vectors else [v]} for v in metric(maps, truth).tolist()]
            pq.write_table(pa.Table.from_pylist(rows), Path(folder) / f"{number}.parquet")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=10, help=f"per round, {METHODS} maps each")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        measure_memory(options.memory)
        return
    torch.set_num_threads(1)  # one core for everybody
    cv2.setNumThreads(1)
    data = list(items(options.items))
    scale = 1000 / (options.items * METHODS)
    print(f"seconds per 1,000 maps, {options.rounds} rounds of {options.items * METHODS} maps, one core")
    print(f"{'metric':22}{'ours':>9}{'quantus':>9}{'loop':>9}   quantus / ours        loop / ours")
    for name in NAMES:
        works = {"ours": ours, "loop": plain} | ({"quantus": by_quantus} if name in QUANTUS and has_quantus() else {})
        times: dict[str, list[float]] = {who: [] for who in works}
        for turn in range(options.rounds + 1):
            for who, work in works.items():
                start = time.perf_counter()
                work(name, data)
                if turn:
                    times[who].append((time.perf_counter() - start) * scale)
        cells = [f"{statistics.median(times[who]):9.3f}" if who in times else " " * 9 for who in ("ours", "quantus", "loop")]
        ratios = []
        for who in ("quantus", "loop"):
            found = sorted(b / a for a, b in zip(times["ours"], times.get(who, []), strict=False))
            ratios.append(f"{statistics.median(found):6.1f} [{found[0]:.1f} to {found[-1]:.1f}]" if found else "")
        print(f"{name:22}{''.join(cells)}   {ratios[0]:22}{ratios[1]}", flush=True)
    sizes = (16, 64, 256)
    print("peak memory, all metrics: " + ", ".join(f"{peak(n):.0f} MB for {n} items" for n in sizes) + " (goal: flat)")


if __name__ == "__main__":
    main()
