import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xbench.errors import XbenchError
from xbench.maps.saliency import TIE_ORDERS, SaliencyMap, _descending, min_max, resize, validated

# Integers keep strictly increasing float transforms strictly increasing.
grids = hnp.arrays("int16", (4, 5), elements=st.integers(-50, 50)).map(lambda a: torch.from_numpy(a.copy()).float())


def saliency(native: torch.Tensor, size: tuple[int, int] | None = None, seed: str = "0/item") -> SaliencyMap:
    return SaliencyMap(native, size or (native.shape[0], native.shape[1]), 0, seed)


@given(grids)
@settings(max_examples=60, deadline=None)
def test_rankings_follow_values_and_are_permutations(native):
    for ranking in saliency(native).rankings:
        ranks = ranking.ranks.flatten()
        assert sorted(ranks.tolist()) == list(range(20))
        ordered = native.flatten()[ranks.argsort()]
        assert (ordered[:-1] >= ordered[1:]).all()


@given(grids, st.sampled_from([lambda m: m * 3 + 1, lambda m: m**3, lambda m: torch.atan(m / 50), lambda m: torch.exp(m / 20)]))
@settings(max_examples=60, deadline=None)
def test_monotone_transforms_leave_rankings_unchanged(native, transform):
    before, after = saliency(native).rankings, saliency(transform(native)).rankings
    assert all(torch.equal(a.ranks, b.ranks) for a, b in zip(before, after, strict=True))


@given(hnp.arrays("float32", st.integers(1, 60), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)))
@settings(max_examples=200, deadline=None)
def test_descending_equals_a_stable_argsort(array):
    array = np.concatenate([array, array[: len(array) // 2], [0.0, -0.0, 1e-45, -1e-45]]).astype(np.float32)
    expected = np.argsort(-array.astype(np.float64), kind="stable")
    assert _descending(torch.from_numpy(array)).tolist() == expected.tolist()


def test_ties_are_broken_by_the_items_seed_never_by_position():
    native = torch.zeros(40, 40)
    native[0, 0] = 1
    one, again, other = (saliency(native, seed=s).rankings[0].ranks for s in ("0/a", "0/a", "0/b"))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one[0, 0] == 0
    positions = torch.arange(1600, dtype=torch.float64)
    assert abs(float(torch.corrcoef(torch.stack([positions, one.flatten().double()]))[0, 1])) < 0.1


def test_constant_maps_visit_every_pixel_early_and_late():
    rankings = saliency(torch.ones(1, 1), (16, 16)).rankings
    assert len(rankings) == TIE_ORDERS
    quarters = torch.stack([ranking.ranks // (256 // TIE_ORDERS) for ranking in rankings])
    assert all(sorted(column.tolist()) == list(range(TIE_ORDERS)) for column in quarters.flatten(1).T)


@pytest.mark.parametrize("value", [0.0, 3.5, -1.0])
def test_constant(value):
    assert saliency(torch.full((3, 3), value)).constant
    assert saliency(torch.full((3, 3), value)).tie_mass == 1.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_not_finite(bad):
    native = torch.ones(3, 3)
    native[1, 1] = bad
    found = saliency(native)
    assert found.nan
    assert not found.constant
    assert found.tie_mass != found.tie_mass


def test_tie_mass_is_the_share_of_cells_that_share_their_value():
    assert saliency(torch.tensor([[1.0, 1.0], [2.0, 3.0]])).tie_mass == 0.5
    assert saliency(torch.tensor([[1.0, 4.0], [2.0, 3.0]])).tie_mass == 0.0


def test_resize_is_bilinear_with_aligned_centres():
    up = resize(torch.tensor([[0.0, 1.0]]), (1, 8))
    assert up[0].tolist() == pytest.approx([0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1])
    assert resize(up, (1, 8)) is up


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [1.0],
        torch.zeros(2, 3, 3),
        torch.zeros(4, 3),
        torch.zeros(4, 1, 3, 3),
        torch.zeros(4, 9, 3),
        torch.zeros(4, 3, 3).int(),
    ],
)
def test_a_wrong_result_names_the_method(wrong):
    with pytest.raises(XbenchError, match=r"method my_method returned .* must return a float tensor \[4, h, w\]"):
        validated(wrong, 4, 3, (8, 8), "my_method")


def test_half_precision_is_accepted_and_detached():
    maps = torch.ones(4, 3, 3, dtype=torch.bfloat16, requires_grad=True)
    assert validated(maps, 4, 3, (8, 8), "m").dtype == torch.float32
    assert not validated(maps, 4, 3, (8, 8), "m").requires_grad


def test_min_max_spreads_each_map_by_itself_and_leaves_a_constant_one_empty():
    found = min_max(torch.tensor([[[1.0, 3.0], [2.0, 1.5]], [[-4.0, 0.0], [-1.0, -2.0]], [[7.0, 7.0], [7.0, 7.0]]]))
    assert found.tolist() == [[[0.0, 1.0], [0.5, 0.25]], [[0.0, 1.0], [0.75, 0.5]], [[0.0, 0.0], [0.0, 0.0]]]
