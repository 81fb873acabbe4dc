"""A batch size that is measured, said, kept, and never measured twice for one run."""

import pytest
import torch
from torch import nn

from xbench.data.classes import ClassList
from xbench.errors import XbenchError
from xbench.network import batching
from xbench.network.model import Model, Preprocessing
from xbench.plan import suite
from xbench.plan.suite import Selection
from xbench.run import pipeline


def test_the_least_of_those_near_the_fastest_is_chosen():
    assert batching.choose({4: 2.0, 8: 1.04, 16: 1.03, 32: 1.0, 64: 1.2}) == 8
    assert batching.choose({4: 1.2, 8: 1.06, 16: 1.0}) == 16
    assert batching.choose({4: 1.0, 8: float("inf")}) == 4


class Slow(nn.Module):
    """A pass takes a second of its own clock, whatever it holds; memory ends at ``most`` pictures."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.seen, self.seconds = most, set(), 0

    def perf_counter(self):
        return self.seconds

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("none left")
        self.seen.add(len(x))
        self.seconds += 1
        return torch.zeros(len(x), 5)


@pytest.mark.parametrize(("limit", "most", "chosen"), [(None, 64, 64), (None, 20, 16), (9, 64, 8), (1, 64, 4)])
def test_sizes_that_do_not_fit_the_memory_or_the_limit_are_left_out(limit, most, chosen, monkeypatch):
    how = Preprocessing((8, 8), 1.0, (0.0,) * 3, (1.0,) * 3)
    model = Model("slow", Slow(most), how, ClassList(tuple("abcde")), capabilities=frozenset())
    monkeypatch.setattr(batching, "time", model.network)
    assert batching.best([model, model], limit) == chosen
    assert max(model.network.seen) == chosen


def test_a_tuned_run_has_the_measured_size_and_keeps_it_when_it_is_resumed(tiny_suite, tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(batching, "best", lambda *given: measured.append(given) or 3)
    first = pipeline.run(tiny_suite, Selection(limit=2), out=tmp_path / "run", tuned=True)
    assert set(first.manifest.batch_size.values()) == {3}
    assert first.manifest.local.request.selection["batch_size"] == 3
    same = pipeline.run(tiny_suite, Selection(limit=2, batch_size=3), out=tmp_path / "stated")
    assert set(same.rows["cache_key"]) == set(first.rows["cache_key"])
    assert pipeline.run(tiny_suite, Selection(limit=2), out=tmp_path / "run", tuned=True).computed == 0
    more = pipeline.run(tiny_suite, out=tmp_path / "run", tuned=True)
    assert set(more.manifest.batch_size.values()) == {3}
    assert set(more.rows["cache_key"]) > set(first.rows["cache_key"])
    assert len(measured) == 1
    assert measured[0][1] == 2
    pipeline.run(tiny_suite, Selection(limit=2), out=tmp_path / "run", tuned=True, fresh=True)
    assert len(measured) == 2


def test_the_suite_decides_where_nothing_is_asked(tiny_suite, tmp_path, monkeypatch):
    monkeypatch.setattr(batching, "best", lambda *_: 1 / 0)
    assert set(pipeline.run(tiny_suite, Selection(limit=1), out=tmp_path / "run").manifest.batch_size.values()) == {4}


@pytest.mark.parametrize(("text", "meant"), [(None, (None, False)), ("auto", (None, True)), ("16", (16, False))])
def test_the_option_is_a_number_or_auto(text, meant):
    assert suite.parse_batch_size(text) == meant


@pytest.mark.parametrize("text", ["0", "-4", "many", "1.5", ""])
def test_another_option_is_refused(text):
    with pytest.raises(XbenchError, match=f"--batch-size {text} is no number of pictures"):
        suite.parse_batch_size(text)
