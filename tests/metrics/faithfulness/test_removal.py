"""Pixel flipping, region perturbation, comprehensiveness, sufficiency: plain numpy on a linear model; mutants of the source."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from xbench.errors import XbenchError
from xbench.maps.perturbation import Prober, substrate
from xbench.maps.saliency import SaliencyMap
from xbench.plugins.registry import registry

SIDE = 16


def order(map_):
    """Most salient first; the maps that the reference gets have no ties."""
    return np.argsort(-map_.flatten(), kind="stable")


def squares(map_, side):
    """Index lists of the squares, the one of the largest mean first."""
    found = []
    for top in range(0, SIDE, side):
        for left in range(0, SIDE, side):
            block = [(y, x) for y in range(top, min(SIDE, top + side)) for x in range(left, min(SIDE, left + side))]
            found.append((np.mean([map_[p] for p in block]), [y * SIDE + x for y, x in block]))
    return [pixels for _, pixels in sorted(found, key=lambda pair: -pair[0])]


def reference(share, noise, map_):
    """The definitions, for a model that adds up its pixels. noise: what a pixel adds once it is noise."""
    flat, other, p = share.flatten(), noise.flatten(), share.sum()
    kept = order(map_)
    flipped = [p - flat[kept[: round(k * flat.size / 10)]].sum() for k in range(11)]
    blocks, perturbed = squares(map_, 5), []
    for k in range(5):
        gone = [i for block in blocks[: round(k * 8 / 4)] for i in block]
        perturbed.append(p - flat[gone].sum() + other[gone].sum())
    counts = [round(q * flat.size) for q in (0.01, 0.05, 0.1, 0.2, 0.5)]
    responses = {
        "pixel_flipping(steps=exact(10))": flipped,
        "region_perturbation(side=70, regions=8, steps=exact(4))": perturbed,
        "comprehensiveness": [p - flat[kept[:n]].sum() for n in counts],
        "sufficiency": [flat[kept[:n]].sum() for n in counts],
    }
    return {name: np.mean([p - np.clip(q, 1e-12, 1 - 1e-12) for q in found]) for name, found in responses.items()}


def agrees(prefix, signed, probed, kinds):
    network, picture, share = signed
    noise = (network.weights * substrate("noise", picture)[0]).sum(dim=0)
    for name in ("evidence", "against", "random", "signed", "huge"):
        native = kinds[name](share)
        for spec, value in reference(share.numpy(), noise.numpy(), native.numpy()).items():
            if probed(prefix + spec, network, picture, native).value != pytest.approx(value, abs=1e-6):
                return False
    return True


def test_they_agree_with_the_definitions(signed, probed, kinds):
    assert agrees("", signed, probed, kinds)


def test_the_noise_is_drawn_between_the_channels_extremes():
    inputs = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    noise = substrate("noise", inputs)
    low, high = inputs.amin(dim=(2, 3)), inputs.amax(dim=(2, 3))
    assert (noise.amin(dim=(2, 3)) >= low).all()
    assert (noise.amax(dim=(2, 3)) <= high).all()
    middle = (noise.mean(dim=(2, 3)) - low) / (high - low)
    assert middle == pytest.approx(0.5, abs=0.05)
    assert torch.equal(noise[1:], substrate("noise", inputs[1:]))  # whatever the companions


SPECS = ["pixel_flipping", "region_perturbation", "comprehensiveness", "sufficiency"]


@pytest.mark.parametrize("spec", SPECS)
def test_a_constant_map_scores_the_expectation_over_orders(signed, probed, kinds, spec):
    network, picture, _ = signed
    wanted = {"pixel_flipping": 0.2, "comprehensiveness": 0.4 * 0.172}  # others meet the bounds of a probability
    scores = [probed(spec, network, picture, torch.ones(2, 2), f"0/{seed}").value for seed in range(30)]
    if spec in wanted:
        assert abs(np.mean(scores) - wanted[spec]) < 3 * np.std(scores) / 30**0.5 + 0.002
    assert len(set(scores)) == 30  # no fixed order


@pytest.mark.parametrize("spec", SPECS)
def test_the_true_map_does_better_than_noise_and_noise_better_than_its_negation(signed, probed, kinds, spec):
    network, picture, share = signed
    zero = f"{spec}(substrate=zero)"
    true, noise, wrong = (probed(zero, network, picture, kinds[k](share)).value for k in ("evidence", "random", "against"))
    assert true < noise < wrong if spec == "sufficiency" else true > noise > wrong


def test_squares_at_the_border_are_smaller_and_every_pixel_goes_once():
    map_ = SaliencyMap(torch.rand(16, 16), (16, 16), 0, "s")
    ((ranking, counts),) = map_.region_rankings(5)
    assert sorted(ranking.ranks.flatten().tolist()) == list(range(256))
    assert sorted(np.diff(counts)) == sorted([25] * 9 + [5] * 6 + [1])
    first = (ranking.ranks < counts[1]).nonzero()
    assert len(set((first // 5).unique(dim=0).flatten().tolist())) <= 2  # within one square


def test_flipping_shares_the_forwards_of_deletion(signed):
    network, picture, share = signed
    map_ = SaliencyMap(share.float(), (SIDE, SIDE), 0, "s")
    requests = [r for name in ("deletion", "pixel_flipping") for r in registry.metric(name)().plan(map_)]
    prober = Prober(network, picture, torch.tensor([0]), 4)
    prober.run(list(dict.fromkeys(requests)))
    assert prober.forwards == 29


def test_channels_are_not_flipped_one_by_one(linear_network, probed):
    """The trap of quantus: all evidence is in one channel of the pixel that the map names; a third of its values would do less."""
    weights = torch.zeros(3, SIDE, SIDE).double()
    weights[2, 3, 4] = 0.9
    native = torch.zeros(SIDE, SIDE)
    native[3, 4] = 1
    flipped = probed(
        f"pixel_flipping(steps=exact({SIDE**2}))", linear_network(weights), torch.ones(1, 3, SIDE, SIDE).double(), native
    )
    assert flipped.vector[1] == pytest.approx(0, abs=1e-9)


def test_wrong_parameters_are_named():
    for spec, message in {
        "pixel_flipping(steps=stratified(8))": r"write steps=exact\(28\)$",
        "region_perturbation(side=0)": "side must be 1 or more",
        "sufficiency(substrate=grey)": "unknown substrate 'grey'",
    }.items():
        with pytest.raises(XbenchError, match=message):
            registry.metric(spec)()


FILES = {
    "pixel_flipping": ("_shared.py", "faithfulness/_curves.py", "faithfulness/pixel_flipping.py"),
    "sufficiency": ("faithfulness/_curves.py", "faithfulness/sufficiency.py"),
}
MUTANTS = [
    ("pixel_flipping", "(curve[0] - curve).mean()", "(curve[0] - curve[1:]).mean()"),
    ("pixel_flipping", "(curve[0] - curve).mean()", "(curve - curve[0]).mean()"),
    ("pixel_flipping", "* last / number", "* (len(gone) - 1) / number"),
    ("pixel_flipping", "gone[k] for k in looks", "k for k in looks"),
    ("pixel_flipping", 'substrate: str = "noise"', 'substrate: str = "zero"'),
    ("sufficiency", "0.1, 0.2, 0.5", "0.1, 0.2"),
    ("sufficiency", "(p - curve)", "(curve - p)"),
    ("sufficiency", 'return "image", self.substrate', 'return self.substrate, "image"'),
    ("sufficiency", 'return self.substrate, "image"', 'return "image", self.substrate'),
]


@pytest.mark.parametrize("number", range(len(MUTANTS)))
def test_planted_mutants_of_the_source_are_caught(signed, probed, kinds, plant, number):
    family, old, new = MUTANTS[number]
    prefix = f"removal{number}_"
    plant(prefix, FILES[family], old, new)
    network, picture, share = signed
    noise = (network.weights * substrate("noise", picture)[0]).sum(dim=0).numpy()
    found = []
    for name in ("evidence", "random"):
        native = kinds[name](share)
        for spec, value in reference(share.numpy(), noise, native.numpy()).items():
            if registry.metric(spec).plugin.path.stem == family:
                found.append(probed(prefix + spec, network, picture, native).value == pytest.approx(value, abs=1e-6))
    assert found
    assert not all(found)


def test_the_upsampled_map_orders_pixels(signed, probed, kinds):
    """A coarse map is resized before anything else, so it equals its own upsampled form."""
    network, picture, share = signed
    coarse = kinds["coarse"](share)
    full = functional.interpolate(coarse[None, None], (SIDE, SIDE), mode="bilinear")[0, 0]
    for spec in SPECS:
        assert probed(spec, network, picture, coarse) == probed(spec, network, picture, full)


def test_what_the_network_does_not_read_counts_exactly_nothing(linear_network, probed):
    """Evidence is planted in one quarter; a map that names another one loses not a bit, and hides nothing."""
    weights = torch.zeros(3, SIDE, SIDE).double()
    weights[:, :8, :8] = 0.9 / (3 * 64)
    network, picture = linear_network(weights), torch.ones(1, 3, SIDE, SIDE).double()
    elsewhere = torch.zeros(SIDE, SIDE)
    elsewhere[8:, 8:] = 1 + torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    p, *without = probed("comprehensiveness", network, picture, elsewhere).vector
    assert without[:4] == [p] * 4  # 1 to 20 % of the pixels
    assert probed("region_perturbation(side=28, regions=16, substrate=zero)", network, picture, elsewhere).value == 0
    assert probed("deletion(steps=exact(8))", network, picture, elsewhere).vector[:3] == (p,) * 3
    assert probed("sufficiency", network, picture, elsewhere).vector[1:5] == pytest.approx([0] * 4, abs=1e-9)
