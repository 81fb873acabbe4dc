"""ROAD's imputation against a dense solution of its definition and the grad-cam library's; mutants of the source must fail."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from xbench.metrics.faithfulness import _imputation
from xbench.metrics.faithfulness._imputation import impute, noisy

from xbench.errors import XbenchError

WEIGHTS = {(dy, dx): 1 / 6 if 0 in (dy, dx) else 1 / 12 for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)}


def picture(*size: int) -> torch.Tensor:
    return torch.randn(3, *size, generator=torch.Generator().manual_seed(0)) * 2


def single(height: int, width: int, y: int, x: int, removed: bool = True) -> torch.Tensor:
    mask = torch.full((height, width), not removed)
    mask[y, x] = removed
    return mask


def block(height: int, width: int, rows: slice, columns: slice) -> torch.Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[rows, columns] = True
    return mask


def scattered(height: int, width: int, share: float) -> torch.Tensor:
    return torch.rand(height, width, generator=torch.Generator().manual_seed(1)) < share


MASKS = {
    "none": torch.zeros(12, 12, dtype=torch.bool),
    "one": single(12, 12, 5, 6),
    "one in a corner": single(12, 12, 0, 11),
    "one at a border": single(12, 12, 11, 4),
    "all but one": single(12, 12, 3, 8, removed=False),
    "all but a corner": single(12, 12, 11, 11, removed=False),
    "a block": block(12, 12, slice(3, 9), slice(2, 10)),
    "a block over a corner": block(12, 12, slice(0, 7), slice(5, 12)),
    "the border": ~block(12, 12, slice(1, 11), slice(1, 11)),
    "a checkerboard": (torch.arange(12)[:, None] + torch.arange(12)) % 2 == 0,
    "few": scattered(12, 12, 0.2),
    "most": scattered(12, 12, 0.9),
    "odd sides": scattered(11, 9, 0.7),
    "odd sides, last row": block(11, 9, slice(8, 11), slice(0, 9)),
    "one row": single(1, 7, 0, 2, removed=False),
    "one column": block(7, 1, slice(2, 6), slice(0, 1)),
}


def reference(image: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """The definition as a dense system over all pixels: a known one is itself, a removed one the mean of its neighbours."""
    height, width = removed.shape
    matrix, right = np.eye(height * width), image.reshape(len(image), -1).T.astype(np.float64)
    for y, x in np.argwhere(removed):
        inside = {(y + dy) * width + x + dx: w for (dy, dx), w in WEIGHTS.items() if 0 <= y + dy < height and 0 <= x + dx < width}
        for place, weight in inside.items():
            matrix[y * width + x, place] = -weight / sum(inside.values())
        right[y * width + x] = 0
    return np.linalg.solve(matrix, right).T.reshape(image.shape)


MOST_STEPS = 14


def steps(module, image: torch.Tensor, removed: torch.Tensor) -> int:
    """How many steps the solver takes."""
    taken, cycle = [], module._cycle

    def counted(grids, residual):
        taken.append(residual.shape)
        return cycle(grids, residual)

    module._cycle = counted
    try:
        module.impute(image, removed)
    finally:
        module._cycle = cycle
    return taken.count(taken[0])


WIDE = {
    "a wide hole": block(150, 150, slice(10, 140), slice(10, 140)),
    "nearly all": single(101, 150, 30, 40, removed=False),
    "scattered": scattered(150, 101, 0.6),
}


def agrees(module) -> bool:
    """Equal to the definition everywhere, zero where it says nothing, in few steps, and with the noise that was asked for."""
    try:
        return solves(module) and adds_noise(module)
    except (XbenchError, RecursionError, RuntimeError):
        return False


def solves(module) -> bool:
    for mask in MASKS.values():
        image = picture(*mask.shape)
        found = module.impute(image, mask)
        wanted = reference(image.numpy(), mask.numpy())
        if not np.abs(found.numpy() - wanted).max() < 1e-6 or not torch.equal(found[:, ~mask], image[:, ~mask]):
            return False
    everything = torch.ones(12, 12, dtype=torch.bool)
    if module.impute(picture(12, 12), everything).any():
        return False
    return all(steps(module, picture(*mask.shape), mask) <= MOST_STEPS for mask in WIDE.values())


def adds_noise(module) -> bool:
    mask, image = scattered(200, 200, 0.5), picture(200, 200)
    added = module.noisy(image, mask, torch.Generator().manual_seed(0)) - image
    return not added[:, ~mask].any() and float(added[:, mask].std()) == pytest.approx(0.01, rel=0.03)


def test_removed_pixels_solve_the_definition():
    assert agrees(_imputation)


@pytest.mark.parametrize("name", WIDE)
def test_few_steps_suffice_for_holes_of_any_width(name):
    mask = WIDE[name]
    assert steps(_imputation, picture(*mask.shape), mask) <= MOST_STEPS


def test_it_is_the_grad_cam_library_s_imputation():
    road = pytest.importorskip("pytorch_grad_cam.metrics.road")
    for mask in (scattered(40, 30, 0.5), block(40, 30, slice(10, 40), slice(0, 20)), single(40, 30, 7, 7, removed=False)):
        image = picture(40, 30)
        theirs = road.NoisyLinearImputer(noise=0)(image, (~mask).float())
        assert (impute(image, mask) - theirs).abs().max() < 2e-6


def test_a_plane_is_continued_through_holes_away_from_the_borders():
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(30.0), indexing="ij")
    plane = torch.stack([x / 15 - 1, y / 20 - 1, (x - 2 * y) / 40])
    inner = scattered(40, 30, 0.7) & block(40, 30, slice(1, 39), slice(1, 29))
    inner |= block(40, 30, slice(10, 30), slice(5, 25))
    assert (impute(plane, inner) - plane).abs().max() < 1e-6


def test_imputed_values_stay_between_the_known_ones():
    image, mask = picture(60, 50), scattered(60, 50, 0.9)
    found = impute(image, mask)
    known = image[:, ~mask]
    for channel, values in enumerate(known):
        assert values.min() <= found[channel].min()
        assert found[channel].max() <= values.max()


def test_a_channel_does_not_depend_on_the_others():
    image, mask = picture(30, 30), scattered(30, 30, 0.6)
    image[1] = 0
    image[2] = 1
    found = impute(image, mask)
    assert not found[1].any()
    assert (found[2] - 1).abs().max() < 1e-6
    assert (found[0] - impute(image[:1], mask)[0]).abs().max() < 1e-6


def test_the_scale_of_a_picture_is_kept():
    image, mask = picture(30, 30), scattered(30, 30, 0.6)
    for scale in (2.0**-60, 2.0**60):
        assert (impute(image * scale, mask) / scale - impute(image, mask)).abs().max() < 1e-6


def test_memory_format_and_transposition_change_nothing():
    image, mask = picture(30, 24), scattered(30, 24, 0.6)
    found = impute(image, mask)
    assert torch.equal(impute(image.permute(1, 2, 0).contiguous().permute(2, 0, 1), mask), found)
    assert (impute(image.mT, mask.T).mT - found).abs().max() < 1e-6


def test_a_picture_that_is_not_finite_ends():
    image = picture(12, 12)
    image[0, 0, 0] = float("nan")
    assert impute(image, single(12, 12, 0, 1)).isnan().any()


def test_not_converging_is_an_error(monkeypatch):
    monkeypatch.setattr(_imputation, "STEPS", 2)
    with pytest.raises(XbenchError, match="did not converge in 2 steps"):
        impute(picture(12, 12), MASKS["most"])


def test_noise_depends_on_the_generator_and_the_pixel_alone():
    image, mask = picture(20, 20), scattered(20, 20, 0.6)
    found = noisy(image, mask, torch.Generator().manual_seed(3))
    assert torch.equal(found, noisy(image, mask, torch.Generator().manual_seed(3)))
    assert not torch.equal(found, noisy(image, mask, torch.Generator().manual_seed(4)))
    fewer = mask & scattered(20, 20, 0.3)
    assert torch.equal(noisy(image, fewer, torch.Generator().manual_seed(3))[:, fewer], found[:, fewer])
    added = (found - image)[:, mask]
    assert added.std(dim=0).min() > 0  # each channel has its own


SOURCE_MUTANTS = [
    ("alpha=2)", "alpha=3)"),
    ("(1, 1, 1, 1)", '(1, 1, 1, 1), "replicate"'),
    ("(removed, 0, picture)", "(removed, 1e-4, picture)"),
    (".clamp(min=TINY)\n", "\n"),
    ("_even(torch.ones_like(removed, dtype=torch.float64))", "torch.ones_like(unknown)"),
    ("* _spread(known)", "* _spread(known + unknown)"),
    ("addcmul_(unknown, _spread(direction)", "addcmul_(weights, _spread(direction)"),
    ("direction, slope / before", "direction, 0 * slope / before"),
    ("addcmul_(length, image, value=-1)", "addcmul_(length, image, value=-0.9)"),
    ("RESOLUTION * known", "1e4 * RESOLUTION * known"),
    ("torch.where(removed, solution", "torch.where(~removed, solution"),
    ("NOISE * torch", "2 * NOISE * torch"),
    ("torch.where(removed, imputed + noise", "torch.where(~removed, imputed + noise"),
    ("(~removed).float()", "removed.float()"),
    ("_spread(unknown) + ties", "_spread(unknown) + 20 * ties"),
    ("if not largest > RES", "if largest > RES"),
    ("(_even(_halved(unknown)) > 0)", "(_even(_halved(unknown)) > 3)"),
    ("_even(_halved(ties))", "_even(_halved(ties)) / 40"),
    ("    for _ in range(1 if coarser else SWEEPS):", "    for _ in range(0 if coarser else SWEEPS):"),
    ("found *= unknown", "pass"),
    ("add_(correction[:, :, None])", "add(correction[:, :, None])"),
    ("rows[..., ::2] + rows[..., 1::2]", "rows[..., ::2]"),
]


@pytest.mark.parametrize("number", range(len(SOURCE_MUTANTS)))
def test_planted_mutants_of_the_source_are_caught(tmp_path, number):
    source = Path(_imputation.__file__).read_text(encoding="utf-8")
    old, new = SOURCE_MUTANTS[number]
    assert old in source
    path = tmp_path / f"mutant{number}.py"
    path.write_text(source.replace(old, new), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    mutant = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutant)
    assert not agrees(mutant)
