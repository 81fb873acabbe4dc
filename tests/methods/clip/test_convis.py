"""ConVis beside plain numpy on a small random CLIP: full sorts, windows in loops, hyponyms by recursion; mutants must differ."""

import contextlib
import dataclasses
import gc
import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from xbench.methods.clip import _concepts, _windows, convis

from xbench.data.samples import Item, generator
from xbench.data.wordnet import WordNet, compact
from xbench.errors import NotApplicable, XbenchError
from xbench.network.model import ModelView
from xbench.plugins.registry import registry

SYNSETS = ("n02219486", "n02206856", "n02121808")  # ant, bee, domestic cat
ROWS = 64  # in a batch of three items, for speed
SIDES = (18, 9)  # of windows, for an input of 32
SEARCH = {"blocks": 3, "draws": 12, "eps": 0.05, "gamma": 2.0, "cutoff": 4}
SEARCHING = "convis_stochastic(" + ", ".join(f"{k}={v}" for k, v in SEARCH.items())


@pytest.fixture(scope="module")
def model(clips):
    return clips.model(clips.vision(), synsets=SYNSETS)


@pytest.fixture(scope="module")
def batch(clips, model):
    return clips.batch(model, count=ROWS)


@pytest.fixture
def few(monkeypatch):
    """A vocabulary of some hundred synsets, so that no two cosines are as near as rounding."""
    whole = compact()
    wanted = [*(whole.synset(wnid) for wnid in SYNSETS), *list(whole.closure(whole.synset("bird.n.01")))[::8], *list(whole)[::60]]
    kept = {above for s in wanted for above in (s, *whole.ancestors(s))}
    graph = WordNet(kept, {s.wnid: [h.wnid for h in whole.hypernyms(s)] for s in kept})
    assert 300 < len(graph) < 600
    monkeypatch.setitem(_concepts.VOCABULARIES, "few", lambda: graph)
    yield graph
    _concepts._vocabulary.cache_clear()


def explain(spec, model, batch, view=None):
    view = view or ModelView(model)
    with view.account() as cost:
        return registry.method(spec)(view, batch.seeded(spec)), cost


# -- the reference ----------------------------------------------------------------------------------------------------------------


def below(graph, synset) -> set:
    return {synset}.union(*(below(graph, s) for s in graph.hyponyms(synset)))


class Plain:
    """Ranks of a concept in windows of a row's picture by a full sort of all cosines, in double precision."""

    def __init__(self, clips, model, batch, row, graph, concept):
        self.model, synsets = model, list(graph)
        self.own = _concepts.ranks(ModelView(model), batch, row, SIDES[0], concept, "few" if len(graph) < 1000 else "compact")
        self.picture = _windows.framed(ModelView(model), batch, row, SIDES[0]).picture  # the noise can be no other
        texts = np.stack([clips.embedding(s.gloss).double().numpy() for s in synsets])
        self.texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
        self.kinds = [i for i, s in enumerate(synsets) if s in below(graph, graph.synset(concept))]

    def cosines(self, windows) -> np.ndarray:
        how = {"size": (32, 32), "mode": "bicubic", "antialias": True}
        cuts = [self.picture[:, top : top + side, left : left + side][None] for top, left, side in windows]
        resized = torch.cat([F.interpolate(cut, **how).clamp(-1, 1) for cut in cuts])  # 0 and 255 in this model
        with torch.no_grad():
            seen = self.model.network.visual(resized).double().numpy()
        return seen / np.linalg.norm(seen, axis=1, keepdims=True) @ self.texts.T

    def ranks(self, windows) -> list[int]:
        found = []
        for window, cosines in zip(windows, self.cosines(windows), strict=True):
            place = {int(i): rank for rank, i in enumerate(np.argsort(-cosines))}
            rank = min(place[kind] for kind in self.kinds)
            near = np.abs(cosines - cosines[self.kinds].max()) < 1e-6
            if near.sum() > 1:  # nearer than rounding: on either side is right
                own = int(self.own([window])[0])
                assert abs(own - rank) < near.sum()
                rank = own
            found.append(rank)
        return found


def scaled(map_: np.ndarray) -> np.ndarray:
    return (map_ - map_.min()) / (map_.max() - map_.min())


def plain_grid(plain, large) -> np.ndarray:
    """Algorithm 1 with all windows, those beside the picture too."""
    means = []
    for side in SIDES:
        total, count = np.zeros((2, 32 + 36, 32 + 36))
        windows = [(top, left, side) for top in range(0, 68 - side + 1, 2) for left in range(0, 68 - side + 1, 2)]
        for (top, left, _), rank in zip(windows, plain.ranks(windows), strict=True):
            total[top : top + side, left : left + side] += rank
            count[top : top + side, left : left + side] += 1
        means.append(total[18:50, 18:50] / count[18:50, 18:50])
    return 1 - scaled(large * means[0] + (1 - large) * means[1])


def plain_search(plain, sample, blocks, draws, eps, gamma, cutoff) -> np.ndarray:
    total = np.zeros((68, 68))
    for block in range(blocks):
        map_, drawn = np.ones((68, 68)), generator("0", "convis", sample, block)
        side, taken = SIDES[0] if block < blocks / 2 else SIDES[1], 0
        while taken < draws:
            places = (torch.rand(16, 2, dtype=torch.float64, generator=drawn) * 50).int().tolist()
            chances = torch.rand(16, dtype=torch.float64, generator=drawn).tolist()
            ranks = plain.ranks([(top, left, side) for top, left in places])
            for (top, left), chance, rank in zip(places, chances, ranks, strict=True):
                if taken < draws and chance < map_[top, left] / map_[:50, :50].max():
                    score = 2 * (np.exp(-gamma * rank / cutoff) - 0.5) if rank < cutoff else -1
                    map_[top : top + side, left : left + side] *= 1 + eps * score
                    taken += 1
        total += map_
    return scaled(total[18:50, 18:50])


CONCEPTS = ["", "bird.n.01", "animal.n.01"]


def agrees(prefix, clips, model, batch, few) -> bool:
    for concept in CONCEPTS:
        asked = f"concept={concept}, vocabulary=few" if concept else "vocabulary=few"
        grid, _ = explain(f"{prefix}convis({asked}, large=0.7)", model, batch)
        search, _ = explain(f"{prefix}{SEARCHING}, {asked})", model, batch)
        row = 1
        plain = Plain(clips, model, batch, row, few, concept or SYNSETS[int(batch.targets[row])])
        for found, wanted in [(grid[row], plain_grid(plain, 0.7)), (search[row], plain_search(plain, str(row), **SEARCH))]:
            if not np.allclose(found.numpy(), wanted, atol=1e-6):
                return False
    return True


def test_maps_are_those_of_the_plain_algorithms(clips, model, batch, few):
    assert agrees("", clips, model, batch, few)


MUTANTS = [
    ("in graph.closure(meant)", "in (meant,)"),
    ("in graph.closure(meant)", "in graph.leaves(meant)"),
    ("amax(dim=1, keepdim=True)", "amin(dim=1, keepdim=True)"),
    ("cosines >", "cosines >="),
    ("cosines > cosines", "cosines < cosines"),
    ("for synset in order])", "for synset in graph])"),
    ("int(batch.targets[row])", "int(batch.targets[0])"),
    ("-(large * means[0]", "(large * means[0]"),
    ("large * means[0] + (1 - large) * means[1]", "large * means[1] + (1 - large) * means[0]"),
    ("return total / count", "return total"),
    ("(128, 64, 16)", "(128, 96, 16)"),
    ("(128, 64, 16)", "(128, 64, 32)"),
    ("k - margin + side)", "k - margin + side - 1)"),
    ("k + side > margin", "k >= margin"),
    ("range(0, margin + n, step)", "range(0, n, step)"),
    ('"bicubic"', '"bilinear"'),
    (".clamp(black, white)", ""),
    ("left : left + side] for", "left : left + side].flip(2) for"),
    ("batch.images[row], batch", "batch.images[0], batch"),
    ("2 * block < blocks", "block == 0"),
    ("2 * block < blocks", "2 * block >= blocks"),
    ("total += _searched", "total = _searched"),
    ("chance * corners.max()", "chance"),
    ("2 * (-gamma", "(-gamma"),
    ("rank < cutoff", "rank < 2 * cutoff"),
    ("exp(), 0.0) - 1)", "exp(), 0.0))"),
    ("side] *= factor", "side] += factor"),
    ("map_[:-margin, :-margin]", "map_"),
    ('"convis", item.sample, block)', '"convis", item.sample)'),
]


@pytest.mark.parametrize("number", range(len(MUTANTS)))
def test_planted_mutants_of_the_source_are_caught(clips, model, batch, few, tmp_path, number):
    old, new = MUTANTS[number]
    folder = registry.get("method", "convis").path.parent
    source = "\n".join((folder / f"{name}.py").read_text() for name in ("../_shared", "_windows", "_concepts", "convis"))
    assert old in source, old
    source = re.sub(r"^from (\.+_\w+|__future__) import .*\n", "", source.replace(old, new), flags=re.MULTILINE)
    source = re.sub(r'(@method\(")', rf"\g<1>mutant{number}_", source)
    (tmp_path / "mutant.py").write_text("from __future__ import annotations\n" + source)
    registry.load(str(tmp_path / "mutant.py"))
    loaded = registry.get("method", f"mutant{number}_convis").make.__globals__
    loaded["VOCABULARIES"]["few"] = lambda: few
    with contextlib.suppress(RuntimeError, IndexError):  # it cannot even run
        assert not agrees(f"mutant{number}_", clips, model, batch, few)


def test_ranks_among_all_that_ships_are_those_of_a_full_sort(clips, model, batch):
    plain = Plain(clips, model, batch, 2, compact(), "dog.n.01")
    windows = [(top, left, side) for side in SIDES for top in (9, 20, 31) for left in (12, 17)]
    found = _concepts.ranks(ModelView(model), batch, 2, SIDES[0], "dog.n.01", "compact")(windows).tolist()
    for rank, cosines in zip(found, plain.cosines(windows), strict=True):
        best = cosines[plain.kinds].max()  # nearer than rounding: on either side
        assert (cosines > best + 1e-6).sum() <= rank <= (cosines > best - 1e-6).sum()
        assert 0 <= rank < len(compact())


# -- what is computed once --------------------------------------------------------------------------------------------------------


@pytest.fixture
def passes(monkeypatch):
    """How many pictures the model embeds, as a list to sum."""
    seen, embed = [], ModelView.embeddings

    def counted(self, batch, images):
        seen.append(len(images))
        return embed(self, batch, images)

    monkeypatch.setattr(ModelView, "embeddings", counted)
    return seen


def test_a_further_concept_of_a_picture_needs_no_pass_and_is_charged_as_if_alone(model, batch, few, passes):
    view, windows = ModelView(model), 24 * 24 + 20 * 20  # the corners from which each scale touches the picture
    first, cost = explain("convis(vocabulary=few)", model, batch, view)
    assert sum(passes) == 3 * windows
    assert cost.forwards == pytest.approx(windows)
    passes.clear()
    other, further = explain("convis(vocabulary=few, concept=bird.n.01)", model, batch, view)
    assert not passes
    assert further.forwards == pytest.approx(windows)
    assert not torch.equal(first, other)
    assert torch.equal(other, explain("convis(vocabulary=few, concept=bird.n.01)", model, batch)[0])


def test_a_further_concept_of_a_search_needs_few(model, batch, few, passes):
    view = ModelView(model)
    explain("convis_stochastic(vocabulary=few, blocks=2, draws=40)", model, batch, view)
    first = sum(passes)
    passes.clear()
    explain("convis_stochastic(vocabulary=few, blocks=2, draws=40, concept=bird.n.01)", model, batch, view)
    assert sum(passes) < first / 5


def test_several_targets_of_a_sample_share_its_windows(model, batch, few, passes):
    items = tuple(Item(f"one#{target}", "one", target, "one") for target in (0, 1, 2))
    shared = dataclasses.replace(
        batch, images=batch.images[[1] * ROWS], targets=torch.tensor([0, 1] + [2] * (ROWS - 2)), items=items
    )
    maps, cost = explain("convis(vocabulary=few)", model, shared)
    assert sum(passes) == 24 * 24 + 20 * 20
    assert cost.forwards == pytest.approx(24 * 24 + 20 * 20)
    assert not torch.equal(maps[0], maps[1])


def test_other_pictures_of_the_same_items_share_nothing(model, batch, few, passes):
    view = ModelView(model)
    explain("convis(vocabulary=few)", model, batch, view)
    first = sum(passes)
    explain("convis(vocabulary=few)", model, batch.with_images(batch.images + 0.1), view)
    assert sum(passes) == 2 * first


def test_windows_are_forgotten_with_the_view(model, batch, few):
    before = len(_windows._FRAMED)
    view = ModelView(model)
    explain("convis(vocabulary=few)", model, batch, view)
    assert len(_windows._FRAMED) == before + 1
    del view
    gc.collect()
    assert len(_windows._FRAMED) == before


# -- draws ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["convis(vocabulary=few)", f"{SEARCHING}, vocabulary=few)"])
def test_draws_are_those_of_the_seed_and_the_sample_whatever_the_companions(model, batch, few, spec):
    maps, _ = explain(spec, model, batch)
    assert torch.equal(explain(spec, model, batch)[0], maps)
    assert not torch.equal(explain(spec, model, dataclasses.replace(batch, seed="1"))[0], maps)
    renamed = tuple(dataclasses.replace(item, sample=f"other {item.sample}") for item in batch.items)
    assert not torch.equal(explain(spec, model, dataclasses.replace(batch, items=renamed))[0], maps)
    rows = [2, 0] + [1] * (ROWS - 2)
    turned = dataclasses.replace(batch, images=batch.images[rows], targets=batch.targets[rows])
    turned = dataclasses.replace(turned, items=tuple(batch.items[i] for i in rows[:3]))
    assert torch.equal(explain(spec, model, turned)[0], maps[[2, 0, 1]])


def test_a_search_that_changes_nothing_draws_evenly():
    """Corners by rejection from a constant map: every place as often as any other, within four standard deviations."""
    drawn = []

    def factors(windows):
        drawn.extend(windows)
        return torch.ones(len(windows))

    convis._searched(factors, torch.Size((8, 10)), 4, 2, 12_000, generator("even"))
    counts = np.zeros((4, 6))
    for top, left, side in drawn[:12_000]:
        counts[top, left] += 1
        assert side == 2
    assert np.abs(counts - 500).max() < 4 * 500**0.5


def test_a_search_draws_in_proportion_to_the_map():
    """Two places, of which one doubles whenever it is drawn: how often it is after three draws, against all ways there are."""
    counts = np.zeros(4)
    for seed in range(4000):
        map_ = convis._searched(
            lambda windows: torch.tensor([1.0 + (left == 0) for _, left, _ in windows]),
            torch.Size((2, 3)),
            1,
            1,
            3,
            generator(seed),
        )
        assert map_[0, 1] == map_[1, 0] == 1
        counts[int(map_[0, 0].log2())] += 1
    chances = np.zeros(4)
    for drawn in np.ndindex(2, 2, 2):
        chance, height = 1.0, 1.0
        for this in drawn:
            chance *= (height if this else 1) / (height + 1)
            height *= 2 if this else 1
        chances[sum(drawn)] += chance
    assert np.abs(counts - 4000 * chances).max() < 4 * (4000 * chances * (1 - chances)).max() ** 0.5


# -- geometry ---------------------------------------------------------------------------------------------------------------------


def test_at_224_pixels_730_windows_touch_the_picture_each_pixel_in_64_large_and_16_small():
    for side, across, over in [(128, 21, 64), (64, 17, 16)]:
        asked = []

        def ones(windows, asked=asked):
            asked.extend(windows)
            return torch.ones(len(windows))

        mean = convis._mean(ones, (224, 224), 128, side, 16)
        assert torch.equal(mean, torch.ones(224, 224).double())
        assert len(set(asked)) == len(asked) == across**2
        covered = np.zeros((480, 480))
        for top, left, _ in asked:
            covered[top : top + side, left : left + side] += 1
        assert (covered[128:352, 128:352] == over).all()


def test_inputs_that_are_no_square_have_windows_by_their_shorter_side(model, batch, few):
    wide = batch.with_images(torch.cat([batch.images, batch.images.flip(3)], dim=3)[..., :48])
    for spec in ("convis(vocabulary=few)", f"{SEARCHING}, vocabulary=few)"):
        maps, _ = explain(spec, model, wide)
        assert maps.shape == (3, 32, 48)
        assert maps.isfinite().all()
        assert maps.amin() == 0
        assert maps.amax() == 1


def test_a_concept_that_all_are_kinds_of_is_everywhere(model, batch, few):
    assert not explain("convis(concept=entity.n.01, vocabulary=few)", model, batch)[0].any()


# -- where it does not apply ------------------------------------------------------------------------------------------------------


def test_classes_without_synsets_in_the_vocabulary_are_said(clips, batch):
    without = clips.model(clips.vision())
    with pytest.raises(NotApplicable, match=r"the classes of tiny-clip have no synsets; name one, such as concept=bird\.n\.01"):
        explain("convis", without, batch)
    assert explain("convis(concept=bird.n.01)", without, batch)[0].shape == (3, 32, 32)
    unknown = clips.model(clips.vision(), synsets=("n02219486", "n99999999", ""))
    with pytest.raises(NotApplicable, match="tiny-clip has classes that are not in the vocabulary, such as 'bee'"):
        explain("convis", unknown, batch)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("convis(concept=brid.n.01)", "no synset 'brid.n.01'"),
        ("convis(concept=dogg)", "did you mean 'dog'"),
        ("convis(concept=crane)", "'crane' has 2 meanings; name one of crane.n.05"),
        ("convis(vocabulary=ful)", "method convis: no vocabulary 'ful'; did you mean 'full'"),
        ("convis(large=1.5)", r"method convis: large must be in \[0, 1\], not 1.5"),
        ("convis_stochastic(draws=0)", "method convis_stochastic: blocks, draws and cutoff must be positive"),
        ("convis_stochastic(eps=1.0)", "method convis_stochastic: eps must be between 0 and 1"),
    ],
)
def test_what_cannot_be_meant_is_said(model, batch, spec, message):
    with pytest.raises(XbenchError, match=message):
        explain(spec, model, batch)
