"""The reasons for which quantus's metrics are refused, seen in the library that is installed: a repaired one fails here."""

import numpy as np
import pytest
import torch
from torch import nn

quantus = pytest.importorskip("quantus", reason="the extra `quantus` is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")
SIDE = 16
needs_trapz = pytest.mark.skipif(hasattr(np, "trapz"), reason="this numpy still has trapz")


def setting(side=SIDE):
    """(network, pictures [4, 3, side, side], its answers, maps [4, 1, side, side])."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, 5)
    network = nn.Sequential(*layers).eval()
    pictures = torch.rand(4, 3, side, side)
    return network, pictures.numpy(), network(pictures).argmax(dim=1).numpy(), torch.rand(4, 1, side, side).numpy()


def run(name, *, of=slice(None), call=None, **options):
    network, pictures, answers, maps = setting()
    given = {"model": network, "x_batch": pictures[of], "y_batch": answers[of], "a_batch": maps[of].copy(), "device": "cpu"}
    np.random.seed(0)  # noqa: NPY002
    return getattr(quantus, name)(disable_warnings=True, **options)(**(given | (call or {})))


def test_completeness_fails_for_attributions_that_are_complete():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 5)).eval()
    _, pictures, _, _ = setting()
    answers = linear(torch.from_numpy(pictures)).argmax(dim=1).numpy()
    above = pictures - pictures.reshape(4, -1).min(axis=1)[:, None, None, None]  # its baseline is the darkest value
    exact = linear[1].weight.detach().numpy()[answers].reshape(pictures.shape) * above
    assert not any(run("Completeness", call={"model": linear, "y_batch": answers, "a_batch": exact}))


@pytest.mark.parametrize("name", ["Sufficiency", "Consistency"])
def test_some_values_are_those_of_the_batch(name):
    call = {"model": nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 1)).eval()}  # one class: all answers are equal
    same = {"a_batch": np.tile(setting()[3][:1], (4, 1, 1, 1)) + np.float32([0, 0, 0, 9])[:, None, None, None]}
    options = {"discretise_func": lambda a: int(a[0] > 5)} if name == "Consistency" else {}
    together = run(name, call=call | same, **options)
    alone = run(name, call=call | {"a_batch": same["a_batch"][:1]}, of=slice(1), **options)
    assert together[0] > 0.9
    assert alone[0] == 0


@pytest.mark.parametrize("name", ["FaithfulnessEstimate", "PixelFlipping", "Monotonicity", "NonSensitivity"])
def test_some_remove_single_channel_values(name):
    removed = []

    def watched(arr, indices, **kwargs):
        removed.append(indices.shape[1])
        return quantus.functions.perturb_func.batch_baseline_replacement_by_indices(arr, indices, **kwargs)

    run(name, perturb_func=watched)
    assert (len(removed), set(removed)) == (3 * SIDE * SIDE, {1})


@pytest.mark.parametrize(
    ("name", "options"),
    [("FaithfulnessCorrelation", {"subset_size": 32, "nr_runs": 5}), ("MonotonicityCorrelation", {"features_in_step": 128})],
)
def test_some_draw_from_the_global_state(name, options):
    run(name, **options)
    drawn = np.random.rand()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    assert drawn != np.random.rand()  # noqa: NPY002


def test_infidelity_keeps_patches_removed_and_repeats_itself():
    once, often = (run("Infidelity", perturb_patch_sizes=[4], n_perturb_samples=n) for n in (1, 5))
    assert once == pytest.approx(often, rel=1e-5)
    removed = []

    def watched(arr, indices, **kwargs):
        found = quantus.functions.perturb_func.batch_baseline_replacement_by_indices(arr, indices, **kwargs)
        removed.append(int((found[0] != setting()[1][0].ravel()).sum()))
        return found

    run("Infidelity", perturb_patch_sizes=[8], n_perturb_samples=1, perturb_func=watched)
    assert removed[-1] > 3 * removed[0]
    with pytest.raises(IndexError):
        run("Infidelity", perturb_patch_sizes=[5])


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [("IROF", {}, AssertionError), ("ROAD", {}, IndexError), ("NonSensitivity", {"features_in_step": 32}, ValueError)],
)
def test_some_raise_on_colour_pictures(name, options, error):
    with pytest.raises(error):
        run(name, **options)


@needs_trapz
@pytest.mark.parametrize(
    ("name", "options"),
    [("PixelFlipping", {"features_in_step": 64}), ("RegionPerturbation", {"patch_size": 4}), ("Selectivity", {"patch_size": 4})],
)
def test_areas_under_curves_need_a_function_that_numpy_no_longer_has(name, options):
    network, pictures, answers, maps = setting()
    metric = getattr(quantus, name)(disable_warnings=True, **options)
    curves = metric(model=network, x_batch=pictures, y_batch=answers, a_batch=maps, device="cpu")
    assert len(curves[0]) > 1
    with pytest.raises(AttributeError, match="trapz"):
        _ = type(metric).get_auc_score.fget(metric)


def test_any_tied_maximum_hits():
    nearly_all = np.ones((1, 1, SIDE, SIDE), dtype=np.float32)
    nearly_all[0, 0, 0, 0] = 0
    mask = np.zeros((1, 1, SIDE, SIDE), dtype=bool)
    mask[0, 0, 3, 5] = True
    assert run("PointingGame", of=slice(1), call={"a_batch": nearly_all, "s_batch": mask}) == [True]


def test_random_logit_compares_lines_of_pixels():
    shapes = []

    def similarity(a, b, batched):
        shapes.append(a.shape)
        return [0.0] * len(a)

    def explain(model, inputs, targets, **kwargs):
        return np.asarray(inputs)[:, :1] * (1 + np.asarray(targets))[:, None, None, None]

    run("RandomLogit", num_classes=5, similarity_func=similarity, call={"explain_func": explain})
    assert shapes == [(4, SIDE * SIDE)]


def test_sensitivity_n_has_no_value_of_an_item():
    found = run("SensitivityN", features_in_step=32, return_aggregate=False)
    assert len(found) == int(0.8 * SIDE * SIDE // 32) != 4  # one for each step
    with pytest.raises(ValueError, match="length at least 2"):
        run("SensitivityN", of=slice(1), features_in_step=32, return_aggregate=False)


def test_attribution_localisation_takes_the_size_of_later_pictures():
    mask = np.zeros((4, 1, SIDE, SIDE), dtype=bool)
    mask[:, :, :8, :8] = True
    weighted, plain = (run("AttributionLocalisation", weighted=w, call={"s_batch": mask}) for w in (True, False))
    assert weighted[0] / plain[0] == pytest.approx(64 / (2 * 3 * SIDE * SIDE))  # of two pictures and three channels, not of one
