"""`xbench validate-metrics`: a good metric passes, bad ones fail and are told why, and the suite has every metric that ships."""

import math
import re

import pytest

from xbench.plan import suite
from xbench.plugins.registry import registry
from xbench.report import validations
from xbench.run import metaevaluation
from xbench.tables import validation
from xbench.tables.validation import Verdict

BAD = '''
import torch
from xbench.plugin import Score, Noisy, metric

@metric("shows_all", kind="ground_truth", version="1", direction="higher", needs={"mask"})
def shows_all(maps, truth):
    """Best for a map that is the same everywhere."""
    return -maps.double().flatten(1).std(dim=1)

@metric("upside_down", kind="ground_truth", version="3", direction="lower", needs={"mask"})
def upside_down(maps, truth):
    """Relevance mass with the wrong direction."""
    positive = maps.clamp(min=0).double()
    return (positive * truth.mask).sum(dim=(1, 2)) / positive.sum(dim=(1, 2)).clamp(min=1e-9)
'''


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """A few items of a good metric and of bad ones."""
    folder = tmp_path_factory.mktemp("validate")
    (folder / "bad.py").write_text(BAD)
    wanted = ["relevance_rank", "sparseness", "random_logit", "sensitivity_max", "shows_all", "upside_down"]
    return {v.metric: v for v in metaevaluation.validate(wanted, folder / "run", limit=12, plugins=[str(folder / "bad.py")])}


def test_good_metrics_pass(verdicts):
    for spec in ("relevance_rank", "sparseness", "random_logit", "sensitivity_max(n=4)"):
        assert verdicts[spec].wrong == (), spec
        assert verdicts[spec].separation > 0.5
    assert verdicts["relevance_rank"].noise < 0.05  # ties of masks fall otherwise under another seed
    assert verdicts["sensitivity_max(n=4)"].noise > 0.05


def test_bad_metrics_fail_and_the_pair_is_named(verdicts):
    assert "oracle <= constant" in verdicts["shows_all"].wrong
    assert "oracle <= inverted(oracle)" in verdicts["upside_down"].wrong
    assert verdicts["upside_down"].version == "3"
    assert verdicts["upside_down"].separation < 0
    assert verdicts["upside_down"].agreement < 0


def test_the_table_says_so(verdicts):
    table = validations.to_markdown(list(verdicts.values()))
    assert re.search(r"\| localization +\| `relevance_rank` +\|( +-?\d+\.\d\d \|){3} right +\|", table)
    assert re.search(r"`shows_all` .* WRONG: oracle <= ", table)
    assert len({line.count("|") for line in table.splitlines()}) == 1


def test_verdicts_are_kept_and_found_by_id_and_version(verdicts, tmp_path):
    validation.save(list(verdicts.values()), tmp_path / "found.json")
    found = validation.read(tmp_path / "found.json")
    assert found["upside_down", "3"] == verdicts["upside_down"]
    assert ("upside_down", "1") not in found
    assert found["sensitivity_max", "1"].separation == verdicts["sensitivity_max(n=4)"].separation


def test_what_has_no_value_has_no_verdict_of_right():
    assert not Verdict("m", "1", "robustness", ("a or b has no value",), math.nan, 0.0, math.nan).valid


@pytest.mark.parametrize("name", ["validate", "metrics"])
def test_the_suites_have_every_metric_that_ships(name):
    whole = suite.load(suite.find(name))
    had = {spec.partition("(")[0] for track in whole.tracks for spec in track.metrics}
    shipped = {i for i in registry.ids("metric") if (registry.known["metric", i]).startswith("xbench.metrics") and "/" not in i}
    assert had == shipped


def test_its_names_are_canonical():
    """Rows carry canonical names; others would never be found."""
    whole = suite.load(suite.find("validate"))
    for spec in whole.methods:
        assert registry.method(spec).name == spec
    pairs = [pair for table in (metaevaluation.SURE, metaevaluation.AT_LEAST) for pairs in table.values() for pair in pairs]
    assert {name for pair in pairs for name in pair} <= set(whole.methods)
