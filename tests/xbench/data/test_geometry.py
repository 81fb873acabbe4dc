import typing

import pytest
import torch

from xbench.data.geometry import LONGEST, ViewKind, crop, full, keep_aspect, squash, view
from xbench.data.samples import Box, Sample
from xbench.evaluate import scoring
from xbench.maps import saliency
from xbench.plan import suite


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


SIZES = [(40, 40), (60, 41), (41, 60), (33, 97), (97, 33), (224, 224), (301, 500)]
KINDS = typing.get_args(ViewKind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("corner", ["top left", "top right", "bottom left", "bottom right"])
def test_a_lit_corner_is_found_again_through_every_view(kind, height, width, corner):
    """Lit in the picture: the input, the mask and the box show it in that corner, and a map brought back lights it again."""
    seen = view(kind, height, width, (32, 32), 0.875)
    high, wide = seen.height // 4, seen.width // 4
    top = seen.top if "top" in corner else seen.top + seen.height - high
    left = seen.left if "left" in corner else seen.left + seen.width - wide
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, top : top + high, left : left + wide] = 255
    mask = image[0] > 0
    sample = Sample("s", image, (0,), (Box(0, left, top, left + wide, top + high),), {0: mask})
    truth = seen.truth(sample, 0)
    assert truth.mask is not None
    assert truth.visible == 1.0
    bright = seen.image(image)[0] > 127
    assert bright.shape == truth.mask.shape == seen.size
    # Input, mask and box agree to a pixel, and lie in the corner.
    (box,) = truth.boxes
    assert (box.x1 - box.x0) == pytest.approx(seen.size[1] * wide / seen.width)
    for found in (bright, truth.mask):
        rows, columns = torch.nonzero(found.any(dim=1)), torch.nonzero(found.any(dim=0))
        assert (rows.min(), columns.min()) == pytest.approx((box.y0, box.x0), abs=1.01)
        assert (rows.max() + 1, columns.max() + 1) == pytest.approx((box.y1, box.x1), abs=1.01)
    assert (box.y0 == 0) == ("top" in corner)
    assert (box.x0 == 0) == ("left" in corner)
    # A map that lights the truth, at a coarse grid or at the input's, lights the same pixels of the picture.
    for grid in ((8, 8), seen.size):
        map_ = saliency.resize(truth.mask[None].float(), grid)[0]
        whole = seen.paste(map_, height, width)
        assert whole.isnan().sum() == height * width - seen.height * seen.width
        assert bool(mask.flatten()[whole.nan_to_num(-1).argmax()])
        assert float(whole[mask].mean()) > 3 * float(whole[~mask & ~whole.isnan()].mean())


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_window_frame_is_the_picture_cut_pixel_by_pixel(height, width):
    seen = crop(height, width, (32, 32), 0.875)
    image = torch.randint(0, 256, (3, height, width)).to(torch.uint8)
    mask = image[0] > 200
    cut = (slice(seen.top, seen.top + seen.height), slice(seen.left, seen.left + seen.width))
    truth = seen.window.truth(Sample("s", image, (0,), (Box(0, seen.left + 3, seen.top + 5, width, height),), {0: mask}), 0)
    assert truth.mask is not None
    assert torch.equal(truth.mask, mask[cut])
    assert truth.boxes == (Box(0, 3, 5, seen.width, seen.height),)


def test_squash_shows_all_and_keep_aspect_keeps_proportions():
    assert squash(30, 90, (32, 32)).size == (32, 32)
    assert keep_aspect(30, 90, (32, 32)).size == (32, 96)
    assert keep_aspect(500, 375, (224, 224)).size == (299, 224)
    assert keep_aspect(1, 1, (224, 224)).size == (224, 224)
    assert keep_aspect(2, 1000, (32, 32)).size == (32, 32 * LONGEST)
    for made in (squash(30, 90, (32, 32)), keep_aspect(30, 90, (32, 32))):
        assert (made.left, made.top, made.width, made.height) == (0, 0, 90, 30)


def test_inputs_that_are_not_square_get_windows_of_their_proportions():
    seen = crop(100, 100, (20, 40), 1.0)
    assert (seen.height, seen.width, seen.top) == (50, 100, 25)
    assert crop(10, 1000, (20, 40), 1.0).height == 10


def test_unknown_pixels_are_ignored_and_never_truth():
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    mask, unknown = torch.zeros(40, 40, dtype=torch.bool), torch.zeros(40, 40, dtype=torch.bool)
    mask[:20], unknown[15:25] = True, True
    truth = squash(40, 40, (20, 20)).truth(Sample("s", image, (0,), masks={0: mask}, ignore=unknown), 0)
    assert truth.mask is not None
    assert truth.ignore is not None
    assert torch.nonzero(truth.ignore.any(dim=1)).flatten().tolist() == [10, 11]
    assert not (truth.ignore & truth.mask).any()


def test_suites_know_every_view():
    assert set(typing.get_args(suite.Track.model_fields["view"].annotation)) == set(KINDS)


def corner_of(*shape, height=40, width=60):
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[: shape[0], : shape[1]] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "labels", "difficult"),
    [
        (corner_of(10, 59), (0, 1), True),  # a pixel row short of a quarter
        (corner_of(10, 60), (0, 1), False),  # a quarter
        (corner_of(2, 2), (0,), False),
        (corner_of(2, 2), (0, 0), False),  # the same class twice
        (corner_of(2, 2), (1, 0), True),
        (corner_of(40, 60), (0, 1), False),
    ],
)
def test_difficult_is_a_small_target_beside_another_class(mask, labels, difficult):
    sample = Sample("s", torch.zeros(3, 40, 60, dtype=torch.uint8), labels, masks={0: mask})
    for kind in KINDS:
        seen = view(kind, 40, 60, (32, 32), 0.5)
        for frame in (seen, seen.window):  # the whole picture decides, whatever the model sees of it
            assert frame.truth(sample, 0).difficult is difficult


def test_difficult_takes_the_union_of_boxes_where_there_is_no_mask():
    image, twice = torch.zeros(3, 40, 60, dtype=torch.uint8), (Box(0, 0, 0, 30, 19), Box(0, 0, 0, 30, 19), Box(1, 0, 0, 60, 40))
    truth = full(40, 60).truth(Sample("s", image, (0, 1), twice), 0)
    assert truth.difficult
    assert not full(40, 60).truth(Sample("s", image, (0, 1), twice), 1).difficult


def with_parts(labels=(0, 1)):
    """Two classes; of the first one's object a wing in the right half and a beak of one pixel at the top left corner."""
    whole, wing, beak = (torch.zeros(40, 60, dtype=torch.bool) for _ in range(3))
    whole[5:35, 10:50] = True
    wing[10:20, 40:50] = True
    beak[0, 0] = True
    return Sample(
        "s", torch.zeros(3, 40, 60, dtype=torch.uint8), labels, masks={0: whole, 1: wing}, parts={"wing": wing, "beak": beak}
    )


@pytest.mark.parametrize("kind", KINDS)
def test_parts_follow_the_view_as_the_mask_does(kind):
    sample, seen = with_parts(), view(kind, 40, 60, (32, 32), 0.875)
    for frame in (seen, seen.window):
        truth = frame.truth(sample, 0)
        assert list(truth.parts) == ["wing", "beak"]
        assert all(part.shape == frame.size and part.dtype == torch.bool for part in truth.parts.values())
        assert torch.equal(truth.parts["wing"], frame.mask(sample.parts["wing"]))
        assert truth.parts["wing"].any()
        assert not truth.parts["wing"][:, : frame.size[1] // 2].any()
    assert bool(seen.window.truth(sample, 0).parts["beak"].any()) == (kind != "crop")


def test_parts_are_those_of_the_main_label():
    assert full(40, 60).truth(with_parts(), 1).parts == {}
    assert list(full(40, 60).truth(with_parts((1, 0)), 1).parts) == ["wing", "beak"]
    assert full(40, 60).truth(with_parts((1, 0)), 0).parts == {}
    assert full(40, 60).truth(with_parts(()), 0).parts == {}


def test_a_box_never_stands_for_a_mask_where_the_dataset_has_masks():
    """Each case: what is known of class 1, whether masks are the dataset's -> (why there is no mask, boxes, fraction visible)."""
    image, box = torch.zeros(3, 10, 20, dtype=torch.uint8), Box(1, 0, 0, 10, 10)
    some, none = torch.ones(10, 20, dtype=torch.bool), torch.zeros(10, 20, dtype=torch.bool)
    less = Box(1, 0.1, 0.1, 0.4, 0.4)
    cases = [
        ({}, (box,), False, ("", 1, 1.0)),
        ({1: some}, (box,), True, ("", 1, 1.0)),
        ({}, (box,), True, ("the explained class has boxes in this picture, but no mask", 1, 1.0)),
        ({0: some}, (box,), False, ("the explained class has boxes in this picture, but no mask", 1, 1.0)),
        ({}, (), True, ("the explained class has no truth in this picture", 0, 0.0)),
        ({1: none}, (), True, ("the truth of the explained class covers no pixel", 0, 0.0)),
        ({1: none}, (box,), True, ("the truth of the explained class covers no pixel", 1, 1.0)),
        ({}, (less,), False, ("the truth of the explained class covers no pixel", 0, 0.0)),
    ]
    for masks, boxes, outlined, expected in cases:
        truth = full(10, 20).truth(Sample("s", image, (0, 1), boxes, masks, outlined=outlined), 1)
        assert (truth.lacking, len(truth.boxes), truth.visible) == expected
        assert (truth.mask is None) == bool(truth.lacking)
        assert scoring.unusable(truth) == truth.lacking
        assert scoring.unusable(truth, {"boxes"}) == ("" if boxes == (box,) else truth.lacking)
    unseen = crop(10, 20, (4, 4), 1.0).truth(Sample("s", image, (1,), (Box(1, 0, 0, 2, 10),), outlined=True), 1)
    assert scoring.unusable(unseen, {"boxes"}) == "only 0% of the truth is visible to the model"
