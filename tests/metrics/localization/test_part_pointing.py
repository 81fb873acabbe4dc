"""The pointing game's split of difficult items and its form for parts, beside plain loops; mutants of their source must fail."""

import math
import re

import numpy as np
import pytest
import torch

from xbench.data.samples import Truth
from xbench.errors import NotApplicable, XbenchError
from xbench.plugins.registry import registry

H, W = 18, 26
DIFFICULT = ["pointing_game(tolerance=3, split=difficult)", "pointing_game_class_mean(tolerance=3, split=difficult)"]


def maps():
    g = torch.Generator().manual_seed(0)
    tied = torch.zeros(H, W)
    tied[4, 6] = tied[4, 9] = tied[15, 22] = 1
    return torch.stack(
        [
            *torch.rand(12, H, W, generator=g),
            torch.randn(H, W, generator=g),
            torch.randint(0, 3, (H, W), generator=g).float(),
            tied,
            torch.zeros(H, W),
            torch.full((H, W), -0.7),
            torch.linspace(0, 1, W).expand(H, W),
        ]
    )


def disc(y, x, radius):
    return (torch.arange(H)[:, None] - y) ** 2 + (torch.arange(W) - x) ** 2 < radius**2


def truths():
    parts = {"beak": disc(4, 6, 1), "left wing": disc(9, 15, 3), "tail": torch.zeros(H, W, dtype=torch.bool)}
    body, ignore = disc(8, 10, 7), disc(12, 20, 4)
    return {
        "bird": Truth(body, difficult=True, parts=parts),
        "not difficult": Truth(body, parts=parts),
        "ignored pixels": Truth(body, ignore=ignore, difficult=True, parts=parts),
        "part off the mask": Truth(disc(15, 22, 2), parts={"beak": disc(2, 2, 2)}),
        "no parts": Truth(body, difficult=True),
        "none visible": Truth(body, parts={"tail": parts["tail"]}),
    }


def pointing(map_, region, ignore, tolerance):
    """By loops over pixels; NaN where there is nothing to point at."""
    target = np.argwhere(region)
    candidates = [p for p in np.ndindex(*map_.shape) if not ignore[p]]
    if not len(target):
        return math.nan
    largest = max(map_[p] for p in candidates)
    hits = [
        any((y - p[0]) ** 2 + (x - p[1]) ** 2 < max(tolerance, 1) ** 2 for y, x in target) for p in candidates if map_[p] == largest
    ]
    return sum(hits) / len(hits)


def ignored(truth):
    return np.zeros((H, W), dtype=bool) if truth.ignore is None else truth.ignore.numpy()


def expected_part(truth, part, tolerance):
    region = np.zeros((H, W), dtype=bool)
    for name, mask in truth.parts.items():
        region |= mask.numpy() & (part in ("", name))
    return [pointing(map_, region, ignored(truth), tolerance) for map_ in maps().numpy()]


def expected_difficult(truth):
    found = [pointing(map_, truth.mask.numpy(), ignored(truth), 3) for map_ in maps().numpy()]
    return found if truth.difficult else [math.nan] * len(found)


def value(spec, truth):
    """The metric's values, NaN where it is not applicable."""
    try:
        return registry.metric(spec)(maps(), truth).tolist()
    except NotApplicable:
        return [math.nan] * len(maps())


PARTS = [("", 5), ("", 0), ("beak", 5), ("beak", 1), ("left wing", 2), ("tail", 3), ("claw", 3)]


def agrees(family, prefix=""):
    """Whether the metrics of a family equal the plain loops on every map and truth."""
    for truth in truths().values():
        pairs = [(value(prefix + spec, truth), expected_difficult(truth)) for spec in DIFFICULT if family == "pointing_game"]
        for part, tolerance in PARTS if family == "part_pointing" else []:
            spec = f'{prefix}part_pointing(part="{part}", tolerance={tolerance})'
            pairs.append((value(spec, truth), expected_part(truth, part, tolerance)))
        if any(found != pytest.approx(wanted, abs=1e-9, nan_ok=True) for found, wanted in pairs):
            return False
    return True


@pytest.mark.parametrize("family", ["pointing_game", "part_pointing"])
def test_equals_the_plain_loops_on_all_kinds_of_maps(family):
    assert agrees(family)


def test_without_a_split_difficult_items_are_items_like_all_others():
    for name in ("pointing_game", "pointing_game_class_mean"):
        difficult, other = (registry.metric(f"{name}(tolerance=3)")(maps(), truths()[t]) for t in ("bird", "not difficult"))
        assert torch.equal(difficult, other)
        assert registry.metric(f"{name}(split=all)").name == name


def test_an_item_that_does_not_count_says_why():
    for spec, truth, why in [
        ("pointing_game(split=difficult)", "not difficult", "not difficult: the target covers a quarter"),
        ("part_pointing", "no parts", "no parts of the target are known"),
        ("part_pointing(beak)", "no parts", "no parts of the target are known"),
        ("part_pointing(claw)", "bird", "'claw' is not one of the target's known parts: beak, left wing, tail"),
        ("part_pointing(tail)", "bird", "the part 'tail' is not visible"),
        ("part_pointing", "none visible", "no part is visible"),
    ]:
        with pytest.raises(NotApplicable, match=why):
            registry.metric(spec)(maps(), truths()[truth])


def test_wrong_parameters_are_named():
    with pytest.raises(XbenchError, match="split must be one of all, difficult, not 'hard'"):
        registry.metric("pointing_game(split=hard)")
    with pytest.raises(XbenchError, match="tolerance must be 0 or more, not -1"):
        registry.metric("part_pointing(tolerance=-1)")(maps(), truths()["bird"])


def test_parts_of_the_datasets_that_know_them_reach_the_metric():
    """In a generated bird, the mask of one part points at that part and at no other, in the frame that the metric asks for."""
    data = registry.bind("dataset", "scenes_parts(n=3)")
    metric = registry.metric("part_pointing(part=beak, tolerance=0)")
    assert metric.info.frame == "image"
    assert metric.info.needs <= data.info.provides
    model = registry.bind("model", "scenes/parts_vit")()
    for entry in data().entries():
        sample = data().load(entry.id)
        truth = model.preprocessing.view("crop", *sample.image.shape[-2:]).window.truth(sample, entry.labels[0])
        beak, other = (truth.parts[name].float() for name in ("beak", next(p for p in truth.parts if p != "beak")))
        assert metric(torch.stack([beak, other]), truth).tolist() == [1, 0]
        assert registry.metric("part_pointing(tolerance=0)")(torch.stack([beak, other]), truth).tolist() == [1, 1]


MUTANTS = [
    ("pointing_game", 'split == "difficult" and not truth.difficult', 'split == "difficult" and truth.difficult'),
    ("pointing_game", 'split == "difficult" and not truth.difficult', "False"),
    ("pointing_game", "tolerance, split=split)", "tolerance)"),
    ("part_pointing", "tolerance), share_of_maxima", "tolerance + 1), share_of_maxima"),
    ("part_pointing", "within(_region(truth, part), tolerance)", "_region(truth, part)"),
    ("part_pointing", "within(_region(truth, part), tolerance)", "within(truth.mask, tolerance)"),
    ("part_pointing", "truth.parts[part] if part else", "next(iter(truth.parts.values())) if part else"),
    ("part_pointing", "truth.parts[part] if part else", ""),
    ("part_pointing", ".any(dim=0)", ".all(dim=0)"),
    ("part_pointing", "torch.stack(list(truth.parts.values())).any(dim=0)", "next(iter(truth.parts.values()))"),
    ("part_pointing", "if not region.any():", "if not (region & truth.mask).any():"),
    ("part_pointing", "    return compare(", "    truth = Truth(truth.mask, parts=truth.parts)\n    return compare("),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(MUTANTS)))
def test_planted_mutants_of_the_source_are_caught(tmp_path, number):
    family, old, new = MUTANTS[number]
    folder = registry.get("metric", "part_pointing").path.parent
    names = ("../_shared", "_comparison", "_pointing", family)
    source = "".join((folder / f"{name}.py").read_text(encoding="utf-8") for name in names)
    assert old in source
    source = re.sub(r"^from (\.+_\w+|__future__) import .*\n", "", source.replace(old, new), flags=re.MULTILINE)
    prefix = f"part_mutant{number}_"
    source = "from __future__ import annotations\n" + re.sub(r'(@metric\(\s*")', rf"\g<1>{prefix}", source)
    (tmp_path / "mutant.py").write_text(source, encoding="utf-8")
    registry.load(str(tmp_path / "mutant.py"))
    assert not agrees(family, prefix)
