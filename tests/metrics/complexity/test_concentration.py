"""Gini index, entropy and areas against plain loops, known answers, and mutants of the source."""

import math
import re

import numpy as np
import pytest
import torch

from xbench.data.samples import Truth
from xbench.plugins.registry import registry

H, W = 6, 9
NOTHING = Truth(None)
NAMES = ("sparseness", "entropy", "effective_area", "shown_area")


def scores(name, *maps):
    return registry.metric(name)(torch.stack([torch.as_tensor(m, dtype=torch.float32) for m in maps]), NOTHING).tolist()


def random(seed, make=torch.rand):
    return make(H, W, generator=torch.Generator().manual_seed(seed))


MAPS = {
    "random": random(0),
    "signed": random(1, torch.randn),
    "huge": random(2, torch.randn) * 1e30,
    "tiny": random(3) * 1e-30,
    "tied": torch.randint(0, 3, (H, W), generator=torch.Generator().manual_seed(4)).float(),
    "constant": torch.full((H, W), 0.3),
    "zero": torch.zeros(H, W),
    "one pixel": torch.eye(1).new_zeros(H, W).index_put((torch.tensor(2), torch.tensor(5)), torch.tensor(-2.0)),
}


def reference(map_):
    """Each definition by its plainest form: Gini as half the relative mean difference of all pairs."""
    v = [abs(float(x)) for x in map_.double().flatten()]
    d, total = len(v), math.fsum(v)
    if total == 0:
        v, total = [1.0] * d, float(d)
    gini = math.fsum(abs(a - b) for a in v for b in v) / (2 * d * total)
    h = -math.fsum(x / total * math.log(x / total) for x in v if x > 0)
    positive = [max(0.0, float(x)) for x in map_.double().flatten()]
    shown = math.fsum(positive) / d / max(positive) if max(positive) > 0 else 0.0
    return dict(zip(NAMES, (gini, h / math.log(d), math.exp(h) / d, shown), strict=True))


def agrees(prefix=""):
    return all(
        scores(prefix + name, map_)[0] == pytest.approx(value, abs=1e-9)
        for map_ in MAPS.values()
        for name, value in reference(map_).items()
    )


def test_they_agree_with_the_definitions():
    assert agrees()


def test_known_answers():
    one, even, half = MAPS["one pixel"], MAPS["constant"], torch.cat([torch.ones(H // 2, W), torch.zeros(H // 2, W)])
    assert scores("sparseness", one, even, half) == pytest.approx([1 - 1 / (H * W), 0, 0.5])
    assert scores("entropy", one, even, half) == pytest.approx([0, 1, math.log(H * W / 2) / math.log(H * W)])
    assert scores("effective_area", one, even, half) == pytest.approx([1 / (H * W), 1, 0.5])
    assert scores("shown_area", one, even, half) == pytest.approx([0, 1, 0.5])


@pytest.mark.parametrize("name", NAMES)
def test_scale_place_and_companions_change_nothing(name):
    map_ = random(5)
    together = scores(name, map_, random(6, torch.randn), map_ * 8)
    assert together[0] == together[2] == scores(name, map_)[0]
    shuffled = map_.flatten()[torch.randperm(H * W, generator=torch.Generator().manual_seed(7))].reshape(H, W)
    assert scores(name, shuffled)[0] == pytest.approx(together[0], abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_structured_map_is_more_concise_than_its_noisy_self(name):
    y, x = np.mgrid[:32, :32]
    blob = torch.from_numpy(np.exp(-((y - 9) ** 2 + (x - 20) ** 2) / 18)).float()
    noise = torch.rand(32, 32, generator=torch.Generator().manual_seed(8))
    worse = [scores(name, (1 - share) * blob + share * noise)[0] for share in (0, 0.1, 0.2, 0.4)]
    ordered = sorted(worse, reverse=registry.metric(name).info.direction == "higher")
    assert worse == ordered
    assert len(set(worse)) == 4


SOURCE_MUTANTS = [
    ("+ 0.5) / d", ") / d"),
    ("1 - 2 * float", "1 - float"),
    (".abs().double()", ".double()"),
    (".abs().double()", ".clamp(min=0).double()"),
    ("if largest > 0 else np.ones_like(values)", "if largest > 0 else values"),
    ("_entropy(p) / most", "_entropy(p)"),
    ("math.exp(_entropy(p)) / len(p)", "_entropy(p) / len(p)"),
    ("maps.clamp(min=0).double()", "maps.abs().double()"),
    ("some * np.log(some)", "np.log(some)"),
]


@pytest.mark.parametrize("number", range(len(SOURCE_MUTANTS)))
@pytest.mark.filterwarnings("ignore:invalid value")
def test_planted_mutants_of_the_source_are_caught(tmp_path, number):
    source = registry.get("metric", "sparseness").path.read_text(encoding="utf-8")
    old, new = SOURCE_MUTANTS[number]
    assert old in source
    prefix = f"complexity_mutant{number}_"
    (tmp_path / "mutant.py").write_text(re.sub(r'(@metric\(\s*")', rf"\g<1>{prefix}", source.replace(old, new)), encoding="utf-8")
    registry.load(str(tmp_path / "mutant.py"))
    assert not agrees(prefix)
