"""Infidelity and faithfulness correlation: plain numpy, captum, and closed forms on a linear model; mutants of the source."""

import numpy as np
import pytest
import torch
from captum.metrics import infidelity
from torch.nn import functional

from xbench.errors import XbenchError
from xbench.maps.perturbation import Prober
from xbench.maps.saliency import SaliencyMap
from xbench.plugins.registry import registry

SIDE = 16
SPECS = ("infidelity(n=20)", "faithfulness_correlation(n=20)")


def drawn(prefix, spec):
    """The regions of the item "0/i", bool [n, H, W]."""
    metric = registry.metric(prefix + spec)()
    regions = metric.regions("0/i", (SIDE, SIDE), metric.n)
    return np.stack([regions.mask(i).numpy() for i in range(metric.n)])


def reference(spec, masks, share, map_):
    phi = np.array([map_[mask].astype(np.float64).sum() for mask in masks])
    delta = np.array([share[mask].sum() for mask in masks])
    if spec.startswith("infidelity"):
        scale = max(0, (phi * delta).mean() / (phi**2).mean()) if phi.any() else 0
        return np.mean((scale * phi - delta) ** 2)
    if np.ptp(map_) == 0:
        return 0
    a, b = phi - phi.mean(), delta - delta.mean()
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


def agrees(prefix, signed, probed, kinds):
    network, picture, share = signed
    for make in kinds.values():
        native = make(share)
        full = functional.interpolate(native[None, None], (SIDE, SIDE), mode="bilinear")[0, 0].numpy()
        for spec in SPECS:
            wanted = reference(spec, drawn("", spec), share.numpy(), full)
            if probed(prefix + spec, network, picture, native).value != pytest.approx(wanted, rel=1e-6, abs=1e-9):
                return False
    return True


def test_they_agree_with_the_definitions_on_all_kinds_of_maps(signed, probed, kinds):
    assert agrees("", signed, probed, kinds)


def test_infidelity_is_captums_where_the_best_scale_is_positive(signed, probed, kinds):
    network, picture, share = signed
    masks = torch.from_numpy(drawn("", "infidelity(n=20)"))
    native = kinds["evidence"](share) + 0.3 * kinds["random"](share)
    numbers = iter(range(20))

    def perturb(inputs):
        """Removes a square of the 20; captum wants x - x', and phi is spread over the channels in equal parts."""
        mask = masks[next(numbers)].expand_as(inputs).to(inputs)
        return mask, inputs * (1 - mask)

    attribution = (native.double() / 3).expand(1, 3, -1, -1)
    theirs = infidelity(
        lambda x: network(x).softmax(dim=1)[:, 0],
        perturb,
        picture,
        attribution,
        n_perturb_samples=20,
        max_examples_per_batch=1,
        normalize=True,
    )
    ours = probed("infidelity(n=20)", network, picture, native).value
    assert ours == pytest.approx(float(theirs), rel=1e-6)


def test_the_true_map_is_perfect_and_its_negation_is_not(signed, probed, kinds):
    network, picture, share = signed
    infidelities = [
        probed("infidelity", network, picture, kinds[k](share)).value for k in ("evidence", "signed", "against", "zeros")
    ]
    assert infidelities[0] == pytest.approx(0, abs=1e-12)
    assert infidelities[0] < infidelities[1] <= infidelities[2] == pytest.approx(infidelities[3])
    found = [probed("faithfulness_correlation", network, picture, kinds[k](share)).value for k in ("evidence", "against", "ones")]
    assert found == pytest.approx([1, -1, 0], abs=1e-6)


def test_scale_changes_nothing(signed, probed, kinds):
    network, picture, share = signed
    for spec in SPECS:
        once, more = (probed(spec, network, picture, kinds["signed"](share) * factor).value for factor in (1, 1024))
        assert once == pytest.approx(more, rel=1e-12)


def test_all_methods_share_the_forwards(signed, kinds):
    network, picture, share = signed
    maps = [SaliencyMap(make(share), (SIDE, SIDE), 0, "0/i") for make in kinds.values()]
    requests = {r for m in maps for spec in SPECS for r in registry.metric(spec)().plan(m)}
    prober = Prober(network, picture, torch.tensor([0]), 4)
    prober.run(list(requests))
    assert prober.forwards == 1 + 20 + 20


def test_regions_are_the_items_own_and_of_the_stated_sizes():
    squares, subsets = (registry.metric(spec)().regions for spec in SPECS)
    a, b = (squares(f"0/{i}", (96, 64), 200) for i in "ab")
    assert a.edges != b.edges
    heights = [bottom - top for top, bottom, _, _ in a.edges]
    widths = [right - left for _, _, left, right in a.edges]
    assert (min(heights), max(heights)) == (pytest.approx(10, abs=1), pytest.approx(48, abs=1))
    assert (min(widths), max(widths)) == (pytest.approx(6, abs=1), pytest.approx(32, abs=1))
    reach = np.mean([a.mask(i).numpy() for i in range(200)], axis=0)
    assert reach[48, 32] > 0.1  # anywhere, corners least
    assert (reach > 0).mean() > 0.95
    chosen = subsets("0/a", (28, 28), 300).chosen
    assert (chosen.sum(dim=1) == 49).all()
    assert chosen.double().mean(dim=0).numpy() == pytest.approx(0.25, abs=0.12)


def test_a_network_that_does_not_care_has_no_correlation(linear_network, probed):
    flat = linear_network(torch.zeros(3, SIDE, SIDE).double())
    found = probed("faithfulness_correlation", flat, torch.ones(1, 3, SIDE, SIDE).double(), torch.rand(4, 4))
    assert "costs the target the same" in found.not_applicable


def test_wrong_parameters_are_named():
    with pytest.raises(XbenchError, match="n must be 3 or more, not 2"):
        registry.metric("infidelity(n=2)")()


MUTANTS = [
    ("max(0.0, float(phi @ delta))", "float(phi @ delta)"),
    ("(scale * phi - delta) ** 2", "(phi - delta) ** 2"),
    ("np.mean((scale", "np.sum((scale"),
    ("(p - without)", "(without - p)"),
    ("corrcoef(phi, delta)[0, 1]", "corrcoef(phi, delta)[0, 0]"),
    ("Score(0.0) if map_.constant and not", "found if map_.constant and not"),
    ("below[bottom, right] - below[top, right]", "below[bottom, right] - below[top, left]"),
    ("[self.cells]", "[self.cells.T]"),
    ("self.chosen.double() @", "(~self.chosen).double() @"),
]


FILES = ("_shared.py", "faithfulness/_regions.py", "faithfulness/random_regions.py")


@pytest.mark.parametrize("number", range(len(MUTANTS)))
def test_planted_mutants_of_the_source_are_caught(signed, probed, kinds, plant, number):
    plant(f"regions{number}_", FILES, *MUTANTS[number])
    assert not agrees(f"regions{number}_", signed, probed, kinds)
