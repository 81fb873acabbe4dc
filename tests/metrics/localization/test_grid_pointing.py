"""The grid pointing game against a plain reference, with mutants that the same maps must catch."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xbench.data.samples import Truth
from xbench.plugins.registry import registry

H, W = 12, 20
MASK = torch.zeros(H, W, dtype=torch.bool)
MASK[:6, 10:] = True  # upper right
TRUTH = Truth(MASK)


def energy(map_: np.ndarray, mask: np.ndarray) -> float:
    inside = outside = 0.0
    for y in range(map_.shape[0]):
        for x in range(map_.shape[1]):
            value = max(float(map_[y, x]), 0.0)
            inside, outside = inside + value * mask[y, x], outside + value * (not mask[y, x])
    return inside / (inside + outside) if inside + outside > 0 else mask.mean()


def hit(map_: np.ndarray, mask: np.ndarray) -> float:
    tied = [(y, x) for y in range(map_.shape[0]) for x in range(map_.shape[1]) if map_[y, x] == map_.max()]
    return sum(mask[p] for p in tied) / len(tied)


def maps() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    one_hot = torch.zeros(H, W)
    one_hot[2, 15] = 3
    peak_tied = torch.zeros(H, W)
    peak_tied[2, 15] = peak_tied[9, 3] = peak_tied[8, 3] = 1
    return {
        "random": torch.rand(H, W, generator=generator),
        "signed": torch.randn(H, W, generator=generator) - 0.3,
        "tied": torch.randint(0, 3, (H, W), generator=generator).float(),
        "constant": torch.full((H, W), 2.0),
        "zero": torch.zeros(H, W),
        "negative": -torch.rand(H, W, generator=generator),
        "one-hot": one_hot,
        "tied peaks": peak_tied,
        "tiny": torch.rand(H, W, generator=generator) * 1e-35,
        "huge": torch.rand(H, W, generator=generator) * 1e37,
        "leaning": torch.linspace(-1, 1, W).expand(H, W) + torch.linspace(0.5, -0.5, H)[:, None],
    }


@pytest.mark.parametrize(("metric", "plain"), [("grid_pointing", energy), ("grid_pointing_hit", hit)])
def test_equals_the_reference_on_all_kinds_of_maps(metric, plain):
    names, stacked = list(maps()), torch.stack(list(maps().values()))
    for name, value in zip(names, registry.metric(metric)(stacked, TRUTH).tolist(), strict=True):
        assert value == pytest.approx(plain(maps()[name].numpy(), MASK.numpy()), abs=1e-6), name


def test_known_answers():
    stacked = torch.stack([MASK.float(), 1 - MASK.float(), torch.ones(H, W), torch.zeros(H, W)])
    assert registry.metric("grid_pointing")(stacked, TRUTH).tolist() == pytest.approx([1, 0, 0.25, 0.25])
    assert registry.metric("grid_pointing_hit")(stacked, TRUTH).tolist() == pytest.approx([1, 0, 0.25, 0.25])


@given(st.floats(0.01, 100), st.integers(0, 20))
@settings(max_examples=30, deadline=None)
def test_scale_changes_nothing_and_companions_neither(scale, seed):
    map_ = torch.randn(H, W, generator=torch.Generator().manual_seed(seed))
    for metric in ("grid_pointing", "grid_pointing_hit"):
        alone = registry.metric(metric)(map_[None], TRUTH)
        together = registry.metric(metric)(torch.stack([torch.ones(H, W), map_, map_ * scale]), TRUTH)
        assert torch.equal(alone[0], together[1])
        assert together[2] == pytest.approx(float(alone[0]), abs=1e-6)


@given(st.integers(0, 20))
@settings(max_examples=20, deadline=None)
def test_flips_of_map_and_mask_commute(seed):
    map_ = torch.randn(1, H, W, generator=torch.Generator().manual_seed(seed))
    for metric in ("grid_pointing", "grid_pointing_hit"):
        flipped = registry.metric(metric)(map_.flip(2), Truth(MASK.flip(1)))
        assert float(flipped) == pytest.approx(float(registry.metric(metric)(map_, TRUTH)), abs=1e-9)


MUTANTS = {
    "negatives count by magnitude": ("grid_pointing", "signed", lambda m, k: np.abs(m[k]).sum() / np.abs(m).sum()),
    "negatives cancel": ("grid_pointing", "signed", lambda m, k: m[k].sum() / m.sum()),
    "rescaled to 0..1 first": ("grid_pointing", "signed", lambda m, k: energy(m - m.min(), k)),
    "mean instead of sum": ("grid_pointing", "random", lambda m, k: m[k].mean() / (m[k].mean() + m[~k].mean())),
    "swapped axes": ("grid_pointing", "leaning", lambda m, k: energy(m, k.T.reshape(k.shape))),
    "a zero map scores 0": ("grid_pointing", "zero", lambda m, k: 0.0),
    "any tied maximum is a hit": ("grid_pointing_hit", "tied peaks", lambda m, k: float(k[m == m.max()].any())),
    "a constant map is a hit": ("grid_pointing_hit", "constant", lambda m, k: 1.0),
    "first maximum in scan order": ("grid_pointing_hit", "tied peaks", lambda m, k: float(k.flatten()[m.argmax()])),
    "largest magnitude": ("grid_pointing_hit", "leaning", lambda m, k: hit(np.abs(m), k)),
}


@pytest.mark.parametrize("mutant", sorted(MUTANTS))
def test_mutants_differ_from_the_metric(mutant):
    metric, name, wrong = MUTANTS[mutant]
    map_ = maps()[name]
    value = float(registry.metric(metric)(map_[None], TRUTH))
    assert abs(value - wrong(map_.numpy(), MASK.numpy())) > 1e-3


def agrees(prefix: str) -> bool:
    """Whether the metrics under these ids equal the plain references on every kind of map."""
    found, expected = [], []
    for metric, plain in (("grid_pointing", energy), ("grid_pointing_hit", hit)):
        found += registry.metric(prefix + metric)(torch.stack(list(maps().values())), TRUTH).tolist()
        expected += [plain(map_.numpy(), MASK.numpy()) for map_ in maps().values()]
    return found == pytest.approx(expected, abs=1e-6)


SOURCE_MUTANTS = [
    ("np.maximum(values, 0)", "abs(values)"),
    ("np.maximum(values, 0)", "values"),
    ("np.maximum(values, 0)", "(values - values.min())"),
    ("else area_share(inside, outside)", "else 0.0"),
    ("if mass + rest > 0", "if mass + rest > 1.5"),
    ("return mass / (mass + rest)", "return rest / (mass + rest)"),
    ("truth.mask, mass_share", "~truth.mask, mass_share"),
    ("maps.amax(dim=(1, 2), keepdim=True)\n    return (largest", "maps.amax(keepdim=True)\n    return (largest"),
    ("maps.amax(dim=(1, 2), keepdim=True)\n    return (largest", "maps.amin(dim=(1, 2), keepdim=True)\n    return (largest"),
    ("/ largest.sum(dim=(1, 2))", "/ truth.mask.sum()"),
    ("/ largest.sum(dim=(1, 2))", "/ 1"),
]


def test_the_metrics_agree_with_the_references():
    assert agrees("")


@pytest.mark.parametrize("number", range(len(SOURCE_MUTANTS)))
def test_planted_mutants_of_the_source_are_caught(tmp_path, number):
    path = registry.get("metric", "grid_pointing").path
    source = path.with_name("_comparison.py").read_text(encoding="utf-8") + path.read_text(encoding="utf-8")
    source = re.sub(r"^from (\._comparison|__future__) import .*\n", "", source, flags=re.MULTILINE)
    old, new = SOURCE_MUTANTS[number]
    assert old in source
    mutant = tmp_path / "mutant.py"
    prefix = f"mutant{number}_"
    mutant.write_text(re.sub(r'(@metric\(\s*")', rf"\g<1>{prefix}", source.replace(old, new)), encoding="utf-8")
    registry.load(str(mutant))
    assert not agrees(prefix)
