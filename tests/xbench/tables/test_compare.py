"""Comparisons on scores whose truth is known, their forms, and the sheet of pictures against maps made directly."""

import dataclasses
import io
import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rich.console
import scipy.stats
import torch
from PIL import Image
from typer.testing import CliRunner

from xbench import Batch, ModelView
from xbench.cli import app
from xbench.data.samples import Item
from xbench.errors import XbenchError
from xbench.plan.suite import Selection, Track
from xbench.plugins.registry import registry
from xbench.report import comparisons, pictures
from xbench.run import pipeline, side_by_side
from xbench.store import manifests
from xbench.store.directory import SCHEMA, Store
from xbench.store.gallery import Key
from xbench.tables import compare, gate, leaderboard, runs

ITEMS = 120
DIRECTIONS = {"deletion": "lower", "pxap": "higher", "rise_score(n=2)": "higher", "rise_score(n=3)": "higher"}


def run(scores, model="net", per_cluster=1, **changes):
    """A run of (method, metric) -> [N] values or [N, V] vectors; the third class in turn is explained."""
    found = []
    for (method, metric), values in scores.items():
        for i, value in enumerate(values):
            vector = np.ndim(value) > 0
            row = dict.fromkeys(SCHEMA.names) | {
                "method": method,
                "model": model,
                "dataset": "d",
                "metric": metric,
                "protocol_key": metric,
                "item": f"i{i:04}",
                "cluster": f"c{i // per_cluster:04}",
                "target": i % 3,
                "status": "ok" if np.isfinite(value).all() else "nan",
                "value": float("nan") if vector else value,
                "vector": list(value) if vector else None,
                "constant": False,
                "grid": "7x7",
                "forwards": 3.0 if method.startswith("slow") else 1.0,
                "backwards": 1.0,
                "seconds": 0.5 if method.startswith("slow") else 0.1,
            }
            found.append(row | changes)
    columns = {
        metric: {
            "dataset": "d",
            "metric": metric,
            "direction": DIRECTIONS.get(metric, "higher"),
            "chance": "",
            "protocol": "p",
            "reduce": "best" if metric == "pxap" else "mean",
        }
        for _, metric in scores
    }
    methods = {method: {"control": method == "noise"} for method, _ in scores}
    names = {model: {"0": "ant", "1": "bee", "2": "cat"}}
    about = {"columns": columns, "methods": methods, "complete": True, "class_names": names}
    empty = {"format": 1, "suite": "", "models": {}, "datasets": {}}
    return pd.DataFrame(found), manifests.parse(empty | about, Path("manifest.json"))


def only(report):
    (finding,) = report.findings
    return finding


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def gains(rng):
    """Differences with a mean of exactly 0.05, without skewness."""
    half = np.abs(rng.normal(0, 0.2, ITEMS // 2))
    return 0.05 + np.concatenate([half, -half])


@pytest.fixture
def base(rng):
    return rng.beta(2, 2, ITEMS)


def test_the_better_method_by_how_much_and_how_sure(base, gains):
    finding = only(compare.of_methods(run({("a", "mass"): base + gains, ("b", "mass"): base}), "a", "b"))
    compared = finding.comparison
    assert compared.difference.mean == pytest.approx(0.05)
    assert compared.difference.low < 0.05 < compared.difference.high
    assert [mean.mean for mean in finding.means] == pytest.approx([(base + gains).mean(), base.mean()])
    assert compared.superiority.mean == pytest.approx((gains > 0).mean())
    assert finding.test.p == pytest.approx(scipy.stats.ttest_1samp(gains, 0).pvalue, rel=0.2)
    assert finding.comparison.wilcoxon == pytest.approx(scipy.stats.wilcoxon(gains).pvalue)
    assert (finding.better, finding.comparison.difference.n) == (0, ITEMS)


def test_sides_change_places(base, gains):
    both = run({("a", "mass"): base + gains, ("b", "mass"): base})
    one, other = only(compare.of_methods(both, "a", "b")), only(compare.of_methods(both, "b", "a"))
    assert other.comparison.difference.mean == pytest.approx(-one.comparison.difference.mean)
    assert (one.better, other.better) == (0, 1)
    assert other.test.p == pytest.approx(one.test.p)


def test_less_is_better_where_the_metric_says_so(base, gains):
    report = compare.of_methods(run({("a", "deletion"): base - gains, ("b", "deletion"): base}), "a", "b")
    assert only(report).comparison.difference.mean == pytest.approx(0.05)
    assert report.verdict(only(report)) == "a better"
    worst = compare.differing(report)[0]
    assert worst.gain == pytest.approx(gains[np.abs(gains).argmax()])


def test_equal_methods_and_those_that_differ_by_rounding_cannot_be_told_apart(base):
    for other in (base, base * (1 + 1e-9), base * (1 + 1e-6)):
        report = compare.of_methods(run({("a", "mass"): other, ("b", "mass"): base}), "a", "b")
        finding = only(report)
        assert (finding.better, finding.test.p, finding.comparison.superiority.mean) == (None, 1, 0.5)
        assert report.verdict(finding) == "cannot be told apart"
        assert compare.differing(report) == []


def test_items_of_one_photograph_count_once(rng):
    gain = np.repeat(rng.normal(0.05, 0.2, 25), 8)
    scores = {("a", "mass"): gain, ("b", "mass"): np.zeros(200)}
    apart, together = (only(compare.of_methods(run(scores, per_cluster=n), "a", "b")) for n in (1, 8))
    assert apart.better == 0
    assert together.better is None
    assert together.test.p == pytest.approx(scipy.stats.ttest_1samp(gain[::8], 0).pvalue, rel=0.25)
    assert (together.comparison.difference.n, together.comparison.difference.clusters) == (200, 25)


def test_a_handful_of_items_never_decides():
    """Hits against misses without any spread: an interval of [1, 1], yet three items are no proof."""
    few, more = (run({("a", "hit"): np.ones(n), ("b", "hit"): np.zeros(n)}) for n in (3, 12))
    assert only(compare.of_methods(few, "a", "b")).better is None
    assert only(compare.of_methods(more, "a", "b")).better == 0


def test_one_source_picture_decides_nothing(base):
    report = compare.of_methods(run({("a", "mass"): base + 1, ("b", "mass"): base}, per_cluster=ITEMS), "a", "b")
    assert only(report).test.p == 1
    assert only(report).better is None
    assert "+1.000 [one source picture]" in comparisons.to_markdown(report, [])


def test_items_without_a_partner_are_counted_and_left_out(base, gains):
    a, b = base + gains, base.copy()
    a[:2], b[2:5] = np.nan, np.nan
    rows, manifest = run({("a", "mass"): a, ("b", "mass"): b})
    of_b = rows["method"] == "b"
    rows.loc[of_b & rows["item"].isin(["i0002"]), "status"] = "not_applicable"
    rows = rows[~(of_b & (rows["item"] == "i0009"))]
    report = compare.of_methods((rows, manifest), "a", "b")
    finding = only(report)
    assert finding.figure.gaps == {"a: NaN": 2, "b: no row": 1, "b: NaN": 2, "b: not applicable": 1}
    kept = np.setdiff1d(np.arange(ITEMS), [0, 1, 2, 3, 4, 9])
    assert finding.comparison.difference.n == len(kept)
    assert finding.comparison.difference.mean == pytest.approx(gains[kept].mean())
    assert finding.means[1].mean == pytest.approx(base[kept].mean())
    assert "in mass on d, net: a: NaN on 2; b: no row on 1" in comparisons.to_markdown(report, [])


def test_columns_without_common_items_are_named(base, gains):
    scores = {("a", "mass"): base + gains, ("b", "mass"): base, ("a", "hit"): base, ("b", "hit"): np.full(ITEMS, np.nan)}
    report = compare.of_methods(run(scores | {("a", "area"): base}), "a", "b")
    assert [finding.figure.column.metric for finding in report.findings] == ["mass"]
    assert report.notes == ["area on d, net: b not run", "a and b: no item with a value on both sides (b: NaN) in hit on d, net"]
    with pytest.raises(XbenchError, match=r"a and b have no values in common to compare, for one: .* \(b: NaN\) in hit"):
        compare.of_methods(run({key: values for key, values in scores.items() if key[1] == "hit"}), "a", "b")


def test_of_two_methods_the_table_decides(base, rng):
    """p is corrected for all pairs of its column, and the verdicts are those of ranks and marks."""
    names, pairs = "abcdef", list(itertools.combinations("abcdef", 2))
    scores = {(name, "mass"): base + k / 40 + rng.normal(0, 0.1, ITEMS) for k, name in enumerate(names)}
    rows, manifest = run(scores | {("noise", "mass"): base - 0.02 + rng.normal(0, 0.1, ITEMS)})
    (table,) = leaderboard.build(rows, manifest).tables
    cells = {line.method: line.cells[0] for line in table.lines}
    reports = {pair: compare.of_methods((rows, manifest), *pair) for pair in pairs}
    found = {pair: only(report) for pair, report in reports.items()}
    assert {finding.together for finding in found.values()} == {len(pairs)}
    for name in names:
        behind = sum(f.better is not None and pair[1 - f.better] == name for pair, f in found.items())
        assert cells[name].rank.shared == 1 + behind
        finding = only(compare.of_methods((rows, manifest), name, "noise"))
        assert finding.together == len(names)
        assert (finding.better == 0) == (cells[name].mark == "")
    alone = [pair for pair, f in found.items() if f.better is None and f.better_alone is not None]
    assert alone
    assert any(f.better is not None for f in found.values())
    pair = alone[0]
    assert reports[pair].verdict(found[pair]) == f"{pair[1]} better if judged alone"
    assert "That counts where it was the one question" in comparisons.to_markdown(reports[pair], [])


def test_reference_rows_stand_in_a_comparison_as_they_do_in_the_table(base, gains, monkeypatch):
    """Those of the run's seed, and no others."""
    mine, manifest = run({("a", "mass"): base + gains})
    theirs, about = run({("b", "mass"): base, ("c", "mass"): base - gains})
    for seed, methods in ((0, {"a", "b", "c"}), (1, {"a"})):
        monkeypatch.setattr(runs, "reference", lambda *suites: (theirs, about.but(seed=0)))
        rows, joined = runs.beside_reference((mine, manifest.but(seed=seed)))
        assert set(rows["method"]) == methods
        board = leaderboard.build(mine, manifest.but(seed=seed), runs.reference())
        assert {line.method for table in board.tables for line in table.lines} == methods
    rows, joined = runs.beside_reference((mine, manifest.but(seed=0)))
    report = compare.of_methods((rows, joined), "a", "b")
    assert only(report).together == 3
    assert report.notes == ["b is not in the run: its rows are the committed reference's"]


def test_of_two_runs_all_figures_are_judged_together(base, rng):
    old = {("a", f"m{k}"): base for k in range(8)}
    new = {key: base + rng.normal(0.03, 0.1, ITEMS) for key in old}
    findings = compare.of_runs(run(new), run(old)).findings
    alone = [f.comparison.test.p for f in findings]
    for finding, p in zip(findings, alone, strict=True):
        assert finding.together == 8
        assert p <= finding.test.p <= 8 * p + 0.01
    certain = [f.better == 0 for f in findings]
    assert 0 < sum(certain) < 8


def test_figures_of_vectors_have_no_values_per_item(base, gains):
    vectors = np.stack([base, base / 2], axis=1)
    scores = {("a", "pxap"): vectors + 0.2, ("b", "pxap"): vectors, ("a", "mass"): base + gains, ("b", "mass"): base}
    report = compare.of_methods(run(scores), "a", "b")
    pxap = report.findings[0]
    assert pxap.comparison.difference.mean == pytest.approx(0.2)
    assert (pxap.better, np.isnan(pxap.comparison.wilcoxon)) == (0, True)
    assert {d.figure.column.metric for d in compare.differing(report)} == {"mass"}
    with pytest.raises(XbenchError, match="metric pxap has no values per item; known: mass"):
        compare.differing(report, "pxap")
    alone = compare.of_methods(run({key: v for key, v in scores.items() if key[1] == "pxap"}), "a", "b")
    assert compare.differing(alone) == []


def test_where_they_differ_most(base, gains):
    report = compare.of_methods(run({("a", "mass"): base + gains, ("b", "mass"): base}), "a", "b")
    found = compare.differing(report, "mass")
    assert [d.item for d in found] == [f"i{i:04}" for i in sorted(range(ITEMS), key=lambda i: -abs(gains[i]))]
    first = found[0]
    i = int(first.item[1:])
    assert first.target == ("ant", "bee", "cat")[i % 3]
    assert first.values == pytest.approx((base[i] + gains[i], base[i]))
    assert first.gain == pytest.approx(gains[i])


def test_methods_and_metrics_by_name(base, gains):
    names = ("cam", "rise(n=2)", "rise(n=3)", "smooth(cam, n=2)")
    scores = {(name, f"rise_score(n={k})"): base + k * gains * i for i, name in enumerate(names) for k in (2, 3)}
    both = run(scores)
    assert compare.of_methods(both, " smooth( cam,n=2 )", "cam").names == ("smooth(cam, n=2)", "cam")
    assert compare.of_methods(both, "smooth", "rise(n=3)").names == ("smooth(cam, n=2)", "rise(n=3)")
    for names, message in (
        (("rise", "cam"), r"method 'rise' may be rise\(n=2\) or rise\(n=3\); name one of them"),
        (("can", "rise(n=2)"), "there is no method 'can' to compare; did you mean 'cam'"),
        (("cam", "cam"), "cam is compared with itself"),
        (("cam", "cam("), "cannot read spec"),
    ):
        with pytest.raises(XbenchError, match=message):
            compare.of_methods(both, *names)
    report = compare.of_methods(both, "smooth", "cam")
    with pytest.raises(XbenchError, match="metric 'rise_score' may be"):
        compare.differing(report, "rise_score")
    text = comparisons.to_markdown(report, compare.differing(report)[:1])
    assert "| rise_score(n=2) ↑ |" in text  # two of one label on one dataset
    assert "Where they differ most in rise_score ↑:" in text


@pytest.fixture
def old(base):
    return {(m, k): base + i / 100 for i, m in enumerate(("cam", "lrp", "noise")) for k in ("mass", "deletion")}


def test_two_runs_are_new_minus_old_as_in_the_gate(old, gains):
    new = old | {("lrp", "mass"): old["lrp", "mass"] - gains, ("cam", "deletion"): old["cam", "deletion"] - gains}
    report = compare.of_runs(run(new), run(old), ("there/x", "here/x"))
    verdicts = {(f.figure.methods[0], f.figure.column.metric): report.verdict(f) for f in report.findings}
    apart = "cannot be told apart"
    wanted = {"lrp": ("old better", apart), "cam": (apart, "new better")}  # no control
    assert verdicts == {(m, k): w for m, both in wanted.items() for k, w in zip(("mass", "deletion"), both, strict=True)}
    changes = {j.pair.name: j.change.mean for j in gate.judge(run(old), run(new), fresh=False).judgements}
    ours = {f"{f.figure.methods[0]}, {f.figure.name}, net": f.comparison.difference.mean for f in report.findings}
    assert ours == pytest.approx(changes)
    assert comparisons.to_markdown(report, []).count("new (there/x) minus old (here/x): a positive difference means that new") == 1


def test_two_runs_of_other_items_classes_and_models(old, base):
    new = {key: values[:-3].copy() for key, values in old.items() if key[1] == "mass"}
    new["lrp", "mass"][5] = np.nan
    rows, manifest = run(new, model="retrained")
    rows.loc[rows["item"] == "i0007", "target"] = 9
    rows.loc[(rows["item"] == "i0008") & (rows["method"] == "lrp"), "status"] = "not_applicable"
    report = compare.of_runs((rows, manifest.but(complete=False)), run(old))
    lrp = next(f for f in report.findings if f.figure.methods[0] == "lrp")
    assert lrp.figure.models == ("retrained", "net")
    wanted = {"in one run only": 3, "another class explained": 1, "became NaN": 1, "no value in one run or both": 1}
    assert lrp.figure.gaps == wanted
    assert lrp.comparison.difference.n == ITEMS - 6
    assert report.notes == ["new is incomplete; start it again to continue", "deletion on d, net: the new run lacks this column"]
    with pytest.raises(
        XbenchError, match="have no values in common to compare, for one: mass on d, net: the new run lacks this column"
    ):
        compare.of_runs(run({("cam", "area"): base}), run({("cam", "mass"): base}))


def test_costs(base, gains):
    scores = {("slow", "mass"): base + gains, ("b", "mass"): base}
    report = compare.of_methods(run(scores), "slow", "b")
    (spending,) = report.spendings
    assert [cost.passes for cost in spending.costs] == [4, 2]
    text = comparisons.to_markdown(report, [])
    line = "cost per item: slow 3 forward, 1 backward, 0.5 s; b 1 forward, 1 backward, 0.1 s; slow takes 2 times the passes and"
    assert line in text
    rows, manifest = run(scores)
    unknown = rows.assign(forwards=rows["forwards"].where(rows["method"] == "b"), seconds=np.nan)
    assert "cost per item: slow not known; b 1 forward, 1 backward\n" in comparisons.to_markdown(
        compare.of_methods((unknown, manifest), "slow", "b"), []
    )
    faster = rows.assign(forwards=1.0, seconds=0.1)
    text = comparisons.to_markdown(compare.of_runs((faster, manifest), (rows, manifest)), [])
    assert "cost per item of slow: new 1 forward, 1 backward, 0.1 s; old 3 forward, 1 backward, 0.5 s; new takes 0.5 times" in text
    assert "cost per item of the other 1: as many forward and backward passes in both runs" in text


def shown(report, differences, width):
    console = rich.console.Console(width=width, color_system=None, file=io.StringIO())
    for part in comparisons.to_terminal(report, differences, width):
        console.print(part)
    return console.file.getvalue()


def test_the_forms_say_the_same(base, gains):
    scores = {("a", "mass"): base + gains, ("b", "mass"): base, ("a", "deletion"): base, ("b", "deletion"): base}
    report = compare.of_methods(run(scores), "a", "b")
    differences = compare.differing(report)[:2]
    c = report.findings[0].comparison
    figures = f"+0.050 [{c.difference.low:+.3f}, {c.difference.high:+.3f}]"
    closing = "net: of 2 figures, a is better on 1 (mass on d), b is better on 0, and 1 cannot be told apart"
    item = f"{differences[0].item} ({differences[0].target}): a "
    wide, narrow, text = (
        shown(report, differences, 160),
        shown(report, differences, 100),
        comparisons.to_markdown(report, differences),
    )
    for form in (wide, narrow, text):
        assert "a minus b: a positive difference means that a is better" in form
        assert figures in form
        assert closing in form
        assert item in form
    assert "Wilcoxon  items" in wide
    assert "Wilcoxon  items" not in narrow
    assert max(map(len, narrow.splitlines())) <= 100
    assert f"| d | mass ↑ | .{(base + gains).mean() * 1000:.0f} |" in text
    found = json.loads(comparisons.to_json(report, differences))
    mass, deletion = found["figures"]
    assert mass["difference"]["mean"] == pytest.approx(0.05)
    assert (mass["better"], deletion["better"]) == ("a", None)
    assert (mass["wilcoxon_alone"], mass["p_alone"]) == (c.wilcoxon, c.test.p)
    assert (mass["p"], mass["judged_together"]) == (report.findings[0].test.p, 1)
    assert found["models"]["net"][0] == closing
    assert [entry["item"] for entry in found["items"]] == [d.item for d in differences]
    assert [cost["side"] for cost in found["costs"]] == ["a", "b"]


# -- pictures ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """Sheets as they are handed to the drawing, which is done all the same."""
    seen, sheet = [], pictures.sheet

    def spy(rows, path):
        seen.append(rows)
        sheet(rows, path)

    monkeypatch.setattr(pictures, "sheet", spy)
    return seen


def alone(model, dataset, item, target, method):
    """(the picture, a method's overlay), made without planning, runner or store."""
    network = registry.bind("model", model)()
    image = registry.dataset(dataset)().load(item.partition("#")[0]).image
    batch = Batch(network.inputs([image], "full"), torch.tensor([target]), (Item(item, item, target, item),), seed="0")
    map_ = registry.method(method)(ModelView(network), batch)[0]
    picture = image.permute(1, 2, 0).numpy()
    return picture, pictures.overlay(picture, (map_ / map_.abs().max()).half().numpy())


def same(ours, theirs):
    """Colours like those of a direct overlay; another batch shape moves a map by rounding."""
    return np.abs(ours.astype(int) - theirs.astype(int)).max() <= 3


def test_a_sheet_shows_the_items_that_differ_most(tiny_suite, tmp_path, drawn):
    done = pipeline.run(tiny_suite, out=tmp_path / "run")
    report = compare.of_methods((done.rows, done.manifest), "tiny_gradient", "tiny_cam")
    differences = compare.differing(report, "tiny_mass")
    assert {d.figure.column.dataset for d in differences} == {"tiny_pictures", "tiny_pictures(n=3)"}
    out = tmp_path / "sheet.png"
    said = side_by_side.to_sheet(report, (done.folder, done.folder), differences, 5, out)
    assert said == f"5 items explained anew: {out}"
    (sheet,) = drawn
    assert len(sheet) == 5
    gallery = Store(done.folder).gallery()
    pictured = {Key(d.figure.models[0], d.figure.column.dataset, d.item) for d in differences[:5]}
    assert not pictured <= set(gallery)  # more than the run kept
    names = registry.dataset("tiny_pictures")().classes.names
    for difference, row in zip(differences, sheet, strict=False):
        dataset, target = difference.figure.column.dataset, names.index(difference.target)
        (caption, picture), (_, first), (_, second) = row
        assert caption == f"{difference.item}\n{difference.target}"
        for pixels, method in ((first, "tiny_gradient"), (second, "tiny_cam")):
            wanted, overlay = alone("tiny_net", dataset, difference.item, target, method)
            assert (picture == wanted).all()
            assert same(pixels, overlay)
        values = [f".{v * 1000:03.0f}" for v in difference.values]
        assert [text for text, _ in row[1:]] == [
            f"tiny_gradient\ntiny_mass ↑ {values[0]}",
            f"tiny_cam\ntiny_mass ↑ {values[1]}",
        ]
    width, height = Image.open(out).size
    assert height > 1.4 * width  # five rows of three


def test_a_sheet_of_two_runs_shows_each_run_s_own_map(tiny_suite, tmp_path, drawn):
    runs_ = [pipeline.run(tiny_suite, Selection(models=[f"tiny_net(seed={s})"]), out=tmp_path / f"{s}") for s in (7, 8)]
    old, new = ((done.rows, done.manifest) for done in runs_)
    report = compare.of_runs(new, old)
    differences = [d for d in compare.differing(report, "tiny_mass") if d.figure.methods[0] == "tiny_gradient"]
    said = side_by_side.to_sheet(report, (runs_[1].folder, runs_[0].folder), differences, 1, tmp_path / "sheet.png")
    assert said.startswith("1 item explained anew: ")
    target = registry.dataset("tiny_pictures")().classes.names.index(differences[0].target)
    (captioned, _), (one, first), (two, second) = drawn[0][0]
    where = (differences[0].figure.column.dataset, differences[0].item, target, "tiny_gradient")
    assert same(first, alone("tiny_net(seed=8)", *where)[1])
    assert same(second, alone("tiny_net", *where)[1])
    assert not same(first, second)
    assert one.startswith("new\n")
    assert two.startswith("old\n")
    assert captioned.endswith("tiny_gradient")


def test_values_that_have_changed_since_are_said(tiny_suite, tmp_path):
    done = pipeline.run(tiny_suite, out=tmp_path / "run")
    moved = done.rows.assign(value=done.rows["value"].where(done.rows["method"] != "tiny_cam", 0.9))
    report = compare.of_methods((moved, done.manifest), "tiny_cam", "tiny_gradient")
    differences = compare.differing(report, "tiny_mass")
    said = side_by_side.to_sheet(report, (done.folder, done.folder), differences, 3, tmp_path / "s.png")
    assert said.startswith("3 items explained anew (3 values differ from the run's: nothing that they depend on has changed")
    older = compare.of_methods((moved.assign(cache_key="older"), done.manifest), "tiny_cam", "tiny_gradient")
    said = side_by_side.to_sheet(older, (done.folder,) * 2, compare.differing(older, "tiny_mass"), 3, tmp_path / "s.png")
    assert "(3 values differ from the run's: they were computed by other code, libraries, weights, pictures or settings" in said
    there = compare.of_methods((moved, done.manifest.but(device="cuda:0")), "tiny_cam", "tiny_gradient")
    said = side_by_side.to_sheet(there, (done.folder,) * 2, compare.differing(there, "tiny_mass"), 3, tmp_path / "s.png")
    assert "(3 values differ from the run's: they were computed on cuda:0, and here on the CPU)" in said


def test_runs_of_other_settings_say_so(old):
    rows, manifest = run(old)
    sides = [(rows, manifest.but(seed=seed, device=device)) for seed, device in ((0, "cpu"), (1, "cuda:0"))]
    notes = compare.of_runs(sides[1], sides[0]).notes
    assert "the old run has seed 0, the new one 1: whatever is drawn at random differs too" in notes
    assert "the old run has device cpu, the new one cuda:0: values differ by rounding too" in notes
    assert compare.of_runs(sides[0], sides[0]).notes == compare.of_runs((rows, manifest), sides[0]).notes


@pytest.mark.parametrize("metric", ["tiny_mass", "tiny_deletion", "tiny_again", "tiny_single"])
def test_where_nothing_has_changed_nothing_is_said_to_have(metric, tiny_suite, tmp_path):
    """Of each kind of metric, and of one with a single threshold, whose rows have a vector and no value."""
    track = Track(dataset="tiny_pictures", metrics=[metric], target="label")
    suite = tiny_suite.model_copy(update={"tracks": [track], "methods": ["tiny_cam", "tiny_gradient"]})
    done = pipeline.run(suite, out=tmp_path / "run")
    report = compare.of_methods((done.rows, done.manifest), "tiny_cam", "tiny_gradient")
    differences = compare.differing(report)
    out = tmp_path / "sheet.png"
    assert len(differences) > 1
    assert (
        side_by_side.to_sheet(report, (done.folder,) * 2, differences, 9, out) == f"{len(differences)} items explained anew: {out}"
    )


def test_a_merged_run_shows_what_its_gallery_keeps(tiny_suite, tmp_path, drawn):
    parts = [pipeline.run(tiny_suite, Selection(methods=[m]), out=tmp_path / m).folder for m in ("tiny_cam", "tiny_gradient")]
    merged = runs.merge(parts, tmp_path / "merged")
    assert merged[1].local.request is None
    report = compare.of_methods(merged, "tiny_cam", "tiny_gradient")
    differences = compare.differing(report, "tiny_mass")
    said = side_by_side.to_sheet(report, (tmp_path / "merged",) * 2, differences, 3, tmp_path / "sheet.png")
    assert said.startswith("3 of the items that the run's gallery keeps, for none can be explained again here: the run is merged")
    gallery = Store(tmp_path / "merged").gallery()
    kept = [d for d in differences if Key("tiny_net", d.figure.column.dataset, d.item) in gallery]
    assert len(kept) < len(differences)
    assert [row[0][0] for row in drawn[0]] == [f"{d.item}\n{d.target}" for d in kept[:3]]
    key = Key("tiny_net", kept[0].figure.column.dataset, kept[0].item)
    assert (drawn[0][0][1][1] == pictures.overlay(gallery[key], gallery[key.of("tiny_cam")])).all()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: m.local.request.plugins.update({"absent.py": "x"}), "absent.py"),
        (lambda m: m.local.request.suite.update(more=1), "the run's request is of another version of xbench"),
        (lambda m: m.local.request.selection.update(datasets=["tiny_pictures(n=3)"]), "last request had no tiny_mass on tiny_pict"),
        (lambda m: m.local.request.suite["tracks"][0].update(target="prediction"), "has another protocol at hand than in"),
        (lambda m: m.local.request.selection.update(limit=1), "cannot be explained any more"),
    ],
)
def test_what_is_not_at_hand_is_named(tiny_suite, tmp_path, change, why):
    done = pipeline.run(tiny_suite.model_copy(update={"gallery": 0}), out=tmp_path / "run")
    change(done.manifest)
    report = compare.of_methods((done.rows, done.manifest), "tiny_cam", "tiny_gradient")
    differences = [d for d in compare.differing(report, "tiny_mass") if d.figure.column.dataset == "tiny_pictures"]
    said = side_by_side.to_sheet(report, (done.folder, done.folder), differences, 9, tmp_path / "sheet.png")
    assert said.startswith("no sheet is written: 0 of the items that the run's gallery keeps")
    assert why in said
    assert not (tmp_path / "sheet.png").exists()


def test_no_sheet_where_nothing_differs(tiny_suite, tmp_path):
    done = pipeline.run(tiny_suite, out=tmp_path / "run")
    report = compare.of_runs((done.rows, done.manifest), (done.rows.copy(), done.manifest))
    said = side_by_side.to_sheet(report, (done.folder,) * 2, compare.differing(report), 3, tmp_path / "sheet.png")
    assert said == "no sheet is written: no item differs"


def test_maps_that_the_run_keeps_are_read(tiny_suite, tmp_path, monkeypatch, drawn):
    done = pipeline.run(tiny_suite, out=tmp_path / "run", save_maps=True)
    report = compare.of_methods((done.rows, done.manifest), "tiny_cam", "tiny_gradient")
    differences = compare.differing(report, "tiny_mass")[:1]
    side_by_side.to_sheet(report, (done.folder, done.folder), differences, 1, tmp_path / "a.png")
    monkeypatch.setattr(ModelView, "feature_gradients", None)  # tiny_cam cannot be computed
    said = side_by_side.to_sheet(report, (done.folder, done.folder), differences, 1, tmp_path / "b.png")
    assert said.startswith("1 item explained anew: ")
    assert all((a[1] == b[1]).all() for one, other in zip(*drawn, strict=True) for a, b in zip(one, other, strict=True))


# -- the command -------------------------------------------------------------------------------------------------------------


def command(*arguments):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def test_the_command(tiny_suite, tmp_path):
    folder = pipeline.run(tiny_suite, out=tmp_path / "run").folder
    kept = sorted((path.name, path.read_bytes()) for path in folder.iterdir() if path.is_file())
    done = command(folder, "tiny_gradient", "tiny_cam", "--pictures", 2, "--metric", "tiny_mass")
    assert done.exit_code == 0, done.output
    assert "tiny_gradient minus tiny_cam: a positive difference means that tiny_gradient is better" in done.output
    assert done.output.count("difference +") + done.output.count("difference -") == 2
    out = tmp_path / "sheet.png"
    done = command(folder, "tiny_gradient", "tiny_cam", "--format", "json", "--out", out, "--pictures", 2)
    assert json.loads(done.stdout)["first"] == {"name": "tiny_gradient", "title": "tiny_gradient"}
    assert done.stderr == f"2 items explained anew: {out}\n"
    assert Image.open(out).size[0] > 300
    assert kept == sorted((path.name, path.read_bytes()) for path in folder.iterdir() if path.is_file())  # a run is only read
    other = pipeline.run(tiny_suite, Selection(models=["tiny_net(seed=8)"]), out=tmp_path / "other").folder
    done = command(folder, other, "--format", "md")
    assert done.exit_code == 0, done.output
    assert f"new ({other}) minus old ({folder}): a positive difference" in done.output
    assert "## tiny_net(seed=8) and tiny_net\n" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tiny_cam", "tiny_can"), "there is no method 'tiny_can' to compare; did you mean 'tiny_cam'?"),
        (("tiny_cam",), "tiny_cam is not a run directory; name a second run, or two methods of"),
        (
            ("tiny_cam", "tiny_gradient", "--metric", "tiny_mas"),
            "there is no metric 'tiny_mas' to compare; did you mean 'tiny_mass'?",
        ),
        (("tiny_cam", "tiny_gradient", "--format", "jsn"), "unknown format 'jsn'; did you mean 'json'?"),
        (("tiny_cam", "tiny_gradient", "--out", "p.odd"), "cannot write p.odd"),
    ],
)
def test_errors_name_the_remedy(tiny_suite, tmp_path, arguments, message):
    folder = pipeline.run(tiny_suite, out=tmp_path / "run").folder
    done = command(folder, *arguments)
    assert isinstance(done.exception, XbenchError)
    assert message in str(done.exception)


def test_the_two_kinds_end_as_the_same_findings(base, gains):
    """Two methods of one run, and the same scores as one method of two runs."""
    one = only(compare.of_methods(run({("a", "mass"): base + gains, ("b", "mass"): base}), "a", "b"))
    two = only(compare.of_runs(run({("m", "mass"): base + gains}), run({("m", "mass"): base})))
    fields = [f.name for f in dataclasses.fields(one) if f.name != "figure"]
    assert [getattr(one, name) for name in fields] == [getattr(two, name) for name in fields]
