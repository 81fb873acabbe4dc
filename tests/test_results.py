"""What is committed under results/ is whole, and its rows give its tables."""

from pathlib import Path

import pytest

from xbench import submissions, suite, validation
from xbench.plugins import Metric
from xbench.registry import registry
from xbench.report import validations

RESULTS = Path(__file__).parent.parent / "results"
FOLDERS = sorted(p.parent for p in RESULTS.rglob("manifest.json") if "runs" not in p.relative_to(RESULTS).parts)


def test_the_reference_is_one_of_them():
    assert RESULTS / "quick" in FOLDERS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(RESULTS).as_posix())
def test_rows_give_the_tables(folder):
    assert submissions.verify(folder) > 0


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
