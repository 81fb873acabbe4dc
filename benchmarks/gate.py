"""How often the gate gives a false alarm, and how often it finds a loss: simulated gates with the spread of a retrained network.

The items are real: what the methods of the suite gate score with the network that ships, and with the same network trained anew
from other seeds (benchmarks/retrained.parquet; ``python benchmarks/gate.py --collect RUN...`` makes it from such runs). In each
simulated gate a sample of items is drawn, and one seed; on each item, either network is the old one and the other the new one, by
chance, so that the two are equally good and differ as much as retrained networks do. Then one figure loses 0, 1, 2 or 3 margins
(that of a retrained network, from how its items spread with the network that ships), more on some items than on others; hits turn
into misses. Prints, for 20, 200 and 2,000 items: of gates without a loss the shares with a false alarm (nominal: at most 5 %), that
pass, and that cannot judge; and the share of losses that are found. Figures with less than that to lose are left alone.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from xbench.stats.bootstrap import Scores
from xbench.tables import gate
from xbench.tables.gate import Margins
from xbench.tables.pairing import Pair
from xbench.tables.panels import Column

DATA = Path(__file__).with_name("retrained.parquet")
ITEMS = (20, 200, 2000)
LOSSES = (0, 1, 2, 3)  # margins
CONTROLS = ("random_grid", "center", "oracle")
LOWER = ("deletion",)  # metrics of which less is better


def collect(baseline: Path, runs: list[Path]) -> None:
    """Keep the values of some runs, one column per run: that of the network that ships, then one per seed."""
    key = ["method", "metric", "item"]
    table = None
    for name, folder in [("shipped", baseline), *((f"seed{i}", run) for i, run in enumerate(runs, 1))]:
        rows = pd.read_parquet(folder / "rows.parquet")
        rows = rows[(rows["status"] == "ok") & np.isfinite(rows["value"]) & ~rows["method"].isin(CONTROLS)]
        values = rows.set_index(key)["value"].astype(np.float32).rename(name)
        table = values.to_frame() if table is None else table.join(values, how="inner")
    assert table is not None
    table.reset_index().to_parquet(DATA, compression="zstd")
    print(f"{len(table)} values: {DATA}")


def simulate(items: int, loss: int, times: int, seed: int) -> np.ndarray:
    """``[times, 4]``: whether there was a false alarm, the gate passed, could not judge, and found the loss (NaN where none is)."""
    rng = np.random.default_rng([items, loss, seed])
    table = pd.read_parquet(DATA)
    wide = table.pivot(index="item", columns=["method", "metric"])
    shipped, *seeds = (wide[name].to_numpy(float) for name in dict.fromkeys(wide.columns.get_level_values(0)))  # [N, cells]
    cells = list(wide["shipped"].columns)
    margins = Margins()
    sign = np.array([-1 if metric.partition("(")[0] in LOWER else 1 for _, metric in cells])
    spreads = zip(cells, shipped.std(axis=0), strict=True)
    most = loss * np.array([margins.of(metric, spread, retrained=True) for (_, metric), spread in spreads])
    able = np.flatnonzero((sign < 0) | (shipped.mean(axis=0) > most))
    found = np.full((times, 4), np.nan)
    for k in range(times):
        drawn = rng.integers(0, len(shipped), items)
        one, other = shipped[drawn], seeds[rng.integers(len(seeds))][drawn]
        swapped = rng.random((items, 1)) < 0.5
        before, after = np.where(swapped, other, one), np.where(swapped, one, other)
        hurt = int(rng.choice(able))
        after[:, hurt] = worsened(rng, after[:, hurt], sign[hurt] * most[hurt])
        judged = gate.judge_pairs([pair(cell, before[:, i], after[:, i]) for i, cell in enumerate(cells)], margins)
        verdicts = [j.verdict for j in judged]
        alarms = [v == "regression" for i, v in enumerate(verdicts) if not (loss and i == hurt)]
        found[k, 0] = any(alarms)
        found[k, 1] = all(v == "pass" for v in verdicts)
        found[k, 2] = "regression" not in verdicts and "cannot judge" in verdicts
        if loss:
            found[k, 3] = verdicts[hurt] == "regression"
    return found


def worsened(rng: np.random.Generator, scores: np.ndarray, loss: float) -> np.ndarray:
    """Scores whose mean is lower by a loss: hits turn into misses, other scores sink by amounts that differ."""
    if np.isin(scores, (0, 1)).all():
        return scores * (rng.random(len(scores)) >= loss / scores.mean().clip(loss or 1))
    return scores - loss * rng.gamma(2, 0.5, len(scores))


def pair(cell: tuple[str, str], before: np.ndarray, after: np.ndarray) -> Pair:
    direction = "lower" if cell[1].partition("(")[0] in LOWER else "higher"
    column = Column(cell[1], "scenes", cell[1], direction, len(before))
    known = np.ones((2, len(before)), bool)
    scores = Scores(np.stack([before, after])[..., None], known, np.arange(len(before)), "mean", direction == "higher")
    return Pair(cell[0], ("net", "net"), column, [], scores, True, 0, 0, len(before), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", nargs="+", type=Path, metavar="RUN", help="run directories: the baseline's, then one per seed")
    parser.add_argument("--times", type=int, default=1000, help="simulated gates without a loss, and a quarter as many with each")
    options = parser.parse_args()
    if options.collect:
        collect(options.collect[0], options.collect[1:])
        return
    table = pd.read_parquet(DATA)
    cells = len(table.drop_duplicates(["method", "metric"]))
    print(f"{cells} figures in each gate; {options.times} gates without a loss, {options.times // 4} with each loss\n")
    print("| items | false alarm | passes | cannot judge | finds 1 margin | 2 margins | 3 margins |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    with ProcessPoolExecutor(2) as pool:
        for items in ITEMS:
            jobs = {}
            for loss in LOSSES:
                times = options.times if loss == 0 else options.times // 4
                jobs[loss] = [pool.submit(simulate, items, loss, times // 10, part) for part in range(10)]
            done = {loss: np.concatenate([job.result() for job in parts]).mean(axis=0) for loss, parts in jobs.items()}
            shares = [*done[0][:3], *(done[loss][3] for loss in LOSSES[1:])]
            print(f"| {items:,} | " + " | ".join(f"{share:.1%}" for share in shares) + " |", flush=True)


if __name__ == "__main__":
    main()
