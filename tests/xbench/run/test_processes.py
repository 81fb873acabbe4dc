"""Several processes give the rows of one, bit for bit, and their failures reach the user as one line."""

import os

import pandas as pd
import pytest

from xbench.errors import XbenchError
from xbench.plan.suite import Selection
from xbench.run import pipeline
from xbench.run.engines import processes
from xbench.store.directory import INFORMATIVE
from xbench.tables.runs import read


def test_two_processes_are_one(tiny_suite, tiny_plugin, tmp_path):
    alone = pipeline.run(tiny_suite, out=tmp_path / "alone", plugins=[tiny_plugin], save_maps=True)
    shared = pipeline.run(tiny_suite, out=tmp_path / "shared", plugins=[tiny_plugin], save_maps=True, workers=2, threads=2)
    assert shared.computed == alone.computed > 0
    rows = [outcome.rows.drop(columns=INFORMATIVE) for outcome in (shared, alone)]
    pd.testing.assert_frame_equal(*rows, check_exact=True)
    ours, theirs = ({p.parent.relative_to(f) for p in (f / "maps").rglob("*.safetensors")} for f in (shared.folder, alone.folder))
    assert len(ours) == len(theirs) > 0
    assert (shared.folder / "gallery.safetensors").read_bytes() == (alone.folder / "gallery.safetensors").read_bytes()
    assert pipeline.run(tiny_suite, out=tmp_path / "shared", plugins=[tiny_plugin], save_maps=True, workers=2).computed == 0


def test_what_was_done_stays_and_the_rest_is_shared(tiny_suite, tiny_plugin, tmp_path):
    first = pipeline.run(tiny_suite, Selection(limit=2), out=tmp_path, plugins=[tiny_plugin])
    second = pipeline.run(tiny_suite, out=tmp_path, plugins=[tiny_plugin], workers=3, threads=1)
    whole = len(read(tmp_path)[0])
    assert 0 < second.computed < whole
    assert first.computed + second.computed >= whole


FAILING = """
import os
from xbench import method


@method("{name}")
def failing(model, batch):
    {what}
"""


@pytest.mark.parametrize(
    ("name", "what", "message"),
    [
        ("unlucky", "raise ValueError('no luck')", "method unlucky failed on items .*: ValueError: no luck"),
        ("killed", "os._exit(9)", "fewer --workers"),
    ],
)
def test_a_failure_in_a_process_is_one_line(name, what, message, tiny_suite, tiny_plugin, tmp_path):
    path = tmp_path / "failing.py"
    path.write_text(FAILING.format(name=name, what=what))
    suite = tiny_suite.model_copy(update={"methods": [name], "controls": []})
    with pytest.raises(XbenchError, match=message):
        pipeline.run(suite, out=tmp_path / "run", plugins=[tiny_plugin, str(path)], workers=2)
    assert not read(tmp_path / "run")[1].complete


def test_workers_divide_the_threads(tiny_suite, tiny_plugin, tmp_path, monkeypatch):
    seen = []
    execute = processes.execute

    def spy(units, scenes, job, workers, progress):
        seen.append((job.threads, workers))
        return execute(units, scenes, job, workers, progress)

    monkeypatch.setattr(processes, "execute", spy)
    pipeline.run(tiny_suite, Selection(limit=1), out=tmp_path / "run", plugins=[tiny_plugin], workers=2)
    assert seen == [(max(1, (os.cpu_count() or 1) // 2), 2)]
