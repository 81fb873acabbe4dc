"""What is committed under results/ is whole, and its rows give its tables."""

import functools
import itertools
import random
from pathlib import Path

import pytest

import xbench.tables.panels
from xbench.plan import suite
from xbench.plugins.declarations import Metric
from xbench.plugins.registry import registry
from xbench.report import validations
from xbench.submit import submission
from xbench.tables import claims, compare, leaderboard, runs, validation

RESULTS = Path(__file__).parent.parent / "results"
FOLDERS = sorted(p.parent for p in RESULTS.rglob("manifest.json") if "runs" not in p.relative_to(RESULTS).parts)


def test_the_reference_is_one_of_them():
    assert RESULTS / "quick" in FOLDERS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(RESULTS).as_posix())
def test_rows_give_the_tables(folder):
    assert submission.verify(folder) > 0


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(RESULTS).as_posix())
def test_compare_says_what_the_table_says(folder, monkeypatch):
    """Ranks and marks, for some pairs of methods and for all columns, pooled ones (pxap) among them."""
    rows, manifest = runs.read(folder)
    board = leaderboard.build(rows, manifest)
    cells = {
        (table.model, column.key, line.method): cell
        for table in board.tables
        for line in table.lines
        for column, cell in zip(table.columns, line.cells, strict=True)
    }
    judge = claims.of_panel  # every pair of methods asks for the same claims
    kept = functools.cache(lambda model, key: judge(*panels[model, key]))
    panels = {
        (panel.model, panel.column.key): (panel, manifest.methods) for panel in xbench.tables.panels.of_rows(rows, manifest.columns)
    }
    monkeypatch.setattr(claims, "of_panel", lambda panel, _: kept(panel.model, panel.column.key))
    controls = {method for method, about in manifest.methods.items() if about.control}
    valued = {method: {key[:2] for key, cell in cells.items() if key[2] == method and cell.estimate.n} for *_, method in cells}
    pairs = [p for p in itertools.combinations(sorted(valued), 2) if not controls.issuperset(p)]
    ranked = 0
    for names in random.Random(0).sample(pairs, 20):
        if valued[names[0]].isdisjoint(valued[names[1]]):  # one is for a CNN, the other for a transformer
            continue
        for finding in compare.of_methods((rows, manifest), *names).findings:
            key = finding.figure.models[0], finding.figure.column.key
            found = claims.of_panel(panels[key][0], {}).of(*map(panels[key][0].methods.index, names))
            floors = {c.control: c.beaten for name in names if (*key, name) in cells for c in cells[*key, name].against}
            if found is not None and not controls.isdisjoint(names):
                control = min(names, key=lambda name: name not in controls)
                assert floors[control] == (finding.better is not None and names[finding.better] != control)
            elif found is not None:
                ranked += 1
                places = [cells[*key, name].rank.place for name in names]
                assert finding.better is None or places[finding.better] <= places[1 - finding.better]
                assert (finding.better, finding.together) == (found[0].better, found[1])
    assert ranked > 20


def test_the_validation_table_is_that_of_its_verdicts():
    verdicts = validation.read(RESULTS / "validation.json")
    assert (RESULTS / "validation.md").read_text(encoding="utf-8") == validations.to_markdown(list(verdicts.values()))


def test_the_validation_is_of_the_metrics_as_they_are():
    """A version that was raised since asks for `make validation`."""
    for (_, version), verdict in validation.read(RESULTS / "validation.json").items():
        metric: Metric = registry.metric(verdict.metric)
        assert (metric.info.version, metric.info.group) == (version, verdict.group), verdict.metric


def test_what_fails_validation_is_in_no_suite_that_leads():
    failed = {name for (name, _), verdict in validation.load().items() if not verdict.valid}
    assert failed
    for name in ("quick", "gate", "imagenet"):
        for track in suite.load(suite.find(name)).tracks:
            assert not failed & {spec.partition("(")[0] for spec in track.metrics}, name
