"""Metrics against masks and boxes, each beside an independent plain reference, with mutants of their source that must be caught.

The references are loops over pixels, written from the definitions; they share nothing with the metrics but cv2's contours.
"""

import functools
import math
import re
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xbench.data.geometry import View
from xbench.data.samples import Batch, Box, Item, Sample, Truth
from xbench.errors import NotApplicable, XbenchError
from xbench.maps.saliency import SaliencyMap
from xbench.network.model import ModelView
from xbench.plugins import reductions
from xbench.plugins.registry import registry

H, W = 20, 28

# -- plain references: (map [H, W], mask, boxes, ignore) -> a value or a vector ------------------------------------------------


def pixels(map_):
    return [(y, x) for y in range(map_.shape[0]) for x in range(map_.shape[1])]


def pointing(map_, mask, boxes, ignore, tolerance):
    if not mask.any():
        return math.nan
    target = np.argwhere(mask)
    candidates = [p for p in pixels(map_) if not ignore[p]]
    largest = max(map_[p] for p in candidates)
    tied = [p for p in candidates if map_[p] == largest]

    def hit(p):
        return mask[p] or ((target - p) ** 2).sum(axis=1).min() < tolerance**2

    return sum(bool(hit(p)) for p in tied) / len(tied)


def mass(map_, region, ignore):
    inside = total = area = size = 0.0
    for p in pixels(map_):
        if not ignore[p]:
            value = max(float(map_[p]), 0.0)
            inside, total, area, size = inside + value * region[p], total + value, area + region[p], size + 1
    if not area:
        return math.nan
    return inside / total if total else area / size


def energy(map_, mask, boxes, ignore):
    region = np.zeros(map_.shape, dtype=bool)
    for y, x in pixels(map_):
        region[y, x] = any(x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1 for x0, y0, x1, y1 in boxes)
    return mass(map_, region, ignore)


def relevance_mass(map_, mask, boxes, ignore):
    return mass(map_, mask, ignore)


def relevance_rank(map_, mask, boxes, ignore):
    """Places are given out to groups of equal pixels, highest first; the last group shares what is left."""
    size, left, inside = int(mask.sum()), int(mask.sum()), 0.0
    groups = {}
    for p in pixels(map_):
        if not ignore[p]:
            groups.setdefault(float(map_[p]), []).append(bool(mask[p]))
    for value in sorted(groups, reverse=True):
        group = groups[value]
        taken = min(left, len(group))
        inside, left = inside + sum(group) * taken / len(group), left - taken
    return inside / size if size else math.nan


def auc_mask(map_, mask, boxes, ignore):
    positive = [map_[p] for p in pixels(map_) if mask[p] and not ignore[p]]
    negative = np.array([map_[p] for p in pixels(map_) if not mask[p] and not ignore[p]])
    if not positive or not len(negative):
        return math.nan
    wins = sum((v > negative).sum() + 0.5 * (v == negative).sum() for v in positive)
    return wins / (len(positive) * len(negative))


def msc(map_, mask, boxes, ignore):
    inside = [float(map_[p]) for p in pixels(map_) if mask[p] and not ignore[p]]
    outside = [float(map_[p]) for p in pixels(map_) if not mask[p] and not ignore[p]]
    if not inside or not outside:
        return math.nan
    low, high = min(inside + outside), max(inside + outside)
    scaled = [[(v - low) / (high - low) if high > low else 0.5 for v in part] for part in (inside, outside)]
    return sum(scaled[0]) / len(inside) - sum(scaled[1]) / len(outside)


def levels(map_, top, ignore):
    """Per pixel, its level; ignored ones have none."""
    values = [float(map_[p]) for p in pixels(map_) if not ignore[p]]
    low, high = min(values), max(values)
    scale = (lambda v: int((v - low) / (high - low) * top)) if high > low else (lambda v: 0)
    return {p: scale(float(map_[p])) for p in pixels(map_) if not ignore[p]}


def thresholds_of(count):
    return [math.floor(Fraction(i, count) * 255) for i in range(count)]


def mask_iou(map_, mask, boxes, ignore, thresholds=100):
    if not mask.any():
        return [math.nan] * thresholds
    level = levels(map_, 255, ignore)
    constant = len({map_[p] for p in level}) == 1
    found = []
    for threshold in thresholds_of(thresholds):
        chosen = {p for p in level if level[p] > threshold or constant}
        wanted = {p for p in level if mask[p]}
        found.append(len(chosen & wanted) / len(chosen | wanted))
    return found


def pxap(map_, mask, boxes, ignore, bins=256):
    if not mask.any():
        return [math.nan] * 2 * bins
    counts = [0] * 2 * bins
    for p, level in levels(map_, bins - 1, ignore).items():
        counts[level if mask[p] else bins + level] += 1
    return counts


def iou(a, b):
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(wide, 0) * max(high, 0)
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def rectangle(contour):
    x, y, w, h = cv2.boundingRect(contour)
    return x, y, x + w, y + h


BOXES = {}  # boxes depend on the map alone: (its bytes, threshold, finder) -> boxes


def boxes_at(map_, threshold, finder):
    key = (map_.tobytes(), map_.shape, threshold, finder)
    if key not in BOXES:
        level = levels(map_, 255, np.zeros(map_.shape, dtype=bool))
        binary = np.zeros(map_.shape, dtype=np.uint8)
        for p, value in level.items():
            binary[p] = 255 * (value > threshold or map_.min() == map_.max())
        BOXES[key] = finder(binary)
    return BOXES[key]


def contours(binary):
    return [rectangle(c) for c in cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]]


def largest_contours(binary):
    """Of contours of equal area, all that are not holes: cv2 lists a component's outer border first."""
    found, tree = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if not found:
        return []
    largest = max(found, key=cv2.contourArea)

    def depth(i):
        return 0 if tree[0][i][3] < 0 else 1 + depth(tree[0][i][3])

    equal = [i for i in range(len(found)) if cv2.contourArea(found[i]) == cv2.contourArea(largest) and depth(i) % 2 == 0]
    assert rectangle(largest) in [rectangle(found[i]) for i in equal]  # what the original takes is among them
    return [rectangle(found[i]) for i in equal]


def largest_components(binary):
    """By flood fill over eight neighbours."""
    left, components = {p for p in pixels(binary) if binary[p]}, []
    while left:
        component = todo = {left.pop()}
        while todo:
            todo = {(y + dy, x + dx) for y, x in todo for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left, component = left - todo, component | todo
        components.append(component)
    most = max(map(len, components), default=0)
    found = []
    for component in components:
        if len(component) == most:
            ys, xs = zip(*component, strict=True)
            found.append((min(xs), min(ys), max(xs) + 1, max(ys) + 1))
    return found


def max_box_acc(map_, mask, boxes, ignore, thresholds=100):
    found = []
    for threshold in thresholds_of(thresholds):
        tied = boxes_at(map_, threshold, largest_contours)
        hits = [any(iou(box, truth) >= 0.5 for truth in boxes) for box in tied]
        found.append(sum(hits) / len(hits) if hits else 0.0)
    return found if boxes else [math.nan] * thresholds


def max_box_acc_v2(map_, mask, boxes, ignore, thresholds=100):
    found = []
    for least in (0.3, 0.5, 0.7):
        for threshold in thresholds_of(thresholds):
            predicted = boxes_at(map_, threshold, contours)
            found.append(float(any(iou(box, truth) >= least for box in predicted for truth in boxes)))
    return found if boxes else [math.nan] * 3 * thresholds


def box_iou(map_, mask, boxes, ignore, thresholds=100):
    if not boxes:
        return [math.nan] * thresholds
    found = []
    for threshold in thresholds_of(thresholds):
        ious = [max(iou(box, truth) for truth in boxes) for box in boxes_at(map_, threshold, largest_components)]
        found.append(sum(ious) / len(ious) if ious else 0.0)
    return found


REFERENCES = {
    "pointing_game": functools.partial(pointing, tolerance=15),
    "pointing_game(tolerance=0)": functools.partial(pointing, tolerance=0),
    "pointing_game(tolerance=1)": functools.partial(pointing, tolerance=1),
    "pointing_game(tolerance=5)": functools.partial(pointing, tolerance=5),
    "pointing_game_class_mean(tolerance=5)": functools.partial(pointing, tolerance=5),
    "energy_pointing_game": energy,
    "relevance_mass": relevance_mass,
    "relevance_rank": relevance_rank,
    "auc_mask": auc_mask,
    "msc": msc,
    "mask_iou": mask_iou,
    "mask_iou(thresholds=7)": functools.partial(mask_iou, thresholds=7),
    "pxap": pxap,
    "pxap(bins=16)": functools.partial(pxap, bins=16),
    "max_box_acc": max_box_acc,
    "max_box_acc(thresholds=13)": functools.partial(max_box_acc, thresholds=13),
    "max_box_acc_v2": max_box_acc_v2,
    "max_box_acc_v2(thresholds=13)": functools.partial(max_box_acc_v2, thresholds=13),
    "box_iou": box_iou,
    "box_iou(thresholds=20)": functools.partial(box_iou, thresholds=20),
}
REDUCES = {
    "pointing_game_class_mean": "class_mean",
    "mask_iou": "best",
    "pxap": "average_precision",
    "max_box_acc": "best",
    "max_box_acc_v2": "best(3)",
    "box_iou": "best",
}
FAMILIES = {
    "pointing_game": ["pointing_game", "energy_pointing_game"],
    "relevance": ["relevance", "auc_mask"],
    "score_contrast": ["msc"],
    "masks": ["mask_iou", "pxap"],
    "wsol": ["max_box_acc", "box_iou"],
}

# -- maps and truths ------------------------------------------------------------------------------------------------------------


def ring(y, x, radius):
    ys, xs = torch.arange(H)[:, None] - y, torch.arange(W) - x
    return (((ys**2 + xs**2).double().sqrt() - radius).abs() < 1).float()


@functools.cache
def photographs():
    """Native maps of three photographs: of grad_cam (7 x 7, never negative) and of input_x_gradient (224 x 224, signed)."""
    model, data = registry.bind("model", "efficientnet_lite0")(), registry.bind("dataset", "photos")()
    entries = data.entries()[:3]
    inputs = model.inputs([data.load(e.id).image for e in entries], "crop")
    batch = Batch(
        inputs, torch.tensor([e.labels[0] for e in entries]), tuple(Item(e.id, e.id, None, e.id) for e in entries), seed="0"
    )
    return registry.method("grad_cam")(ModelView(model), batch).detach(), registry.method("input_x_gradient")(
        ModelView(model), batch
    ).detach()


def resized(map_, size=(H, W)):
    return SaliencyMap(map_, size, 0, "").at(size)


@functools.cache
def maps():
    g = torch.Generator().manual_seed(0)
    one_hot, peaks, half = torch.zeros(H, W), torch.zeros(H, W), torch.zeros(H, W)
    one_hot[4, 17] = 3
    peaks[4, 17] = peaks[16, 2] = peaks[16, 3] = peaks[1, 1] = peaks[2, 2] = 1
    half[3:8, 12:24] = 1  # IoU .5 with a box of twice its area
    blocks = torch.zeros(H, W)
    blocks[1:7, 1:7] = blocks[2:8, 12:18] = 2  # two components of one size
    blocks[12:18, 5:13] = 1
    blocks[13:17, 6:12] = 0.5  # not a hole
    blocks[14:16, 8:10] = 0
    blob = sum(
        a * torch.exp(-(((torch.arange(H) - y) / 3)[:, None] ** 2) - ((torch.arange(W) - x) / 5) ** 2)
        for a, y, x in [(2, 5, 18), (1.8, 14, 4)]
    )
    cams, gradients = photographs()
    return {
        "random": torch.rand(H, W, generator=g),
        "signed": torch.randn(H, W, generator=g) - 0.3,
        "tied": torch.randint(0, 3, (H, W), generator=g).float(),
        "tied, signed": torch.randint(-3, 3, (H, W), generator=g).float(),
        "constant": torch.full((H, W), 2.0),
        "zero": torch.zeros(H, W),
        "negative constant": torch.full((H, W), -0.7),
        "negative": -torch.rand(H, W, generator=g),
        "one-hot": one_hot,
        "tied peaks": peaks,
        "tiny": torch.rand(H, W, generator=g) * 1e-38,
        "huge": torch.randn(H, W, generator=g) * 9e37,
        "leaning": torch.linspace(-1, 1, W).expand(H, W) + torch.linspace(0.5, -0.5, H)[:, None],
        "half": half,
        "blocks": blocks,
        "rings": ring(9, 13, 8) + ring(9, 13, 5) * 0.7 + ring(9, 13, 2) * 0.4 + ring(15, 24, 1) * 0.9,
        "blobs": blob,
        "coarse": resized(torch.rand(4, 5, generator=g)),
        **{f"real {i}": resized(cam) for i, cam in enumerate(cams)},
        "real signed": resized(gradients[0]),
    }


def union(boxes):
    mask = torch.zeros(H, W, dtype=torch.bool)
    for b in boxes:
        mask[round(b.y0) : round(b.y1), round(b.x0) : round(b.x1)] = True
    return mask


@functools.cache
def truths():
    g = torch.Generator().manual_seed(1)
    disc = ((torch.arange(H) - 6)[:, None] ** 2 / 16 + (torch.arange(W) - 17) ** 2 / 36) < 1
    one = (Box(0, 12, 3, 24, 13),)
    two = (Box(0, 1.5, 0.5, 8.5, 6.5, difficult=True), Box(0, 4.25, 4.75, 12.5, 12.49), Box(0, 20, 15, 26, 19))
    edge = (Box(0, 0, 11.2, 6.6, H), Box(0, 22, 11, W, H))
    nine = torch.zeros(H, W, dtype=torch.bool)
    nine[16, 21] = True  # 3-4-5 triangles away from peaks
    ignore = (torch.rand(H, W, generator=g) < 0.3) & ~disc
    return {
        "one box": Truth(union(one), one),
        "disc": Truth(disc, (Box(0, 11.5, 2.5, 23, 10),)),
        "boxes": Truth(union(two), two),
        "border": Truth(union(edge), edge),
        "pixel": Truth(nine, (Box(0, 21, 16, 22, 17),)),
        "less than a pixel": Truth(nine, (Box(0, 21.6, 16.1, 21.9, 16.4),)),
        "full": Truth(torch.ones(H, W, dtype=torch.bool), (Box(0, 0, 0, W, H),)),
        "ignore": Truth(disc, (Box(0, 11.5, 2.5, 23, 10),), 1.0, ignore),
        "empty": Truth(torch.zeros(H, W, dtype=torch.bool), ()),
    }


def plain(truth):
    ignore = truth.ignore if truth.ignore is not None else torch.zeros_like(truth.mask)
    return truth.mask.numpy(), [(b.x0, b.y0, b.x1, b.y1) for b in truth.boxes], ignore.numpy()


@functools.cache
def expected(spec, truth):
    """``[maps]`` or ``[maps, V]``."""
    return np.array([REFERENCES[spec](map_.numpy(), *plain(truths()[truth])) for map_ in maps().values()], dtype=float)


def value(spec, truth, prefix="", stacked=None):
    """The metric's values; None where it does not apply to the truth, as the plain reference's NaN says."""
    try:
        return registry.metric(prefix + spec)(torch.stack(list(maps().values())) if stacked is None else stacked, truth)
    except NotApplicable:
        return None


@pytest.mark.parametrize("truth", list(truths()))
@pytest.mark.parametrize("spec", list(REFERENCES))
def test_equals_the_reference_on_all_kinds_of_maps(spec, truth):
    found, wanted = value(spec, truths()[truth]), expected(spec, truth)
    if found is None:
        assert np.isnan(wanted).all()
        return
    assert found.dtype == torch.float64
    for name, a, b in zip(maps(), found.numpy(), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("spec", [s for s in REFERENCES if "(" not in s])
def test_real_maps_at_full_size(spec):
    """Seven thresholds, where there are any: the plain loops take their time."""
    cams, gradients = photographs()
    stacked = torch.stack([resized(cams[0], (224, 224)), resized(gradients[1], (224, 224))])
    mask = torch.zeros(224, 224, dtype=torch.bool)
    mask[60:200, 40:180] = True
    mask[60:80, 40:70] = False
    truth = Truth(mask, (Box(0, 40, 60, 180, 200), Box(0, 0, 0, 50.5, 30)), 1.0, torch.arange(224).expand(224, 224) > 210)
    some = {"thresholds": 7} if "thresholds" in {p.name for p in registry.get("metric", spec).parameters} else {}
    found = value(spec + ("(thresholds=7)" if some else ""), truth, stacked=stacked)
    for map_, row in zip(stacked.numpy(), found.numpy(), strict=True):
        np.testing.assert_allclose(row, REFERENCES[spec](map_, *plain(truth), **some), rtol=0, atol=1e-6)


@pytest.mark.parametrize("spec", [s for s in REFERENCES if "(" not in s])
def test_declares_what_it_gives(spec):
    info = registry.metric(spec).info
    assert info.reduce == REDUCES.get(spec, "mean")
    assert info.chance
    found = value(spec, truths()["disc"])
    assert found.ndim == 1 + reductions.is_vector(info.reduce)
    assert info.needs == ({"boxes"} if spec.startswith(("energy", "max_box", "box")) else {"mask"})


@pytest.mark.parametrize("spec", ["pointing_game(tolerance=-1)", "mask_iou(thresholds=0)", "pxap(bins=1)", "box_iou(thresholds=0)"])
def test_senseless_parameters_are_named(spec):
    with pytest.raises(XbenchError, match=r"(tolerance|thresholds|bins) must be \d or more, not -?\d"):
        value(spec, truths()["disc"])


# -- what only a dataset, or only the picture as stored, shows ----------------------------------------------------------------


def figure(spec, vectors, prefix=""):
    return reductions.of_vectors(registry.metric(prefix + spec).info.reduce)(vectors.mean(axis=0, keepdims=True))[0]


def dataset():
    """(map, truth) of four pictures; the best threshold differs from one to the next."""
    return [
        (maps()[m], truths()[t]) for m, t in [("blobs", "one box"), ("coarse", "disc"), ("real 0", "boxes"), ("leaning", "ignore")]
    ]


@pytest.mark.parametrize("spec", ["mask_iou", "max_box_acc", "max_box_acc_v2", "box_iou"])
def test_one_threshold_serves_the_whole_dataset(spec):
    found = np.array([value(spec, truth, stacked=map_[None])[0].numpy() for map_, truth in dataset()])
    plainly = [REFERENCES[spec](map_.numpy(), *plain(truth)) for map_, truth in dataset()]
    groups = 3 if spec.endswith("v2") else 1
    per_group = [[row[len(row) // groups * g : len(row) // groups * (g + 1)] for row in plainly] for g in range(groups)]
    best = [max(sum(column) / len(rows) for column in zip(*rows, strict=True)) for rows in per_group]
    assert figure(spec, found) == pytest.approx(sum(best) / groups, abs=1e-9)
    per_picture = [sum(max(row) for row in rows) / len(rows) for rows in per_group]
    assert sum(per_picture) / groups > figure(spec, found) + 1e-3  # the classic error is visible here


def test_pixels_of_the_whole_dataset_are_pooled():
    pooled = [
        (level, bool(truth.mask[p])) for map_, truth in dataset() for p, level in levels(map_.numpy(), 255, plain(truth)[2]).items()
    ]
    positives, precision = sum(positive for _, positive in pooled), 0.0
    for level in sorted({level for level, _ in pooled}):
        above = [positive for other, positive in pooled if other >= level]
        gained = sum(positive for other, positive in pooled if other == level)
        precision += sum(above) / len(above) * gained / positives
    found = np.array([value("pxap", truth, stacked=map_[None])[0].numpy() for map_, truth in dataset()])
    assert figure("pxap", found) == pytest.approx(precision, abs=1e-9)
    single = [figure("pxap", row[None]) for row in found]
    assert abs(np.mean(single) - precision) > 1e-3


VIEW = View(25, 5, 90, 90, (32, 32))


def as_stored(prefix=""):
    """The pointing game as the runner plays it, in the frame that the metric asks for: (found, plain) on twelve maps."""
    boxes = (Box(1, 50, 40, 70, 52),)
    sample = Sample("a", torch.zeros(3, 100, 130, dtype=torch.uint8), (1,), boxes)
    natives = torch.rand(12, 8, 8, generator=torch.Generator().manual_seed(3))
    metric = registry.metric(prefix + "pointing_game")
    frame = VIEW if metric.info.frame == "input" else VIEW.window
    truth = frame.truth(sample, 1)
    found = metric(torch.stack([resized(n, frame.size) for n in natives]), truth).tolist()
    mask = np.zeros((90, 90), dtype=bool)
    mask[40 - 5 : 52 - 5, 50 - 25 : 70 - 25] = True
    plainly = [pointing(resized(n, (90, 90)).numpy(), mask, [], ~mask & mask, 15) for n in natives]
    return found, plainly


def test_the_tolerance_is_in_pixels_of_the_picture_as_stored():
    found, plainly = as_stored()
    assert found == plainly
    assert 0 < sum(found) < 12


@pytest.mark.parametrize(("legs", "distance"), [((9, 12), 15), ((0, 15), 15), ((15, 0), 15), ((3, 4), 5), ((20, 21), 29)])
def test_the_disc_is_open(legs, distance):
    mask, map_ = torch.zeros(60, 70, dtype=torch.bool), torch.zeros(1, 60, 70)
    mask[30, 35] = True
    map_[0, 30 - legs[0], 35 + legs[1]] = 1
    hits = [float(value(f"pointing_game(tolerance={t})", Truth(mask), stacked=map_)) for t in (distance, distance + 1)]
    assert hits == [0, 1]


def test_a_tolerance_beyond_the_picture_reaches_everything():
    assert value("pointing_game(tolerance=1000000000000)", truths()["pixel"]).tolist() == [1] * len(maps())


# -- known answers, and what must not change anything -------------------------------------------------------------------------


def test_known_answers():
    box = Box(0, 8, 5, 18, 12)
    mask = union((box,))
    share = float(mask.double().mean())
    stacked = torch.stack([mask.float(), 1 - mask.float(), torch.full((H, W), 0.3)])
    wanted = {
        "pointing_game(tolerance=0)": [1, 0, share],
        "energy_pointing_game": [1, 0, share],
        "relevance_mass": [1, 0, share],
        "relevance_rank": [1, 0, share],
        "auc_mask": [1, 0, 0.5],
        "msc": [1, -1, 0],
        "mask_iou": [1, 0, share],
        "pxap": [1, share, share],
        "max_box_acc": [1, 0, 0],
        "max_box_acc_v2": [1, 1, 0],  # inverted: the border of the hole is one of the contours, a pixel larger on each side
        "box_iou": [1, share, share],  # inverted: the box around the rest is the whole frame
    }
    for spec, answers in wanted.items():
        found = value(spec, Truth(mask, (box,)), stacked=stacked).numpy()
        if spec == "max_box_acc_v2":
            assert figure(spec, found[1:2]) == pytest.approx(2 / 3)  # IoU 70 / 108
            found[1] = 1
        figures = found if found.ndim == 1 else [figure(spec, row[None]) for row in found]
        assert list(figures) == pytest.approx(answers), spec


def some_map(seed, kind):
    g = torch.Generator().manual_seed(seed)
    if kind == "tied":
        return torch.randint(-2, 4, (H, W), generator=g).float()
    return resized(torch.randn(5, 7, generator=g)) if kind == "smooth" else torch.randn(H, W, generator=g)


KINDS = st.sampled_from(["tied", "smooth", "noise"])
METAMORPHIC = ["pointing_game(tolerance=3)", *[s for s in REFERENCES if "(" not in s and s != "pointing_game"]]


@given(st.integers(0, 99), KINDS, st.integers(-40, 40))
@settings(max_examples=15, deadline=None)
def test_scale_changes_nothing_and_companions_neither(seed, kind, power):
    map_ = some_map(seed, kind)
    for spec in METAMORPHIC:
        alone = value(spec, truths()["ignore"], stacked=map_[None])
        together = value(spec, truths()["ignore"], stacked=torch.stack([torch.ones(H, W), map_, map_ * 2.0**power]))
        assert torch.equal(alone[0], together[1]), spec
        assert torch.equal(alone[0], together[2]), spec


@given(st.integers(0, 99), KINDS)
@settings(max_examples=15, deadline=None)
def test_mirrors_change_nothing(seed, kind):
    map_, boxes = some_map(seed, kind), (Box(0, 2, 3, 9, 11), Box(0, 12.25, 8, 27, 19.2))
    ignore = (torch.rand(H, W, generator=torch.Generator().manual_seed(seed)) < 0.1) & ~union(boxes)
    sideways = tuple(Box(0, W - b.x1, b.y0, W - b.x0, b.y1) for b in boxes)
    upside = tuple(Box(0, b.x0, H - b.y1, b.x1, H - b.y0) for b in boxes)
    for spec in METAMORPHIC:
        here = value(spec, Truth(union(boxes), boxes, 1.0, ignore), stacked=map_[None])
        for axis, mirrored in ((1, sideways), (0, upside)):
            truth = Truth(union(boxes).flip(axis), mirrored, 1.0, ignore.flip(axis))
            assert torch.allclose(value(spec, truth, stacked=map_[None].flip(axis + 1)), here, atol=1e-9), spec


@given(st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_what_ignored_pixels_show_changes_nothing(seed):
    truth, g = truths()["ignore"], torch.Generator().manual_seed(seed)
    map_ = torch.randn(H, W, generator=g)
    other = torch.where(truth.ignore, 5 * torch.randn(H, W, generator=g), map_)
    for spec in METAMORPHIC:
        if "box" not in spec:  # boxes are compared as boxes
            assert torch.equal(*(value(spec, truth, stacked=m[None]) for m in (map_, other))), spec


def test_both_ways_to_find_boxes_agree_on_noise_and_on_smooth_maps():
    """Of 200 x 200 pixels, so that the faster way for busy maps is taken too."""
    g = torch.Generator().manual_seed(5)
    stacked = torch.stack([torch.rand(200, 200, generator=g), resized(torch.rand(60, 60, generator=g), (200, 200))])
    truth = Truth(torch.ones(200, 200, dtype=torch.bool), (Box(0, 30, 40, 120, 150), Box(0, 3, 3, 9.5, 7), Box(0, 90, 90, 94, 93)))
    found = value("max_box_acc_v2(thresholds=20)", truth, stacked=stacked).numpy()
    for map_, row in zip(stacked.numpy(), found, strict=True):
        assert row.tolist() == max_box_acc_v2(map_, *plain(truth), thresholds=20)


# -- planted mutants -----------------------------------------------------------------------------------------------------------


def plant(tmp_path, family, prefix, *changes):
    """Load the family's source, with what it imports from its siblings in the same file, changed and under other ids."""
    folder = registry.get("metric", "pxap").path.parent
    names = ("../_shared.py", "_comparison.py", "_pointing.py", "_boxes.py", f"{family}.py")
    source = "".join((folder / name).read_text(encoding="utf-8") for name in names)
    for old, new in changes:
        assert old in source, old
        source = source.replace(old, new)
    source = re.sub(r"^from (\.+_\w+|__future__) import .*\n", "", source, flags=re.MULTILINE)
    file = tmp_path / "mutant.py"
    file.write_text(
        "from __future__ import annotations\n" + re.sub(r'(@metric\(\s*")', rf"\g<1>{prefix}", source), encoding="utf-8"
    )
    registry.load(str(file))


def agrees(family, prefix):
    """Whether a family's metrics under this prefix equal the plain references on every map and truth, and in frame and figure."""
    specs = [spec for spec in REFERENCES if spec.startswith(tuple(FAMILIES[family]))]
    if family == "wsol":  # few thresholds show all that a hundred do
        specs = [spec for spec in specs if "(" in spec]
    for spec in specs:
        if registry.metric(prefix + spec).info.reduce != REDUCES.get(spec.partition("(")[0], "mean"):
            return False
        for name, truth in truths().items():
            found, wanted = value(spec, truth, prefix), expected(spec, name)
            if found is None and np.isnan(wanted).all():
                continue
            if found is None or found.shape != wanted.shape or not np.allclose(found, wanted, rtol=0, atol=1e-6):
                return False
    found, plainly = as_stored(prefix) if family == "pointing_game" else ((), ())
    return found == plainly


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_metrics_agree_with_the_references(tmp_path, family):
    assert agrees(family, "")
    plant(tmp_path, family, "same_")
    assert agrees(family, "same_")


BUSY = ("BUSY = 2000", "BUSY = 0")
EMPTY = 'raise NotApplicable("the target covers no pixel of the frame")'
NO_BOX = 'raise NotApplicable("the target has no box in the frame")'
REST = "    need_rest(outside)\n    inside, outside = np.sort"
ORDER = "x0, y0, x1, y1 = target.T"
MUTANTS = [
    ("pointing_game", ('frame="image"', 'frame="input"')),  # a tolerance in pixels of the input
    ("pointing_game", ('reduce="class_mean"', 'reduce="mean"')),
    ("pointing_game", ("np.intp) - 1  #", "np.intp)  #")),
    ("pointing_game", ("np.ceil(np", "(1 + np")),  # d <= tolerance
    ("pointing_game", ("np.sqrt(radius**2 - gap[y, x] ** 2)", "(radius - gap[y, x])")),  # a diamond
    ("pointing_game", ("np.sqrt(radius**2 - gap[y, x] ** 2)", "(radius + 0 * x)")),  # a square
    ("pointing_game", ("gap < radius", "gap <= radius")),
    ("pointing_game", ("max(tolerance, 1)", "tolerance")),
    ("pointing_game", ("max(tolerance, 1)", "tolerance + 1")),
    ("pointing_game", ("x + reach + 1", "x + reach")),
    ("pointing_game", ("np.minimum(rows - before, after - rows)", "rows - before")),
    ("pointing_game", ("return hits / (hits + misses)", "return float(hits > 0)")),  # ties all count as hits
    ("pointing_game", ("return hits / (hits + misses)", "return float(not misses)")),
    ("pointing_game", ("values.max() for", "abs(values).max() for"), ("values == largest", "abs(values) == largest")),
    ("pointing_game", (EMPTY, "return torch.ones((len(maps), *size), dtype=torch.float64)")),  # an empty mask is a hit
    ("pointing_game", ("~truth.ignore", "torch.ones_like(region)")),
    ("pointing_game", ("(part & counts)", "part")),
    ("pointing_game", ("(box.y0 <= y) & (y < box.y1))[:, None] & (box.x0 <= x) & (x < box.x1)",
                       "(box.x0 <= y) & (y < box.x1))[:, None] & (box.y0 <= x) & (x < box.y1)")),  # swapped axes
    ("pointing_game", ("y < box.y1", "y <= box.y1")),
    ("pointing_game", ("box.x0 <= x", "box.x0 < x")),
    ("pointing_game", (" + 0.5 for side", " for side")),
    ("pointing_game", (" + 0.5 for side", " + 1 for side")),
    ("pointing_game", ("region |= (", "region ^= (")),
    ("pointing_game", ("region |= (", "region = (")),
    ("pointing_game", ("np.maximum(values, 0)", "np.abs(values)")),
    ("pointing_game", ("np.maximum(values, 0)", "values")),
    ("relevance", ("np.maximum(values, 0)", "values")),  # negatives not clipped
    ("relevance", ("np.maximum(values, 0)", "(values.astype(float) - values.min())")),
    ("relevance", ("else area_share(inside, outside)", "else 0.0")),
    ("relevance", ("mass + rest > 0", "mass + rest > 1e-30")),
    ("relevance", ("mass / (mass + rest) if", "(mass / len(inside)) / (mass / len(inside) + rest / max(len(outside), 1)) if")),
    ("relevance", ("(len(inside) + len(outside))", "max(len(outside), 1)")),
    ("relevance", ("~truth.ignore", "torch.ones_like(region)")),
    ("relevance", ("~region)", "~region | True)")),
    ("relevance", (EMPTY, "return torch.ones((len(maps), *size), dtype=torch.float64)")),
    ("relevance", ("part == last", "part >= last")),
    ("relevance", ("(size - sum(sure)) * tied[0] / sum(tied)", "min(size - sum(sure), tied[0])")),  # ties all count as hits
    ("relevance", ("(size - sum(sure)) * tied[0] / sum(tied)", "0")),
    ("relevance", ("np.partition(values, -size)[-size]", "np.partition(values, size - 1)[size - 1]")),
    ("relevance", ("values, size = ", "inside, outside = abs(inside), abs(outside)\n    values, size = ")),
    ("relevance", ("tied[0] / sum(tied)) / size", "tied[0] / sum(tied)) / len(values)")),
    ("relevance", ('("left", "right")', '("left", "left")')),
    ("relevance", ('("left", "right")', '("right", "right")')),
    ("relevance", ("np.searchsorted(outside, inside, side)", "np.searchsorted(inside, outside, side)")),
    ("relevance", (REST, "    if not len(outside):\n        return 1.0\n    inside, outside = np.sort")),
    ("score_contrast", (EMPTY, "return torch.zeros((len(maps), *size), dtype=torch.float64)")),
    ("score_contrast", ("    need_rest(outside)\n    low", "    outside = outside if len(outside) else inside\n    low")),
    ("score_contrast", ("(there - elsewhere)", "(elsewhere - there)")),
    ("score_contrast", ("(there - elsewhere)", "max(0.0, there - elsewhere)")),
    ("score_contrast", ("(there - elsewhere)", "abs(there - elsewhere)")),
    ("score_contrast", ("/ (high - low)", "/ high if high > 0 else 0.0")),  # scaled by the maximum alone
    ("score_contrast", ("/ (high - low)", "/ max(abs(low), abs(high))")),
    ("score_contrast", ("/ (high - low)", "")),
    ("score_contrast", ("if low == high", "if high - low < 1e-30")),
    ("score_contrast", ("return 0.0", "return 1.0")),
    ("score_contrast", ("min(inside.min(), outside.min())", "outside.min()")),
    ("score_contrast", ("max(inside.max(), outside.max())", "inside.max()")),
    ("score_contrast", ("values.mean(dtype=np.float64)", "np.median(values)")),
    ("score_contrast", ("values.mean(dtype=np.float64)", "np.maximum(values, 0).mean(dtype=np.float64)")),  # negatives clipped
    ("score_contrast", ("values.mean(dtype=np.float64)", "np.concatenate([inside, outside]).mean(dtype=np.float64)")),
    ("score_contrast", ("~truth.ignore", "torch.ones_like(region)")),
    ("masks", ("counts.sum(axis=1, keepdims=True) - counts.cumsum(axis=1)", "counts[:, ::-1].cumsum(axis=1)[:, ::-1]")),  # >=
    ("masks", ("return shares", "return np.full(thresholds, shares.max())")),  # a threshold per picture
    ("masks", ("np.full(thresholds, area_share(inside, outside))", "np.zeros(thresholds)")),
    ("masks", ("hits / (len(inside) + false)", "2 * hits / (len(inside) + hits + false)")),  # Dice
    ("masks", ("hits / (len(inside) + false)", "hits / np.maximum(hits + false, 1)")),
    ("masks", ("np.arange(thresholds) * (LEVELS - 1)", "np.arange(1, thresholds + 1) * (LEVELS - 1)")),
    ("masks", ("np.arange(thresholds) * (LEVELS - 1)", "np.arange(thresholds) * LEVELS")),
    ("masks", ("float(values.min()), ", "min(float(values.min()), 0.0), ")),
    ("masks", ("values.astype(np.float64) - low", "np.maximum(values, 0).astype(np.float64) - max(low, 0)")),
    ("masks", ("(high - low) * top)", "(high - low) * top + 0.5)")),
    ("masks", ("bins - 1)", "bins - 2)")),
    ("masks", ("level[: len(inside)], level[len(inside) :]", "level[: len(outside)], level[len(outside) :]")),
    ("masks", ("bins).ravel()", "bins)[:, ::-1].ravel()")),
    ("masks", ("bins).ravel()", "bins)[::-1].ravel()")),
    ("masks", ("bins).ravel()", "bins).ravel() / (len(inside) + len(outside))")),
    ("masks", ("~truth.ignore", "torch.ones_like(region)")),
    ("masks", (EMPTY, "return torch.zeros((len(maps), *size), dtype=torch.float64)")),
    ("masks", ('reduce="best"', 'reduce="best(2)"')),
    ("wsol", ("(grey > level)", "(grey >= level)")),
    ("wsol", ("255 * i // thresholds", "255 * (i + 1) // thresholds")),
    ("wsol", ("255 * i // thresholds", "256 * i // thresholds")),
    ("wsol", ("found.reshape(", "(found.max(axis=2, keepdims=True) + 0 * found).reshape(")),  # a threshold per picture
    ("wsol", ("found.reshape(len(maps), -1)", "found.transpose(0, 2, 1).reshape(len(maps), -1)")),
    ("wsol", ("if area == largest", "if area >= 0")),  # all contours instead of the largest
    ("wsol", ("thresholds, largest_contours", "thresholds, all_contours")),
    ("wsol", ("thresholds, all_contours", "thresholds, largest_contours")),  # the largest instead of all
    ("wsol", ("thresholds, largest_components", "thresholds, largest_contours")),
    ("wsol", ("cv2.contourArea(contour)", "len(contour)")),
    ("wsol", ("RETR_LIST", "RETR_EXTERNAL")),
    ("wsol", ("(ious >= 0.5).mean()", "(ious > 0.5).mean()")),
    ("wsol", ("(ious >= 0.5).mean()", "(ious >= 0.5).max()")),  # ties all count as hits
    ("wsol", ("(ious >= 0.5).mean()", "ious[0] >= 0.5")),
    ("wsol", ("[ious.mean()]", "[ious.max()]")),
    ("wsol", ("ious.max() >= t", "ious.mean() >= t")),
    ("wsol", ("(0.3, 0.5, 0.7)", "(0.3, 0.5, 0.6)")),
    ("wsol", (".max(axis=1)\n    return best", ".mean(axis=1)\n    return best")),
    ("wsol", (".max(axis=1)\n    return best", "[:, 0]\n    return best")),
    ("wsol", (ORDER, "y0, x0, y1, x1 = target.T")),  # swapped axes
    ("wsol", (ORDER, "x0, y0, x1, y1 = np.floor(target).T")),  # whole pixels, as the original
    ("wsol", (ORDER, "x0, y0, x1, y1 = (target + (0, 0, 1, 1)).T")),
    ("wsol", ("np.maximum(wide, 0)", "np.maximum(wide, 1)")),
    ("wsol", ("(y1 - y0) - overlap", "(y1 - y0)")),
    ("wsol", ("sizes == sizes.max()", "sizes == sizes.min()")),
    ("wsol", ("(binary, connectivity=8)", "(binary, connectivity=4)")),
    ("wsol", ("[largest, :4]", "[largest[:1], :4]")),
    ("wsol", ("judge(best_ious(np.array([[0, 0, *grey.shape[::-1]]]), target))", "[1.0] * count")),  # a constant map hits
    ("wsol", ("judge(best_ious(np.array([[0, 0, *grey.shape[::-1]]]), target))", "[0.0] * count")),
    ("wsol", ("*grey.shape[::-1]", "*grey.shape")),
    ("wsol", (NO_BOX, "return torch.ones((len(maps), count * thresholds), dtype=torch.float64)")),
    ("wsol", ('reduce="best(3)"', 'reduce="best"')),
    ("wsol", BUSY, ("holes + np.array([-1, -1, 2, 2])", "holes")),
    ("wsol", BUSY, ("[components, holes", "[components, 0 * holes")),
    ("wsol", BUSY, ("(gaps[:, :2] > 0).all(axis=1) & ", "")),
    ("wsol", BUSY, (" & (gaps[:, :2] + gaps[:, 2:] < (width, height)).all(axis=1)", "")),
    ("wsol", BUSY, ("1 - binary, connectivity=4", "1 - binary, connectivity=8")),
    ("wsol", BUSY, ("WithStats(binary, connectivity=8)[2][1:", "WithStats(binary, connectivity=4)[2][1:")),
]  # fmt: skip


def test_the_way_for_busy_maps_serves_all_maps(tmp_path):
    plant(tmp_path, "wsol", "busy_", BUSY)
    assert agrees("wsol", "busy_")


@pytest.mark.parametrize("number", range(len(MUTANTS)))
def test_planted_mutants_of_the_source_are_caught(tmp_path, number):
    family, *changes = MUTANTS[number]
    plant(tmp_path, family, f"mutant{number}_", *changes)
    assert not agrees(family, f"mutant{number}_")
