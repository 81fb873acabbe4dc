"""Which of quantus's metrics are refused, and how; none of it needs the library."""

import sys
from pathlib import Path

import pytest
import torch

from xbench.data.samples import Truth
from xbench.errors import XbenchError
from xbench.plugins.registry import registry

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"
REFUSED = registry.get("metric", "quantus/<ClassName>").refused
RUN = [id.removeprefix("quantus/") for id in registry.ids("metric") if id.startswith("quantus/") and "<" not in id]


@pytest.mark.parametrize("name", REFUSED)
def test_each_says_why_and_what_stands_in_for_it(name):
    with pytest.raises(XbenchError, match=rf"^metric quantus/{name} is refused: .") as caught:
        registry.metric(f"quantus/{name}")
    _, _, remedy = str(caught.value).rpartition("; ")
    assert remedy == "no metric here stands in for it" or registry.metric(remedy.removeprefix("use ")).name == remedy[4:]


def test_a_misspelt_one_is_told_the_nearest_of_all():
    with pytest.raises(XbenchError, match="did you mean 'quantus/Sparseness'"):
        registry.metric("quantus/Sparsness")
    with pytest.raises(XbenchError, match="did you mean 'quantus/PointingGame'"):
        registry.metric("quantus/PointngGame")


@pytest.mark.parametrize("name", RUN)
def test_without_the_library_a_clear_line_says_so(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "quantus", None)
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[:20, :20] = True
    with pytest.raises(XbenchError, match=f"metric quantus/{name} needs the quantus library"):
        registry.metric(f"quantus/{name}")(torch.rand(1, 40, 40), Truth(mask))


@pytest.mark.skipif(not DOCS.is_file(), reason="needs the source tree")
def test_the_page_lists_every_class_where_it_belongs():
    section = DOCS.read_text(encoding="utf-8").partition("\n## quantus\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| `")]
    cells = {name.strip(" `"): rest[0].strip() for names, *rest in rows for name in names.split(",")}
    assert {name: cell != "refused" for name, cell in cells.items()} == dict.fromkeys(RUN, True) | dict.fromkeys(REFUSED, False)
