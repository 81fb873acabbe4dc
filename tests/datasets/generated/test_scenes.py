import ast
import hashlib
import itertools
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from timm.data.imagenet_info import ImageNetInfo
from xbench.datasets.generated import birds, drawing, figures, vocabulary, worlds

from xbench import XbenchError
from xbench.data.wordnet import compact
from xbench.plugins.registry import registry

KINDS = ("scenes", "scenes(most=1)", "scenes_spurious", "scenes_spurious(split=train)", "scenes_parts")


def opened(spec):
    return registry.dataset(spec)()


def samples(spec, count):
    data = opened(spec)
    return [data.load(entry.id) for entry in data.entries()[:count]]


def digest(spec):
    """All that the first pictures of a dataset are and say."""
    hasher = hashlib.sha256()
    for sample in samples(spec, 24):
        hasher.update(sample.image.numpy().tobytes())
        for mask in (*sample.masks.values(), *sample.instances, *sample.parts.values()):
            hasher.update(np.packbits(mask.numpy()).tobytes())
        hasher.update(repr((sample.id, sample.labels, sample.boxes, sample.attributes, sample.captions)).encode())
    return hasher.hexdigest()[:16]


PINNED = {
    "scenes": "f006f138c2f973e7",
    "scenes(most=1)": "298d9faa826ca7ce",
    "scenes(least=4, size=160, seed=5)": "4acdf4cdf1b550ae",
    "scenes(split=train)": "ad272d0cd6e78968",
    "scenes_spurious": "2454db0025781112",
    "scenes_spurious(split=train)": "87a1b46a4a50f732",
    "scenes_spurious(label=cue, truth=cue)": "ff449e4a206a0d3c",
    "scenes_parts": "a277832ad16d691c",
}


@pytest.mark.parametrize("spec", PINNED)
def test_every_machine_draws_the_same_bytes(spec):
    assert digest(spec) == PINNED[spec], "the pictures changed: raise VERSION in datasets/generated/scenes.py with these digests"


def test_only_exact_arithmetic_is_used():
    """What rounds differently between processors: powers, exponentials, sines, and sums of floats, whose order is free."""
    allowed = {"sqrt", "abs", "floor", "minimum", "maximum", "arange", "zeros", "array", "stack", "bincount", "float32", "uint8"}
    allowed |= {"add", "subtract", "int8", "uint64", "bool_", "intp", "random", "Philox"}
    for module in (drawing, figures, birds, worlds):
        tree = ast.parse(Path(module.__file__).read_text())
        used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == "np"}
        assert used <= allowed, used - allowed
        # Multiplying matrices sums in an order of its own; 2**14 and 10**7 are integers.
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.MatMult)]
        powers = [n for n in ast.walk(tree) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Pow)]
        assert all(isinstance(n.right, ast.Constant) and isinstance(n.right.value, int) for n in powers)


def test_the_table_of_sines_is_one():
    assert np.allclose(np.array(drawing.SINES) / 2**14, np.sin(np.arange(256) * 2 * np.pi / 256), atol=2**-15)


@pytest.mark.parametrize("spec", KINDS)
def test_a_picture_depends_on_its_number_alone(spec):
    data, other = opened(spec), opened(spec)
    ids = [entry.id for entry in data.entries()[:8]]
    forwards = {id: data.load(id).image for id in ids}
    backwards = {id: other.load(id).image for id in reversed(ids)}
    assert all(torch.equal(forwards[id], backwards[id]) for id in ids)
    assert len({image.numpy().tobytes() for image in forwards.values()}) == len(ids)


def test_splits_and_seeds_never_meet():
    found = [samples(spec, 40) for spec in ("scenes(split=train)", "scenes(split=validation)", "scenes", "scenes(seed=1)")]
    images = [sample.image.numpy().tobytes() for part in found for sample in part]
    assert len(set(images)) == len(images)
    assert (
        len({opened(s).revision for s in ("scenes", "scenes(split=train)", "scenes(n=10)", "scenes(seed=1)", "scenes(most=1)")})
        == 5
    )


@pytest.mark.parametrize("spec", KINDS)
def test_entries_tell_the_labels_without_drawing(spec):
    data = opened(spec)
    for entry in data.entries()[:60]:
        assert data.load(entry.id).labels == entry.labels
        assert set(entry.clusters) == {entry.id}
        assert len(entry.clusters) == len(entry.labels)


def test_masks_boxes_and_labels_agree():
    counts = set()
    for sample in samples("scenes", 150):
        assert sample.image.shape == (3, 96, 96)
        assert sample.image.dtype == torch.uint8
        stacked = torch.stack(sample.instances)
        assert stacked.sum(dim=0).max() == 1  # no pixel is of two objects
        assert set(sample.labels) == set(sample.masks) == {box.label for box in sample.boxes}
        for label, mask in sample.masks.items():
            of_class = [i for box, i in zip(sample.boxes, sample.instances, strict=True) if box.label == label]
            assert torch.equal(torch.stack(of_class).any(dim=0), mask)
        for box, instance in zip(sample.boxes, sample.instances, strict=True):
            x, y, width, height = cv2.boundingRect(instance.numpy().astype(np.uint8))
            assert (box.x0, box.y0, box.x1, box.y1) == (x, y, x + width, y + height)
        counts.add(len(sample.instances))
    assert counts == {1, 2, 3, 4}


def test_objects_stay_visible_behind_others():
    for index in range(60):
        kinds = worlds._kinds(drawing.Bits(3, index), 4, 4)
        picture = worlds.figures(3, index, 96, 4, 4)
        for number, (label, share) in enumerate(kinds, 1):
            full = whole(vocabulary.SHAPES[label].name) * (share * 96) ** 2
            assert (picture.owner == number).sum() > 0.45 * full  # 60 % behind others, and less at the border


def whole(name, radius=400):
    """The area of a figure of radius 1, from its outline at a high resolution."""
    canvas = drawing.Canvas(np.zeros((3, 1000, 1000), np.float32))
    return float((canvas.place(500, 500, radius, 0, reach=1.2).cover(figures.SHAPES[name]) >= 0.5).sum()) / radius**2


def corners(count, radius, first):
    turns = [first + 2 * math.pi * k / count for k in range(count)]
    return np.array([(radius * math.cos(t), radius * math.sin(t)) for t in turns])


def star():
    inner = math.sin(math.radians(18)) / math.sin(math.radians(54))
    outer, between = corners(5, 1, math.pi / 2), corners(5, inner, math.pi / 2 + math.pi / 5)
    return np.stack([outer, between], axis=1).reshape(-1, 2) * 0.31 / math.cos(math.radians(72))


AREAS = {
    "circle": math.pi * 0.86**2,
    "ellipse": math.pi * 0.55,
    "triangle": cv2.contourArea((corners(3, 1, -math.pi / 2)).astype(np.float32)),
    "square": 1.52**2,
    "diamond": 2 * 0.6,
    "hexagon": cv2.contourArea(corners(6, 0.82 / math.cos(math.pi / 6), math.pi / 6).astype(np.float32)),
    "star": cv2.contourArea(star().astype(np.float32)),
    "cross": 2 * 0.54 * 1.84 - 0.54**2,
    "ring": math.pi * (0.92**2 - 0.52**2),
}


@pytest.mark.parametrize("name", AREAS)
def test_figures_have_the_area_of_what_they_are_called(name):
    assert whole(name) == pytest.approx(AREAS[name], rel=0.01)


def test_every_figure_lies_within_its_place():
    for name in figures.SHAPES:
        canvas = drawing.Canvas(np.zeros((3, 400, 400), np.float32))
        covered = canvas.place(200, 200, 100, 0, reach=1.9).cover(figures.SHAPES[name]) > 0
        rows, columns = covered.any(axis=1).nonzero()[0], covered.any(axis=0).nonzero()[0]
        assert len(rows) <= 206
        assert len(columns) <= 206


def test_plain_objects_have_the_colour_that_they_are_said_to_have():
    palette = {c.name: np.array(c.rgb) for c in vocabulary.COLOURS}
    right = []
    for sample in samples("scenes(most=1)", 300):
        (attributes,) = sample.attributes
        if attributes[-1] != "plain":
            continue
        mean = sample.image[:, sample.instances[0]].float().mean(dim=1).numpy()
        right.append(min(palette, key=lambda name: np.abs(palette[name] - mean).sum()) == attributes[-2])
    assert len(right) > 40
    assert np.mean(right) > 0.9


def test_captions_say_what_there_is():
    for sample in samples("scenes", 120):
        names = [vocabulary.SHAPES[box.label].name for box in sample.boxes]
        adjectives = [word for words in sample.attributes for word in words]
        nouns, _, full = (caption.replace(",", "").split() for caption in sample.captions[:3])
        numbers = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4}
        for caption in (nouns, full):
            assert sum(numbers.get(word, 0) for word in caption[2 * (caption is nouns) + (caption is nouns) :]) == len(names)
        for name in set(names):
            plural = name + ("es" if name.endswith("s") else "s")
            assert name in nouns or plural in nouns
        assert set(adjectives) <= set(full)
        for caption in sample.captions[:4]:
            words = caption.replace(",", "").split()
            assert all((after[0] in "aeiou") == (word == "an") for word, after in itertools.pairwise(words) if word in ("a", "an"))
        assert vocabulary.SHAPES[sample.labels[0]].gloss in sample.captions


def test_classes_are_wordnets():
    info = ImageNetInfo("imagenet-22k")
    known = set(info.label_names())
    nouns = vocabulary.SHAPES + vocabulary.BIRDS
    assert len({n.synset for n in nouns}) == len(nouns)
    listed = [n for n in nouns if n.synset in known]
    assert len(listed) >= 6
    for noun in listed:
        assert noun.name in info.label_name_to_description(noun.synset)


def test_glosses_are_wordnets():
    for noun in vocabulary.SHAPES + vocabulary.BIRDS:
        synset = compact().synset(noun.synset)
        assert noun.gloss in synset.gloss  # some without their last clause
        assert noun.name in synset.lemmas
    assert all(compact().of_word(c.name) for c in vocabulary.COLOURS)


def test_the_sticker_tells_the_class_in_training_only():
    train, test = samples("scenes_spurious(split=train)", 200), samples("scenes_spurious", 600)
    other = samples("scenes_spurious(label=cue, truth=cue)", 600)
    assert [s.labels for s in train] == [s.labels for s in samples("scenes_spurious(split=train, label=cue)", 200)]
    same = np.mean([a.labels == b.labels for a, b in zip(test, other, strict=True)])
    assert 0.04 < same < 0.14  # 1 in 12
    for a, b in zip(test, other, strict=True):
        assert torch.equal(a.image, b.image)
        assert not (a.parts["object"] & a.parts["cue"]).any()
        assert torch.equal(a.masks[a.labels[0]], a.parts["object"])
        assert torch.equal(b.masks[b.labels[0]], a.parts["cue"])


def test_the_colours_of_a_sticker_are_those_of_its_class():
    palette = {c.name: np.array(c.rgb) for c in vocabulary.COLOURS}
    for sample in samples("scenes_spurious(label=cue, truth=cue)", 60):
        rim, core = worlds.STICKERS[sample.labels[0]]
        box = sample.boxes[0]
        x, y = int(box.x0 + box.x1) // 2, int(box.y0 + box.y1) // 2
        assert np.abs(sample.image[:, y - 1 : y + 2, x - 1 : x + 2].float().mean(dim=(1, 2)).numpy() - palette[core]).max() < 35
        assert np.abs(sample.image[:, y, int(box.x0) + 1].numpy() - palette[rim]).max() < 45


def test_species_differ_in_the_beak_alone():
    """Its base shows through the edge of the head, which lies over it."""
    beak_and_head = [1 + birds.PARTS.index(part) for part in ("beak", "head")]
    drawn = [birds.draw_bird(drawing.Bits(0, 11), 96, species)[0] for species in range(len(vocabulary.BIRDS))]
    for canvas in drawn[1:]:
        changed = (canvas.pixels != drawn[0].pixels).any(axis=0)
        there = np.isin(canvas.owner, beak_and_head) | np.isin(drawn[0].owner, beak_and_head)
        near = cv2.dilate(there.astype(np.uint8), np.ones((9, 9))) > 0  # a thin tip covers no pixel by half
        assert changed.any()
        assert not (changed & ~near).any()


def test_birds_have_all_their_parts():
    labels = set()
    for sample in samples("scenes_parts", 80):
        assert tuple(sample.parts) == birds.PARTS
        assert all(mask.any() for mask in sample.parts.values())
        assert torch.stack(list(sample.parts.values())).sum(dim=0).max() == 1
        assert torch.equal(sample.masks[sample.labels[0]], sample.parts["beak"])
        assert sample.captions[0].endswith(vocabulary.BIRDS[sample.labels[0]].name)
        labels |= set(sample.labels)
    assert labels == set(range(6))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("scenes(split=dev)", "split"),
        ("scenes(n=0)", "n must be between 1"),
        ("scenes(most=5)", "there are 1 to 4 objects"),
        ("scenes(size=8)", "size must be between 32"),
        ("scenes(seed=-1)", "seed must be at least 0"),
        ("scenes_spurious(truth=both)", "truth"),
        ("scenes_parts(split=all)", "split"),
    ],
)
def test_wrong_parameters_are_named(spec, said):
    with pytest.raises(XbenchError, match=said) as caught:
        opened(spec)
    assert "\n" not in str(caught.value)
