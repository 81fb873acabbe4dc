import pytest
import torch
from torch import nn

from xbench.data.classes import ClassList
from xbench.data.samples import Batch, Item, generator
from xbench.errors import XbenchError
from xbench.network.model import Model, ModelView, Preprocessing
from xbench.plugins.registry import registry


class Cells(nn.Module):
    """A network whose four 16 x 16 cells are processed apart: class c looks at cell c and at nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.features = nn.Identity()
        self.weight = nn.Parameter(torch.randn(6, generator=torch.Generator().manual_seed(1)))
        nn.init.normal_(self.first.weight, generator=torch.Generator().manual_seed(2))

    def forward(self, x):
        top, bottom = x.split(16, dim=2)
        cells = [*top.split(16, dim=3), *bottom.split(16, dim=3)]
        done = [self.first(cell).relu() for cell in cells]
        whole = self.features(torch.cat([torch.cat(done[:2], 3), torch.cat(done[2:], 3)], 2))
        top, bottom = whole.split(16, dim=2)
        parts = [*top.split(16, dim=3), *bottom.split(16, dim=3)]
        return torch.stack([(p.mean(dim=(2, 3)) * self.weight).sum(dim=1) for p in parts], dim=1)


@pytest.fixture
def cells():
    preprocessing = Preprocessing((32, 32), 1.0, (0.0,) * 3, (1.0,) * 3)
    return Model("cells", Cells(), preprocessing, ClassList(("a", "b", "c", "d")), "features")


@pytest.fixture
def batch():
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.arange(4), tuple(Item(f"{i}", f"{i}", i, f"{i}") for i in range(4)), seed="0")


@pytest.mark.parametrize("name", ["gradient", "input_x_gradient", "hires_cam", "layer_cam"])
def test_exactly_nothing_lies_outside_the_cell_that_the_class_sees(name, cells, batch):
    maps = registry.method(name)(ModelView(cells), batch)
    assert maps.shape == (4, 32, 32)
    for c, map_ in enumerate(maps):
        inside = torch.zeros(32, 32, dtype=torch.bool)
        inside[c // 2 * 16 :, c % 2 * 16 :][:16, :16] = True
        assert torch.equal(map_[~inside], torch.zeros(int((~inside).sum())))
        assert map_[inside].abs().sum() > 0


def test_grid_pointing_of_such_a_network_is_exactly_one(cells, batch):
    from xbench.data.samples import Truth

    maps = registry.method("gradient")(ModelView(cells), batch)
    for c, map_ in enumerate(maps):
        mask = torch.zeros(32, 32, dtype=torch.bool)
        mask[c // 2 * 16 :, c % 2 * 16 :][:16, :16] = True
        for metric in ("grid_pointing", "grid_pointing_hit"):
            assert float(registry.metric(metric)(map_[None], Truth(mask))) == 1.0


def test_definitions(cells, batch):
    view = ModelView(cells)
    image = batch.images.clone().requires_grad_()
    cells.network(image).gather(1, batch.targets[:, None]).sum().backward()
    assert torch.allclose(registry.method("gradient")(view, batch), image.grad.abs().max(dim=1).values)
    assert torch.allclose(registry.method("input_x_gradient")(view, batch), (image.detach() * image.grad).sum(dim=1))


def test_smooth_grad_is_the_plain_loop(cells, batch):
    maps = registry.method("smooth_grad(n=4, sigma=0.2)")(ModelView(cells), batch)
    for row in range(4):
        image, total = batch.images[row], torch.zeros(3, 32, 32)
        for draw in range(4):
            noise = torch.randn(3, 32, 32, generator=generator("0", f"draw {draw}", "noise", batch.items[row].id))
            noisy = (image + 0.2 * (image.max() - image.min()) * noise)[None].requires_grad_()
            cells.network(noisy)[0, batch.targets[row]].backward()
            total += noisy.grad[0]
        assert torch.allclose(maps[row], (total / 4).abs().sum(dim=0), atol=1e-6)


def test_smooth_grad_without_noise_is_the_gradient(cells, batch):
    view = ModelView(cells)
    maps = registry.method("smooth_grad(n=2, sigma=0)")(view, batch)
    assert torch.allclose(maps, view.input_gradients(batch).abs().sum(dim=1))


@pytest.mark.parametrize(
    ("spec", "says"), [("smooth_grad(n=0)", "n must be positive, not 0"), ("smooth_grad(sigma=-1)", "sigma must not")]
)
def test_wrong_parameters_are_named(spec, says, cells, batch):
    with pytest.raises(XbenchError, match=says):
        registry.method(spec)(ModelView(cells), batch)
