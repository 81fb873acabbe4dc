"""quantus's metrics through xbench: against plain references and xbench's own, with mutants of the adapters that must be caught."""

import importlib.metadata
import inspect
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from xbench.data.samples import Truth
from xbench.errors import NotApplicable, XbenchError
from xbench.plan import keys
from xbench.plugins.registry import registry

quantus = pytest.importorskip("quantus", reason="the extra `quantus` is not installed")

H, W = 12, 20
MASK = torch.zeros(H, W, dtype=torch.bool)
MASK[2:7, 5:14] = True
IGNORE = torch.zeros(H, W, dtype=torch.bool)
IGNORE[6:9, 8:17] = True
CELL = torch.zeros(H, W, dtype=torch.bool)
CELL[: H // 2, W // 2 :] = True  # upper right
FILES = ("_shared.py", *(f"quantus/{name}.py" for name in ("_adapter", "localization", "complexity")))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def maps():
    """Every kind; ``cam`` is as real ones are: coarse, rectified and enlarged, so that much of it is 0."""
    coarse = torch.randn(1, 1, 3, 5, generator=seeded(5)).clamp(min=0)
    y, x = np.mgrid[:H, :W]
    return {
        "random": torch.rand(H, W, generator=seeded(0)),
        "signed": torch.randn(H, W, generator=seeded(1)),
        "huge": torch.randn(H, W, generator=seeded(2)) * 1e30,
        "tiny": torch.rand(H, W, generator=seeded(3)) * 1e-30,
        "blob": torch.from_numpy(np.exp(-((y - 4.2) ** 2 + (x - 8.7) ** 2) / 9)).float(),
        "tied": torch.randint(0, 4, (H, W), generator=seeded(4)).float(),
        "cam": functional.interpolate(coarse, (H, W), mode="bilinear", align_corners=False)[0, 0],
        "one pixel": torch.zeros(H, W).index_put((torch.tensor(3), torch.tensor(6)), torch.tensor(2.0)),
        "negative": -1 - torch.rand(H, W, generator=seeded(6)),
        "not positive": (torch.rand(H, W, generator=seeded(7)) - 0.5).clamp(max=0),
        "constant": torch.full((H, W), 0.3),
        "ones": torch.ones(H, W),
        "zero": torch.zeros(H, W),
    }


LOCAL = ("RelevanceMassAccuracy", "AttributionLocalisation", "RelevanceRankAccuracy", "TopKIntersection(k=30)", "AUC", "Focus")
UNTIED = ("random", "signed", "huge", "tiny", "blob")

# -- plain references: (values [n], mask [n]) -> a value ------------------------------------------------------------------------


def share(values, mask):
    positive = [max(v, 0.0) for v in values]
    if min(positive) == max(positive):
        return math.nan
    total = math.fsum(positive)
    return math.fsum(max(v, 0.0) for v, inside in zip(values, mask, strict=True) if inside) / total


def top(values, mask, k):
    """(least, most) share of the k largest inside, over all orders of ties."""
    found = []
    for favoured in (False, True):
        order = sorted(zip(values, mask, strict=True), key=lambda pair: (-pair[0], pair[1] is not favoured))
        found.append(sum(inside for _, inside in order[:k]) / k)
    return tuple(found)


def roc(values, mask):
    inside, outside = ([v for v, m in zip(values, mask, strict=True) if m is side] for side in (True, False))
    return sum((a > b) + 0.5 * (a == b) for a in inside for b in outside) / (len(inside) * len(outside))


def gini(values):
    v = [abs(x) / max(map(abs, values)) + 1e-7 for x in values]
    return math.fsum(abs(a - b) for a in v for b in v) / (2 * len(v) * math.fsum(v))


def nats(values):
    total = math.fsum(map(abs, values))
    return -math.fsum(abs(x) / total * math.log(abs(x) / total) for x in values if x)


def above(values, eps):
    return sum(abs(x) / max(map(abs, values)) > eps for x in values)


def reference(values, mask, cell_values, cell):
    """id -> (least, most) that is right; NaN for maps that quantus does not take."""
    usual = min(values) != max(values) and max(values) >= 0
    sizes = {abs(v) for v in values}
    found = {
        "RelevanceMassAccuracy": share(values, mask),
        "AttributionLocalisation": share(values, mask),
        "RelevanceRankAccuracy": top(values, mask, sum(mask)) if usual else math.nan,
        "TopKIntersection(k=30)": top(values, mask, 30) if usual else math.nan,
        "AUC": roc(values, mask) if usual else math.nan,
        "Focus": share(cell_values, cell),
    }
    return {name: value if isinstance(value, tuple) else (value, value) for name, value in found.items()}, {
        "Sparseness": gini(values) if len(sizes) > 1 else math.nan,
        "Complexity": nats(values) if len(sizes) > 1 else math.nan,
        "EffectiveComplexity": above(values, 1e-5) if len(sizes) > 1 else math.nan,
        "EffectiveComplexity(eps=0.3)": above(values, 0.3) if len(sizes) > 1 else math.nan,
    }


def near(value, least, most):
    if math.isnan(least):
        return math.isnan(value)
    return least - 1e-8 <= value <= most + 1e-8


def agrees(prefix=""):
    def score(name, map_, truth):
        return float(registry.metric(f"{prefix}quantus/{name}")(map_[None].clone(), truth)[0])

    for map_ in maps().values():
        for ignore in (None, IGNORE):
            counts = torch.ones_like(MASK) if ignore is None else ~ignore
            zeroed = map_ if ignore is None else map_.masked_fill(ignore, 0)
            lists = [t.tolist() for t in (map_.double()[counts], MASK[counts], zeroed.double().flatten(), CELL.flatten())]
            local, _ = reference(*lists)
            for name, (least, most) in local.items():
                if not near(score(name, map_, Truth(CELL if name == "Focus" else MASK, ignore=ignore)), least, most):
                    return False
        flat = map_.double().flatten().tolist()
        _, complexity = reference(flat, MASK.flatten().tolist(), flat, CELL.flatten().tolist())
        for name, value in complexity.items():
            if not near(score(name, map_, Truth(None)), value, value):
                return False
    return True


def scores(spec, *named, mask=MASK):
    found = maps()
    return registry.metric(spec)(torch.stack([found[n] for n in named]), Truth(mask)).tolist()


def test_they_agree_with_the_references_on_all_kinds_of_maps():
    assert agrees()


def test_every_class_of_the_library_is_run_or_refused():
    known = {name for name, class_ in vars(quantus).items() if inspect.isclass(class_) and issubclass(class_, quantus.Metric)}
    classes = known - {"Metric", "ModelParameterRandomisation"}  # the base, and MPRT's former name
    run = {id.removeprefix("quantus/") for id in registry.ids("metric") if id.startswith("quantus/") and "<" not in id}
    refused = set(registry.get("metric", "quantus/<ClassName>").refused)
    assert not run & refused
    assert run | refused == classes


@pytest.mark.parametrize(
    ("name", "own", "where"),
    [
        ("RelevanceMassAccuracy", "relevance_mass", (*UNTIED, "tied", "cam", "one pixel")),
        ("AttributionLocalisation", "relevance_mass", (*UNTIED, "tied", "cam", "one pixel")),
        ("AUC", "auc_mask", (*UNTIED, "tied", "cam", "one pixel")),
        ("RelevanceRankAccuracy", "relevance_rank", UNTIED),
    ],
)
def test_where_they_are_the_same_as_xbenchs_own(name, own, where):
    assert scores(f"quantus/{name}", *where) == pytest.approx(scores(own, *where), abs=1e-8)


def test_focus_is_grid_pointing():
    where = (*UNTIED, "tied", "cam", "one pixel")
    assert scores("quantus/Focus", *where, mask=CELL) == pytest.approx(scores("grid_pointing", *where, mask=CELL), abs=1e-8)


def test_complexity_is_entropy_in_nats_and_sparseness_nearly_the_gini_index():
    where = (*UNTIED, "tied", "cam", "one pixel", "negative")
    entropy = [value * math.log(H * W) for value in scores("entropy", *where)]
    assert scores("quantus/Complexity", *where) == pytest.approx(entropy, abs=1e-8)
    assert scores("quantus/Sparseness", *where) == pytest.approx(scores("sparseness", *where), abs=H * W * 1e-7)


def test_the_constant_that_sparseness_adds_shows_on_concise_maps():
    side = 224
    one = torch.zeros(1, side, side)
    one[0, 5, 7] = 1
    ours, theirs = (float(registry.metric(id)(one, Truth(None))[0]) for id in ("sparseness", "quantus/Sparseness"))
    assert ours == pytest.approx(1 - 1 / side**2)
    assert ours - theirs == pytest.approx(0.005, abs=1e-4)


def test_ties_are_where_rank_accuracy_leaves_xbenchs_expectation():
    least = torch.zeros(1, H, W)
    least[0, 0, 0] = 1  # all others tie: the expectation is nearly the mask's share
    area = float(MASK.float().mean())
    found = [float(registry.metric(id)(least, Truth(MASK))[0]) for id in ("relevance_rank", "quantus/RelevanceRankAccuracy")]
    assert found[0] == pytest.approx(area, abs=0.01)
    assert abs(found[1] - area) > 0.1


@pytest.mark.parametrize("name", ["RelevanceMassAccuracy", "AUC", "AttributionLocalisation", "Sparseness", "Complexity"])
def test_constant_maps_are_nan_where_xbenchs_own_have_a_value(name):
    assert all(math.isnan(v) for v in scores(f"quantus/{name}", "constant", "ones", "zero"))
    assert not any(math.isnan(v) for id in ("relevance_mass", "auc_mask", "entropy") for v in scores(id, "constant", "zero"))


@pytest.mark.parametrize(
    "name",
    [*LOCAL, "Sparseness", "Complexity", "EffectiveComplexity"],
)
def test_companions_and_scale_change_nothing(name):
    mask = CELL if name == "Focus" else MASK
    together = scores(f"quantus/{name}", "random", "huge", "zero", "signed", mask=mask)
    assert [together[0], together[3]] == [scores(f"quantus/{name}", n, mask=mask)[0] for n in ("random", "signed")]
    map_ = maps()["signed"]
    metric, before = registry.metric(f"quantus/{name}"), map_.clone()
    once, more = (float(metric((map_ * factor)[None], Truth(mask))[0]) for factor in (1, 1024))
    assert once == pytest.approx(more, rel=1e-12)
    metric(map_[None], Truth(mask))
    assert (map_ == before).all()


@pytest.mark.filterwarnings("error")
def test_the_library_prints_and_warns_of_nothing(capfd):
    for name in (*LOCAL, "Sparseness", "Complexity", "EffectiveComplexity"):
        scores(f"quantus/{name}", "signed", "cam", mask=CELL)
    assert capfd.readouterr() == ("", "")


def test_signed_maps_stay_in_range_where_the_library_alone_leaves_it():
    map_ = maps()["signed"].double().numpy()[None, None]
    alone = quantus.RelevanceMassAccuracy(disable_warnings=True)(
        model=None, x_batch=map_ * 0, y_batch=np.zeros(1, int), a_batch=map_, s_batch=MASK.numpy()[None, None]
    )
    assert not 0 <= alone[0] <= 1
    assert 0 < scores("quantus/RelevanceMassAccuracy", "signed")[0] < 1


def test_what_does_not_apply_says_so():
    everything, nothing = torch.ones(H, W, dtype=torch.bool), torch.zeros(H, W, dtype=torch.bool)
    for name in ("RelevanceMassAccuracy", "RelevanceRankAccuracy", "AUC", "Focus"):
        with pytest.raises(NotApplicable):
            scores(f"quantus/{name}", "random", mask=nothing)
    with pytest.raises(NotApplicable, match="the mask is the whole frame"):
        scores("quantus/AUC", "random", mask=everything)
    with pytest.raises(NotApplicable, match="the mask is the whole frame"):
        registry.metric("quantus/AUC")(torch.rand(1, H, W), Truth(~IGNORE, ignore=IGNORE))
    assert scores("quantus/RelevanceMassAccuracy", "random", mask=everything) == pytest.approx([1])
    with pytest.raises(NotApplicable, match="quarters of the frame"):
        scores("quantus/Focus", "random")
    with pytest.raises(NotApplicable, match=f"k = {H * W} is not less than the {H * W} pixels"):
        scores(f"quantus/TopKIntersection(k={H * W})", "random")
    for spec in ("TopKIntersection(k=0)", "EffectiveComplexity(eps=1.0)"):
        with pytest.raises(XbenchError, match="must be"):
            scores(f"quantus/{spec}", "random")


def test_rows_depend_on_the_librarys_version():
    for id in ("quantus/AUC", "quantus/Complexity"):
        assert keys.libraries([keys.closure(registry.metric(id))])["quantus"] == importlib.metadata.version("quantus")
        assert "_adapter.py" in {path.name for path in keys.closure(registry.metric(id)).files}


MUTANTS = [
    ('"RelevanceMassAccuracy", maps.clamp(min=0)', '"RelevanceMassAccuracy", maps'),
    ('"AttributionLocalisation", maps.clamp(min=0)', '"AttributionLocalisation", maps'),
    ('"Focus", maps.clamp(min=0)', '"Focus", maps'),
    ('"abs": False, **options', '"abs": True, **options'),
    ("maps.abs().flatten(1)", "maps.flatten(1)"),
    ("torch.ones_like(truth.mask) if truth.ignore is None else ~truth.ignore", "torch.ones_like(truth.mask)"),
    ("inside = truth.mask[counts]", "inside = ~truth.mask[counts]"),
    ("normalise=True", "normalise=False"),
    ("map_.min() == map_.max() or ", ""),
    (" or map_.max() < 0", ""),
    ("map_.double()", "map_.half().double()"),
    ("k=k)", "k=k + 1)"),
    ("eps=eps", "eps=1e-5"),
    ("(slice(h), slice(h, None))", "(slice(h, None), slice(h))"),
    ("(slice(w), slice(w, None))", "(slice(w, None), slice(w))"),
    ("[int(cell.any()) for", "[int(not cell.any()) for"),
    ("maps.masked_fill(truth.ignore, 0)", "maps"),
    ('return against_mask("AUC", maps, truth)', 'return 1 - against_mask("AUC", maps, truth)'),
    ('without_truth("Complexity"', 'without_truth("Sparseness"'),
]


@pytest.mark.parametrize("number", range(len(MUTANTS)))
@pytest.mark.filterwarnings("ignore")
def test_planted_mutants_of_the_source_are_caught(plant, number):
    prefix = f"mutant{number}_"
    plant(prefix, FILES, *MUTANTS[number])
    try:
        caught = not agrees(prefix)
    except AssertionError:  # quantus's own, of maps that it does not take
        caught = True
    assert caught
