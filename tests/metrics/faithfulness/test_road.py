"""ROAD against a dense solution of its equations on a linear model, its traps, and mutants of the source."""

import numpy as np
import pytest
import torch

from xbench.data.samples import generator
from xbench.errors import XbenchError
from xbench.maps.perturbation import Prober
from xbench.maps.saliency import SaliencyMap
from xbench.plugins.registry import registry

SIDE, POINTS = 16, 4
SPECS = [f"{name}(points={POINTS})" for name in ("road_morf", "road_lerf", "road")]


def imputed(picture, removed):
    """Each removed pixel the weighted mean of its neighbours: the equations, written down and solved; plus the item's noise."""
    index = {tuple(place): k for k, place in enumerate(np.argwhere(removed))}
    matrix, known = np.eye(len(index)), np.zeros((len(index), 3))
    for (y, x), k in index.items():
        steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
        around = [(y + dy, x + dx, 1 / 6 if 0 in (dy, dx) else 1 / 12) for dy, dx in steps]
        around = [(a, b, w) for a, b, w in around if 0 <= a < SIDE and 0 <= b < SIDE]
        total = sum(w for _, _, w in around)
        for a, b, w in around:
            if (a, b) in index:
                matrix[k, index[a, b]] -= w / total
            else:
                known[k] += w / total * picture[:, a, b]
    filled = picture.copy()
    filled[:, removed] = np.linalg.solve(matrix, known).T
    noise = 0.01 * torch.randn(3, SIDE, SIDE, generator=generator("0/i", "road")).double().numpy()
    return np.where(removed, filled + noise, picture)


def reference(weights, picture, map_):
    """map_: no ties. -> the three vectors, by share."""
    order = np.argsort(-map_.flatten(), kind="stable")
    p = (weights * picture).sum()
    most, least = [], []
    for k in range(1, POINTS + 1):
        count = round(k * order.size / (POINTS + 1))
        for chosen, found in ((order[:count], most), (order[-count:], least)):
            removed = np.zeros(order.size, bool)
            removed[chosen] = True
            found.append(np.clip((weights * imputed(picture, removed.reshape(SIDE, SIDE))).sum(), 1e-12, 1 - 1e-12) - p)
    return [most, least, [(b - a) / 2 for a, b in zip(most, least, strict=True)]]


def agrees(prefix, signed, probed, kinds):
    network, picture, share = signed
    for name in ("evidence", "signed", "huge"):
        native = kinds[name](share)
        wanted = reference(network.weights.numpy(), picture[0].numpy(), native.numpy())
        for spec, vector in zip(SPECS, wanted, strict=True):
            found = probed(prefix + spec, network, picture, native)
            if [found.value, *found.vector] != pytest.approx([np.mean(vector), *vector], abs=1e-6):
                return False
    return True


def test_it_agrees_with_the_definition(signed, probed, kinds):
    assert agrees("", signed, probed, kinds)


def test_the_true_order_beats_noise_and_noise_its_negation(linear_network, probed):
    """A bright square on a dark ground; without it, it is imputed from the ground."""
    square = torch.zeros(SIDE, SIDE)
    square[5:10, 5:10] = 1
    network, picture = linear_network((square / 75 * 0.9).double().expand(3, -1, -1)), square.double().expand(1, 3, -1, -1)
    noise = torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    best, noise, worst = (probed("road", network, picture, m).value for m in (square + noise / 1e3, noise, -square - noise / 1e3))
    assert best > noise + 0.1 > worst + 0.2
    assert best == pytest.approx(-worst, abs=1e-6)  # both ends of one order


def test_the_three_share_their_forwards(signed):
    network, picture, share = signed
    map_ = SaliencyMap(share.float(), (SIDE, SIDE), 0, "s")
    prober = Prober(network, picture, torch.tensor([0]), 4)
    prober.run(list(dict.fromkeys(r for spec in SPECS for r in registry.metric(spec)().plan(map_))))
    assert prober.forwards == 1 + 2 * POINTS


@pytest.mark.parametrize("zeros", [0.5, 0.99])
def test_a_sparse_map_loses_the_share_that_is_stated(signed, zeros):
    """pytorch-grad-cam's trap: a percentile of the values removes everything where most of them are 0."""
    native = torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    native[native < zeros] = 0
    map_ = SaliencyMap(native, (SIDE, SIDE), 0, "s")
    _, most, least = registry.metric("road")().plan(map_)
    assert most.counts == least.counts == tuple(round(q * SIDE**2 / 10) for q in range(1, 10))
    salient = (native > 0).sum()
    first = most.ranking.ranks.flatten().argsort()[:salient]
    assert (native.flatten()[first] > 0).all()


def test_a_constant_map_scores_nothing_in_expectation(signed, probed):
    network, picture, _ = signed
    values = [probed(SPECS[2], network, picture, torch.ones(2, 2), f"0/{seed}").value for seed in range(20)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 20**0.5


def test_noise_is_the_items_own(signed, probed, kinds):
    network, picture, share = signed
    native = kinds["signed"](share)
    once, again, other = (probed("road", network, picture, native, seed).value for seed in ("0/i", "0/i", "0/j"))
    assert once == again != other
    assert once == pytest.approx(other, abs=0.01)


def test_what_it_is_packed_with_changes_no_bit():
    network = registry.bind("model", "tiny_net")().network
    inputs = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    maps = [SaliencyMap(torch.rand(8, 8, generator=torch.Generator().manual_seed(i)), (32, 32), i, f"0/{i}") for i in range(2)]
    plans = [registry.metric("road(points=3)")().plan(m) for m in maps]
    together = Prober(network, inputs, torch.tensor([0, 3]), 4).run([r for plan in plans for r in plan])
    alone = Prober(network, inputs, torch.tensor([0, 3]), 4).run(plans[1])
    assert all(torch.equal(a, b) for a, b in zip(together[3:], alone, strict=True))


def test_wrong_parameters_are_named():
    with pytest.raises(XbenchError, match="points must be 1 or more, not 0"):
        registry.metric("road(points=0)")()


MUTANTS = [
    ("(least - most) / 2", "(most - least) / 2"),
    ("(least - most) / 2", "least - most"),
    ("(k + 1) * pixels / (self.points + 1)", "(k + 1) * pixels / self.points - 1"),
    ("ranks >= ranks.numel() - count", "ranks >= count"),
    ("for most in (True, False)", "for most in (False, True)"),
    ('generator(self.seed, "road")', 'generator("road")'),
    (" - p, mean_curve", ", mean_curve"),
    ("noisy(impute(seen, removed), removed", "noisy(seen, removed"),
]


FILES = ("_shared.py", *(f"faithfulness/{name}.py" for name in ("_curves", "_imputation", "road")))


@pytest.mark.parametrize("number", range(len(MUTANTS)))
def test_planted_mutants_of_the_source_are_caught(signed, probed, kinds, plant, number):
    plant(f"road{number}_", FILES, *MUTANTS[number])
    assert not agrees(f"road{number}_", signed, probed, kinds)
