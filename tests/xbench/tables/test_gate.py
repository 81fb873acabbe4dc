"""Verdicts of the gate on scores whose truth is known, and its forms."""

import dataclasses
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from xbench.errors import XbenchError
from xbench.plan import keys, recording
from xbench.report import verdicts
from xbench.store import manifests
from xbench.store.directory import SCHEMA
from xbench.store.manifests import Local, Stamp, Wanted
from xbench.tables import gate, pairing
from xbench.tables.gate import Margins

METHODS = ("grad_cam", "lrp", "random")


def run(scores, model="net", items=200, protocol="p", **changes):
    """A run of (method, metric) -> [N] scores; random is a control."""
    found = []
    for (method, metric), values in scores.items():
        for i, value in enumerate(values[:items]):
            row = dict.fromkeys(SCHEMA.names) | {
                "method": method,
                "model": model,
                "dataset": "d",
                "metric": metric,
                "protocol_key": metric + protocol,
                "item": f"i{i:04}",
                "cluster": f"c{i // 2:04}",
                "target": i % 3,
                "status": "ok" if np.isfinite(value) else "nan",
                "value": value,
                "constant": False,
                "grid": "7x7",
            }
            found.append(row | changes)
    about = {"dataset": "d", "chance": "", "protocol": protocol}
    columns = {
        metric + protocol: {**about, "metric": metric, "direction": "lower" if metric == "deletion" else "higher"}
        for _, metric in scores
    }
    methods = {method: {"control": method == "random"} for method, _ in scores}
    about = {"columns": columns, "methods": methods, "models": {model: {}}, "complete": True, "seed": 0}
    manifest = manifests.parse({"format": 1, "suite": "s", "datasets": {}} | about, Path("manifest.json"))
    return pd.DataFrame(found), manifest


def with_digest(manifest, digest):
    """A manifest that says it of the network's weights."""
    return manifest.but(models={name: about.model_copy(update={"digest": digest}) for name, about in manifest.models.items()})


def without(old, share, status="not_applicable", method="lrp"):
    """The run of the same scores, of which a method has none on a share of the items; status "missing": not even a row."""
    rows, manifest = run(old)
    gone = (rows["method"] == method) & (rows["item"] < f"i{round(200 * share):04}")
    if status == "missing":
        return rows[~gone].reset_index(drop=True), manifest
    lost = {"status": status, "value": np.nan, "reason": "no layer" if status == "not_applicable" else None}
    return rows.assign(**{name: rows[name].mask(gone, value) for name, value in lost.items()}), manifest


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def old(rng):
    base = rng.beta(2, 2, 200)
    return {(method, metric): base + rng.normal(0, 0.1, 200) for method in METHODS for metric in ("pointing_game", "deletion")}


def judge(baseline, new, **more):
    return gate.judge(baseline, new, fresh=False, **more)


def test_nothing_changed_passes(old):
    report = judge(run(old), run(old))
    assert (report.verdict, report.exit_code) == ("pass", 0)
    assert {j.pair.method for j in report.judgements} == {"grad_cam", "lrp"}  # controls are not judged
    assert all((j.change.mean, j.p) == (0, 1) for j in report.judgements)


def test_a_loss_is_a_regression_whichever_way_the_metric_counts(old):
    for metric, shift in (("pointing_game", -0.2), ("deletion", 0.2)):
        new = old | {("lrp", metric): old["lrp", metric] + shift}
        report = judge(run(old), run(new))
        (lost,) = report.by("regression")
        assert (lost.pair.method, lost.pair.column.metric) == ("lrp", metric)
        assert lost.change.mean == pytest.approx(-0.2)
        assert (report.verdict, report.exit_code) == ("regression", 1)
        assert f"lrp, {metric} on d, net" in lost.sentence()
        assert "a loss of 0.200" in lost.sentence()
        gained = {key: values - (values - old[key]) * 2 for key, values in new.items()}
        assert judge(run(old), run(gained)).verdict == "pass"


def test_a_certain_loss_within_the_margin_passes(old):
    new = {key: values - 0.01 for key, values in old.items()}
    report = judge(run(old), run(new), margins=Margins(spread=0.1))
    (lost,) = [j for j in report.judgements if (j.pair.method, j.pair.column.metric) == ("lrp", "pointing_game")]
    assert lost.verdict == "pass"
    assert lost.p < 0.001
    assert judge(run(old), run(new), margins=Margins(spread=0.1, margins={"pointing_game": 0.005})).verdict == "regression"


def test_too_few_items_cannot_judge_and_the_number_asked_for_settles_it(old, rng):
    noise = {key: rng.normal(0.05, 0.35, 4000) for key in old}
    many = {key: np.tile(values, 20) for key, values in old.items()}
    new = {key: values + noise[key] for key, values in many.items()}
    new = {(m, k): v - 2 * noise[m, k] if k == "deletion" else v for (m, k), v in new.items()}
    few = judge(run(many, items=20), run(new, items=20))
    assert (few.verdict, few.exit_code) == ("cannot judge", 2)
    needed = [j.needed for j in few.by("cannot judge")]
    assert all(n is None or n > 20 for n in needed)
    assert f"about {needed[0]} items would settle it, not 20" in few.by("cannot judge")[0].sentence()
    assert judge(run(many, items=4000), run(new, items=4000)).verdict == "pass"


def test_a_change_on_the_margin_asks_for_no_number_of_items(old, rng):
    new = {key: values - 0.1 * (1 if key[1] != "deletion" else -1) + rng.normal(0, 0.5, 200) for key, values in old.items()}
    report = judge(run(old), run(new), margins=Margins(margins={"pointing_game": 0.1, "deletion": 0.1}))
    near = [j for j in report.judgements if abs(j.change.mean + 0.1) < 0.01]
    assert near
    assert all(j.needed is None and "no number of items" in j.sentence() for j in near)


def test_another_protocol_cannot_be_judged(old):
    report = judge(run(old), run(old, protocol="q"))
    assert (report.verdict, report.exit_code, report.judgements) == ("cannot judge", 2, [])
    assert "the protocol differs: it was 'p', now it is 'q'" in report.problems[0]


def test_what_the_new_run_lacks_cannot_be_judged(old):
    report = judge(run(old), run({key: values for key, values in old.items() if key[0] != "lrp"}))
    assert report.verdict == "cannot judge"
    assert "lrp, pointing_game on d, net: the new run lacks this method" in report.problems
    report = judge(run(old), run({key: values for key, values in old.items() if key[1] != "deletion"}))
    assert "the new run lacks this column" in report.problems[0]


def test_a_renamed_model_takes_the_place_of_the_only_other(old):
    assert judge(run(old), run(old, model="retrained")).verdict == "pass"
    rows, manifest = run(old, model="a")
    both = pd.concat([rows, rows.assign(model="b")]), manifest
    assert "the new run has a and b, and it is not clear" in judge(run(old), both).problems[0]


def test_a_network_trained_anew_has_its_own_margin(old, rng):
    new = {key: values + (0.25 if key[1] == "deletion" else -0.25) * values.std() for key, values in old.items()}
    rows, manifest = run(old)
    weights = [with_digest(manifest, digest) for digest in "ab"]
    assert judge((rows, weights[0]), (run(new)[0], weights[0])).verdict == "regression"
    assert judge((rows, weights[0]), (run(new)[0], weights[1])).verdict == "pass"
    assert judge((rows, weights[0]), (run(new)[0], weights[1]), margins=Margins(retrained=0.2)).verdict == "regression"


def test_a_near_perfect_baseline_leaves_a_margin(rng):
    """Of 997 hits in 1,000 the items spread by 0.055 only; of both runs, by 0.154."""
    old = {("lrp", "pointing_game"): (np.arange(1000) >= 3).astype(float)}
    new = {("lrp", "pointing_game"): (np.arange(1000) >= 47).astype(float)}
    pair = dataclasses.replace(pairing.pair(run(old, items=1000), run(new, items=1000)).pairs[0], retrained=True)
    (judged,) = gate.judge_pairs([pair], Margins())
    spread = np.sqrt((0.003 * 0.997 + 0.047 * 0.953) / 2)
    assert judged.margin == pytest.approx(gate.RETRAINED * spread, rel=0.06)
    assert judged.verdict == "pass"


def test_what_the_baseline_has_no_value_of_is_not_judged(old):
    nothing = np.full(200, np.nan)
    rows, manifest = run(old | {("lrp", "deletion"): nothing})
    bare = rows.assign(status=rows["status"].replace("nan", "not_applicable")), manifest
    report = judge(bare, bare)
    assert (report.verdict, len(report.judgements)) == ("pass", 3)
    assert report.notes == ["1 figures have no value in either run, and are not judged"]
    for sides, what in (((run(old), bare), "in the baseline count no more"), ((bare, run(old)), "now have none in the baseline")):
        report = judge(*sides)
        (lost,) = report.by("cannot judge")
        assert f"no item has a value in both runs; 200 of 200 items with a value {what} (not applicable on 200)" in lost.sentence()


def test_nan_never_passes(old):
    broken = old | {("lrp", "deletion"): np.where(np.arange(200) == 7, np.nan, old["lrp", "deletion"])}
    report = judge(run(old), run(broken))
    (bad,) = report.by("cannot judge")
    assert (bad.pair.nan, report.exit_code) == (1, 2)
    assert "1 values became NaN" in bad.sentence()


def test_pairs_need_the_same_class(old):
    rows, manifest = run(old)
    moved = rows.assign(target=rows["target"].where(rows["item"] != "i0003", 9))
    report = judge(run(old), (moved, manifest))
    assert {(j.change.n, j.pair.moved) for j in report.judgements} == {(199, 1)}
    assert report.verdict == "pass"
    assert report.notes[0].startswith(
        "d, net: 1 of 200 items with a value in the baseline count no more (another class explained on 1)"
    )


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1])
@pytest.mark.parametrize(
    ("status", "why"),
    [
        ("not_applicable", "not applicable: no layer"),
        ("unreadable", "picture cannot be read"),
        ("missing", "no row"),
        ("nan", "NaN"),
    ],
)
def test_values_that_disappear_are_no_pass(old, share, status, why):
    """On either side: a baseline from which values were taken guards as little as a run that lost them."""
    new, count = without(old, share, status), round(200 * share)
    for sides, what in (((run(old), new), "in the baseline count no more"), ((new, run(old)), "now have none in the baseline")):
        report = judge(*sides)
        lines = "\n".join(verdicts.to_lines(report))
        passes = share == 0.01 and not (status == "nan" and sides[1] is new)  # NaN is never let pass
        assert report.exit_code == (0 if passes else 2), lines
        if status == "missing" and share == 1:
            assert f"lrp, deletion on d, net: the {'new' if sides[1] is new else 'old'} run lacks this method" in lines
        else:
            assert f"{count} of 200 items with a value {what} ({why} on {count})" in lines
        assert ("make it the baseline" in lines) is not (share == 0.01)


def test_the_share_that_may_be_lost_is_stated(old):
    new = without(old, 0.1)
    assert judge(run(old), new, margins=Margins(lost=0.1)).verdict == "pass"
    report = judge(run(old), new, margins=Margins(lost=0.09))
    assert all("a pass allows lost = 0.09" in j.sentence() for j in report.by("cannot judge"))
    assert len(report.by("cannot judge")) == 2
    worse = new[0].assign(value=new[0]["value"].where(new[0]["method"] != "lrp", -5.0)), new[1]
    assert judge(run(old), worse).exit_code == 1  # what is left got worse, and that is certain


def test_a_network_trained_anew_may_predict_other_classes(old):
    rows, manifest = run(old)
    anew = with_digest(manifest, "b")
    for share, passes in ((0.3, True), (0.41, False)):
        moved = rows.assign(target=rows["target"].where(rows["item"] >= f"i{round(200 * share):04}", 9))
        report = judge((rows, manifest), (moved, anew))
        assert report.exit_code == (0 if passes else 2)
        assert f"another class explained on {round(200 * share)}" in "\n".join(verdicts.to_lines(report))
        assert judge((rows, manifest), (moved, anew), margins=Margins(moved=0.5)).verdict == "pass"
        assert judge((rows, manifest), (moved, manifest)).exit_code == 2  # the same network has no reason to


def test_a_baseline_with_less_in_it_is_no_pass(old):
    rows, manifest = run(old)
    said = {name: about for name, about in manifest.methods.items() if name != "lrp"}
    less = rows[rows["method"] != "lrp"].reset_index(drop=True)
    for baseline, line in [
        ((less, manifest.but(methods=said)), "lrp, deletion on d, net: the old run lacks this method"),
        ((less, manifest), "lrp: the baseline lists it and has no rows of it"),
        (
            (rows[rows["metric"] != "deletion"].reset_index(drop=True), manifest),
            "deletion on d, net: the old run lacks this column",
        ),
        ((rows, manifest.but(columns={"deletionp": manifest.columns["deletionp"]})), "the old run lacks this column"),
        ((rows[:0], manifest), "net: the old run lacks this model"),
        ((rows, manifest.but(complete=False)), "the baseline is incomplete"),
        ((rows, manifest.but(seed=1)), "the run has seed 0, the baseline 1"),
    ]:
        report = judge(baseline, run(old))
        assert report.exit_code == 2
        assert any(problem.endswith(line) or line in problem for problem in report.problems), report.problems


def test_a_method_that_one_run_calls_a_control_is_no_pass(old):
    rows, manifest = run(old)
    control = manifest.methods["lrp"].model_copy(update={"control": True})
    hidden = rows, manifest.but(methods=manifest.methods | {"lrp": control})
    for sides, was, now in (((hidden, run(old)), "control", "method"), ((run(old), hidden), "method", "control")):
        report = judge(*sides)
        assert report.exit_code == 2
        assert f"lrp, deletion on d, net: it was a {was} in the old run, and is a {now} in the new one" in report.problems
    assert judge(hidden, hidden).verdict == "pass"


def test_vectors_may_be_lost_too(old):
    """Where a run has no vector at all, nobody knows how long one is."""
    rows, manifest = run(old)
    columns = {key: about.model_copy(update={"reduce": "best"}) for key, about in manifest.columns.items()}
    rows = rows.assign(vector=[np.array([v, v / 2]) for v in rows["value"]], value=np.nan)
    full = rows, manifest.but(columns=columns)
    assert judge(full, full).verdict == "pass"
    none = rows.assign(status="unreadable", vector=None), full[1]
    assert {judge(full, none).exit_code, judge(none, full).exit_code} == {2}
    longer = rows.assign(vector=[np.zeros(3)] * len(rows)), full[1]
    assert "its vectors had 2 numbers, and have 3 now" in judge(full, longer).problems[0]


def test_a_row_that_says_ok_without_a_value_has_none(old):
    rows, manifest = run(old)
    lying = rows.assign(value=rows["value"].mask((rows["method"] == "lrp") & (rows["item"] < "i0020"))), manifest
    assert judge(run(old), lying).exit_code == 2
    assert judge(lying, run(old)).exit_code == 2


def test_a_baseline_of_no_common_items_cannot_be_judged(old):
    rows, manifest = run(old)
    report = judge(run(old), (rows.assign(item="x" + rows["item"]), manifest))
    assert report.verdict == "cannot judge"
    assert judge((rows[:0], manifest), (rows[:0], manifest)).verdict == "cannot judge"


def test_an_incomplete_or_stale_run_is_refused(old, tmp_path):
    rows, manifest = run(old)
    assert "incomplete" in judge(run(old), (rows, manifest.but(complete=False))).problems[0]
    source = tmp_path / "method.py"
    source.write_text("old")
    rules = {str(path.resolve()): recording._stamp(path) for path in keys.rule_files()}
    local = Local(
        request=None,
        wanted=Wanted(columns=[], methods=[], models=[], items={}),
        unlisted=[],
        inputs=rules | {str(source): Stamp(3, 0, "x")},
        modules={},
        machine={},
        folder=str(Path.cwd()),
    )
    stale = manifest.but(local=local)
    report = gate.judge(run(old), (rows, stale))
    assert (report.exit_code, report.judgements) == (2, [])
    assert f"{source} has changed" in report.problems[0]


def test_many_figures_are_allowed_for(old, rng):
    """A loss that is significant alone, yet not among a hundred others."""
    alone = {("m0", "pointing_game"): rng.normal(0, 1, 200)}
    loss = rng.normal(-0.2, 1, 200)
    new = {key: values + loss for key, values in alone.items()}
    margins = Margins(margins={"pointing_game": 0.001})
    assert judge(run(alone), run(new), margins=margins).verdict == "regression"
    many = alone | {(f"m{i}", "pointing_game"): alone["m0", "pointing_game"] for i in range(1, 100)}
    others = {key: values + rng.normal(0, 1, 200) for key, values in many.items()}
    assert judge(run(many), run(others | new), margins=margins).judgements[0].verdict != "regression"


def test_the_forms_say_the_same(old):
    new = old | {("lrp", "deletion"): old["lrp", "deletion"] + 0.3}
    report = judge(run(old), run(new))
    lines = verdicts.to_lines(report)
    assert lines[0] == "gate: regression (3 pass, 1 regression)"
    assert lines[1].startswith("regression: lrp, deletion on d, net")
    text = verdicts.to_markdown(report)
    assert text.startswith("### Explanations got worse")
    assert "| `lrp` | deletion ↓<br>d |" in text
    suite = ElementTree.fromstring(verdicts.to_junit(report))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("4", "1", "0")
    assert [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None] == ["lrp: deletion"]
    broken = ElementTree.fromstring(verdicts.to_junit(judge(run(old), run(old, protocol="q"))))
    assert broken.get("errors") == "2"


def test_margins_file(tmp_path):
    path = tmp_path / "gate.toml"
    path.write_text('spread = 0.5\n[margins]\npointing_game = 0.1\n"insertion(steps=exact(10))" = 0.2\n')
    margins = gate.load(path)
    assert margins.of("pointing_game(tolerance=0)", 1.0) == 0.1
    assert margins.of("insertion(steps=exact(10))", 1.0) == 0.2
    assert margins.of("insertion", 2.0) == 1.0
    assert margins.of("insertion", 2.0, retrained=True) == 2 * gate.RETRAINED
    path.write_text("spraed = 0.5\n")
    with pytest.raises(XbenchError, match="spraed"):
        gate.load(path)
    path.write_text("spread = -1\n")
    with pytest.raises(XbenchError, match="spread"):
        gate.load(path)
    with pytest.raises(XbenchError, match="does not exist"):
        gate.load(tmp_path / "none.toml")
