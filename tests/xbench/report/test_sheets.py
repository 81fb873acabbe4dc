import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from xbench import Box, ClassList, Dataset, Entry, Sample, XbenchError
from xbench.report import sheets


class One(Dataset):
    classes = ClassList(("block",))
    revision = "1"

    def entries(self):
        return [Entry(f"p{i}", (0,), (f"p{i}",)) for i in range(8)]

    def load(self, id):
        mask = torch.zeros(20, 20, dtype=torch.bool)
        mask[5:10, 4:12] = True
        image = torch.full((3, 20, 20), 128, dtype=torch.uint8)
        return Sample(id, image, (0,), (Box(0, 4, 5, 12, 10),), {0: mask}, captions=("a block",))


def test_a_sheet_shows_pictures_with_their_outlines(tmp_path):
    sheets.sheet(One(), 8, tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    blue = np.abs(pixels - (np.array(sheets.COLOURS[0]) * 255)).sum(axis=2) < 60
    assert blue.sum() > 8 * 50  # the outlines of eight blocks
    assert (np.abs(pixels - 128).max(axis=2) == 0).mean() > 0.2


def test_outlines_run_along_the_pixels_edges():
    axes = Figure().subplots()
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[1:3, 2] = True
    sheets._outline(axes, mask, (1, 0, 0))
    segments = {tuple(map(tuple, s)) for lines in axes.collections for s in lines.get_segments()}
    assert segments == {
        ((2, 1), (2, 2)),
        ((2, 2), (2, 3)),
        ((3, 1), (3, 2)),
        ((3, 2), (3, 3)),
        ((2, 1), (3, 1)),
        ((2, 3), (3, 3)),
    }


def test_a_sheet_that_cannot_be_written(tmp_path):
    with pytest.raises(XbenchError, match=r"cannot write .*sheet.what"):
        sheets.sheet(One(), 2, tmp_path / "sheet.what")
