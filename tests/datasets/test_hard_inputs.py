"""What real folders hold: each hard input is read, or counted and named; none stops a run or puts truth in the wrong place."""

import json
import math
import os

import numpy as np
import pytest
import torch
from PIL import Image

from xbench.errors import BrokenSample, XbenchError
from xbench.plan.suite import Suite, Track
from xbench.plugins.registry import registry
from xbench.run import pipeline

CLASSES = "ant\nbee\ncat\ndog\nelk"


def folder(root, **parameters):
    given = "".join(f', {key}="{value}"' for key, value in parameters.items())
    return registry.bind("dataset", f'folder("{root}"{given})')()


def draw(path, mode="RGB", size=(20, 10), colour=(200, 40, 90), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path, **options)
    return path


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def truncate(path):
    """Cut off the end, so that the header is whole."""
    path.write_bytes(path.read_bytes()[:-20])


def voc(path, *objects, size=(20, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    inside = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, x0, y0, x1, y1 in objects
    )
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    path.write_text(f"<annotation><folder>VOC2012</folder>{stated}{inside}</annotation>")


def coco(path, images, annotations):
    content = {
        "images": [{"id": i, "file_name": f, "width": w, "height": h} for i, (f, w, h) in enumerate(images)],
        "annotations": [{"image_id": i, "category_id": 1, "bbox": bbox} for i, bbox in annotations],
        "categories": [{"id": 1, "name": "cat"}],
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def root(tmp_path):
    """One good picture each of two classes."""
    draw(tmp_path / "root" / "cat" / "good.png")
    draw(tmp_path / "root" / "dog" / "good.png")
    return tmp_path / "root"


@pytest.fixture
def xml(tmp_path):
    """A folder of annotations with one of them."""
    voc(tmp_path / "xml" / "cat" / "good.xml", ("cat", 1, 1, 10, 10))
    voc(tmp_path / "xml" / "dog" / "good.xml", ("dog", 1, 1, 10, 10))
    return tmp_path / "xml"


# -- pictures ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode", "expected"),
    [
        ("grey.png", "L", (94, 94, 94)),
        ("cmyk.jpg", "CMYK", (200, 40, 90)),
        ("palette.png", "P", None),
        ("palette.gif", "P", None),
        ("alpha.png", "RGBA", (200, 40, 90)),
        ("grey_alpha.png", "LA", (94, 94, 94)),
        ("one_bit.png", "1", None),
    ],
)
def test_every_kind_of_picture_has_three_channels(root, name, mode, expected):
    path = draw(root / "cat" / name, mode)
    found = folder(root)
    image = found.load(f"cat/{path.stem}").image
    assert image.shape == (3, *found.size(f"cat/{path.stem}")) == (3, 10, 20)
    if expected:
        assert (image - torch.tensor(expected)[:, None, None].float()).abs().max() <= 4


def test_transparent_pixels_are_white(root):
    pixels = np.full((10, 20, 4), 7, np.uint8)
    pixels[:, 10:, 3], pixels[:, :10, 3] = 0, 255
    Image.fromarray(pixels).save(root / "cat" / "t.png")
    image = folder(root).load("cat/t").image
    assert (image[:, :, :10] == 7).all()
    assert (image[:, :, 10:] == 255).all()


def test_exif_turned_pictures_stand_upright_with_their_truth(root, xml):
    draw(root / "cat" / "t.jpg", exif=turned(6))
    voc(xml / "t.xml", ("cat", 1, 1, 10, 20), size=(10, 20))
    found = folder(root, boxes=xml)
    sample = found.load("cat/t")
    assert sample.image.shape == (3, 20, 10)
    assert found.size("cat/t") == (20, 10)
    (box,) = sample.boxes
    assert (box.x1, box.y1) == (10, 20)
    assert found.notes == (
        "annotated pictures that EXIF turns, their truth taken to be of the upright picture: 1 (first: cat/t.jpg)",
    )


def test_truth_of_the_picture_as_stored_is_dropped_never_misplaced(root, xml, tmp_path):
    draw(root / "cat" / "t.jpg", exif=turned(6))
    note = "annotations of another size than their upright pictures, dropped: 1 "
    note += "(first: cat/t.jpg is 10 x 20, its annotation 20 x 10)"
    voc(xml / "t.xml", ("cat", 1, 1, 20, 10), ("dog", 1, 1, 2, 2), size=(20, 10))
    found = folder(root, boxes=xml)
    assert found.notes == (note,)
    assert found.load("cat/t").boxes == ()
    assert found.load("cat/t").labels == (0,)
    found = folder(root, coco=coco(tmp_path / "i.json", [("t.jpg", 20, 10)], [(0, [0, 0, 20, 10])]))
    assert found.notes[-1] == note
    assert found.known == {}
    Image.new("L", (20, 10)).save(tmp_path / "xml" / "t.png")
    assert folder(root, masks=tmp_path / "xml").notes[-1] == note


def test_an_annotation_without_a_size_is_taken_as_it_is(root, xml):
    voc(xml / "cat" / "good.xml", ("cat", 1, 1, 20, 10), size=None)
    assert len(folder(root, boxes=xml).load("cat/good").boxes) == 1
    voc(xml / "cat" / "good.xml", ("cat", 1, 1, 20, 10), size=(0, 0))
    assert len(folder(root, boxes=xml).load("cat/good").boxes) == 1


def test_one_pixel(root, xml):
    draw(root / "cat" / "t.png", size=(1, 1))
    voc(xml / "t.xml", ("cat", 1, 1, 1, 1), size=(1, 1))
    sample = folder(root, boxes=xml).load("cat/t")
    assert sample.image.shape == (3, 1, 1)
    (box,) = sample.boxes
    assert (box.x0, box.y0, box.x1, box.y1) == (0, 0, 1, 1)


@pytest.mark.filterwarnings("error")
def test_a_hundred_megapixels(root, xml):
    Image.new("1", (10_000, 10_000), 1).save(root / "cat" / "t.png")
    voc(xml / "t.xml", ("cat", 9_001, 1, 10_000, 10), size=(10_000, 10_000))
    found = folder(root, boxes=xml)
    assert found.size("cat/t") == (10_000, 10_000)
    sample = found.load("cat/t")
    assert sample.image.shape == (3, 10_000, 10_000)
    assert sample.boxes[0].x0 == 9_000


@pytest.mark.parametrize("content", ["truncated", "empty", "text", "link"])
def test_unreadable_pictures_are_listed_and_told_when_loaded(root, xml, content):
    path = draw(root / "cat" / "t.jpg", size=(200, 100))
    voc(xml / "t.xml", ("cat", 1, 1, 10, 10), size=(200, 100))
    good = folder(root, boxes=xml)
    if content == "truncated":
        truncate(path)
    elif content == "link":
        path.unlink()
        path.symlink_to(root / "nowhere.jpg")
    else:
        path.write_text("" if content == "empty" else "this is no picture")
    found = folder(root, boxes=xml)
    assert [entry.id for entry in found.entries()] == [entry.id for entry in good.entries()]
    assert found.revision != good.revision
    with pytest.raises(BrokenSample, match=r"t\.jpg"):
        found.load("cat/t")
    if content == "truncated":
        assert found.size("cat/t") == (100, 200)
    else:
        with pytest.raises(BrokenSample, match=r"t\.jpg"):
            found.size("cat/t")


# -- annotations -------------------------------------------------------------------------------------------------------------


def test_boxes_beyond_the_picture_are_clipped_and_counted(root, xml, tmp_path):
    voc(xml / "cat" / "good.xml", ("cat", -3, 2, 25, 9), ("cat", 1, 1, 20, 10), ("cat", 15, 5, 21, 10))
    found = folder(root, boxes=xml)
    assert [(b.x0, b.y0, b.x1, b.y1) for b in found.load("cat/good").boxes] == [(0, 1, 20, 9), (0, 0, 20, 10), (14, 4, 20, 10)]
    assert found.notes == ("boxes reaching beyond their pictures, clipped: 2 (first: good.xml)",)
    found = folder(root, coco=coco(tmp_path / "i.json", [("cat/good.png", 20, 10)], [(0, [5, 5, 15.004, 5]), (0, [5, 5, 16, 5])]))
    assert [b.x1 for b in found.load("cat/good").boxes] == [20, 20]
    assert "boxes reaching beyond their pictures, clipped: 1 (first: annotations[1] of cat/good.png)" in found.notes


def test_boxes_without_area_are_dropped_and_counted(root, xml, tmp_path):
    voc(xml / "cat" / "good.xml", ("cat", 5, 5, 4, 9), ("cat", 21, 1, 30, 10), ("cat", 9, 9, 2, 2), ("cat", 1, 1, 1, 1))
    found = folder(root, boxes=xml)
    assert len(found.load("cat/good").boxes) == 1
    assert found.notes == ("boxes without area inside their pictures, dropped: 3 (first: good.xml)",)
    found = folder(root, coco=coco(tmp_path / "i.json", [("cat/good.png", 20, 10)], [(0, [5, 5, 0, 5]), (0, [5, 5, 3, -1])]))
    assert found.load("cat/good").boxes == ()
    assert found.load("cat/good").masks == {}


def test_a_picture_without_objects_has_no_truth(root, xml, tmp_path):
    voc(xml / "cat" / "good.xml")
    found = folder(root, boxes=xml)
    assert found.load("cat/good").boxes == ()
    assert found.notes == ()
    Image.new("L", (20, 10)).save(tmp_path / "good.png")
    (tmp_path / "masks" / "cat").mkdir(parents=True)
    (tmp_path / "good.png").rename(tmp_path / "masks" / "cat" / "good.png")
    assert int(folder(root, masks=tmp_path / "masks").load("cat/good").masks[0].sum()) == 0


def test_annotations_without_pictures_and_pictures_without_annotations(root, xml, tmp_path):
    draw(root / "cat" / "lone.png")
    voc(xml / "lost.xml", ("cat", 1, 1, 2, 2))
    assert folder(root, boxes=xml).notes == (
        "pictures without a file in boxes: 1 (first: cat/lone.png)",
        "files in boxes without a picture: 1 (first: lost.xml)",
    )
    images = [("cat/good.png", 20, 10), ("lost.png", 20, 10)]
    file = coco(tmp_path / "i.json", images, [(1, [0, 0, 1, 1]), (5, [0, 0, 1, 1])])
    assert folder(root, coco=file).notes == (
        "pictures in coco that are not in the class folders: 1 (first: lost.png)",
        "pictures that coco does not list: 2 (first: dog/good.png)",
        "objects in coco whose picture it does not list, ignored: 1 (first: annotations[1])",
    )


def test_objects_of_unknown_classes_are_ignored_and_counted(root, xml):
    voc(xml / "cat" / "good.xml", ("unicorn", 1, 1, 5, 5), ("cat", 1, 1, 5, 5), ("Dog", 1, 1, 5, 5))
    found = folder(root, boxes=xml)
    assert found.load("cat/good").labels == (0,)
    assert found.notes == ("objects of classes that the dataset does not have, ignored: 2 (first: unicorn in good.xml)",)


BOMB = '<!DOCTYPE a [<!ENTITY x "ha">' + "".join(
    f'<!ENTITY x{i} "&x{i - 1 if i else ""};&x{i - 1 if i else ""};">' for i in range(20)
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<annotation><object>", "no element found"),
        ("", "no element found"),
        ("<html/>", "<html> instead of <annotation>"),
        ("<annotation><object><name>cat</name></object></annotation>", "object 0 lacks its name or a corner"),
        ("<annotation><object><bndbox/></object></annotation>", "object 0 lacks its name or a corner"),
        (BOMB + "]><annotation>&x19;</annotation>", "a document type"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>', "a document type"),
        ("<annotation>" + " " * 5_000_000 + "</annotation>", "larger than"),
        ("<annotation><size><width>wide</width></size></annotation>", "could not convert"),
        ("<annotation><size><width>inf</width></size></annotation>", "a size that is no number"),
    ],
)
def test_broken_xml_costs_its_own_picture_only(root, xml, text, why):
    (xml / "cat" / "good.xml").write_text(text)
    found = folder(root, boxes=xml)
    (note,) = found.notes
    assert note.startswith("broken files in boxes, dropped: 1 (first: good.xml: ")
    assert why in note
    assert "\n" not in note
    assert found.load("cat/good").boxes == ()
    assert len(found.load("dog/good").boxes) == 1


def test_broken_masks(root, tmp_path):
    masks = tmp_path / "masks"
    draw(masks / "cat" / "good.png", "L").write_bytes(b"nothing")
    path = masks / "dog" / "good.png"
    path.parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (10, 20), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:150])
    found = folder(root, masks=masks)
    assert found.notes[0].startswith("masks that cannot be read, dropped: 2 (first: picture ")
    assert found.load("cat/good").masks == {}
    assert found.load("dog/good").masks == {}
    Image.new("1", (20, 10), 1).save(path)
    found = folder(root, masks=masks)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(BrokenSample, match=r"masks/dog/good\.png"):
        found.load("dog/good")


# -- strays ------------------------------------------------------------------------------------------------------------------


def test_stray_files_are_no_pictures(root):
    for name in ("Thumbs.db", "readme.txt", ".DS_Store", "._good.png", "movie.mp4"):
        (root / "cat" / name).write_bytes(b"x")
    (root / ".hidden").mkdir()
    (root / "labels.csv").write_text("x")
    found = folder(root)
    assert [entry.id for entry in found.entries()] == ["cat/good", "dog/good"]
    assert found.notes == ("files in class folders that are no pictures, ignored: 3 (first: cat/Thumbs.db)",)


def test_empty_class_folders_keep_their_label(root):
    (root / "bee").mkdir()
    found = folder(root)
    assert found.classes.names == ("bee", "cat", "dog")
    assert found.entries()[0].labels == (1,)
    assert found.notes == ("class folders without pictures: 1 (first: bee)",)


def test_nested_folders_and_folders_named_like_pictures(root):
    draw(root / "cat" / "kittens" / "a.png")
    (root / "cat" / "x.jpg").mkdir()
    found = folder(root)
    assert len(found.entries()) == 2
    assert found.notes == ("folders inside class folders, not read: 2 (first: cat/kittens)",)


def test_names_that_are_no_text_can_be_stored(root):
    path = os.fsencode(root / "cat") + b"/caf\xe9 #1.png"
    try:
        os.rename(root / "cat" / "good.png", path)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    found = folder(root)
    assert found.entries()[0].id == r"cat/caf\xe9 #1"
    assert found.load(r"cat/caf\xe9 #1").image.shape == (3, 10, 20)


# -- a whole run -------------------------------------------------------------------------------------------------------------


def test_a_run_counts_what_it_cannot_use_and_goes_on(root, xml, tmp_path):
    truncate(draw(root / "cat" / "broken.jpg", size=(200, 100)))
    voc(xml / "broken.xml", ("cat", 1, 1, 9, 9), size=(200, 100))
    draw(root / "dog" / "bare.png")
    (root / "dog" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "classes.txt").write_text(CLASSES)
    data = f'folder("{root}", boxes="{xml}", classes="{tmp_path / "classes.txt"}")'
    track = Track(dataset=data, metrics=["tiny_mass"], target="label", view="squash")
    suite = Suite(name="s", version="1", batch_size=2, models=["tiny_net"], methods=["tiny_cam"], tracks=[track])
    rows = pipeline.run(suite, out=tmp_path / "run").rows.set_index("item")
    assert rows["status"].to_dict() == {
        "cat/broken": "unreadable",
        "dog/bare": "not_applicable",
        "cat/good": "ok",
        "dog/good": "ok",
    }
    assert rows.loc["dog/bare", "reason"] == "the explained class has no truth in this picture"
    assert "broken.jpg" in rows.loc["cat/broken", "reason"]
    assert math.isfinite(rows.loc["cat/good", "value"])


def test_a_missing_root_names_the_remedy(tmp_path):
    with pytest.raises(XbenchError, match="give the folder that holds one folder per class"):
        folder(tmp_path / "none")
