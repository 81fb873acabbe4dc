"""Out-of-distribution detection: scores against loops over pictures and the graph, what is asked, and what a run writes."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats as scipy_stats

from xbench.cli.run import run
from xbench.data import wordnet
from xbench.data.classes import ClassList
from xbench.errors import XbenchError
from xbench.plan import suite
from xbench.plugins.registry import registry
from xbench.run.detection import experiment, forms, scores, session
from xbench.run.detection.experiment import Experiment, Pair

PLUGIN = Path(__file__).parents[1] / "tiny_ood.py"
TEXT = """
experiment = "ood"
name = "mine"
version = "1"
title = "Birds and hounds"
batch_size = 4
models = ["tiny_reader"]
datasets = ["tiny_zoo"]

[[pairs]]
name = "bird / hound"
inside = "bird.n.01"
outside = "hunting_dog.n.01"

[[pairs]]
name = "hound / bird"
inside = "hunting_dog.n.01"
outside = "bird.n.01"

[[pairs]]
name = "stork / thrush"
inside = "stork.n.01"
outside = "thrush.n.03"
"""


@pytest.fixture(scope="module", autouse=True)
def tiny():
    registry.load(str(PLUGIN))
    return registry.plugins["model", "tiny_reader"].make.__globals__


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Where the experiment stands as a file, and whatever is written."""
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(TEXT)
    return Path("mine.toml")


# -- scores ---------------------------------------------------------------------------------------------------------------------


def unit(vector):
    return vector / sum(float(v) ** 2 for v in vector) ** 0.5


def leaves_of(graph, synset):
    """By going down."""
    below = graph.hyponyms(synset)
    return {leaf for one in below for leaf in leaves_of(graph, one)} if below else {synset}


def is_below(graph, synset, root):
    """By going up."""
    return synset == root or any(is_below(graph, one, root) for one in graph.hypernyms(synset))


def by_hand(tiny, number, inside):
    """(max logit, gloss, leaf glosses) of a picture, a sentence at a time in double precision."""
    graph = wordnet.compact()
    root = graph.synset(inside)
    pixels = registry.dataset("tiny_zoo")().load(f"p{number}").image.double()
    tower = tiny["Tower"]().double()
    with torch.no_grad():
        seen = unit(tower(((pixels - 127) / 64)[None])[0])
    cosine = lambda sentence: float(unit(tiny["embedding"](sentence).double()) @ seen)  # noqa: E731
    named = zip(tiny["NAMES"], tiny["SYNSETS"], strict=True)
    family = [name for name, wnid in named if wnid in graph and is_below(graph, graph.synset(wnid), root)]
    logits = [float(np.exp(2.5)) * cosine(f"a {name}") for name in family]
    return max(logits), cosine(root.gloss), max(cosine(leaf.gloss) for leaf in leaves_of(graph, root))


def reference(tiny):
    """Pair, picture -> inside, and its scores, for the experiment above."""
    found = {}
    birds, hounds = (0, 2), (1, 4, 5)
    pairs = {
        "bird / hound": (birds, hounds, "bird.n.01"),
        "hound / bird": (hounds, birds, "hunting_dog.n.01"),
        "stork / thrush": ((2,), (0,), "stork.n.01"),
    }
    for pair, (inside, outside, root) in pairs.items():
        for i in range(70):
            if i * 3 % 7 in inside + outside:
                found[pair, f"p{i}"] = (i * 3 % 7 in inside, *by_hand(tiny, i, root))
    return found


@pytest.fixture(scope="module")
def wanted(tiny):
    return reference(tiny)


def near(rows, wanted):
    if len(rows) != len(wanted):
        return False
    given = {(row.pair, row.picture): (row.inside, row.max_logit, row.gloss, row.leaf_glosses) for row in rows.itertuples()}
    return all(given[key] == pytest.approx(values, abs=2e-5) for key, values in wanted.items())


def test_scores_are_those_of_loops_over_pictures_and_the_graph(mine, wanted):
    done = session.run("mine.toml")
    assert near(done.rows, wanted)
    assert [(line.pair.name, line.pictures) for line in done.boards[0].lines] == [
        ("bird / hound", (20, 30)),
        ("hound / bird", (30, 20)),
        ("stork / thrush", (10, 10)),
    ]
    for line in done.boards[0].lines:
        mine_ = done.rows[done.rows["pair"] == line.pair.name]
        for name in scores.SCORES:
            inside, outside = (mine_[name][mine_["inside"] == side] for side in (True, False))
            area = np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a in inside for b in outside])
            assert line.figures.areas[name].mean == pytest.approx(area)
        assert 5 < line.figures.areas["gloss"].clusters <= 20
    assert set(done.rows["cluster"]) <= {f"source{i}" for i in range(35)}


SCORE_MUTANTS = [
    ("list(columns)].amax(dim=1)", "list(columns)].mean(dim=1)"),
    ("list(columns)].amax(dim=1)", "list(columns)].softmax(dim=1).amax(dim=1)"),
    ("found.logits[:, list(columns)]", "found.logits"),
    ("found.logits[:, list(columns)]", "found.logits[:, list(range(len(columns)))]"),
    ("[family.synset.gloss]", "[family.leaves[0].gloss]"),
    ("[family.synset.gloss]", "[family.synset.lemmas[0]]"),
    ("leaf.gloss for leaf in family.leaves", "leaf.gloss for leaf in (family.synset, *family.leaves)"),
    ("leaf.gloss for leaf in family.leaves", "leaf.gloss for leaf in family.leaves[1:]"),
    ("leaf.gloss for leaf in family.leaves", "leaf.lemmas[0] for leaf in family.leaves"),
    ("in family.leaves]).amax(dim=1)", "in family.leaves]).mean(dim=1)"),
    ("says[: len(images)]", "says[-len(images) :]"),
    ("mine.translation(model.classes)", "family.classes"),
]


@pytest.mark.parametrize(("old", "new"), SCORE_MUTANTS)
def test_planted_mutants_of_the_scores_are_caught(old, new, mine, wanted, mutant, monkeypatch):
    changed = mutant(scores, old, new)
    for name in ("answers", "max_logit", "gloss", "leaf_glosses", "columns"):
        monkeypatch.setattr(scores, name, getattr(changed, name))
    assert not near(session.run("mine.toml").rows, wanted)  # of 50 pictures: half of the last batch of 4 is padding


def test_noise_belongs_to_seed_and_picture():
    ids = [f"p{i}" for i in range(400)]
    one = scores.random(ids, 0)
    assert (scores.random(ids[::-1], 0) == one[::-1]).all()
    assert not np.isclose(scores.random(ids, 1), one).any()
    assert scipy_stats.kstest(one, "uniform").pvalue > 0.01


def test_batches_and_seeds(mine):
    first, again = session.run("mine.toml"), session.run("mine.toml", out=Path("again"))
    pd.testing.assert_frame_equal(first.rows, again.rows)
    assert first.boards == again.boards
    assert all(Path("again", name).read_bytes() == (first.folder / name).read_bytes() for name in ("auroc.csv", "auroc.md"))
    other = session.run("mine.toml", batch_size=7, seed=3)
    exact = [name for name in first.rows if name not in scores.SCORES]
    pd.testing.assert_frame_equal(first.rows[exact], other.rows[exact])
    assert np.allclose(first.rows[["max_logit", "gloss"]], other.rows[["max_logit", "gloss"]], atol=1e-5)
    assert not np.isclose(first.rows["random"], other.rows["random"]).any()


def test_a_model_without_text_has_no_glosses(mine):
    done = session.run("mine.toml", models=["tiny_head"])
    (board,) = done.boards
    assert list(board.lines[0].figures.areas) == ["max_logit", "random"]
    assert not board.lines[0].figures.differences
    assert done.rows["gloss"].isna().all()
    assert "tiny_head reads no text, so glosses have no figures; choose a CLIP for them" in board.notes
    network, zoo = registry.model("tiny_head")(), registry.dataset("tiny_zoo")()
    logits = network(network.inputs([zoo.load("p0").image], "crop"))[0]
    assert done.rows["max_logit"][0] == pytest.approx(float(max(logits[0], logits[2])), abs=1e-5)  # robin, stork
    assert "leaf" not in forms.to_markdown("t", done.boards).partition("AUROC: how")[0]


# -- what is asked --------------------------------------------------------------------------------------------------------------


def families(inside, outside, classes):
    return experiment.families(Pair(name="a pair", inside=inside, outside=outside), classes, wordnet.compact(), "my data")


def test_families_are_classes_below_synsets(tiny):
    found = families("bird.n.01", "n02087122", tiny["CLASSES"])
    assert (found.inside.classes, found.outside.classes) == ((0, 2), (1, 4, 5))
    assert found.outside.synset.name == "hunting_dog.n.01"
    one = families("robin.n.02", "dog.n.01", ClassList(("a", "b"), ("n01558993", "n02084071")))
    assert (one.inside.classes, one.outside.classes) == ((0,), (1,))
    assert one.inside.leaves == (one.inside.synset,)


def test_classes_that_can_be_in_no_family(tiny):
    graph = wordnet.compact()
    assert experiment.unplaced(tiny["CLASSES"], graph) == ["gizmo", "oddity"]
    assert experiment.unplaced(ClassList(("x", "y")), graph) == ["x", "y"]


@pytest.mark.parametrize(
    ("inside", "outside", "message"),
    [
        ("bird.n.01", "dog.n.9", "pair a pair: no synset 'dog.n.9'"),
        ("birdy.n.01", "dog.n.01", "pair a pair: no synset 'birdy.n.01' .*; did you mean"),
        ("bird.n.01", "vertebrate.n.01", "pair a pair: 'robin' is below both bird.n.01 and vertebrate.n.01; choose families that"),
        ("bird.n.01", "bird.n.01", "'robin' is below both"),
        ("spider.n.01", "bird.n.01", r"pair a pair: my data has no class below spider.n.01 \(none of its 7 classes is\); choose"),
        ("bird.n.01", "spider.n.01", "my data has no class below spider.n.01"),
    ],
)
def test_what_is_no_pair_of_families(tiny, inside, outside, message):
    with pytest.raises(XbenchError, match=message):
        families(inside, outside, tiny["CLASSES"])


def test_classes_without_synsets_have_no_families():
    with pytest.raises(
        XbenchError, match=r"no class below bird.n.01 \(none of its classes has a synset\); choose .* another dataset"
    ):
        families("bird.n.01", "dog.n.01", ClassList(("robin", "dog")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("batch_size = 4", "batchsize = 4"), "mine.toml, line 6: unknown key 'batchsize'; did you mean 'batch_size'"),
        (('outside = "hunting_dog.n.01"', ""), "the key 'outside' is missing"),
        (('"hound / bird"', '"bird / hound"'), "several pairs are called 'bird / hound'; give each its own name"),
        (('"ood"', '"odd"'), "unknown experiment 'odd'; did you mean 'ood'"),
        (('"ood"', "7"), "line 2: experiment: Input should be a valid string, not 7"),
        (('["tiny_reader"]', "[]"), "models: List should have at least 1 item"),
        (("[[pairs]]", "[[pairs"), "mine.toml is not valid TOML"),
    ],
)
def test_what_is_no_experiment(mine, change, message):
    text = TEXT.replace(change[0], change[1], 1)
    assert text != TEXT
    mine.write_text(text)
    with pytest.raises(XbenchError, match=message):
        run("mine.toml")


def test_an_experiment_is_no_suite_of_methods(mine):
    with pytest.raises(XbenchError, match=r"mine.toml is an experiment \(ood\) without methods and metrics; only `xbench run`"):
        suite.load(mine)
    assert suite.title(mine) == "Birds and hounds"
    assert suite.experiment(mine) == "ood"


# -- a run ----------------------------------------------------------------------------------------------------------------------


def test_what_is_left_out_is_said(mine):
    done = session.run("mine.toml", datasets=["tiny_zoo(both=7, broken=2)"])
    (board,) = done.boards
    # Every seventh picture has robin and beagle; picture 2 is an oddity, read by nobody.
    assert [line.pictures for line in board.lines] == [(10, 30), (30, 10), (10, 10)]
    notes = [
        "tiny_zoo(both=7, broken=2) are generated pictures, no photographs",
        "one note",
        "classes without a synset among WordNet's nouns here, in no family: 2 (first: gizmo)",
        "bird / hound: pictures of both families, left out: 10",
        "hound / bird: pictures of both families, left out: 10",
    ]
    assert list(board.notes[:5]) == notes
    assert "and were cut" in board.notes[5]
    broken = session.run("mine.toml", datasets=["tiny_zoo(broken=3)"]).boards[0]
    assert "pictures that cannot be read: 1 (first: cannot read p3: truncated)" in broken.notes
    assert [line.pictures for line in broken.lines] == [(19, 30), (30, 19), (9, 10)]


def test_glosses_that_are_cut_are_counted(mine):
    (board,) = session.run("mine.toml").boards
    graph = wordnet.compact()
    roots = [graph.synset(name) for name in ("bird.n.01", "hunting_dog.n.01", "stork.n.01")]
    glosses = {synset.gloss for root in roots for synset in (root, *leaves_of(graph, root))}
    long = sum(len(gloss.split()) + 2 > 12 for gloss in glosses)
    (note,) = [note for note in board.notes if "cut" in note]
    assert note.startswith(f"glosses that are longer than the text tower reads, and were cut: {long} (first: ")
    assert 0 < long < len(glosses)


def test_pairs_without_pictures_are_left_out_and_named(mine):
    (board,) = session.run("mine.toml", datasets=["tiny_zoo(n=7, broken=3)"]).boards  # the only stork
    assert [line.pair.name for line in board.lines] == ["bird / hound", "hound / bird"]
    assert "pairs left out, without pictures on one side: stork / thrush" in board.notes


def test_too_few_pictures(mine):
    with pytest.raises(
        XbenchError, match=r"no pair has pictures on both sides in tiny_zoo; get pictures of more .* larger --limit"
    ):
        session.run("mine.toml", limit=3)
    assert not Path("results/runs/mine/experiment.json").exists()


def test_models_that_do_not_fit(mine):
    with pytest.raises(XbenchError, match=r"model tiny_reader lacks classes of bird.n.01 \(robin, stork ...\); choose a model"):
        session.run("mine.toml", models=["tiny_reader(fewer=1)"])
    with pytest.raises(XbenchError, match=r"model tiny_head gives NaN or infinite logits on 50 pictures \(first: p0\); mend it"):
        session.run("mine.toml", models=["tiny_head(nan=true)"])


def test_nothing_to_run(mine):
    with pytest.raises(XbenchError, match="nothing to run: --models names no model"):
        session.run("mine.toml", models=[])
    with pytest.raises(XbenchError, match=r"cannot compute on nowhere: .*; choose another --device"):
        session.run("mine.toml", device="nowhere")
    with pytest.raises(XbenchError, match="unknown dataset 'tiny_zo'; did you mean 'tiny_zoo'"):
        session.run("mine.toml", datasets=["tiny_zo"])


def test_what_is_written(mine):
    done = session.run("mine.toml", models=["tiny_reader", "tiny_head"], limit=50)
    assert done.folder == Path("results/runs/mine")
    pd.testing.assert_frame_equal(pd.read_parquet(done.folder / "scores.parquet"), done.rows)
    table = pd.read_csv(done.folder / "auroc.csv")
    first = done.boards[0].lines[0].figures
    row = table[(table["model"] == "tiny_reader") & (table["pair"] == "bird / hound") & (table["figure"] == "gloss")].iloc[0]
    assert (row["value"], row["low"], row["high"]) == pytest.approx(
        (first.areas["gloss"].mean, first.areas["gloss"].low, first.areas["gloss"].high), abs=1e-6
    )
    assert len(table) == 4 * (4 + 3) + 4 * 2  # three pairs and their mean; scores and differences; and a model without glosses
    manifest = json.loads((done.folder / "experiment.json").read_text())
    assert manifest["asked"]["models"] == ["tiny_reader", "tiny_head"]
    assert manifest["limit"] == 50
    assert manifest["wordnet"] == wordnet.compact().digest
    assert manifest["boards"][0]["pairs"][0]["inside"] == {"synset": "bird.n.01", "classes": [0, 2], "pictures": 15}
    assert manifest["boards"][0]["pairs"][0]["figures"]["auroc"]["gloss"][0] == pytest.approx(first.areas["gloss"].mean)
    assert not list(done.folder.glob("*.tmp"))
    markdown = (done.folder / "auroc.md").read_text()
    assert "| bird / hound | 2 / 3 |" in markdown
    assert "mean over pairs" in markdown


def test_what_is_half_written_has_no_manifest(mine, monkeypatch):
    folder = session.run("mine.toml").folder
    assert (folder / "experiment.json").is_file()

    def full(boards):
        raise XbenchError("cannot write: no space")

    monkeypatch.setattr(forms, "to_csv", full)
    with pytest.raises(XbenchError, match="no space"):
        session.run("mine.toml")
    assert not (folder / "experiment.json").exists()


def test_a_model_or_dataset_is_named_by_its_id(mine):
    asked = Experiment.model_validate(
        {
            "experiment": "ood",
            "name": "x",
            "version": "1",
            "models": ["tiny_reader"],
            "datasets": ["tiny_zoo(n=60)"],
            "pairs": [{"name": "p", "inside": "bird.n.01", "outside": "dog.n.01"}],
        }
    )
    assert session.run(asked, datasets=["tiny_zoo"]).boards[0].dataset == "tiny_zoo(n=60)"
    assert session.run(asked, datasets=["tiny_zoo(n=50)"]).boards[0].dataset == "tiny_zoo(n=50)"


def test_the_command_prints_figures(mine, capsys):
    run("mine.toml", out=Path("here"), limit=60, batch_size="16", threads=1)
    shown = capsys.readouterr().out
    assert "tiny_reader on tiny_zoo: AUROC" in shown
    assert "leaf glosses - max logit" in shown
    assert "scored pictures in" in shown
    assert Path("here/experiment.json").is_file()


@pytest.mark.parametrize(
    "given",
    [
        {"methods": "itsm"},
        {"metrics": "msc"},
        {"shard": "1/2"},
        {"dtype": "bfloat16"},
        {"workers": 2},
        {"save_maps": True},
        {"fresh": True},
        {"batch_size": "auto"},
    ],
)
def test_options_that_do_not_apply(mine, given):
    (name,) = given
    with pytest.raises(XbenchError, match=f"^mine.toml is an experiment.*--{name.replace('_', '-')}"):
        run("mine.toml", **given)
    assert not Path("results").exists()
