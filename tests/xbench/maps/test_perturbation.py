"""The prober against the plainest loop that can be written, and the promise that packing changes no bit."""

import dataclasses
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from xbench.errors import XbenchError
from xbench.maps.perturbation import OUTPUTS, SUBSTRATES, Curve, Hidden, Prober, Request, _rise_taps, substrate
from xbench.maps.saliency import SaliencyMap
from xbench.plugins.registry import registry


@pytest.fixture
def inputs():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network():
    return registry.bind("model", "tiny_net")().network


def curves(inputs: torch.Tensor, counts=(0, 100, 600, 1024)) -> list[Curve]:
    found = []
    for row in range(len(inputs)):
        native = torch.rand(32, 32, generator=torch.Generator().manual_seed(row))
        (ranking,) = SaliencyMap(native, (32, 32), row, "s").rankings
        found += [Curve(ranking, counts, "image", "zero"), Curve(ranking, counts, "gaussian_blur", "image")]
    return found


def plain(network: nn.Module, picture: torch.Tensor, target: int, curve: Curve) -> list[float]:
    start, end = (SUBSTRATES[name](picture[None])[0] for name in (curve.start, curve.end))
    answers = []
    for count in curve.counts:
        mixed = start.clone()
        for y in range(32):
            for x in range(32):
                if curve.ranking.ranks[y, x] < count:
                    mixed[:, y, x] = end[:, y, x]
        answers.append(float(network(mixed[None]).softmax(dim=1)[0, target]))
    return answers


def test_equals_the_plain_loop(network, inputs):
    targets = torch.tensor([0, 3, 4])
    requests = curves(inputs)
    answers = Prober(network, inputs, targets, 5).run(requests)
    for curve, answer in zip(requests, answers, strict=True):
        row = curve.ranking.row
        assert answer.tolist() == pytest.approx(plain(network, inputs[row], int(targets[row]), curve), abs=1e-6)


def test_each_output_is_that_of_the_same_pictures_in_one_pass(network, inputs):
    targets, (first, *_) = torch.tensor([0, 3, 4]), curves(inputs)
    asked = [dataclasses.replace(first, output=output) for output in ("probability", "logit", "cosine")]
    prober = Prober(network, inputs, targets, 5, outputs={**OUTPUTS, "cosine": lambda logits: logits / 4})
    probabilities, logits, cosines = prober.run(asked)
    (plainly,) = Prober(network, inputs, targets, 5).run([asked[0]])
    assert torch.equal(probabilities, plainly)
    with torch.no_grad():
        whole = network(inputs[:1])[0, 0]
    assert float(logits[0]) == pytest.approx(float(whole), abs=1e-6)
    assert torch.allclose(cosines, logits / 4)
    assert (logits.diff().abs() > 1e-3).all()


def test_an_output_that_the_model_does_not_have_is_named(network, inputs):
    asked = dataclasses.replace(curves(inputs)[0], output="cosine")
    with pytest.raises(XbenchError, match="the model has no cosine, which CLIPs have; ask for probability or logit"):
        Prober(network, inputs, torch.tensor([0, 3, 4]), 5).run([asked])


def test_companions_and_order_change_no_bit(network, inputs):
    targets = torch.tensor([0, 3, 4])
    requests = curves(inputs)
    together = Prober(network, inputs, targets, 5).run(requests)
    backwards = Prober(network, inputs, targets, 5).run(requests[::-1])[::-1]
    alone = [Prober(network, inputs, targets, 5).run([curve])[0] for curve in requests]
    for a, b, c in zip(together, backwards, alone, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_end_points_are_evaluated_once(network, inputs):
    prober = Prober(network, inputs, torch.tensor([0, 3, 4]), 5)
    prober.run(curves(inputs))
    # Per item: image, zero and blur once, and two inner points for each of two curves.
    assert prober.forwards == 3 * (3 + 2 * 2)
    prober.run(curves(inputs, (0, 1024)))
    assert prober.forwards == 3 * (3 + 2 * 2)


def test_every_forward_has_the_one_shape(network, inputs):
    shapes = []
    handle = network.register_forward_hook(lambda _, args, __: shapes.append(tuple(args[0].shape)))
    Prober(network, inputs, torch.tensor([0, 3, 4]), 5).run(curves(inputs))
    handle.remove()
    assert set(shapes) == {(5, 3, 32, 32)}


def test_inputs_are_left_alone(network, inputs):
    before = inputs.clone()
    Prober(network, inputs, torch.tensor([0, 3, 4]), 5).run(curves(inputs))
    assert torch.equal(inputs, before)


def test_rise_blur_has_the_taps_that_its_notes_give():
    taps = _rise_taps()
    assert float(taps.sum()) == pytest.approx(1, abs=1e-6)
    assert float(taps.min()) == pytest.approx(0.00774, abs=1e-5)
    assert float(taps.max()) == pytest.approx(0.00883, abs=1e-5)
    white = torch.ones(1, 3, 32, 32)
    blurred = substrate("rise_blur", white)
    assert blurred[0, 0, 16, 16] == pytest.approx(1, abs=1e-6)
    assert blurred[0, 0, 0, 0] < 0.4  # zero padding pulls the corner to grey


def test_gaussian_blur_keeps_constants_and_lowers_variance(inputs):
    assert torch.allclose(substrate("gaussian_blur", torch.full((1, 3, 32, 32), 2.5)), torch.full((1, 3, 32, 32), 2.5), atol=1e-5)
    assert substrate("gaussian_blur", inputs).var() < 0.5 * inputs.var()


@pytest.mark.parametrize("name", sorted(SUBSTRATES))
def test_a_substrate_does_not_depend_on_companions(name, inputs):
    assert torch.equal(substrate(name, inputs)[1:2], substrate(name, inputs[1:2]))


def test_unknown_substrate_suggests():
    with pytest.raises(XbenchError, match="did you mean 'rise_blur'"):
        substrate("rise_blurr", torch.zeros(1, 3, 4, 4))


class Quarters:
    """The four quarters of a picture of 32 x 32."""

    count = 4

    def mask(self, i: int) -> torch.Tensor:
        mask = torch.zeros(32, 32, dtype=torch.bool)
        mask[i // 2 * 16 : i // 2 * 16 + 16, i % 2 * 16 : i % 2 * 16 + 16] = True
        return mask


def test_hidden_regions_show_the_substrate(network, inputs):
    quarters = Quarters()
    (answer,) = Prober(network, inputs, torch.tensor([0, 3, 4]), 3).run([Hidden(1, quarters, "zero")])
    for i in range(4):
        seen = inputs[1].masked_fill(quarters.mask(i), 0)
        assert float(answer[i]) == pytest.approx(float(network(seen[None]).softmax(dim=1)[0, 3]), abs=1e-6)
    assert Hidden(1, quarters, "zero") == Hidden(1, quarters, "zero") != Hidden(2, quarters, "zero")


def test_a_request_of_ones_own_is_packed_with_the_others(network, inputs):
    @dataclass(frozen=True)
    class Mirrored(Request):
        of: int

        @property
        def row(self) -> int:
            return self.of

        def draw(self, point, pictures, out):
            out.copy_(pictures.of("image", self.of).flip(2))

    prober = Prober(network, inputs, torch.tensor([0, 3, 4]), 8)
    *_, last = prober.run([*curves(inputs, (100, 600)), Mirrored(2)])
    assert prober.forwards == 13
    assert float(last[0]) == pytest.approx(float(network(inputs[2:].flip(3)).softmax(dim=1)[0, 4]), abs=1e-6)
