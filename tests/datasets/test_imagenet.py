import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xbench.data.classes import imagenet_1k
from xbench.errors import XbenchError
from xbench.plugins.registry import registry

REAL = Path(os.environ.get("XBENCH_DATA") or Path(__file__).parents[3] / "shared" / "data") / "imagenet"
TENCH, SHARK = "n01440764", "n01491361"


def xml(name, size, *boxes):
    objects = "".join(
        f"<object><name>{wnid}</name><difficult>0</difficult><bndbox>"
        f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for wnid, x0, y0, x1, y1 in boxes
    )
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    return f"<annotation><filename>{name}</filename>{stated}{objects}</annotation>"


@pytest.fixture
def home(tmp_path):
    """Three pictures of two classes in the official layout; the first is turned by EXIF."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for folder in (f"val/{TENCH}", f"val/{SHARK}", "bbox/val"):
        (tmp_path / folder).mkdir(parents=True)
    for number, wnid in ((1, SHARK), (2, TENCH), (3, SHARK)):
        name = f"ILSVRC2012_val_{number:08d}"
        colour = Image.new("RGB", (40, 20), (number, 0, 0))
        colour.save(tmp_path / "val" / wnid / f"{name}.JPEG", **({"exif": exif} if number == 1 else {}))
        (tmp_path / "bbox/val" / f"{name}.xml").write_text(xml(name, (40, 20), (wnid, 0, 5, 40, 20)))
    return tmp_path


def imagenet(home):
    return registry.bind("dataset", f'imagenet("{home}")')()


def test_official_layout(home):
    found = imagenet(home)
    assert [entry.id for entry in found.entries()] == [f"ILSVRC2012_val_{n:08d}" for n in (1, 2, 3)]
    tench, shark = (imagenet_1k().synsets.index(wnid) for wnid in (TENCH, SHARK))
    assert [entry.labels for entry in found.entries()] == [(shark,), (tench,), (shark,)]
    assert len(found.classes) == 1000
    assert found.notes == ()
    assert len(found.files) == 6


def test_pictures_stay_as_stored_and_boxes_are_half_open_as_written(home):
    sample = imagenet(home).load("ILSVRC2012_val_00000001")
    assert sample.image.shape == (3, 20, 40)
    assert imagenet(home).size(sample.id) == (20, 40)
    (box,) = sample.boxes
    assert (box.x0, box.y0, box.x1, box.y1) == (0, 5, 40, 20)


def test_boxes_of_another_class_keep_their_own_label(home):
    name = "ILSVRC2012_val_00000002"
    (home / "bbox/val" / f"{name}.xml").write_text(
        xml(name, (40, 20), (TENCH, 0, 0, 9, 9), (SHARK, 1, 1, 9, 9), ("n99999999", 1, 1, 9, 9))
    )
    found = imagenet(home)
    sample = found.load(name)
    assert [found.classes.synsets[box.label] for box in sample.boxes] == [TENCH, SHARK]
    assert len(sample.labels) == 1
    assert found.notes == (f"objects of classes that the dataset does not have, ignored: 1 (first: n99999999 in {name}.xml)",)


def test_without_boxes_it_says_so(home):
    shutil.rmtree(home / "bbox")
    found = imagenet(home)
    assert found.notes == ("folders of boxes that are missing: 1 (first: bbox/val)",)
    assert found.load("ILSVRC2012_val_00000002").boxes == ()


def test_the_default_folder(home, monkeypatch, tmp_path):
    data = tmp_path / "elsewhere"
    data.mkdir()
    (data / "imagenet").symlink_to(home)
    monkeypatch.setenv("XBENCH_DATA", str(data))
    assert len(registry.bind("dataset", "imagenet")().entries()) == 3
    monkeypatch.delenv("XBENCH_DATA")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(XbenchError, match=r"no data/imagenet/val .*; give root=..., or set XBENCH_DATA"):
        registry.bind("dataset", "imagenet")()
    data.rename(tmp_path / "data")
    assert len(registry.bind("dataset", "imagenet")().entries()) == 3


def test_what_is_not_the_official_layout(home):
    (home / "val" / "cats").mkdir()
    with pytest.raises(XbenchError, match="cats is not a class of ImageNet-1k"):
        imagenet(home)
    (home / "val" / "cats").rmdir()
    shutil.copy(home / f"val/{TENCH}/ILSVRC2012_val_00000002.JPEG", home / f"val/{SHARK}")
    with pytest.raises(XbenchError, match="have one name; remove the wrong one"):
        imagenet(home)
    flat = home / "flat" / "val"
    flat.mkdir(parents=True)
    shutil.copy(home / f"val/{TENCH}/ILSVRC2012_val_00000002.JPEG", flat)
    with pytest.raises(XbenchError, match="holds pictures directly; move them into one folder per class"):
        imagenet(home / "flat")


@pytest.mark.skipif(not REAL.is_dir(), reason="needs pictures of ImageNet: set XBENCH_DATA")
def test_real_pictures():
    found = imagenet(REAL)
    entries = found.entries()
    names = [path.stem for path in sorted((REAL / "val").glob("*/*.JPEG"), key=lambda path: path.name)]
    assert [entry.id for entry in entries] == names
    assert found.notes == ()
    touching = 0
    for entry in entries:
        height, width = found.size(entry.id)
        sample_boxes = found.known[entry.id].boxes
        assert sample_boxes
        for box in sample_boxes:
            assert 0 <= box.x0 < box.x1 <= width
            assert 0 <= box.y0 < box.y1 <= height
            assert box.label == entry.labels[0]
        touching += sum(box.x1 == width or box.y1 == height for box in sample_boxes)
    if len(entries) == 499:  # the sample that this was written with
        assert touching == 39
        assert len({entry.labels for entry in entries}) == 10
        assert {found.size(entry.id) for entry in entries} == {(224, 224)}
    first = next((REAL / "val").glob(f"*/{names[0]}.JPEG"))
    stored = torch.from_numpy(np.array(Image.open(first).convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(found.load(names[0]).image, stored)
    # as torchvision's ImageFolder has them: folders in sorted order, here among all 1,000
    assert {found.classes.synsets[e.labels[0]] for e in entries} == {path.name for path in (REAL / "val").iterdir()}
