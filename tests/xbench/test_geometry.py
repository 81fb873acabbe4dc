import pytest
import torch

from xbench.data import Box, Sample
from xbench.geometry import crop, full


@pytest.mark.parametrize(("height", "width"), [(40, 40), (60, 41), (41, 60), (33, 97)])
def test_a_lit_pixel_block_is_found_again_through_the_crop(height, width):
    view = crop(height, width, (32, 32), 0.875)
    y, x = view.top + view.height // 4, view.left + view.width // 2
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, y : y + 6, x : x + 6] = 255
    mask = image[0] > 0
    box = view.box(Box(0, x, y, x + 6, y + 6))
    seen, masked = view.image(image)[0], view.mask(mask)
    assert seen.shape == (32, 32)
    assert masked.shape == (32, 32)
    assert box is not None
    brightest = torch.nonzero(seen > 200).float().mean(dim=0) + 0.5
    for centre in (brightest, torch.nonzero(masked).float().mean(dim=0) + 0.5):
        assert float(centre[0]) == pytest.approx((box.y0 + box.y1) / 2, abs=0.75)
        assert float(centre[1]) == pytest.approx((box.x0 + box.x1) / 2, abs=0.75)


def test_the_window_is_the_centred_share_of_the_shorter_side():
    view = crop(224, 300, (224, 224), 224 / 256)
    assert (view.left, view.top, view.width, view.height) == (52, 14, 196, 196)


def test_full_changes_nothing():
    image = torch.randint(0, 256, (3, 17, 23)).to(torch.uint8)
    view = full(17, 23)
    assert torch.equal(view.image(image), image)
    assert view.box(Box(1, 2, 3, 5, 7)) == Box(1, 2, 3, 5, 7)


def test_boxes_are_clipped_and_dropped_outside():
    view = crop(100, 100, (50, 50), 0.5)  # window 25..75, halved side
    assert view.box(Box(0, 0, 0, 50, 50)) == Box(0, 0, 0, 25, 25)
    assert view.box(Box(0, 0, 0, 25, 25)) is None


def test_truth_says_how_much_of_it_is_visible():
    image = torch.zeros(3, 100, 100, dtype=torch.uint8)
    mask = torch.zeros(100, 100, dtype=torch.bool)
    mask[:, :50] = True
    view = crop(100, 100, (50, 50), 0.5)
    assert view.truth(Sample("s", image, (0,), masks={0: mask}), 0).visible == pytest.approx(0.25)
    from_boxes = view.truth(Sample("s", image, (0,), boxes=(Box(0, 25, 25, 75, 50),)), 0)
    assert from_boxes.visible == 1.0
    assert from_boxes.mask is not None
    assert from_boxes.mask[:25].all()
    assert not from_boxes.mask[25:].any()
    assert view.truth(Sample("s", image, (0,)), 0).visible == 0.0
