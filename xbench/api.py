"""The Python API: the command line's work as functions."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from xbench.plan.suite import Selection, Suite, Track
from xbench.run import pipeline
from xbench.run.pipeline import run as _run
from xbench.store.directory import Store, write_text
from xbench.submit.submission import board
from xbench.tables import runs
from xbench.tables.leaderboard import Leaderboard, build
from xbench.tables.query import Filter


class Outcome(pipeline.Outcome):
    """A finished run, and its table."""

    @classmethod
    def of(cls, done: pipeline.Outcome) -> Outcome:
        """A finished run, so that its table can be asked for."""
        return cls(done.folder, done.rows, done.manifest, done.computed)

    def leaderboard(self) -> Leaderboard:
        """The run's table, beside the committed reference rows of the same suite and protocol."""
        return build(self.rows, self.manifest, runs.reference(self.manifest.suite))

    def write_page(self, board: Leaderboard) -> None:
        """Write the run's table with curves and pictures beside the rows, as leaderboard.html, where that is not done yet."""
        from xbench.report import html

        page = self.folder / "leaderboard.html"
        if self.computed or not page.is_file():
            write_text(page, html.render(board, self.rows, self.manifest, Store(self.folder).gallery()))


def evaluate(
    methods: Sequence[str],
    metrics: Sequence[str],
    *,
    model: str = "efficientnet_lite0",
    dataset: str = "photos",
    target: Literal["label", "prediction", "present"] = "prediction",
    view: Literal["crop", "squash", "keep_aspect", "full"] = "crop",
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 8,
    plugins: Sequence[str] = (),
    out: str | Path | None = None,
) -> pd.DataFrame:
    """Score methods by metrics on one model and dataset. -> one row per (method, metric, item); see docs/rows.md.

    Args:
        methods: spec strings such as ``"grad_cam"`` or ``"smooth(gradient, n=10)"``.
        metrics: spec strings such as ``"insertion(steps=exact(10))"``.
        model: a spec string, such as ``"timm/resnet50@weights.safetensors"``.
        dataset: a spec string, such as ``"folder(my/pictures)"``.
        target: which class is explained: the picture's label, the model's prediction, or every present class in turn.
        view: how pictures become inputs.
        limit: the first items only.
        seed: of all that is drawn.
        batch_size: pictures in a forward pass, 1 or more.
        plugins: files or modules to load first.
        out: a directory that keeps the rows and resumes; a temporary one by default.

    Raises:
        XbenchError: anything the user can mend.
    """
    track = Track(dataset=dataset, metrics=list(metrics), target=target, view=view)
    chosen = Suite(
        name="evaluate",
        version="1",
        seed=seed,
        batch_size=batch_size,
        block=batch_size,
        models=[model],
        methods=list(methods),
        tracks=[track],
    )
    with tempfile.TemporaryDirectory() as scratch:
        return _run(chosen, Selection(limit=limit), out=Path(out or scratch), plugins=plugins).rows


def run(
    suite: str = "quick",
    *,
    methods: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    limit: int | None = None,
    seed: int | None = None,
    plugins: Sequence[str] = (),
    out: str | Path | None = None,
    fresh: bool = False,
) -> Outcome:
    """Run a suite, or what is left of it, as ``xbench run`` does. The outcome has ``rows`` and ``leaderboard()``.

    Args:
        suite: a suite's name or the path of a TOML file.
        methods: spec strings instead of the suite's.
        models: spec strings instead of the suite's.
        datasets: ids of the suite's datasets, or the spec string of one that takes their place.
        metrics: names of the suite's metrics.
        limit: the first items of each dataset only.
        seed: instead of the suite's.
        plugins: files or modules to load first.
        out: the run directory, ``results/runs/<suite>`` by default.
        fresh: forget the directory's rows.

    Raises:
        XbenchError: anything the user can mend.
    """
    selection = Selection(methods, models, datasets, metrics, limit, seed)
    return Outcome.of(_run(suite, selection, out=Path(out) if out else None, plugins=plugins, fresh=fresh))


def leaderboard(
    *folders: str | Path,
    models: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    group: str | None = None,
) -> Leaderboard:
    """The table of one or more runs, beside the reference rows of the same suites and protocols. As text: ``xbench.report.tables``.

    Args:
        folders: run directories, finished or not.
        models: which to show, specs or ids.
        datasets: the same.
        metrics: the same.
        methods: the same; controls stay.
        group: of metrics, such as ``"localization"``.

    Raises:
        XbenchError: no run directory, runs that make no table together, or a name that is not among them.
    """
    return board([Path(folder) for folder in folders], Filter(models, datasets, metrics, methods, group))[0]
