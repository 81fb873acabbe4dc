"""An experiment from its file to tables and files.

OUT/scores.parquet     a row for each picture of each pair, with its scores
OUT/auroc.csv, .md     the figures, with intervals
OUT/experiment.json    what was asked and found; the last to be written: without it, nothing here is whole
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from xbench import host
from xbench.data import wordnet
from xbench.data.samples import Dataset
from xbench.errors import XbenchError
from xbench.network.model import Model
from xbench.plan import keys
from xbench.plan.recording import xbench_version
from xbench.plan.suite import find, named
from xbench.plugins.declarations import BoundDataset
from xbench.plugins.registry import registry
from xbench.progress import Progress, Silent
from xbench.run.detection import forms
from xbench.run.detection.boards import Board, Task, board
from xbench.run.detection.experiment import Experiment, load
from xbench.run.pipeline import check_device
from xbench.store.directory import hold, write, write_text

MANIFEST = "experiment.json"


@dataclass(frozen=True)
class Outcome:
    """What came of an experiment. rows: as in scores.parquet."""

    folder: Path
    title: str
    boards: tuple[Board, ...]
    rows: pd.DataFrame


def run(
    which: str | Experiment,
    *,
    models: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    limit: int | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    device: str = "cpu",
    out: Path | None = None,
    plugins: Sequence[str] = (),
    threads: int | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Run an experiment, from the start, into a directory.

    Args:
        which: its name, the path of a TOML file, or an Experiment.
        models: specs instead of the experiment's; one that the experiment has may be named by its id.
        datasets: the same of datasets.
        limit: the first pictures of each dataset.
        seed: instead of the experiment's.
        batch_size: instead of the experiment's.
        device: where models compute.
        out: ``results/runs/<name>`` by default.
        plugins: files or modules to load first.
        threads: of torch, all cores by default.
        progress: what is told of the run; nothing by default.

    Raises:
        XbenchError: anything the user can mend.
    """
    asked = which if isinstance(which, Experiment) else load(find(which))
    specs = {"models": _chosen("model", asked.models, models), "datasets": _chosen("dataset", asked.datasets, datasets)}
    numbers = {"seed": asked.seed if seed is None else seed, "batch_size": batch_size or asked.batch_size}
    asked = asked.model_copy(update={**specs, **numbers})
    for plugin in plugins:
        registry.load(plugin)
    check_device(device)
    folder = out or Path("results/runs") / asked.name
    with hold(folder), host.restored():
        torch.set_num_threads(threads or os.cpu_count() or 1)
        boards, frames = [], []
        about: dict[str, dict[str, Any]] = {"models": {}, "datasets": {}}
        opened = [(bound, bound()) for bound in map(registry.dataset, asked.datasets)]
        for bound_model in map(registry.model, asked.models):
            model: Model = dataclasses.replace(bound_model(), device=device)
            about["models"][bound_model.name] = {"digest": model.digest, "card": model.card}
            for bound, dataset in opened:
                about["datasets"][bound.name] = _described(bound, dataset)
                task = Task(bound_model.name, model, bound.name, dataset, limit)
                one, rows = board(asked, task, progress or Silent())
                boards.append(one)
                frames.append(rows)
        found = Outcome(folder, asked.title or asked.name, tuple(boards), pd.concat(frames, ignore_index=True))
        _write(found, asked, about | {"limit": limit, "device": device})
    return found


def _chosen(kind: str, own: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """What is wanted, with the experiment's own parameters where only an id of its is given."""
    if wanted is None:
        return list(own)
    if not wanted:
        raise XbenchError(f"nothing to run: --{kind}s names no {kind}")
    return list(dict.fromkeys(next((spec for spec in own if named(spec, [one])), one) for one in wanted))


def _described(bound: BoundDataset, dataset: Dataset) -> dict[str, Any]:
    info = bound.info
    return {"revision": dataset.revision, "licence": info.licence, "cite": info.cite, "notes": list(dataset.notes)}


def _write(found: Outcome, asked: Experiment, about: dict[str, Any]) -> None:
    folder = found.folder
    (folder / MANIFEST).unlink(missing_ok=True)
    write(folder / "scores.parquet", lambda tmp: found.rows.to_parquet(tmp, index=False))
    write_text(folder / "auroc.csv", forms.to_csv(found.boards))
    write_text(folder / "auroc.md", forms.to_markdown(found.title, found.boards))
    manifest = {
        "format": 1,
        "xbench": xbench_version(),
        "asked": asked.model_dump(),
        **about,
        "wordnet": wordnet.compact().digest,
        "cite": "giulivi2024convis",
        "boards": [forms.record(board) for board in found.boards],
        "libraries": keys.core_libraries(),
        "machine": {"system": platform.platform(), "python": platform.python_version(), "processor": platform.machine()},
    }
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1, allow_nan=False) + "\n")
