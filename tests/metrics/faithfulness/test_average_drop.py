"""Average drop, increase in confidence and average gain against plain numpy on a linear model; mutants of the source must fail."""

import numpy as np
import pytest
import torch

from xbench.errors import XbenchError
from xbench.maps.perturbation import Curve, Prober, Weighted
from xbench.maps.saliency import SaliencyMap
from xbench.plugins.registry import registry

SIDE = 16


def reference(share: np.ndarray, map_: np.ndarray) -> dict[str, float]:
    """The definitions, for a model that adds up what its pixels contribute."""
    shown = np.maximum(map_.astype(np.float64), 0)
    shown = shown / shown.max() if shown.max() > 0 else shown
    p, q = share.sum(), np.clip((share * shown).sum(), 1e-12, 1 - 1e-12)
    return {
        "average_drop": max(0, p - q) / p,
        "increase_in_confidence": float(q > p),
        "average_gain": max(0, q - p) / (1 - p),
    }


def agrees(prefix, signed, probed, kinds):
    network, picture, share = signed
    for make in kinds.values():
        native = make(share)
        full = torch.nn.functional.interpolate(native[None, None], (SIDE, SIDE), mode="bilinear")[0, 0]
        for name, value in reference(share.numpy(), full.numpy()).items():
            if probed(prefix + name, network, picture, native).value != pytest.approx(value, abs=1e-6):  # weights are float32
                return False
    return True


def test_they_agree_with_the_definitions_on_all_kinds_of_maps(signed, probed, kinds):
    assert agrees("", signed, probed, kinds)


def test_a_map_that_shows_all_drops_nothing_and_one_that_shows_nothing_drops_all(signed, probed):
    network, picture, _ = signed
    assert probed("average_drop", network, picture, torch.ones(2, 2)).value == 0
    assert probed("average_drop", network, picture, torch.zeros(2, 2)).value == pytest.approx(1, abs=1e-9)
    assert probed("increase_in_confidence", network, picture, torch.ones(2, 2)).value == 0


def test_the_scale_of_a_map_changes_nothing(signed, probed):
    network, picture, share = signed
    for name in reference(share.numpy(), share.numpy()):
        assert probed(name, network, picture, share.float() * 4).value == probed(name, network, picture, share.float()).value


def test_metrics_share_their_forward_passes(signed):
    network, picture, share = signed
    map_ = SaliencyMap(share.float(), (SIDE, SIDE), 0, "s")
    wanted = [curve for name in reference(share.numpy(), share.numpy()) for curve in registry.metric(name)().plan(map_)]
    assert len(dict.fromkeys(wanted)) == 2
    prober = Prober(network, picture, torch.tensor([0]), 4)
    prober.run(list(dict.fromkeys(wanted)))
    assert prober.forwards == 2


def test_what_is_packed_together_changes_no_bit():
    network = registry.bind("model", "tiny_net")().network
    inputs = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    maps = [SaliencyMap(torch.rand(8, 8, generator=torch.Generator().manual_seed(i)), (32, 32), i, "s") for i in range(3)]
    requests = [r for m in maps for r in (Weighted(m), Curve(m.rankings[0], (0, 300), "image", "zero"), Weighted(m, "rise_blur"))]
    targets = torch.tensor([0, 3, 4])
    together = Prober(network, inputs, targets, 4).run(requests)
    alone = [Prober(network, inputs, targets, 4).run([request])[0] for request in requests]
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
    weights = torch.nn.functional.interpolate(maps[1].native[None, None], (32, 32), mode="bilinear")[0, 0]
    seen = network((inputs[1] * weights / weights.max())[None]).softmax(dim=1)[0, 3]
    assert float(together[3]) == pytest.approx(float(seen), abs=1e-6)


def test_unknown_substrate_is_named():
    with pytest.raises(XbenchError, match="unknown substrate 'zeros'; did you mean 'zero'"):
        registry.metric("average_drop(substrate=zeros)")()


SOURCE_MUTANTS = [
    ("max(0.0, p - q) / p if", "(p - q) / p if"),
    ("max(0.0, p - q) / p if", "max(0.0, p - q) if"),
    ("max(0.0, p - q) / p if", "abs(p - q) / p if"),
    ("float(q > p)", "float(q >= p)"),
    ("float(q > p)", "float(q < p)"),
    ("max(0.0, q - p) / (1 - p)", "max(0.0, q - p) / p"),
    ("max(0.0, q - p) / (1 - p)", "max(0.0, q - p)"),
    ('"image", self.substrate', 'self.substrate, "image"'),
]


@pytest.mark.parametrize("number", range(len(SOURCE_MUTANTS)))
def test_planted_mutants_of_the_source_are_caught(signed, probed, kinds, plant, number):
    plant(f"drop_mutant{number}_", ("faithfulness/average_drop.py",), *SOURCE_MUTANTS[number])
    assert not agrees(f"drop_mutant{number}_", signed, probed, kinds)
