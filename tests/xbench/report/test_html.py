import re

import numpy as np
import pytest
from PIL import Image

from xbench.api import Outcome
from xbench.plan.suite import Track
from xbench.plugins import reductions
from xbench.report import heads, html, latex, pictures, tables
from xbench.run import pipeline
from xbench.store.directory import Store
from xbench.tables import leaderboard, validation
from xbench.tables.validation import Verdict


def test_overlay_colours_the_evidence_and_nothing_else():
    picture = np.full((64, 64, 3), 100, np.uint8)
    map_ = np.full((8, 8), -1.0, np.float32)
    map_[:4, :4] = 1.0
    seen = pictures.overlay(picture, map_).astype(int)
    spread = seen.max(axis=2) - seen.min(axis=2)
    assert spread[:24, :24].min() > 60
    assert spread[48:, 48:].max() == 0


@pytest.mark.parametrize("map_", [np.zeros((4, 4)), np.full((4, 4), -2.0), np.eye(4)])
def test_overlay_of_odd_maps_is_a_picture(map_):
    seen = pictures.overlay(np.zeros((30, 20, 3), np.uint8), map_)
    assert seen.shape == (30, 20, 3)
    assert seen.dtype == np.uint8


def test_sheet_is_written(tmp_path):
    cell = ("name", np.zeros((20, 20, 3), np.uint8))
    pictures.sheet([[cell, cell, cell], [cell]], tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").size[0] > 300


def test_page_is_whole_and_needs_no_network(tiny_suite, tmp_path):
    outcome = pipeline.run(tiny_suite, out=tmp_path / "run")
    page = html.render(Outcome.of(outcome).leaderboard(), outcome.rows, outcome.manifest, Store(outcome.folder).gallery())
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    assert not re.search(r"https?://(?!www\.w3\.org|purl\.org|creativecommons|matplotlib)", page)
    assert "tiny_negated(tiny_cam)" in page
    assert "<svg" in page
    # Two kept items on each of two tracks: a picture and five overlays each.
    assert page.count("data:image/jpeg") == 4 * 6
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_vectors_are_drawn_as_what_they_are(tiny_suite, tmp_path):
    """Scores over thresholds are no curve over pixels, and a vector without axes is no curve."""
    track = Track(dataset="tiny_pictures", metrics=["tiny_threshold", "tiny_deletion", "tiny_again"], target="label")
    outcome = pipeline.run(tiny_suite.model_copy(update={"tracks": [track]}), out=tmp_path / "run")
    page = html.render(Outcome.of(outcome).leaderboard(), outcome.rows, outcome.manifest, {})
    texts = re.findall(r"<!-- (.+?) -->", page)  # matplotlib's comments say what its glyphs spell
    assert "threshold, one for all pictures" in texts
    assert "share of pixels" in texts
    assert page.count("<svg") == 2
    assert not any("tiny_again" in text for text in texts)


def test_columns_of_one_metric_with_other_parameters_are_told_apart_in_every_form(tiny_suite, tmp_path):
    track = Track(dataset="tiny_pictures", metrics=["tiny_deletion", "tiny_deletion(steps=5)", "tiny_threshold"], target="label")
    outcome = pipeline.run(tiny_suite.model_copy(update={"tracks": [track]}), out=tmp_path / "run")
    board = Outcome.of(outcome).leaderboard()
    page = html.render(board, outcome.rows, outcome.manifest, {})
    shown = [re.findall(r"<th title[^>]*>(.*?)<small>", page)]
    for form, between in ((tables.to_markdown(board), "|"), (latex.to_latex(board), "&")):
        shown.append(next(line for line in form.splitlines() if "threshold" in line and "deletion" in line).split(between))
    for found in shown:
        for name in ("tiny.deletion ", "tiny.deletion.steps=5. ", "tiny.threshold "):
            assert any(re.search(name, head.replace("\\", "")) for head in found), name
    assert len({heads.column_name(c, board.tables[0]) for c in board.tables[0].columns}) == 3


def test_the_page_has_groups_over_columns_and_validation_below_their_heads(tiny_suite, tmp_path, monkeypatch):
    verdicts = [
        Verdict("tiny_mass", "1", "localization", (), 1.24, 0.0, 0.6),
        Verdict("tiny_deletion", "1", "faithfulness", ("constant < oracle",), -0.3, 0.1, 0.2),
    ]
    monkeypatch.setattr(validation, "load", lambda: {(v.metric, v.version): v for v in verdicts})
    metrics = ["tiny_mass", "tiny_deletion", "tiny_threshold", "tiny_again"]
    track = Track(dataset="tiny_pictures", metrics=metrics, target="label")
    outcome = pipeline.run(tiny_suite.model_copy(update={"tracks": [track]}), out=tmp_path / "run")
    page = html.render(Outcome.of(outcome).leaderboard(), outcome.rows, outcome.manifest, {})
    above, below = re.findall(r"<tr.*?</tr>", page.split("<tbody>")[0], re.DOTALL)
    spans = re.findall(r'colspan="(\d)">(?:<span>)?([^<]*)<', above)
    assert spans == [("1", "faithfulness"), ("2", "localization"), ("1", "robustness"), ("4", "")]
    assert 1 + sum(int(width) for width, _ in spans) == below.count("<th")
    deletion, mass, threshold, _ = re.findall(r"<th title=.*?</th>", below, re.DOTALL)
    assert "tiny deletion ↓§<small>" in deletion
    assert '; validation: NOT validated: constant &lt; oracle"' in deletion
    assert '<small class="mark">not valid</small>' in deletion
    assert '; validation: orders all plants rightly, least separation 1.2 sd, noise 0.00"' in mass
    assert "<small>valid, 1.2 sd</small>" in mass
    assert "valid" not in threshold
    heat = page.split('<table class="heat">')[1].split("</table>")[0]
    assert re.findall(r"<td>(\d [^<]*)</td>", heat) == ["1 tiny mass ↑", "2 tiny threshold ↑", "3 tiny again ↓"]
    assert [row.count("<td style") for row in heat.split("<tbody>")[1].split("</tr>")[:3]] == [3, 3, 3]
    plain = leaderboard.build(outcome.rows[outcome.rows["metric"] == "tiny_mass"], outcome.manifest)
    assert "colspan" not in html.render(plain, outcome.rows, outcome.manifest, {})


def test_precision_over_recall_has_the_reduction_s_area():
    generator = np.random.default_rng(0)
    pooled = generator.integers(0, 9, 32).astype(float)
    recall, precision = reductions.precision_recall(pooled)
    area = (np.diff(recall, prepend=0) * precision).sum()
    assert area == pytest.approx(float(reductions.average_precision(pooled[None])[0]))
    assert recall[-1] == pytest.approx(1)


def test_overlay_shows_what_differs_in_a_map_that_is_high_everywhere():
    map_ = np.full((8, 8), 0.5, np.float32)
    map_[:4, :4] = 0.51
    seen = pictures.overlay(np.full((64, 64, 3), 100, np.uint8), map_).astype(int)
    spread = seen.max(axis=2) - seen.min(axis=2)
    assert spread[:24, :24].min() > 60
    assert spread[48:, 48:].max() == 0
