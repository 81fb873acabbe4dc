"""What the README and the committed reference claim."""

import importlib.util
import re
from pathlib import Path

import pandas as pd
import pytest

from xbench.tables import runs

ROOT = Path(__file__).parent.parent
LITE = "efficientnet_lite0"
METRICS = ["insertion(steps=exact(10))", "deletion(steps=exact(10))", "grid_pointing", "grid_pointing_hit"]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("readme", ROOT / "tools" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readmes_tables_are_the_reference(tool):
    """Figures, intervals and marks, to the letter; and the figures are the rows' means."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tool.written(text) == text, "run: python tools/readme.py"
    rows, _ = runs.reference("quick")
    means = rows.groupby(["method", "model", "metric"])["value"].mean()
    for name, columns in tool.TABLES.items():
        (table,) = re.findall(rf"<!-- {name} -->(.+?)<!-- /{name} -->", text, re.DOTALL)
        lines = re.findall(r"^\| `([^`]+)`[^|]*\|(.+)\|$", table, re.MULTILINE)
        models = {model for model, _ in columns.values()}
        applicable = rows[(rows["status"] != "not_applicable") & rows["model"].isin(models)]
        assert {method for method, _ in lines} == set(applicable["method"])
        for method, cells in lines:
            for column, cell in zip(columns.values(), cells.split("|"), strict=True):
                mean = means[method, *column]
                shown = cell.split()[0]
                assert shown == "n/a" if pd.isna(mean) else float(shown) == pytest.approx(mean, abs=0.000501), (method, column)


def test_the_readmes_method_is_ten_lines_and_loads(tmp_path):
    from xbench.plugins.registry import registry

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n# my_method.py\n(.+?)```", text, re.DOTALL)[1]
    assert len(code.strip().splitlines()) <= 10
    path = tmp_path / "my_method.py"
    path.write_text(code)
    registry.load(str(path))
    assert registry.method("my_method").needs == {"feature_maps", "gradients"}


def test_the_reference_is_small_whole_and_names_no_machine():
    folder = ROOT / "results" / "quick"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_500_000
    rows, manifest = runs.reference("quick")
    assert manifest.complete
    assert rows["seconds"].isna().all()
    assert manifest.local is None
    assert not any(str(Path.home()) in path.read_text(encoding="utf-8") for path in folder.glob("*.json"))


def test_the_reference_is_what_the_code_would_compute():
    """Its protocols are today's: else a new method would not stand beside it."""
    from xbench.plan import keys, suite
    from xbench.plugins.registry import registry

    _, manifest = runs.reference("quick")
    plan = suite.plan(suite.load(suite.find("quick")), suite.Selection(), registry)
    today = set()
    for planned in plan.tracks:
        track, revision = planned.track, planned.dataset().revision
        for metric in planned.metrics:
            key = keys.protocol_key(planned.dataset, revision, track.target, track.only, track.view, metric, "float32")
            today.add(key)
    assert today == set(manifest.columns)
    assert {m.name for m in plan.methods} == set(manifest.methods)


def test_paired_findings_of_the_reference():
    """What twenty photographs can show of twelve methods and seven controls at once: Grad-CAM beats the noise of its own grid and
    its own negation on both curves, and noise per pixel in mosaics, but not on deletion, where that noise is adversarial."""
    from xbench.tables import leaderboard

    (table,) = [t for t in leaderboard.build(*runs.reference("quick")).tables if t.model == LITE]
    (line,) = [line for line in table.lines if line.method == "grad_cam"]
    cells = dict(zip([c.metric for c in table.columns], line.cells, strict=True))
    beaten = {metric: {c.control: c.beaten for c in cells[metric].against} for metric in METRICS}
    for metric in METRICS[:2]:
        assert beaten[metric]["random_grid"]
        assert beaten[metric]["inverted(grad_cam)"]
    assert beaten["grid_pointing"]["random"]
    assert not beaten[METRICS[1]]["random"]
    assert [cells[metric].mark for metric in METRICS] == ["†", "†", "", ""]
