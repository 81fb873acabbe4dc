import io
import json

import numpy as np
import pandas as pd
import pytest

from xbench import leaderboard, runs, workflow
from xbench.report import tables
from xbench.report.tables import number
from xbench.store import SCHEMA

MANIFEST = {
    "title": "A test",
    "suite": "t",
    "columns": {
        "up": {"dataset": "d", "metric": "insertion(steps=exact(10))", "direction": "higher", "chance": "", "protocol": "p"},
        "down": {"dataset": "d", "metric": "deletion", "direction": "lower", "chance": "", "protocol": "p"},
    },
    "methods": {
        "good": {"control": False},
        "weak": {"control": False},
        "noise": {"control": True, "any_grid": False},
        "pixels": {"control": True, "any_grid": False},
        "truth": {"control": True, "any_grid": True, "ceiling": True},
    },
    "models": {"net": {"card": "A net."}},
}


def rows(values: dict[tuple[str, str], np.ndarray], grids=None) -> pd.DataFrame:
    found = []
    for (method, key), numbers in values.items():
        for i, value in enumerate(numbers):
            row = dict.fromkeys(SCHEMA.names) | {
                "method": method,
                "model": "net",
                "dataset": "d",
                "metric": key,
                "protocol_key": key,
                "item": f"i{i}",
                "cluster": f"c{i // 2}",
                "status": "nan" if np.isnan(value) else "ok",
                "value": value,
                "grid": (grids or {}).get(method, "7x7"),
                "correct": i % 4 != 0,
                "confidence": 0.5,
                "forwards": 1.0,
                "backwards": 1.0,
                "seconds": 0.1,
                "constant": False,
            }
            found.append(row)
    return pd.DataFrame(found)


@pytest.fixture
def values():
    base = np.random.default_rng(0).uniform(0.2, 0.4, 40)
    return {
        ("good", "up"): base + 0.3,
        ("good", "down"): base - 0.1,
        ("weak", "up"): base + 0.001 * np.sin(np.arange(40)),
        ("weak", "down"): base + 0.1,
        ("noise", "up"): base,
        ("noise", "down"): base,
        ("pixels", "up"): base + 0.5,
        ("pixels", "down"): base,
        ("truth", "up"): base + 0.6,
        ("truth", "down"): base - 0.2,
    }


@pytest.fixture
def board(values):
    return leaderboard.build(rows(values, {"pixels": "32x32"}), MANIFEST)


def cell(board, method, column):
    (table,) = board.tables
    line = next(line for line in table.lines if line.method == method)
    return line.cells[[c.key for c in table.columns].index(column)]


def test_means_ranks_and_order(board, values):
    (table,) = board.tables
    assert [line.method for line in table.lines] == ["good", "weak", "noise", "pixels", "truth"]
    assert cell(board, "good", "up").estimate.mean == pytest.approx(values["good", "up"].mean())
    assert (cell(board, "good", "up").rank.shared, cell(board, "weak", "up").rank.shared) == (1, 2)
    assert (cell(board, "good", "down").rank.place, cell(board, "weak", "down").rank.place) == (1, 2)
    assert cell(board, "noise", "up").rank is None
    assert cell(board, "good", "up").estimate.clusters == 20


def test_marks_say_which_controls_are_not_beaten(board):
    assert cell(board, "good", "down").mark == ""
    assert cell(board, "good", "up").mark == "‡"  # only the pixel control stands above it
    assert cell(board, "weak", "up").mark == "†"
    assert cell(board, "weak", "down").mark == "†"
    against = {c.control: c for c in cell(board, "good", "up").against}
    assert set(against) == {"noise", "pixels"}  # the ceiling is no floor to beat
    assert against["noise"].gain.mean == pytest.approx(0.3)
    assert against["noise"].gain.high - against["noise"].gain.low < 1e-9  # paired: what items share cancels
    assert against["pixels"].gain.mean == pytest.approx(-0.2)
    assert cell(board, "weak", "down").against[0].gain.mean == pytest.approx(-0.1)  # oriented: positive is better


def test_nan_is_counted_noted_and_not_ranked(values):
    values["good", "up"] = np.where(np.arange(40) < 3, np.nan, values["good", "up"])
    board = leaderboard.build(rows(values), MANIFEST)
    assert (cell(board, "good", "up").nan, cell(board, "good", "up").rank) == (3, None)
    assert cell(board, "weak", "up").rank.shared == 1
    assert any("good on d" in note and "NaN on 3 of 40" in note for note in board.notes)


def test_fewer_items_are_noted_and_not_ranked(values):
    values["good", "up"] = values["good", "up"][:10]
    board = leaderboard.build(rows(values), MANIFEST)
    assert (cell(board, "good", "up").missing, cell(board, "good", "up").rank) == (30, None)
    assert any("only 10 of 40" in note for note in board.notes)


def test_the_models_quality_stands_beside(board):
    (quality,) = board.tables[0].quality
    assert (quality.items, quality.accuracy, quality.confidence) == (40, 0.75, 0.5)


def test_reference_rows_fill_in_what_the_run_lacks(values):
    mine = rows({key: v for key, v in values.items() if key[0] == "weak"})
    other = rows(values)
    other_protocol = rows({("good", "elsewhere"): values["good", "up"]})
    board = leaderboard.build(mine, MANIFEST, (pd.concat([other, other_protocol]), MANIFEST))
    (table,) = board.tables
    assert {line.method: line.source for line in table.lines} == {
        "weak": "run",
        "good": "reference",
        "noise": "reference",
        "pixels": "reference",
        "truth": "reference",
    }
    assert [c.key for c in table.columns] == ["up", "down"]
    assert len(cell(board, "weak", "up").against) == 2


def test_a_limited_run_is_compared_with_the_reference_on_its_own_items(values):
    mine = rows({key: v[:10] for key, v in values.items() if key[0] == "weak"})
    board = leaderboard.build(mine, MANIFEST, (rows(values), MANIFEST))
    assert {c.items for c in board.tables[0].columns} == {10}
    assert cell(board, "good", "up").estimate.n == 10
    assert cell(board, "weak", "up").rank.shared == 2
    assert not any("only" in note for note in board.notes)


def test_every_form_has_every_method(board):
    forms = [tables.to_markdown(board), tables.to_csv(board), tables.to_json(board)]
    assert all(method in form for method in ("good", "weak", "noise", "truth") for form in forms)
    frame = pd.read_csv(io.StringIO(tables.to_csv(board)))
    assert len(frame) == 10
    assert frame.query("method == 'good' and metric.str.startswith('insertion')")["rank"].item() == 1
    plain = json.loads(tables.to_json(board))
    assert plain["tables"][0]["lines"][0]["cells"][0]["estimate"]["n"] == 40


def test_timings_can_be_left_out(board):
    for form in (tables.to_markdown, tables.to_csv, tables.to_json):
        assert "seconds" not in form(board, seconds=False)
        assert "s/item" not in form(board, seconds=False)


def test_terminal_leaves_intervals_out_where_it_is_narrow(board):
    from rich.console import Console

    def text(width):
        console = Console(width=width, record=True, file=io.StringIO())
        for part in tables.to_terminal(board, width):
            console.print(part)
        return console.export_text()

    assert "±" in text(160)
    for width in (40, 60, 80):
        assert "±" not in text(width)
        assert "good" in text(width)
        assert number(cell(board, "good", "up").estimate.mean) in text(width)


def test_numbers():
    assert [number(v) for v in (0.6871, -0.25, 1.5, 0.0, float("nan"))] == [".687", "-.250", "1.500", ".000", ""]


def test_runs_merge_and_an_unfinished_one_says_so(tiny_suite, tmp_path):
    one = workflow.run(tiny_suite.model_copy(update={"methods": ["tiny_cam"], "controls": []}), out=tmp_path / "one")
    two = workflow.run(tiny_suite.model_copy(update={"methods": ["tiny_gradient"], "controls": []}), out=tmp_path / "two")
    merged, manifest = runs.read_all([one.folder, two.folder])
    board = leaderboard.build(merged, manifest)
    assert {line.method for line in board.tables[0].lines} == {"tiny_cam", "tiny_gradient"}
    assert len(board.tables[0].columns) == 3
    unfinished = leaderboard.build(merged, manifest | {"complete": False})
    assert unfinished.notes[0].startswith("INCOMPLETE")


def test_what_applies_to_nothing_has_no_line_but_a_note(values):
    found = rows(values)
    more = found[found["method"] == "weak"].assign(
        method="elsewhere", status="not_applicable", value=np.nan, reason="needs attention"
    )
    manifest = MANIFEST | {"methods": MANIFEST["methods"] | {"elsewhere": {"control": False}}}
    board = leaderboard.build(pd.concat([found, more], ignore_index=True), manifest)
    (table,) = board.tables
    assert "elsewhere" not in [line.method for line in table.lines]
    assert table.inapplicable == {"needs attention": ["elsewhere"]}
    assert "net: elsewhere not applicable: needs attention" in board.notes
    # A single figure brings the line back.
    more.loc[more.index[:1], ["status", "value"]] = ["ok", 0.3]
    (table,) = leaderboard.build(pd.concat([found, more], ignore_index=True), manifest).tables
    assert "elsewhere" in [line.method for line in table.lines]
