"""The experiments in out-of-distribution detection that ship: their families, and both on small data."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xbench.data import wordnet
from xbench.data.classes import imagenet_1k
from xbench.plan import suite
from xbench.plugins.registry import registry
from xbench.run.detection import experiment, session

PAGE = Path(__file__).parents[2] / "docs" / "ood.md"
CLIPS = Path(__file__).parent.parent / "tiny_clips.py"
SMALL = f"""
import importlib.util

from xbench import model
from xbench.data.classes import imagenet_1k

spec = importlib.util.spec_from_file_location("tiny_clips", {str(CLIPS)!r})
clips = importlib.util.module_from_spec(spec)
spec.loader.exec_module(clips)


@model("small_clip")
def small_clip():
    classes = imagenet_1k()
    names = [f"{{name}} {{i}}" for i, name in enumerate(classes.names)]
    return clips.model(clips.vision(), names, classes.synsets)
"""


def test_every_suite_that_ships_is_valid():
    for name in suite.suites():
        path = suite.find(name)
        loaded = experiment.load(path) if suite.experiment(path) else suite.load(path)
        assert loaded.name == name
        assert suite.title(path) == loaded.title
        assert loaded.title


def test_the_pairs_of_the_scenes_are_those_of_the_rule():
    """Where classes branch in WordNet, each branching family against each branch beside it."""
    asked, graph = experiment.load(suite.find("convis_ood")), wordnet.compact()
    classes = registry.dataset(asked.datasets[0])().classes
    above = {wnid: (graph.synset(wnid), *graph.ancestors(graph.synset(wnid))) for wnid in classes.synsets}
    known = {s: frozenset(wnid for wnid in classes.synsets if s in above[wnid]) for own in above.values() for s in own}
    sets = set(known.values())
    wanted = set()
    for inside in (one for one in sets if 1 < len(one) < len(classes)):
        parent = min((one for one in sets if one > inside), key=len)
        beside = {one for one in sets if one < parent and not one & inside}
        wanted |= {(inside, one) for one in beside if not any(one < other for other in beside)}
    found = set()
    for pair in asked.pairs:
        roots = [graph.synset(name) for name in (pair.inside, pair.outside)]
        found.add(tuple(known[root] for root in roots))
        for root in roots:  # the most specific synset that has just these classes
            assert not any(known.get(below) == known[root] for below in graph.closure(root)[1:]), root
    assert found == wanted
    assert len(asked.pairs) == len(wanted) == 12


def test_the_pairs_of_imagenet_have_the_papers_numbers_of_classes():
    """Of the inside families it gives 59, 26, 6, 17, 10 and 4: garments and birds are the other way round in WordNet."""
    asked = experiment.load(suite.find("convis_ood_imagenet"))
    found = [experiment.families(pair, imagenet_1k(), wordnet.compact(), "imagenet") for pair in asked.pairs]
    counts = [(len(pair.inside.classes), len(pair.outside.classes)) for pair in found]
    assert counts == [(26, 22), (59, 63), (6, 6), (17, 4), (10, 26), (4, 15)]


def test_the_scenes_run(tmp_path):
    pytest.importorskip("open_clip")
    metrics = pytest.importorskip("sklearn.metrics")
    done = session.run("convis_ood", limit=150, out=tmp_path, threads=1)
    (board,) = done.boards
    assert len(board.lines) == 12
    for line in board.lines:
        mine = done.rows[done.rows["pair"] == line.pair.name]
        for name, area in line.figures.areas.items():
            assert area.mean == pytest.approx(metrics.roc_auc_score(mine["inside"], mine[name]))
        assert line.figures.areas["max_logit"].mean > 0.9


@pytest.fixture
def small_imagenet(tmp_path):
    """Two pictures of each class of two pairs, and some of another, in the official layout."""
    graph, classes = wordnet.compact(), imagenet_1k()
    wanted = ("spider.n.01", "butterfly.n.01", "aircraft.n.01", "vessel.n.02", "tench.n.01")
    below = {s.wnid for name in wanted for s in graph.closure(graph.synset(name))}
    rng, number = np.random.default_rng(0), 0
    for wnid in (wnid for wnid in classes.synsets if wnid in below):
        (tmp_path / "val" / wnid).mkdir(parents=True)
        for _ in range(2):
            number += 1
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "val" / wnid / f"ILSVRC2012_val_{number:08d}.JPEG")
    return tmp_path


def test_imagenet_runs(small_imagenet, tmp_path, clips):
    """A CLIP with random weights: no number of its is a result."""
    plugin = tmp_path / "small.py"
    plugin.write_text(SMALL)
    dataset = f'imagenet("{small_imagenet}")'
    how = {"models": ["small_clip"], "datasets": [dataset], "plugins": [str(plugin)], "threads": 1}
    done = session.run("convis_ood_imagenet", out=tmp_path / "run", **how)
    (board,) = done.boards
    assert [(line.pair.name, line.pictures) for line in board.lines] == [
        ("spider / butterfly", (12, 12)),
        ("aircraft / vessel", (8, 30)),
    ]
    assert board.mean is not None
    absent = "garment / furniture, bird / hunting dog, ungulate / bear, edible fruit / musical instrument"
    assert f"pairs left out, without pictures on one side: {absent}" in board.notes
    values = done.rows[["max_logit", "gloss", "leaf_glosses", "random"]]
    assert np.isfinite(values).all().all()
    assert (done.rows["leaf_glosses"].abs() <= 1 + 1e-6).all()
    model = registry.model("small_clip")()
    first = done.rows.iloc[0]
    picture = registry.dataset(dataset)().load(first["picture"]).image
    logits = model(model.inputs([picture], "crop"))[0]
    spiders = [imagenet_1k().synsets.index(leaf.wnid) for leaf in board.lines[0].pair.inside.leaves]
    assert first["max_logit"] == pytest.approx(float(logits[spiders].max()), abs=1e-3)


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree")
def test_the_page_counts_the_families_of_imagenet():
    asked = experiment.load(suite.find("convis_ood_imagenet"))
    for pair in asked.pairs:
        found = experiment.families(pair, imagenet_1k(), wordnet.compact(), "imagenet")
        counts = len(found.inside.classes), len(found.inside.leaves), len(found.outside.classes)
        row = "| `{3}` | {0} | {1} | `{4}` | {2} |".format(*counts, pair.inside, pair.outside)
        assert row in PAGE.read_text(encoding="utf-8")


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree")
def test_the_experiment_of_the_page_is_one(tmp_path):
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "my_ood.toml").write_text(toml)
    (pair,) = experiment.load(tmp_path / "my_ood.toml").pairs
    assert experiment.families(pair, imagenet_1k(), wordnet.compact(), "imagenet").inside.classes
