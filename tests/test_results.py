"""What is committed under results/ is whole, and its rows give its tables."""

from pathlib import Path

import pytest

from xbench import submissions

RESULTS = Path(__file__).parent.parent / "results"
FOLDERS = sorted(p.parent for p in RESULTS.rglob("manifest.json") if "runs" not in p.relative_to(RESULTS).parts)


def test_the_reference_is_one_of_them():
    assert RESULTS / "quick" in FOLDERS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(RESULTS).as_posix())
def test_rows_give_the_tables(folder):
    assert submissions.verify(folder) > 0
