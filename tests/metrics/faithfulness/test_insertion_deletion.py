"""Insertion and deletion against closed forms and an independent numpy reference; mutants of the rule must fail both."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xbench.metrics.faithfulness._curves import area

from xbench.data.samples import generator
from xbench.errors import XbenchError
from xbench.maps.perturbation import Prober
from xbench.maps.saliency import SaliencyMap
from xbench.network.model import ModelView
from xbench.plugins.registry import registry
from xbench.plugins.specs import Spec

SIDE = 16


@pytest.fixture
def linear(linear_network):
    """A picture of ones and weights that sum to .9, so that p(picture) = .9 and p(zero) = 0."""
    weights = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).double()
    weights *= 0.9 / weights.sum()
    return linear_network(weights), torch.ones(1, 3, SIDE, SIDE, dtype=torch.float64), weights.sum(dim=0)


def reference(share: np.ndarray, map_: np.ndarray, steps: int, inserting: bool) -> tuple[float, list[float]]:
    """The definition in plain numpy for a linear model: share[y, x] = what a pixel contributes."""
    order = np.argsort(-map_.flatten(), kind="stable")
    gone = [share.flatten()[order[: round(i * share.size / steps)]].sum() for i in range(steps + 1)]
    curve = [g if inserting else share.sum() - g for g in gone]
    return sum((a + b) / 2 for a, b in itertools.pairwise(curve)) / steps, curve


MAPS = {
    "random": torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(1)),
    "signed": torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(2)),
    "huge": torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(3)) * 1e30,
    "tiny": torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(4)) * 1e-30,
}


@pytest.mark.parametrize("kind", sorted(MAPS))
@pytest.mark.parametrize(("metric", "inserting"), [("deletion", False), ("insertion", True)])
@pytest.mark.parametrize("steps", [1, 7, 10, 256])
def test_equals_the_reference(linear, kind, metric, inserting, steps, probed):
    network, picture, share = linear
    score = probed(f"{metric}(steps=exact({steps}), substrate=zero)", network, picture, MAPS[kind])
    area, curve = reference(share.numpy(), MAPS[kind].numpy(), steps, inserting)
    assert score.value == pytest.approx(area, abs=1e-9)
    assert score.vector == pytest.approx(curve, abs=1e-9)


def test_closed_form_of_the_best_order(linear, probed):
    """Pixel by pixel in the order of the true contributions w: the area is sum of w_(k) (N - k + 1/2) / N for insertion."""
    network, picture, share = linear
    weights = np.sort(share.flatten().numpy())[::-1]
    n = weights.size
    insertion = float((weights * (n - np.arange(n) - 0.5)).sum() / n)
    # float32 maps tie where two weights differ by less than an ulp: allow for a swap of neighbours.
    assert probed(f"insertion(steps=exact({n}), substrate=zero)", network, picture, share.float()).value == pytest.approx(
        insertion, abs=1e-7
    )
    assert probed(f"deletion(steps=exact({n}))", network, picture, share.float()).value == pytest.approx(0.9 - insertion, abs=1e-7)


def test_a_constant_map_scores_the_expectation_over_orders(linear, probed):
    """For a linear model the expected curve is the straight line between the end points, and its area their mean."""
    network, picture, _ = linear
    for metric in ("deletion(steps=exact(8))", "insertion(steps=exact(8), substrate=zero)"):
        scores = [probed(metric, network, picture, torch.zeros(1, 1), f"{seed}/i").value for seed in range(20)]
        assert np.mean(scores) == pytest.approx(0.45, abs=0.002)
        single = [
            probed(metric, network, picture, torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(s))).value
            for s in range(20)
        ]
        assert np.std(scores) < np.std(single)  # several shifted orders, not one


def test_ties_do_not_follow_position(linear_network, probed):
    """Half of the pixels tie at 0 and hold all the evidence at the bottom: scan order would find it first or last."""
    weights = torch.zeros(3, SIDE, SIDE, dtype=torch.float64)
    weights[:, SIDE - 4 :] = 0.9 / (3 * 4 * SIDE)
    score = probed("deletion(steps=exact(16))", linear_network(weights), torch.ones(1, 3, SIDE, SIDE).double(), torch.eye(SIDE))
    assert 0.35 < score.value < 0.55


@given(transform=st.sampled_from([lambda m: 2 * m - 3, torch.sigmoid, lambda m: m**3]), seed=st.integers(0, 5))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_monotone_transforms_change_nothing(transform, seed, linear_network, probed):
    generator = torch.Generator().manual_seed(seed)
    native = torch.randint(-8, 8, (SIDE, SIDE), generator=generator).float() / 2
    weights = torch.rand(3, SIDE, SIDE, generator=generator).double() / 800
    picture = torch.ones(1, 3, SIDE, SIDE).double()
    a, b = (probed("deletion(steps=exact(9))", linear_network(weights), picture, m) for m in (native, transform(native)))
    assert a == b


def test_deletion_is_insertion_backwards_of_the_negated_map(linear, probed):
    network, picture, _ = linear
    native = MAPS["signed"]
    down = probed("deletion(steps=exact(16))", network, picture, native)
    up = probed("insertion(steps=exact(16), substrate=zero)", network, picture, -native)
    assert down.vector == pytest.approx(up.vector[::-1], abs=1e-12)


def test_normalised_forms(linear, linear_network, probed):
    network, picture, share = linear
    for metric in ("deletion", "insertion"):
        raw = probed(f"{metric}(steps=exact(9), substrate=zero)", network, picture, share.float())
        scaled = probed(f"{metric}_normalised(steps=exact(9), substrate=zero)", network, picture, share.float())
        assert scaled.value == pytest.approx(raw.value / 0.9)
        assert scaled.vector == raw.vector
    flat = linear_network(torch.full((3, SIDE, SIDE), 1e-6).double())
    nothing = probed("deletion_normalised(steps=exact(9))", flat, picture, share.float())
    assert "less than 0.05" in nothing.not_applicable


def test_a_step_count_that_does_not_divide_the_pixels_uses_them_all_once(linear):
    _, _, share = linear
    (curve,) = registry.metric("deletion(steps=exact(7))")().plan(SaliencyMap(share.float(), (SIDE, SIDE), 0, "s"))
    sizes = np.diff(curve.counts)
    assert sum(sizes) == SIDE * SIDE
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("metric", "inserting"), [("deletion", False), ("insertion", True)])
def test_stratified_points_are_right_in_expectation(linear, metric, inserting, linear_network, probed):
    """Against the trapezoid rule over every pixel, from 400 items' seeds; the curve has a steep start."""
    _, picture, share = linear
    steep = linear_network((share**6 / (share**6).sum() * 0.9 / 3).expand(3, -1, -1))
    exact, curve = reference((share**6 / (share**6).sum() * 0.9).numpy(), share.float().numpy(), share.numel(), inserting)
    every = np.array(curve)
    spec = f"{metric}(steps=stratified(4), substrate=zero)"
    found = np.array([probed(spec, steep, picture, share.float(), f"0/{seed}").value for seed in range(400)])
    assert abs(found.mean() - exact) < 3 * found.std() / 20
    strata = every[:-1].reshape(4, -1)  # a place in each by itself, and nothing taken away
    single = np.mean([np.random.default_rng(i).choice(part, 400) for i, part in enumerate(strata)], axis=0)
    assert 0.001 < found.std() < 0.7 * single.std()


@pytest.mark.parametrize("strata", [1, 4, 16])
def test_stratified_areas_are_unbiased_to_the_pixel(linear, strata):
    """Their mean over all places that can be drawn is the trapezoid rule over every pixel."""
    share = linear[2].numpy()
    exact, curve = reference(share, MAPS["signed"].numpy(), share.size, False)
    width = share.size // strata
    drawn = [(0, *range(first, share.size, width), share.size) for first in range(width)]
    steps = Spec("stratified", (strata,))
    found = [area(steps, torch.tensor([curve[place] for place in places], dtype=torch.float64), places) for places in drawn]
    assert np.mean(found) == pytest.approx(exact, abs=1e-12)


def test_stratified_areas_of_a_straight_line_have_no_error(linear_network, probed):
    even = linear_network(torch.full((3, SIDE, SIDE), 0.9 / (3 * SIDE * SIDE), dtype=torch.float64))
    for strata, seed in itertools.product((1, 3, 8), range(5)):
        spec = f"deletion(steps=stratified({strata}))"
        score = probed(spec, even, torch.ones(1, 3, SIDE, SIDE).double(), MAPS["random"], f"0/{seed}")
        assert score.value == pytest.approx(0.45, abs=1e-9)


def test_stratified_areas_leave_the_unit_interval_by_half_a_stratum_at_most():
    """Within the declared range, which checks of runs ask for, where the curve falls at once or at last."""
    low, high = registry.metric("deletion").info.range
    for strata, start in itertools.product((1, 8), (0.0, 0.999)):
        places = (0, *(int((i + start) * 1000 / strata) for i in range(strata)), 1000)
        for inner in (0.0, 1.0):
            curve = torch.tensor([1.0] + [inner] * strata + [0.0], dtype=torch.float64)
            found = area(Spec("stratified", (strata,)), curve, places)
            assert max(low, -0.501 / strata) <= found <= min(high, 1 + 0.501 / strata)


def test_stratified_points_are_the_items_own_and_the_same_for_all_its_maps(linear):
    metric = registry.metric("deletion(steps=stratified(8))")()

    def counts(native, seed):
        (curve,) = metric.plan(SaliencyMap(native, (SIDE, SIDE), 0, seed))
        return curve.counts

    assert counts(MAPS["random"], "0/a") == counts(MAPS["signed"], "0/a") != counts(MAPS["random"], "0/b")
    inner = counts(MAPS["random"], "0/a")[1:-1]
    assert [count * 8 // SIDE**2 for count in inner] == list(range(8))
    assert len({count * 8 % SIDE**2 for count in inner}) == 1  # one place for all strata


def test_stratified_needs_twenty_times_fewer_forwards(linear):
    network, picture, share = linear
    forwards = []
    for steps in ("exact(224)", "stratified(8)"):
        prober = Prober(network, picture, torch.tensor([0]), 4)
        prober.run(registry.metric(f"deletion(steps={steps})")().plan(SaliencyMap(share.float(), (SIDE, SIDE), 0, "s")))
        forwards.append(prober.forwards)
    assert forwards[0] == 225
    assert forwards[1] <= 10  # both ends, and 8 points of which one may be an end


@pytest.mark.parametrize(
    "steps", ["exact(0)", "exact(-1)", "exact(2.5)", "exact", "stratified(0)", "stratified(8, 2)", "exact(true)"]
)
def test_wrong_steps_are_named(steps):
    with pytest.raises(XbenchError, match="is not a protocol of a curve"):
        registry.metric(f"deletion(steps={steps})")()


@pytest.mark.parametrize("output", ["probability", "logit", "cosine"])
def test_outputs_of_a_clip_are_areas_under_its_own_answers(output, clips):
    """On a CLIP, against its answers on pictures made one by one."""
    model = clips.model(clips.vision())
    batch = clips.batch(model, targets=(1,))
    map_ = SaliencyMap(torch.rand(4, 4, generator=torch.Generator().manual_seed(0)), (32, 32), 0, "s")
    metric = registry.metric(f"deletion(steps=exact(4), output={output})")()
    found = metric.score(map_, ModelView(model).prober(batch).run(metric.plan(map_)))
    (ranking,), values = map_.rankings, []
    for step in range(5):
        picture = torch.where(ranking.ranks < 1024 * step // 4, 0.0, batch.images[0])
        with torch.no_grad():
            embedding = torch.nn.functional.normalize(model.network.visual(picture[None])[0], dim=0)
        cosines = (model.network.texts @ embedding).double()
        logits = cosines * float(model.network.logit_scale.exp())
        values.append({"probability": logits.softmax(dim=0), "logit": logits, "cosine": cosines}[output][1].item())
    assert found.vector == pytest.approx(values, abs=1e-4 if output == "logit" else 1e-5)
    assert found.value == pytest.approx((sum(values) - values[0] / 2 - values[-1] / 2) / 4, abs=1e-4)


def test_ranges_are_those_of_the_output():
    assert registry.metric("deletion").range == (-0.5, 1.5)
    assert registry.metric("deletion(output=logit)").range == (float("-inf"), float("inf"))
    assert registry.metric("relevance_mass").range == (0, 1)


@pytest.mark.parametrize("metric", registry.ids("metric"))
def test_by_its_defaults_a_metric_has_the_range_that_it_declares(metric):
    if metric.startswith("quantus/"):
        pytest.skip("asks for quantus")
    assert registry.metric(metric).range == registry.metric(metric).info.range


def test_wrong_outputs_are_named():
    with pytest.raises(XbenchError, match="unknown output 'logits'; did you mean 'logit'"):
        registry.metric("deletion(output=logits)")()
    with pytest.raises(XbenchError, match=r"are of probabilities; ask for insertion\(output=logit\)"):
        registry.metric("deletion_normalised(output=logit)")()


def test_unknown_substrate_is_named():
    with pytest.raises(XbenchError, match="unknown substrate 'zeros'; did you mean 'zero'"):
        registry.metric("deletion(substrate=zeros)")()


MUTANTS = {
    "least salient first": lambda share, map_, steps: reference(share, -map_, steps, False),
    "end point left out": lambda share, map_, steps: ((c := reference(share, map_, steps, False)[1]) and float(np.mean(c[:-1])), c),
    "divided by points": lambda share, map_, steps: ((r := reference(share, map_, steps, False))[0] * steps / (steps + 1), r[1]),
    "plain mean": lambda share, map_, steps: ((c := reference(share, map_, steps, False)[1]) and float(np.mean(c)), c),
    "by magnitude": lambda share, map_, steps: reference(share, np.abs(map_), steps, False),
    "rows and columns swapped": lambda share, map_, steps: reference(share, map_.T, steps, False),
    "inserting": lambda share, map_, steps: reference(share, map_, steps, True),
}


@pytest.mark.parametrize("mutant", sorted(MUTANTS))
def test_the_reference_tells_mutants_apart(linear, mutant, probed):
    network, picture, share = linear
    score = probed("deletion(steps=exact(10))", network, picture, MAPS["signed"])
    wrong, _ = MUTANTS[mutant](share.numpy(), MAPS["signed"].numpy(), 10)
    assert abs(score.value - wrong) > 1e-4


def agrees(prefix: str, linear, probed) -> bool:
    """Whether the metrics under these ids equal the definition: areas, curves and normalised areas, both ways."""
    network, picture, share = linear
    for steps in (7, 10, 1):
        for metric, inserting in (("deletion", False), ("insertion", True)):
            area, curve = reference(share.numpy(), MAPS["signed"].numpy(), steps, inserting)
            raw = probed(f"{prefix}{metric}(steps=exact({steps}), substrate=zero)", network, picture, MAPS["signed"])
            scaled = probed(f"{prefix}{metric}_normalised(steps=exact({steps}), substrate=zero)", network, picture, MAPS["signed"])
            found = [raw.value, *(raw.vector or ()), scaled.value]
            if found != pytest.approx([area, *curve, area / 0.9], abs=1e-9):
                return False
    ends = [probed(f"{prefix}{name}", network, picture, MAPS["signed"]).value for name in DIFFERENCE]
    if ends[0] != pytest.approx(ends[1] - ends[2], abs=1e-12):
        return False
    shift = float(torch.rand(1, generator=generator("0/i", "strata"), dtype=torch.float64))
    every = reference(share.numpy(), MAPS["signed"].numpy(), share.numel(), False)[1]
    places = [int(place) for place in (np.arange(5) + shift) / 5 * share.numel()]
    drawn = probed(f"{prefix}deletion(steps=stratified(5))", network, picture, MAPS["signed"])
    curve = [every[place] for place in (0, *places, share.numel())]
    line = [every[0] + (every[-1] - every[0]) * place / share.numel() for place in places]
    expected = np.mean(curve[1:-1]) - np.mean(line) + (every[0] + every[-1]) / 2
    if [drawn.value, *(drawn.vector or ())] != pytest.approx([expected, *curve], abs=1e-9):
        return False
    ends = [probed(f"{prefix}{name}(steps=stratified(5))", network, picture, MAPS["signed"]).value for name in DIFFERENCE]
    return ends[0] == pytest.approx(ends[1] - ends[2], abs=1e-12)


DIFFERENCE = ("insertion_minus_deletion", "insertion", "deletion")
SOURCE_MUTANTS = [
    ("inserted.value - deleted.value", "deleted.value - inserted.value"),
    ("responses[:half]", "responses[half:]"),
    ("- curve[0] / 2 - curve[-1] / 2", "- curve[0] / 2"),
    ("- curve[0] / 2 - curve[-1] / 2", ""),
    ("/ (len(curve) - 1)", "/ len(curve)"),
    ("range(n + 1)", "range(n)"),
    ("round(i * pixels / n)", "i * (pixels // n)"),
    ("curve[1:-1].mean()", "curve.mean()"),
    ("curve[1:-1].mean() +", "curve[1:-1].mean() -"),
    (" + (curve[0] - curve[-1]) * aside", ""),
    ("(curve[0] - curve[-1]) * aside", "curve[0] * aside**2"),
    ("replaced[-1] - 0.5", "replaced[-1]"),
    ("(len(replaced) - 2)", "len(replaced)"),
    ("(i + shift)", "(i + 0.5)"),
    ('"strata")', '"ties")'),
    ("if self.inserting else (", "if not self.inserting else ("),
    ("(raw.value - removed)", "(raw.value - picture)"),
    ("/ (picture - removed)", "/ picture**2"),
    ("1 if self.inserting else -1", "-1 if self.inserting else 1"),
]


def test_the_metric_agrees_with_the_definition(linear, probed):
    assert agrees("", linear, probed)


FILES = tuple(f"faithfulness/{name}.py" for name in ("_curves", "insertion_deletion", "normalized_areas"))


@pytest.mark.parametrize("number", range(len(SOURCE_MUTANTS)))
def test_planted_mutants_of_the_source_are_caught(linear, probed, plant, number):
    plant(f"mutant{number}_", FILES, *SOURCE_MUTANTS[number])
    assert not agrees(f"mutant{number}_", linear, probed)


def test_the_difference_costs_nothing_beside_both(linear):
    map_ = SaliencyMap(linear[2].float(), (SIDE, SIDE), 0, "s")
    both = {curve for name in DIFFERENCE[1:] for curve in registry.metric(name)().plan(map_)}
    assert set(registry.metric("insertion_minus_deletion")().plan(map_)) == both
