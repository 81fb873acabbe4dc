"""From a run directory on disk to the finished leaderboard: seconds and peak memory, at full size and at a tenth of the items.

    python benchmarks/leaderboard.py [--rounds N]

The run is synthetic: 50 methods, 7 of them controls, by 30 metrics, 5 of which store a vector per item, by 1,000 items of about
500 pictures: 1.5 million rows. Each measurement is a process of its own, which reads the directory (``runs.read``) and builds the
table (``leaderboard.build``); figures are medians of the rounds. Where time and memory grow linearly, full / tenth is 10 or less:
what does not depend on the number of items, such as the resamples of ranks, is in both.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xbench.store import manifests
from xbench.store.directory import SCHEMA, Store, canonical, coded, concat

ITEMS = 1000
FACTS = ("reading, s", "building, s", "both, s", "peak memory, MB")
CONTROLS = ("random", "random_grid", "constant", "center", "sobel", "mean_activation", "inverted(grad_cam)")
BASES = ("grad_cam", "grad_cam_plus_plus", "layer_cam", "hires_cam", "score_cam", "integrated_gradients", "guided_backprop")
WRAPPERS = (
    "{}",
    "smooth({}, n=25)",
    "squared(smooth({}, n=25))",
    "contrast({})",
    "masked({}, share=0.25)",
    "averaged({}, layers=4)",
)
METHODS = [*(wrapper.format(base) for base in BASES for wrapper in WRAPPERS), "rise(n=2000)", *CONTROLS]
VECTORS = {  # metric -> (reduction, length)
    "insertion(steps=pixels(224))": ("mean", 225),
    "deletion(steps=pixels(224))": ("mean", 225),
    "max_box_acc_v2": ("best(3)", 300),
    "mask_iou": ("best", 100),
    "pxap": ("average_precision", 128),
}
SCALARS = ("insertion", "deletion", "average_drop", "sensitivity_n", "pixel_flipping")
METRICS = [*VECTORS, *(f"{name}(steps=exact({steps}))" for name in SCALARS for steps in (5, 10, 20, 50, 100))]


def write(folder: Path, items: int) -> None:
    """A finished run directory: rows in canonical order, and a manifest with what a leaderboard needs of it."""
    random = np.random.default_rng(0)
    pictures = np.sort(random.integers(0, items * 7 // 10, items))
    columns = {}
    for metric in METRICS:
        about = {"dataset": "pictures(n=1000)", "metric": metric, "chance": "", "protocol": "target label, view crop, v1"}
        about |= {
            "direction": "lower" if metric.startswith("deletion") else "higher",
            "reduce": VECTORS.get(metric, ("mean", 0))[0],
        }
        columns[random.bytes(10).hex()] = about
    frames = [_column(random, key, about["metric"], pictures) for key, about in columns.items()]
    methods = {method: {"control": method in CONTROLS, "any_grid": method == "constant"} for method in METHODS}
    store = Store(folder)
    store.make()
    store.write_rows(canonical(concat(frames)))
    about = {"title": "synthetic", "suite": "synthetic", "columns": columns, "methods": methods, "complete": True}
    store.write_manifest(manifests.parse({"format": 1, "models": {}, "datasets": {}} | about, folder / "manifest.json"))


def _column(random: np.random.Generator, key: str, metric: str, pictures: NDArray[np.int64]) -> pd.DataFrame:
    """The rows of one metric: methods differ, items share how hard they are."""
    items = len(pictures)
    count = len(METHODS) * items
    names = np.array([f"ILSVRC2012_val_{p * 67 + 1:08d}" for p in pictures])
    item = np.array([f"{name}#{i % 1000}" for i, name in enumerate(names)])
    skill = np.linspace(0.3, 0.7, len(METHODS))[:, None]
    value = random.beta(8 * skill, 8 * (1 - skill), (len(METHODS), items)).ravel()
    reduce, length = VECTORS.get(metric, ("mean", 0))
    vector = np.full(count, None, dtype=object)
    if length:
        numbers = random.random((count, length), dtype=np.float32) * value[:, None].astype(np.float32)
        vector[:] = list(numbers)
    keys = random.bytes(10 * count).hex()
    found = pd.DataFrame(dict.fromkeys(SCHEMA.names), index=range(count))
    found = found.assign(
        cache_key=[keys[20 * i : 20 * (i + 1)] for i in range(count)],
        protocol_key=key,
        method=np.repeat(METHODS, items),
        model="efficientnet_lite0",
        dataset="pictures(n=1000)",
        metric=metric,
        item=np.tile(item, len(METHODS)),
        cluster=np.tile(names, len(METHODS)),
        target=np.tile(np.arange(items) % 1000, len(METHODS)),
        target_policy="label",
        status="ok",
        value=value if reduce == "mean" else np.nan,
        vector=vector,
        constant=False,
        tie_mass=0.5,
        grid=np.repeat([("7x7", "14x14", "224x224")[i % 3] for i in range(len(METHODS))], items),
        correct=True,
        confidence=0.5,
        forwards=1.0,
        backwards=1.0,
        seconds=0.1,
    )
    return coded(found)


def measure(folder: Path) -> None:
    """Print what this very process needs for the leaderboard of a run directory."""
    from xbench.tables import leaderboard, runs

    start = time.perf_counter()
    rows, manifest = runs.read(folder)
    middle = time.perf_counter()
    board = leaderboard.build(rows, manifest)
    end = time.perf_counter()
    (table,) = board.tables
    assert (len(table.lines), len(table.columns)) == (len(METHODS), len(METRICS))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(dict(zip(FACTS, (middle - start, end - middle, end - start, peak), strict=True))))


def apart(*arguments: object) -> str:
    """What this script prints in a process of its own. A process counts its parent's peak memory as its own: so the parent, which
    writes nothing itself, stays small."""
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    if options.write:
        write(Path(options.write[0]), int(options.write[1]))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folders = {items: Path(scratch) / str(items) for items in (ITEMS // 10, ITEMS)}
        for items, folder in folders.items():
            apart("--write", folder, items)
        found = [
            {items: json.loads(apart("--measure", folder)) for items, folder in folders.items()} for _ in range(options.rounds)
        ]
    print(f"{len(METHODS)} methods x {len(METRICS)} metrics, medians of {options.rounds} rounds")
    sizes = "".join(f"{items * len(METHODS) * len(METRICS):>12,} rows" for items in folders)
    print(f"{'':18}{sizes}{'full / tenth':>14}   goal")
    for fact, goal in zip(FACTS, ("", "", "under 10", "under 2,000"), strict=True):
        tenth, full = (statistics.median(turn[items][fact] for turn in found) for items in folders)
        digits = 0 if "MB" in fact else 2
        print(f"{fact:18}{tenth:17,.{digits}f}{full:17,.{digits}f}{full / tenth:14.1f}   {goal}")


if __name__ == "__main__":
    main()
