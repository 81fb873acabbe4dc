"""Metrics that explain again: plain numpy on given maps, and known answers of real methods; mutants of the source must fail."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from xbench import NotApplicable, XbenchError
from xbench.evaluate.variations import Answer, Moved, Noisy, Randomised, Retargeted, Same
from xbench.maps.saliency import SaliencyMap
from xbench.plugins.registry import registry

SIZE = (24, 20)


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def answer(native, seed=0, winner=0):
    """An item with noise for an input; ``winner`` is the class that the network names."""
    return Answer(SaliencyMap(native, SIZE, 0, "0/i"), drawn(seed, 3, *SIZE), torch.eye(3)[winner], 0)


MAPS = {
    "random": drawn(1, 6, 5),
    "positive": drawn(2, 6, 5).relu(),
    "tied": torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]).repeat(2, 2),
    "huge": drawn(3, 6, 5) * 1e30,
    "full": drawn(4, *SIZE),
    "constant": torch.ones(6, 5),
    "zero": torch.zeros(6, 5),
}


def again(name, count):
    """Maps of the same grid under ``count`` variations: a mixture of the map and noise, more and more of the latter."""
    native = MAPS[name]
    scale = native.abs().max().clamp(min=1e-30)
    return [native + scale * 0.1 * i * drawn(10 + i, *native.shape) for i in range(count)]


# -- references ----------------------------------------------------------------------------------------------------------------


def upsampled(map_):
    return torch.nn.functional.interpolate(map_[None, None], SIZE, mode="bilinear")[0, 0].double().numpy()


def plain_spearman(a, b):
    if np.array_equal(a, b):
        return 1.0
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return spearmanr(a.flatten(), b.flatten()).statistic


def plain_ssim(a, b):
    """Wang et al.'s formula window by window."""
    x, y = ((m - m.min()) / np.ptp(m) if np.ptp(m) else m * 0 for m in (a, b))
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    w = np.outer(line, line) / np.outer(line, line).sum()
    found = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mp, mq = (w * p).sum(), (w * q).sum()
            vp, vq, c = (w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum(), (w * (p - mp) * (q - mq)).sum()
            found.append((2 * mp * mq + 1e-4) * (2 * c + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return np.mean(found)


def relative(old, new):
    old, new = old.astype(np.float64), new.astype(np.float64)
    least = 0.01 * np.sqrt((old**2).mean())
    return np.sqrt((((new - old) / np.where(np.abs(old) < least, least, old)) ** 2).sum())


def reference(spec, first, others, inputs):
    a, rest = first.double().numpy(), [m.double().numpy() for m in others]
    if spec.startswith("mprt"):
        pairs = [(upsampled(first), upsampled(m)) for m in others] if "ssim" in spec else [(a, m) for m in rest]
        return np.mean([(plain_ssim if "ssim" in spec else plain_spearman)(*pair) for pair in pairs[1:]])
    if spec == "random_logit":
        return plain_spearman(a, rest[0])
    if not a.any():
        return None
    if spec.startswith("sensitivity"):
        return max(np.sqrt(((m - a) ** 2).sum()) / np.sqrt((a**2).sum()) for m in rest)
    ratios = [relative(a, m) / relative(inputs[0], x) for m, x in zip(rest, inputs[1:], strict=True)]
    return math.log(max([*ratios, 1e-6]))


SPECS = [
    "mprt(stages=3)",
    "mprt(stages=3, similarity=ssim)",
    "random_logit",
    "sensitivity_max(n=4)",
    "relative_input_stability(n=4)",
]


def agrees(prefix):
    for spec in SPECS:
        metric = registry.metric(prefix + spec)()
        for name, native in MAPS.items():
            first = answer(native)
            others = [answer(m, seed=1 + i) for i, m in enumerate(again(name, len(metric.plan())))]
            inputs = [x.input.double().numpy() for x in (first, *others)]
            wanted = reference(spec, native, [x.map_.native for x in others], inputs)
            found = metric.score(first, others)
            if wanted is None and not found.not_applicable:
                return False
            if wanted is not None and found.value != pytest.approx(wanted, abs=1e-6):
                return False
    return equivariance_agrees(prefix)


def equivariance_agrees(prefix):
    """The moves spelled out pixel by pixel: the mirror image, and the shift by whole pixels."""
    metric = registry.metric(f"{prefix}ses")()
    moves = metric.plan()
    first = answer(MAPS["full"])
    maps = [answer(drawn(30 + i, *SIZE)) for i in range(len(moves))]
    maps[1] = answer(drawn(31, *SIZE), winner=2)  # the network names another class when the picture is turned
    wanted = []
    for move, other in zip(moves, maps, strict=True):
        if other.logits.argmax() != 0:
            continue
        place, seen = slowly(move, MAPS["full"].double().numpy())
        wanted.append(plain_spearman(place[seen], other.map_.native.double().numpy()[seen]))
    return metric.score(first, maps).value == pytest.approx(np.mean(wanted), abs=1e-4)


def slowly(move, map_):
    """Bilinear look-up of where each pixel comes from, in pixels, by a loop; (the moved map, what comes from inside)."""
    height, width = map_.shape
    moved, seen = np.zeros_like(map_), np.zeros(map_.shape, bool)
    turn = math.radians(move.turn)
    for i in range(height):
        for j in range(width):
            y, x = i + 0.5 - height / 2 - move.down * height, j + 0.5 - width / 2 - move.right * width
            y, x = y / move.zoom, x / move.zoom
            x, y = math.cos(turn) * x + math.sin(turn) * y, math.cos(turn) * y - math.sin(turn) * x
            x = -x if move.mirror else x
            seen[i, j] = abs(y) <= height / 2 and abs(x) <= width / 2
            y, x = (min(max(v + s / 2 - 0.5, 0), s - 1) for v, s in ((y, height), (x, width)))
            y0, x0 = min(int(y), height - 2), min(int(x), width - 2)
            fy, fx = y - y0, x - x0
            corners = map_[y0 : y0 + 2, x0 : x0 + 2]
            moved[i, j] = np.array([1 - fy, fy]) @ corners @ np.array([1 - fx, fx])
    return moved, seen


def test_they_agree_with_the_definitions_on_all_kinds_of_maps():
    assert agrees("")


def test_ssim_is_torchmetrics():
    metrics = pytest.importorskip("torchmetrics.functional.image")
    a, b = (upsampled(MAPS[name]) for name in ("random", "positive"))
    a, b = (torch.from_numpy((m - m.min()) / np.ptp(m))[None, None] for m in (a, b))
    _, windows = metrics.structural_similarity_index_measure(a, b, data_range=1.0, sigma=1.5, return_full_image=True)
    theirs = windows[..., 5:-5, 5:-5].mean()  # those that lie inside
    found = registry.metric("random_logit(similarity=ssim)")().score(answer(MAPS["random"]), [answer(MAPS["positive"])])
    assert found.value == pytest.approx(float(theirs), abs=1e-6)


def test_what_each_asks_for():
    plans = {spec: registry.metric(spec)().plan() for spec in SPECS}
    assert plans["mprt(stages=3)"] == [Same(), Randomised(1, 3), Randomised(2, 3), Randomised(3, 3)]
    assert plans["mprt(stages=3)"] == plans["mprt(stages=3, similarity=ssim)"]
    assert plans["random_logit"] == [Retargeted()]
    assert plans["sensitivity_max(n=4)"] == [Noisy(0.2, i) for i in range(4)] == plans["relative_input_stability(n=4)"]
    assert all(isinstance(move, Moved) for move in registry.metric("ses")().plan())


def test_variations_under_which_the_class_changes_do_not_count():
    first, calm, wild = answer(MAPS["random"]), answer(MAPS["random"] * 1.1, 1), answer(MAPS["random"] * 9, 2, winner=1)
    for spec, wanted in {"sensitivity_max(n=2)": 0.1, "ses": None}.items():
        metric = registry.metric(spec)()
        counted = metric.score(first, [calm, wild] + [wild] * (len(metric.plan()) - 2))
        assert wanted is None or counted.value == pytest.approx(wanted, abs=1e-6)
        with pytest.raises(NotApplicable, match="another class under every variation"):
            metric.score(first, [wild] * len(metric.plan()))


def test_scale_changes_nothing():
    for spec in [*SPECS, "ses"]:
        metric = registry.metric(spec)()
        natives = again("random", len(metric.plan()))
        once, more = (
            metric.score(answer(MAPS["random"] * f), [answer(m * f, 1 + i) for i, m in enumerate(natives)]).value for f in (1, 4096)
        )
        assert once == pytest.approx(more, rel=1e-9)


def test_a_map_that_never_changes():
    for spec, wanted in {"mprt": 1, "random_logit": 1, "sensitivity_max": 0, "relative_input_stability": math.log(1e-6)}.items():
        metric = registry.metric(spec)()
        same = [answer(MAPS["random"], 1 + i) for i in range(len(metric.plan()))]
        assert metric.score(answer(MAPS["random"]), same).value == pytest.approx(wanted)


def test_a_map_that_moves_along_is_equivariant_and_one_that_stays_is_not():
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    blob = torch.from_numpy(np.exp(-((y - 8) ** 2 + (x - 6) ** 2) / 30)).float()
    metric = registry.metric("ses")()
    along = metric.score(answer(blob), [answer(move.place(blob)) for move in metric.plan()])
    stays = metric.score(answer(blob), [answer(blob) for _ in metric.plan()])
    assert along.value == pytest.approx(1, abs=1e-6)
    assert stays.value < 0.85


def test_wrong_parameters_are_named():
    for spec in ("mprt(stages=0)", "sensitivity_max(n=0)"):
        with pytest.raises(XbenchError, match="must be 1 or more, not 0"):
            registry.metric(spec)()
    with pytest.raises(XbenchError, match="similarity must be one of spearman, ssim"):
        registry.metric("mprt(similarity=hog)")


MUTANTS = [
    ("sum(found[1:]) / self.stages", "sum(found) / self.stages"),
    ("sum(found[1:]) / self.stages", "sum(found[1:]) / len(found)"),
    ("axis=1", "axis=0"),
    ("if lengths.min() > 0 else 0.0", "if lengths.min() > 0 else 1.0"),
    ("ssim(a.full, b.full)", "spearman(a.full, b.full)"),
    ("spearman(a.native, b.native) if", "spearman(a.native.abs(), b.native.abs()) if"),
    ("var_x + var_y + C2", "var_x * var_y + C2"),
    ("local[4] - mean_x * mean_y", "local[4]"),
    ("/ first.norm())", ")"),
    ("Score(max(changes))", "Score(sum(changes) / len(changes))"),
    ("math.log(max(", "math.log2(max("),
    ("max(*ratios, LEAST)", "sum(ratios) / len(ratios)"),
    ("/ _relative(before.input, after[i].input)", ""),
    ("old.square().mean().sqrt()", "old.square().mean()"),
    ("[seen], after[i].map_.full[seen]", ", after[i].map_.full"),
    ("MOVES[i].place(before.map_.full)", "before.map_.full"),
    ("same = [i for i, answer in enumerate(after) if", "same = [i for i, answer in enumerate(after) if True or"),
    ("        if not first.any():", "        if False:"),
]


FILES = ("_shared.py", "_similarity.py", "randomization/sanity_checks.py", "robustness/stability.py")


@pytest.mark.parametrize("number", range(len(MUTANTS)))
def test_planted_mutants_of_the_source_are_caught(plant, number):
    plant(f"again{number}_", FILES, *MUTANTS[number])
    assert not agrees(f"again{number}_")
