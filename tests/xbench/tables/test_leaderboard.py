import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from xbench.errors import XbenchError
from xbench.plan.suite import Track
from xbench.report import heads, html, latex, tables
from xbench.report.tables import number
from xbench.report.terminal import to_terminal
from xbench.run import pipeline
from xbench.store import manifests
from xbench.store.directory import SCHEMA
from xbench.tables import groups, leaderboard, published, runs, validation
from xbench.tables.query import Filter
from xbench.tables.validation import Verdict

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


def described(about):
    """The manifest that a dict says, with what a leaderboard does not ask for."""
    return manifests.parse({"format": 1, "complete": True, "datasets": {}} | about, Path("manifest.json"))


def build(found, about, reference=None, asked=None):
    """The leaderboard of rows and of a manifest or what it says."""
    if reference is not None:
        reference = reference[0], described(reference[1])
    return leaderboard.build(found, described(about) if isinstance(about, dict) else about, reference, asked)


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
    return build(rows(values, {"pixels": "32x32"}), MANIFEST)


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
    board = build(rows(values), MANIFEST)
    assert (cell(board, "good", "up").nan, cell(board, "good", "up").rank) == (3, None)
    assert cell(board, "weak", "up").rank.shared == 1
    assert any("good on d" in note and "NaN on 3 of 40" in note for note in board.tables[0].notes)


def test_fewer_items_are_noted_and_not_ranked(values):
    values["good", "up"] = values["good", "up"][:10]
    board = build(rows(values), MANIFEST)
    assert (cell(board, "good", "up").missing, cell(board, "good", "up").rank) == (30, None)
    assert any("only 10 of 40" in note for note in board.tables[0].notes)


def test_the_models_quality_stands_beside(board):
    (quality,) = board.tables[0].quality
    assert (quality.items, quality.accuracy, quality.confidence) == (40, 0.75, 0.5)


def test_reference_rows_fill_in_what_the_run_lacks(values):
    mine = rows({key: v for key, v in values.items() if key[0] == "weak"})
    other = rows(values)
    other_protocol = rows({("good", "elsewhere"): values["good", "up"]})
    board = build(mine, MANIFEST, (pd.concat([other, other_protocol]), MANIFEST))
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
    board = build(mine, MANIFEST, (rows(values), MANIFEST))
    assert {c.items for c in board.tables[0].columns} == {10}
    assert cell(board, "good", "up").estimate.n == 10
    assert (cell(board, "weak", "up").rank.place, cell(board, "weak", "up").rank.shared) == (2, 1)  # 5 photographs cannot tell
    assert not any("only" in note for note in board.tables[0].notes)


def test_every_form_has_every_method(board):
    forms = [tables.to_markdown(board), tables.to_csv(board), tables.to_json(board), latex.to_latex(board)]
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


def terminal(board, width=160):
    from rich.console import Console

    console = Console(width=width, record=True, file=io.StringIO())
    for part in to_terminal(board, width):
        console.print(part)
    return console.export_text()


def test_terminal_leaves_intervals_out_where_it_is_narrow(board):
    assert "±" in terminal(board)
    for width in (40, 60, 80):
        assert "±" not in terminal(board, width)
        assert "good" in terminal(board, width)
        assert number(cell(board, "good", "up").estimate.mean) in terminal(board, width)


def test_the_first_rank_is_seen_in_every_form(values):
    values["weak", "up"] = values["good", "up"] + 0.001 * np.cos(np.arange(40))
    board = build(rows(values), MANIFEST)
    assert [cell(board, m, "up").best for m in ("good", "weak", "noise")] == [True, True, False]
    assert [cell(board, m, "down").best for m in ("good", "weak")] == [True, False]
    good, weak = (number(cell(board, m, "up").estimate.mean) for m in ("good", "weak"))
    worse = number(cell(board, "weak", "down").estimate.mean)
    for text, sign in (
        (terminal(board), "*{}"),
        (terminal(board, 60), "*{}"),
        (tables.to_markdown(board), "**{}**"),
        (latex.to_latex(board), r"\textbf{{{}}}"),
    ):
        assert sign.format(good) in text
        assert sign.format(weak) in text
        assert worse in text
        assert sign.format(worse) not in text
    for text in (terminal(board), tables.to_markdown(board), latex.to_latex(board)):
        assert text.count("not told apart from the best of the column") == 1


def test_signs_that_do_not_occur_are_not_explained(values):
    values["weak", "up"], values["pixels", "up"] = values["good", "up"] - 0.1, values["noise", "up"] - 0.1
    board = build(rows({k: v for k, v in values.items() if k[1] == "up"}), MANIFEST)
    assert [sign for sign in leaderboard.LEGEND if sign in tables.to_markdown(board)] == []


def test_the_footer_says_where_rows_come_from_once(values):
    about = {"suite_version": "3", "xbench": "0.1.0", "seed": 7, "dtype": "float32", "batch_size": {"d": 8, "e": 8, "f": 4}}
    board = build(rows(values), MANIFEST | about)
    line = "suite t 3, xbench 0.1.0, seed 7, float32, batches of 8 (d, e), batches of 4 (f)"
    assert tables.origins(board) == [line]
    for text in (tables.to_markdown(board), latex.to_latex(board).replace(r"\_", "_")):
        assert text.count(line) == 1
        assert text.count("40 items") >= 1
        assert text.count("deletion ↓ on d: p") + text.count(r"deletion $\downarrow$ on d: p") == 1
    (origin,) = json.loads(tables.to_json(board))["origins"]
    assert (origin["seed"], origin["batch_size"]["f"]) == (7, 4)


def test_reference_rows_are_marked_and_their_origin_named(values):
    mine = rows({key: v for key, v in values.items() if key[0] == "weak"})
    board = build(mine, MANIFEST, (rows(values), MANIFEST | {"suite_version": "9"}))
    assert "`good` (ref)" in tables.to_markdown(board)
    assert "good (ref)" in terminal(board)
    assert tables.origins(board) == ["suite t", "reference rows (ref): suite t 9"]
    more = rows({key: v for key, v in values.items() if key in (("weak", "up"), ("weak", "down"), ("good", "down"))})
    mixed = build(more, MANIFEST, (rows(values), MANIFEST))
    (good,) = (line for line in mixed.tables[0].lines if line.method == "good")
    assert (good.source, [cell.source for cell in good.cells]) == ("run", ["reference", "run"])
    assert "good on d, insertion(steps=exact(10)): reference rows" in mixed.tables[0].notes
    alone = build(rows(values), MANIFEST, (rows(values), MANIFEST))
    assert tables.origins(alone) == ["suite t"]  # nothing came from there


def test_reference_rows_of_another_seed_or_of_other_weights_are_left_out(values):
    """They share the protocol, but not what is drawn at random, nor the network."""
    mine = rows({key: v for key, v in values.items() if key[0] != "good"})
    about = MANIFEST | {"seed": 0, "models": {"net": {"digest": "a"}}}
    beside = build(mine, about, (rows(values), about))
    assert [line.source for line in beside.tables[0].lines if line.method == "good"] == ["reference"]
    for change, why in (({"seed": 1}, "seed 1, not 0"), ({"models": {"net": {"digest": "b"}}}, "other weights of net")):
        board = build(mine, about, (rows(values), about | change))
        assert {line.source for line in board.tables[0].lines} == {"run"}
        assert "good" not in {line.method for line in board.tables[0].lines}
        assert f"net: the reference has {why}; its rows are left out" in board.notes
        assert [origin.source for origin in board.origins] == ["run"]


def test_several_suites_have_an_origin_and_a_reference_each(tiny_suite, tmp_path):
    one = pipeline.run(tiny_suite, out=tmp_path / "one")
    tracks = [Track(dataset="tiny_pictures", metrics=["tiny_threshold"], target="label")]  # none of the other's
    two = pipeline.run(tiny_suite.model_copy(update={"name": "other", "seed": 5, "tracks": tracks}), out=tmp_path / "two")
    _, manifest = runs.read_all([one.folder, two.folder])
    assert runs.suites(manifest) == ["tiny", "other"]
    assert [origin.seed for origin in manifest.origins] == [0, 5]
    _, again = runs.join([runs.read(one.folder), (two.rows, manifest)])
    assert again.origins == manifest.origins
    assert not runs.read_all([one.folder, one.folder])[1].origins
    assert runs.suites(one.manifest) == ["tiny"]
    assert runs.reference("tiny", "other") is None
    (found, about), (both, _) = runs.reference("quick"), runs.reference("tiny", "quick")
    assert about.suite == "quick"
    assert len(found) == len(both) > 1000


MORE = MANIFEST | {
    "columns": {
        "up": MANIFEST["columns"]["up"] | {"group": "faithfulness", "version": "1"},
        "down": MANIFEST["columns"]["down"] | {"group": "faithfulness", "version": "1"},
        "hit": MANIFEST["columns"]["up"] | {"metric": "hit", "dataset": "e(n=3)", "group": "localization", "version": "1"},
    }
}


@pytest.fixture
def many(values):
    hit = {(method, "hit"): values[method, "up"] for method in MANIFEST["methods"]}
    found = rows(values | hit)
    return pd.concat([found, found.assign(model="vit(n=2)")], ignore_index=True)


@pytest.mark.parametrize(
    ("asked", "columns", "models"),
    [
        (Filter(), ["up", "down", "hit"], ["net", "vit(n=2)"]),
        (Filter(metrics=["insertion"]), ["up"], ["net", "vit(n=2)"]),
        (Filter(metrics=["insertion(steps=exact(10))", "hit"], models=["vit"]), ["up", "hit"], ["vit(n=2)"]),
        (Filter(datasets=["e"]), ["hit"], ["net", "vit(n=2)"]),
        (Filter(datasets=["e( n=3 )"], group="localization"), ["hit"], ["net", "vit(n=2)"]),
        (Filter(group="faithfulness", models=["net"]), ["up", "down"], ["net"]),
    ],
)
def test_filters(many, asked, columns, models):
    board = build(many, MORE, asked=asked)
    assert [table.model for table in board.tables] == models
    assert {tuple(column.key for column in table.columns) for table in board.tables} == {tuple(columns)}


def test_controls_stay_and_ranks_are_of_those_shown(many):
    (table,) = build(many, MORE, asked=Filter(methods=["weak"], models=["net"])).tables
    assert [line.method for line in table.lines] == ["weak", "noise", "pixels", "truth"]
    assert table.lines[0].mean_rank == 1


def test_a_filter_keeps_to_reference_rows_too(values):
    mine = rows({key: v for key, v in values.items() if key[0] == "weak"})
    board = build(mine, MANIFEST, (rows(values), MANIFEST), Filter(methods=["good"]))
    assert {line.method: line.source for line in board.tables[0].lines}["good"] == "reference"
    assert "weak" not in [line.method for line in board.tables[0].lines]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Filter(metrics=["insertoin"]), "no metric 'insertoin' here; did you mean 'insertion'"),
        (Filter(methods=["good", "wek"]), "no method 'wek' here; did you mean 'weak'"),
        (Filter(models=["resnet"]), "no model 'resnet' here"),
        (Filter(datasets=["e(n=4)"]), r"no dataset 'e\(n=4\)' here; did you mean 'e\(n=3\)'"),
        (Filter(group="faithful"), "no metric of the group 'faithful' here; did you mean 'faithfulness'"),
        (Filter(group="faithfulness", metrics=["hit"]), "no metric of the group 'faithfulness' here; known: localization"),
    ],
)
def test_unknown_names_are_errors(many, asked, message):
    with pytest.raises(XbenchError, match=message):
        build(many, MORE, asked=asked)


def test_nothing_left_is_an_error(many):
    only_net = many[(many["model"] == "net") | (many["metric"] != "hit")]
    with pytest.raises(XbenchError, match="nothing is left"):
        build(only_net, MORE, asked=Filter(models=["vit"], metrics=["hit"]))


def test_an_old_manifest_knows_no_groups(board, values):
    with pytest.raises(XbenchError, match=r"which group insertion\(steps=exact\(10\)\) on d is.*--metrics"):
        build(rows(values), MANIFEST, asked=Filter(group="faithfulness"))


def test_superseded_versions_are_left_out_with_a_note(values):
    old, new = (rows({(m, key): values[m, "up"] for m in MANIFEST["methods"]}) for key in ("old", "new"))
    about = MANIFEST["columns"]["up"]
    columns = {"old": about | {"version": "9", "dataset": "d(n=3)"}, "new": about | {"version": "10"}}
    both = pd.concat([old, new], ignore_index=True)
    board = build(both, MANIFEST | {"columns": columns})
    assert [column.key for column in board.tables[0].columns] == ["new"]
    assert any("version 9 is superseded by version 10 and left out" in note for note in board.notes)
    # Other parameters are another metric, and a version that no row is of supersedes nothing.
    other = columns | {"new": about | {"version": "10", "metric": "insertion"}}
    assert len(build(both, MANIFEST | {"columns": other}).tables[0].columns) == 2
    assert [c.key for c in build(old, MANIFEST | {"columns": columns}).tables[0].columns] == ["old"]


def test_published_figures_stand_apart(values, monkeypatch):
    figure = published.Figure("Good", "VGG", "D", "insertion", 99.5, "%", "petsiuk2018rise", "Table 1", "[P:paper]")
    plain = build(rows(values), MANIFEST)
    assert not any("published" in form(plain) for form in (tables.to_markdown, terminal, latex.to_latex))
    monkeypatch.setattr(published.Published, "by_ids", lambda _: {("good", "d", "insertion"): [figure]})
    board = build(rows(values), MANIFEST)
    text = "insertion 99.5 % (VGG; petsiuk2018rise [P])"
    assert tables.figures(board.tables[0].lines[0], board.tables[0]) == text
    assert tables.figures(board.tables[0].lines[1], board.tables[0]) == ""
    for shown in (tables.to_markdown(board), latex.to_latex(board).replace(r"\%", "%"), terminal(board, 200)):
        assert text in shown
        assert "in no mean and no rank" in shown
    assert text not in terminal(board, 60)
    frame = pd.read_csv(io.StringIO(tables.to_csv(board)))
    assert frame["published"].notna().sum() == 1
    assert json.loads(tables.to_json(board))["tables"][0]["lines"][0]["cells"][0]["published"][0]["where"] == "Table 1"
    measured = [(c.estimate, c.rank) for line in board.tables[0].lines for c in line.cells]
    assert measured == [(c.estimate, c.rank) for line in plain.tables[0].lines for c in line.cells]


def test_agreement_is_in_every_form(values):
    for method, shift in (("good", 0.3), ("weak", 0.1)):
        values[method, "up"] = values["noise", "up"] + shift
    manifest = MANIFEST | {"methods": MANIFEST["methods"] | {"third": {"control": False}}}
    values |= {("third", "up"): values["noise", "up"] + 0.2, ("third", "down"): values["noise", "down"]}
    found = rows(values)
    columns = {f"{key} e": about | {"dataset": "e"} for key, about in manifest["columns"].items()}
    manifest = manifest | {"columns": manifest["columns"] | columns}
    elsewhere = found.assign(model="vit", dataset="e", protocol_key=found["protocol_key"] + " e")
    board = build(pd.concat([found, elsewhere], ignore_index=True), manifest)
    (up, down) = board.across
    assert up.blocks == [(("net",), "d"), (("vit",), "e")]
    assert list(up.mean_ranks) == ["good", "third", "weak"]
    assert down.mean_ranks == {"good": 1.0, "third": 2.0, "weak": 3.0}
    assert board.tables[0].agreement.tau[0][1] == 1.0
    for text in (terminal(board), tables.to_markdown(board), latex.to_latex(board)):
        text = " ".join(text.split())
        assert "Kendall's W 1.00 over 3 methods" in text
        assert "deletion over 2 datasets (d by net; e by vit): Friedman p = 0.14 for 3 methods" in text
    plain = json.loads(tables.to_json(board))
    assert plain["across"][0]["blocks"] == [[["net"], "d"], [["vit"], "e"]]
    assert plain["tables"][1]["agreement"]["w"] == 1.0


def test_numbers():
    assert [number(v) for v in (0.6871, -0.25, 1.5, 0.0, float("nan"))] == [".687", "-.250", "1.500", ".000", ""]


def test_runs_merge_and_an_unfinished_one_says_so(tiny_suite, tmp_path):
    one = pipeline.run(tiny_suite.model_copy(update={"methods": ["tiny_cam"], "controls": []}), out=tmp_path / "one")
    two = pipeline.run(tiny_suite.model_copy(update={"methods": ["tiny_gradient"], "controls": []}), out=tmp_path / "two")
    merged, manifest = runs.read_all([one.folder, two.folder])
    board = build(merged, manifest)
    assert {line.method for line in board.tables[0].lines} == {"tiny_cam", "tiny_gradient"}
    assert len(board.tables[0].columns) == 3
    unfinished = build(merged, manifest.but(complete=False))
    assert unfinished.notes[0].startswith("INCOMPLETE")


def test_what_applies_to_nothing_has_no_line_but_a_note(values):
    found = rows(values)
    more = found[found["method"] == "weak"].assign(
        method="elsewhere", status="not_applicable", value=np.nan, reason="needs attention"
    )
    manifest = MANIFEST | {"methods": MANIFEST["methods"] | {"elsewhere": {"control": False}}}
    board = build(pd.concat([found, more], ignore_index=True), manifest)
    (table,) = board.tables
    assert "elsewhere" not in [line.method for line in table.lines]
    assert table.inapplicable == {"needs attention": ["elsewhere"]}
    assert "elsewhere not applicable: needs attention" in table.notes
    # A single figure brings the line back.
    more.loc[more.index[:1], ["status", "value"]] = ["ok", 0.3]
    (table,) = build(pd.concat([found, more], ignore_index=True), manifest).tables
    assert "elsewhere" in [line.method for line in table.lines]


FIVE = {  # key -> (metric, group) in the order of a suite, which is not that of the groups
    "small": ("effective_area", "complexity"),
    "again": ("sensitivity", "robustness"),
    "hit": ("hit", "ground_truth"),
    "up": ("insertion(steps=exact(10))", "faithfulness"),
    "random": ("mprt", "randomisation"),
    "rank": ("relevance_rank", "localization"),
    "down": ("deletion", "faithfulness"),
}
GROUPS = ["faithfulness", "localization", "randomisation", "robustness", "complexity"]


def grouped(names=tuple(FIVE)):
    """A manifest and rows of some columns of FIVE, by more methods than two: the order of two is no pattern."""
    about = MANIFEST["columns"]["up"] | {"version": "1"}
    columns = {key: about | {"metric": FIVE[key][0], "group": FIVE[key][1]} for key in names}
    columns |= {key: column | {"direction": "lower"} for key, column in columns.items() if key in ("down", "small")}
    methods = MANIFEST["methods"] | {"third": {"control": False}}
    base = np.random.default_rng(0).uniform(0.2, 0.4, 40)
    shifts = {"good": 0.3, "weak": 0.1, "third": 0.2, "noise": 0.0, "pixels": 0.0, "truth": 0.5}
    worse = {"down": -1, "small": 1}  # by area, good is last
    level = {key: k / 1000 for k, key in enumerate(FIVE)}  # no column is the same as another
    found = {(method, key): base + worse.get(key, 1) * shift + level[key] for key in names for method, shift in shifts.items()}
    return rows(found), MANIFEST | {"columns": columns, "methods": methods}


def test_columns_stand_by_group_and_keep_their_order_within():
    board = build(*grouped())
    (table,) = board.tables
    assert [column.key for column in table.columns] == ["up", "down", "hit", "rank", "random", "again", "small"]
    assert [column.group for column in table.columns] == ["faithfulness"] * 2 + ["localization"] * 2 + GROUPS[2:]
    assert heads.spans(table) == [
        ("faithfulness", [0, 1]),
        ("localization", [2, 3]),
        ("randomisation", [4]),
        ("robustness", [5]),
        ("complexity", [6]),
    ]
    level = (list(FIVE).index("hit") - list(FIVE).index("up")) / 1000
    assert cell(board, "good", "hit").estimate.mean == pytest.approx(cell(board, "good", "up").estimate.mean + level)


def test_a_column_that_is_another_by_definition_counts_once():
    found, manifest = grouped(("up", "hit", "rank"))
    again = found["protocol_key"] == "rank"
    found.loc[again, "value"] = found.loc[found["protocol_key"] == "hit", "value"].to_numpy()
    board = build(found, manifest)
    (table,) = board.tables
    assert [column.repeats for column in table.columns] == ["", "", "hit"]
    without, single = grouped(("up", "hit"))
    (other,) = build(without, single).tables
    assert {line.method: line.mean_rank for line in table.lines} == {line.method: line.mean_rank for line in other.lines}
    assert (table.agreement.w, table.agreement.tau[0][:2]) == (other.agreement.w, other.agreement.tau[0])
    assert np.isnan(table.agreement.tau[2]).all()
    assert cell(board, "good", "rank").best  # it still shows its own
    note = "relevance_rank on d is the same number as hit for every method and item"
    assert any(note in text for text in table.notes)
    found.loc[again & (found["method"] == "weak") & (found["item"] == "i3"), "value"] += 0.01
    assert build(found, manifest).tables[0].columns[2].repeats == ""


def guessing(correct, target=None, policy="label", classes=10):
    values = {("good", "up"): np.linspace(0, 1, len(correct)), ("noise", "up"): np.zeros(len(correct))}
    found = rows(values)
    place = found["item"].str.removeprefix("i").astype(int)
    found["correct"], found["target_policy"] = np.asarray(correct)[place], policy
    found["target"] = (np.arange(len(correct)) % classes if target is None else np.asarray(target))[place]
    found["cluster"] = found["item"]
    return build(found, MANIFEST | {"models": {"net": {"digest": "x", "card": "", "classes": classes}}})


def test_a_network_that_guesses_is_said_above_its_table():
    board = guessing(np.arange(40) % 10 == 0)
    (quality,) = board.tables[0].quality
    assert (quality.chance, quality.guesses) == (0.1, True)
    text = "WARNING: on d the model guesses: its accuracy 0.10 on 40 items cannot be told from chance (0.1)"
    shown = terminal(board, 200), tables.to_markdown(board), latex.to_latex(board)
    assert all(text in " ".join(form.split()) for form in shown)
    assert shown[0].index("WARNING") < shown[0].index("good")
    assert shown[1].index("WARNING") < shown[1].index("`good`")
    page = html.render(board, pd.DataFrame(columns=list(SCHEMA.names)), described(MANIFEST | {"models": {"net": {"card": ""}}}), {})
    assert page.index(text) < page.index("<code>good</code>")


def test_what_is_chance():
    assert not guessing(np.arange(40) % 2 == 0).tables[0].quality[0].guesses  # half right of ten classes
    assert guessing(np.arange(40) % 2 == 0, classes=2).tables[0].quality[0].guesses
    always = np.arange(40) >= 4  # 90 % right where 90 % are of one class: it may name that always
    (quality,) = guessing(always, target=(np.arange(40) < 4).astype(int)).tables[0].quality
    assert (quality.chance, quality.guesses) == (0.9, True)
    assert not guessing(always, target=np.zeros(40, int)).tables[0].quality[0].guesses  # of one class, only 1 in 10 is chance
    assert not guessing(np.ones(3, bool), classes=2).tables[0].quality[0].guesses  # too few to say
    assert not guessing(np.arange(40) % 10 == 0, policy="prediction", classes=1000).tables[0].quality[0].guesses
    assert guessing(np.zeros(40, bool), policy="prediction", classes=1000).tables[0].quality[0].guesses
    (quality,) = build(rows({("good", "up"): np.ones(4)}), MANIFEST).tables[0].quality
    assert (quality.chance, quality.guesses) == (None, False)  # an older manifest does not say how many classes there are


def test_columns_of_an_unknown_group_come_last():
    said = {"old": {}, "other": {"group": "beauty"}, "small": {"group": "complexity"}, "older": {"group": "ground_truth"}}
    about = MANIFEST["columns"]["up"]
    columns = described(MANIFEST | {"columns": {key: about | group for key, group in said.items()}}).columns
    assert list(groups.arranged(columns)) == ["older", "small", "old", "other"]
    assert [about.group for about in columns.values()] == ["", "beauty", "complexity", "localization"]


def test_a_group_is_asked_for_by_its_name_of_today():
    (table,) = build(*grouped(), asked=Filter(group="localization")).tables
    assert [column.key for column in table.columns] == ["hit", "rank"]


def test_one_group_is_not_named():
    board = build(*grouped(["up", "down"]))
    for text in (tables.to_markdown(board), terminal(board), terminal(board, 60), latex.to_latex(board)):
        assert "faithfulness" not in text


def test_markdown_names_groups_over_columns_or_has_a_table_for_each(monkeypatch):
    board = build(*grouped())
    (head,) = (line for line in tables.to_markdown(board).splitlines() if line.startswith("| method"))
    assert "| *faithfulness*<br>insertion ↑<br>d | *faithfulness*<br>deletion ↓<br>d | *localization*<br>hit ↑<br>d |" in head
    monkeypatch.setattr(tables, "WIDEST", 6)
    lines = tables.to_markdown(board).splitlines()
    assert [line[4:] for line in lines if line.startswith("### ")] == ["all groups", *GROUPS]
    assert [line for line in lines if line.startswith("| method")] == [
        "| method | mean rank | forwards | backwards | s/item |",
        "| method | insertion ↑<br>d | deletion ↓<br>d |",
        "| method | hit ↑<br>d | relevance_rank ↑<br>d |",
        "| method | mprt ↑<br>d |",
        "| method | sensitivity ↑<br>d |",
        "| method | effective_area ↓<br>d |",
    ]
    mean = number(cell(board, "weak", "small").estimate.mean)
    assert [line for line in lines if line.startswith("| `weak`")][5].startswith(f"| `weak` | {mean} [")


def test_the_terminal_has_a_table_for_each_group_where_all_do_not_fit():
    board = build(*grouped())
    whole = terminal(board, 160)
    assert whole.count("method ") == 1
    assert whole.index("faithfulness") < whole.index("localization") < whole.index("complexity")
    narrow = terminal(board, 100)
    assert [group for group in GROUPS if f"net, {group}" in narrow] == GROUPS
    assert narrow.count("method ") == 6
    assert "±" in narrow  # of two columns there is room for the intervals
    for width in (40, 60, 100, 160):
        shown = terminal(board, width)
        assert max(map(len, shown.splitlines())) <= width
        assert all(number(cell(board, "third", key).estimate.mean) in shown for key in FIVE)


def test_complexity_ranks_nothing():
    board, without = (build(*grouped(names)) for names in (tuple(FIVE), [key for key in FIVE if key != "small"]))
    found = [cell(board, method, "small") for method in ("good", "weak", "third")]
    assert [(c.rank, c.mark, c.best, c.against) for c in found] == [(None, "", False, [])] * 3
    assert found[0].estimate.n == 40
    assert {line.method: line.mean_rank for line in board.tables[0].lines} == {
        line.method: line.mean_rank for line in without.tables[0].lines
    }
    assert board.tables[0].lines[0].mean_rank == 1
    inner, outer = without.tables[0].agreement, board.tables[0].agreement
    assert (outer.w, outer.methods) == (inner.w, inner.methods) == (1.0, 3)
    assert [row[:6] for row in outer.tau[:6]] == inner.tau
    assert np.isnan([row[6] for row in outer.tau] + outer.tau[6]).all()
    assert "how alike the 6 columns" in tables.to_markdown(board)


def test_complexity_is_in_no_test_across_datasets():
    found, manifest = grouped()
    columns = {f"{key} e": about | {"dataset": "e"} for key, about in manifest["columns"].items()}
    manifest = manifest | {"columns": manifest["columns"] | columns}
    elsewhere = found.assign(dataset="e", protocol_key=found["protocol_key"] + " e")
    both = pd.concat([found, elsewhere], ignore_index=True)
    tested = {test.metric for test in build(both, manifest).across}
    assert tested == {metric for metric, group in FIVE.values() if group != "complexity"}


def test_there_is_no_agreement_of_a_column_with_complexity_alone():
    board = build(*grouped(["small", "up"]))
    assert board.tables[0].agreement is None
    assert board.tables[0].lines[0].mean_rank == 1
    alone = build(*grouped(["small"]))
    assert {line.mean_rank for line in alone.tables[0].lines} == {None}
    for text in (tables.to_markdown(board), terminal(board), latex.to_latex(board)):
        assert "not whether it is right" in " ".join(text.split())
    assert "not whether it is right" not in tables.to_markdown(build(*grouped(["up", "hit"])))


VERDICTS = [
    Verdict("insertion", "1", "faithfulness", (), 1.24, 0.0, 0.6),
    Verdict("deletion", "1", "faithfulness", ("constant < oracle", "noise < blur"), -0.3, 0.125, 0.2),
    Verdict("hit", "2", "localization", ("constant < oracle",), 0.5, 0.0, 0.6),
    Verdict("mprt", "1", "randomisation", (), float("inf"), float("nan"), 0.6),
]


@pytest.fixture
def validated(monkeypatch):
    monkeypatch.setattr(validation, "load", lambda: {(v.metric, v.version): v for v in VERDICTS})


def test_verdicts_are_of_a_metrics_version(validated):
    (table,) = build(*grouped()).tables
    found = {column.key: column.verdict for column in table.columns if column.verdict}
    assert found == {"up": VERDICTS[0], "down": VERDICTS[1], "random": VERDICTS[3]}


def test_what_validation_found_is_in_every_form(validated):
    board = build(*grouped())
    lines = [
        "insertion: orders all plants rightly, least separation 1.2 sd, noise 0.00",
        "deletion: NOT validated: constant < oracle, noise < blur",
        "mprt: orders all plants rightly",
    ]
    assert heads.validations(board) == lines
    for text in (tables.to_markdown(board), terminal(board), latex.to_latex(board).replace(r"\textless{}", "<")):
        assert all(line in text for line in lines)
        assert "hit:" not in text
        assert "plants are maps of known order" in " ".join(text.split())
    frame = pd.read_csv(io.StringIO(tables.to_csv(board))).query("method == 'good'").set_index("metric")
    assert frame.loc["deletion", "validation"] == "NOT validated: constant < oracle, noise < blur"
    assert frame["validation"].notna().sum() == 3
    assert frame.loc["hit", "group"] == "localization"
    columns = {column["key"]: column for column in json.loads(tables.to_json(board))["tables"][0]["columns"]}
    assert columns["down"]["verdict"]["wrong"] == ["constant < oracle", "noise < blur"]
    assert columns["random"]["verdict"]["separation"] is None
    assert columns["hit"]["verdict"] is None
    assert (columns["hit"]["group"], columns["hit"]["version"]) == ("localization", "1")


def test_a_metric_that_is_not_valid_is_marked_and_ranks_nothing(validated, monkeypatch):
    board = build(*grouped())
    assert (cell(board, "good", "down").rank, cell(board, "weak", "down").against) == (None, [])
    assert cell(board, "good", "up").best
    assert board.tables[0].agreement.methods == 3
    assert "how alike the 5 columns" in tables.to_markdown(board)
    for text in (tables.to_markdown(board), latex.to_latex(board).replace(r"\S{}", "§").replace(r"$\downarrow$", "↓")):
        assert "deletion ↓§" in text
        assert "§ orders planted maps wrongly" in text
        assert text.count("↑§") == 0
    monkeypatch.setattr(validation, "load", dict)
    plain = build(*grouped())
    assert cell(plain, "good", "down").best
    for text in (tables.to_markdown(plain), terminal(plain)):
        assert "§" not in text
        assert "validat" not in text


def test_verdicts_are_read_as_they_were_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(validation.resources, "files", lambda _: tmp_path)
    assert validation.load() == {}
    validation.save(VERDICTS[:3], tmp_path / validation.SHIPPED)
    assert list(validation.load().values()) == VERDICTS[:3]
