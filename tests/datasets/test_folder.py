import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from xbench.datasets.readers.masks import Polygon, Runs, decompressed

from xbench.data import geometry
from xbench.errors import XbenchError
from xbench.plugins.registry import registry

REAL = Path(os.environ.get("XBENCH_DATA") or Path(__file__).parents[3] / "shared" / "data") / "coco"


def folder(root, **parameters):
    given = "".join(f', {key}="{value}"' for key, value in parameters.items())
    return registry.bind("dataset", f'folder("{root}"{given})')()


def draw(path, size=(20, 10), colour=(9, 9, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def voc(path, *objects, size=(20, 10)):
    """objects: (name, xmin, ymin, xmax, ymax) or with a difficult flag."""
    path.parent.mkdir(parents=True, exist_ok=True)
    inside = "".join(
        f"<object><name>{name}</name><difficult>{int(bool(rest))}</difficult><bndbox><xmax>{x1}</xmax><xmin>{x0}</xmin>"
        f"<ymax>{y1}</ymax><ymin>{y0}</ymin></bndbox><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
        for name, x0, y0, x1, y1, *rest in objects
    )
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    path.write_text(f"<annotation><folder>VOC</folder>{stated}{inside}</annotation>")
    return path


def coco(path, images, annotations, names=("cat", "dog")):
    """images: (file name, width, height); annotations: (image number, category number, further keys)."""
    content = {
        "images": [{"id": 100 + i, "file_name": f, "width": w, "height": h} for i, (f, w, h) in enumerate(images)],
        "annotations": [{"id": n, "image_id": 100 + i, "category_id": 7 + c, **more} for n, (i, c, more) in enumerate(annotations)],
        "categories": [{"id": 7 + i, "name": name} for i, name in enumerate(names)],
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def pets(tmp_path):
    """Two cats, three dogs, 20 x 10."""
    root = tmp_path / "pets"
    for name in ("cat/a.png", "cat/b.png", "dog/c.png", "dog/d.png", "dog/e.png"):
        draw(root / name)
    return root


def box(found):
    return (found.x0, found.y0, found.x1, found.y1)


# -- pictures and classes ----------------------------------------------------------------------------------------------------


def test_classes_take_turns_so_that_the_first_n_are_balanced(pets):
    found = folder(pets)
    assert found.classes.names == ("cat", "dog")
    assert found.classes.synsets == ()
    assert [entry.id for entry in found.entries()] == ["cat/a", "dog/c", "cat/b", "dog/d", "dog/e"]
    assert [entry.labels for entry in found.entries()] == [(0,), (1,), (0,), (1,), (1,)]
    assert found.entries()[0].clusters == ("cat/a",)
    assert found.notes == ()
    sample = found.load("dog/c")
    assert sample.image.shape == (3, 10, 20)
    assert sample.labels == (1,)
    assert (sample.boxes, sample.masks, sample.ignore) == ((), {}, None)
    assert found.size("dog/c") == (10, 20)


def test_classes_are_those_of_torchvision(pets):
    from torchvision.datasets import ImageFolder

    draw(pets / "Zebra" / "x.jpg")
    draw(pets / "10" / "x.jpg")
    draw(pets / "9" / "x.jpg")
    theirs, ours = ImageFolder(str(pets)), folder(pets)
    assert list(ours.classes.names) == theirs.classes
    labels = {str(path.relative_to(pets)): entry.labels[0] for entry in ours.entries() for path in [ours.pictures[entry.id].path]}
    assert labels == {str(Path(path).relative_to(pets)): label for path, label in theirs.samples}


def test_files_of_one_stem_keep_their_suffixes(pets):
    for name in ("c.jpg", "c.jpg.png", "f.g.png"):
        draw(pets / "dog" / name)
    ids = [entry.id for entry in folder(pets).entries()]
    assert {"dog/c.jpg", "dog/c.png", "dog/c.jpg.png", "dog/f.g", "cat/a"} < set(ids)
    assert len(set(ids)) == len(ids) == 8


def test_a_file_may_list_the_classes(pets, tmp_path):
    listed = tmp_path / "classes.txt"
    listed.write_text("dog\nbird\ncat\n\n")
    found = folder(pets, classes=listed)
    assert found.classes.names == ("dog", "bird", "cat")
    assert {entry.id: entry.labels for entry in found.entries()}["cat/a"] == (2,)
    for text, message in [("dog\n", "class folder 'cat' is not in"), ("cat\ndog\ncat\n", "lists 'cat' twice")]:
        listed.write_text(text)
        with pytest.raises(XbenchError, match=message):
            folder(pets, classes=listed)
    with pytest.raises(XbenchError, match="cannot be read"):
        folder(pets, classes=tmp_path / "none.txt")


def test_folder_names_may_be_wordnet_ids(tmp_path):
    draw(tmp_path / "n01440764" / "a.png")
    draw(tmp_path / "n01491361" / "b.png")
    assert folder(tmp_path).classes.synsets == ("n01440764", "n01491361")
    draw(tmp_path / "cat" / "c.png")
    assert folder(tmp_path).classes.synsets == ()


def test_what_is_no_tree_of_class_folders(tmp_path):
    with pytest.raises(XbenchError, match=r"there is no folder .*nowhere; give the folder that holds one folder per class"):
        folder(tmp_path / "nowhere")
    with pytest.raises(XbenchError, match="holds no class folders"):
        folder(tmp_path)
    draw(tmp_path / "train" / "cat" / "a.png")
    with pytest.raises(XbenchError, match=r"no class folder of .* \(train, ...\) holds pictures; give the folder"):
        folder(tmp_path)


def test_the_revision_is_of_contents_not_of_places_or_times(pets, tmp_path):
    voc(pets / "xml" / "a.xml", ("cat", 1, 1, 5, 5))
    elsewhere = tmp_path / "other" / "name"
    shutil.copytree(pets, elsewhere)
    os.utime(elsewhere / "cat" / "a.png", (1, 1))
    seen = [folder(pets, boxes=pets / "xml").revision, folder(elsewhere, boxes=elsewhere / "xml").revision]
    assert seen[0] == seen[1]
    (elsewhere / "unread").mkdir()
    shutil.move(elsewhere / "xml", tmp_path / "xml")
    (elsewhere / "unread").rmdir()
    assert folder(elsewhere, boxes=tmp_path / "xml").revision == seen[0]
    seen.append(folder(elsewhere).revision)  # without the boxes
    voc(tmp_path / "xml" / "a.xml", ("cat", 1, 1, 5, 6))
    seen.append(folder(elsewhere, boxes=tmp_path / "xml").revision)
    draw(elsewhere / "cat" / "a.png", colour=(8, 9, 9))
    seen.append(folder(elsewhere).revision)
    (elsewhere / "cat" / "a.png").rename(elsewhere / "cat" / "aa.png")
    seen.append(folder(elsewhere).revision)
    (elsewhere / "bird").mkdir()
    seen.append(folder(elsewhere).revision)
    assert len(set(seen)) == len(seen) - 1


# -- boxes -------------------------------------------------------------------------------------------------------------------


def test_voc_coordinates_begin_at_one_and_include_their_corners(pets, tmp_path):
    voc(tmp_path / "xml" / "a.xml", ("cat", 1, 1, 20, 10), ("dog", 3, 4, 3, 4, "difficult"), ("cat", 1.5, 2, 4.5, 5))
    found = folder(pets, boxes=tmp_path / "xml")
    sample = found.load("cat/a")
    assert [box(b) for b in sample.boxes] == [(0, 0, 20, 10), (2, 3, 3, 4), (0.5, 1, 4.5, 5)]
    assert [(b.label, b.difficult) for b in sample.boxes] == [(0, False), (1, True), (0, False)]
    assert sample.labels == found.entries()[0].labels == (0, 1)
    assert found.entries()[0].clusters == ("cat/a", "cat/a")
    truth = geometry.full(10, 20).truth(sample, 1)
    assert truth.mask.nonzero().tolist() == [[3, 2]]


def test_annotations_lie_flat_or_in_class_folders(pets, tmp_path):
    draw(pets / "dog" / "a.png")
    voc(tmp_path / "xml" / "cat" / "a.xml", ("cat", 1, 1, 2, 2))
    voc(tmp_path / "xml" / "dog" / "a.xml", ("dog", 1, 1, 3, 3))
    voc(tmp_path / "xml" / "d.png.xml", ("dog", 1, 1, 4, 4))
    found = folder(pets, boxes=tmp_path / "xml")
    assert [box(found.load(id).boxes[0])[2] for id in ("cat/a", "dog/a", "dog/d")] == [2, 3, 4]
    assert found.notes == ("pictures without a file in boxes: 3 (first: cat/b.png)",)


def test_an_annotation_that_fits_two_pictures_is_nobodys(pets, tmp_path):
    draw(pets / "dog" / "a.png")
    voc(tmp_path / "xml" / "a.xml", ("cat", 1, 1, 2, 2))
    found = folder(pets, boxes=tmp_path / "xml")
    assert found.known == {}
    assert "files in boxes that fit several pictures, ignored: 1 (first: a.xml fits cat/a.png and dog/a.png)" in found.notes


def test_annotation_folders_inside_the_root_are_no_classes(pets):
    voc(pets / "boxes" / "a.xml", ("cat", 1, 1, 2, 2))
    assert folder(pets, boxes=pets / "boxes").classes.names == ("cat", "dog")


def test_a_folder_without_annotations(pets, tmp_path):
    for parameter, suffix in (("boxes", ".xml"), ("masks", ".png")):
        with pytest.raises(XbenchError, match=f"{parameter}: there is no folder"):
            folder(pets, **{parameter: tmp_path / "none"})
        (tmp_path / parameter).mkdir()
        with pytest.raises(XbenchError, match=f"{parameter}: .* holds no {suffix} files"):
            folder(pets, **{parameter: tmp_path / parameter})


# -- masks -------------------------------------------------------------------------------------------------------------------


def painted(path, values, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(values, np.uint8))
    if mode == "P":
        picture.putpalette(bytes(range(256)) * 3)
    picture.convert(mode).save(path)


def test_boxes_and_masks_together(pets, tmp_path):
    painted(tmp_path / "masks" / "a.png", np.eye(10, 20) * 255)
    voc(tmp_path / "xml" / "a.xml", ("cat", 1, 1, 10, 10), ("dog", 1, 1, 2, 2))
    found = folder(pets, masks=tmp_path / "masks", boxes=tmp_path / "xml")
    sample = found.load("cat/a")
    assert int(sample.masks[0].sum()) == 10
    assert len(sample.boxes) == 2
    assert len(found.files) == 7


# -- COCO --------------------------------------------------------------------------------------------------------------------


def loop(counts, height, width):
    """Run lengths by the definition, pixel by pixel."""
    mask, at, value = np.zeros((height, width), bool), 0, False
    for count in counts:
        for _ in range(count):
            mask[at % height, at // height] = value
            at += 1
        value = not value
    assert at == height * width
    return mask


def test_runs_as_cocos_own_comment_gives_them():
    """maskApi.h: for M=[0 0 1 1 1 0 1] the counts are [2 3 1 1], for M=[1 1 1 1 1 1 0] they are [0 6 1]."""
    assert Runs((2, 3, 1, 1)).paint(1, 7).astype(int).tolist() == [[0, 0, 1, 1, 1, 0, 1]]
    assert Runs((0, 6, 1)).paint(7, 1)[:, 0].astype(int).tolist() == [1, 1, 1, 1, 1, 1, 0]


def test_runs_against_a_plain_loop():
    source = np.random.default_rng(3)
    for height, width in ((7, 5), (1, 9), (16, 16)):
        cuts = np.sort(source.integers(0, height * width + 1, 9))
        counts = tuple(int(c) for c in np.diff([0, *cuts, height * width]))
        assert (Runs(counts).paint(height, width) == loop(counts, height, width)).all()


def rings():
    mask = np.zeros((40, 60), bool)
    mask[5:30, 10:50], mask[35:, 55:] = True, True
    mask[12:20, 20:33] = False
    return mask


def ellipse():
    y, x = np.mgrid[:40, :60]
    return ((x - 30) / 25) ** 2 + ((y - 20) / 15) ** 2 < 1


# Written by pycocotools 2.0.11 from the masks above.
RINGS = r"e<i0?000000000000000000^O" + 12 * "I37M" + r"I37?00000000000000000000000000000000V7\O^I0000000"
ELLIPSE = "P89n02M4M2O0O2N2O0O2O0O2O0O2O00000O2O00000000000000000000000000000001N1000001N101N101N101N2N101N3L3Ni5"


@pytest.mark.parametrize(("text", "mask"), [(RINGS, rings()), (ELLIPSE, ellipse())], ids=["rings", "ellipse"])
def test_compressed_runs_of_pycocotools(text, mask):
    assert (Runs(tuple(decompressed(text))).paint(40, 60) == mask).all()


def inside(x, y, points):
    """Even-odd rule by counting crossings to the right, edge by edge."""
    crossings = 0
    for (xa, ya), (xb, yb) in zip(points, [*points[1:], points[0]], strict=True):
        if (ya <= y) != (yb <= y) and xa + (y - ya) / (yb - ya) * (xb - xa) > x:
            crossings += 1
    return crossings % 2 == 1


@pytest.mark.parametrize(
    "points",
    [
        [(2, 1), (7, 1), (7, 4), (2, 4)],
        [(1.2, 0.3), (11.7, 4.1), (3.3, 8.8)],
        [(-5, -5), (30, 2), (6, 30)],
        [(1, 1), (10, 8), (10, 1), (1, 8)],  # crosses itself
        [(4.4, 2.2), (4.6, 2.4)],  # no area
    ],
)
def test_polygons_are_the_pixels_whose_centres_are_inside(points):
    found = Polygon(tuple(float(c) for point in points for c in point)).paint(9, 12)
    expected = [[inside(x + 0.5, y + 0.5, points) for x in range(12)] for y in range(9)]
    assert found.tolist() == expected


def test_polygons_have_their_area_where_filling_as_drawn_has_more():
    cv2 = pytest.importorskip("cv2")
    points = np.array([[10.3, 20.2], [90.7, 35.9], [60.1, 110.4], [22.8, 80.5]])
    area = cv2.contourArea(points.astype(np.float32))
    found = Polygon(tuple(points.reshape(-1))).paint(128, 128)
    filled = cv2.fillPoly(np.zeros((128, 128), np.uint8), [points.round().astype(np.int32)], 1) > 0
    assert found.sum() == pytest.approx(area, rel=0.005)
    assert filled.sum() > 1.02 * area
    assert (found & filled).sum() / (found | filled).sum() > 0.95


def test_coco_objects_crowds_and_boxes(pets, tmp_path):
    half = {"size": [10, 20], "counts": [100, 100]}  # the right half, down the columns
    file = coco(
        tmp_path / "instances.json",
        [("a.png", 20, 10), ("train/c.png", 20, 10), ("d.png", 20, 10)],
        [
            (0, 0, {"bbox": [2, 1, 5, 3], "segmentation": [[2, 1, 7, 1, 7, 4, 2, 4]]}),
            (0, 0, {"bbox": [0, 8, 2, 2], "segmentation": []}),
            (0, 1, {"bbox": [10, 0, 10, 10], "segmentation": half, "iscrowd": 1}),
            (1, 1, {"bbox": [10, 0, 10, 10], "segmentation": {"size": [10, 20], "counts": "T3T3"}}),
            (1, 0, {"bbox": [0.5, 0.25, 2, 2]}),
        ],
    )
    found = folder(pets, coco=file)
    a, c, d = (found.load(id) for id in ("cat/a", "dog/c", "dog/d"))
    assert a.masks == {}  # for one of the cats has no outline, and its box is none
    assert [box(b) for b in a.boxes] == [(2, 1, 7, 4), (0, 8, 2, 10)]
    assert a.labels == (0,)
    right = torch.zeros(10, 20, dtype=torch.bool)
    right[:, 10:] = True
    assert a.ignore.equal(right)
    assert c.masks.keys() == {1}
    assert c.masks[1].equal(right)
    assert c.labels == (1, 0)
    assert box(c.boxes[1]) == (0.5, 0.25, 2.5, 2.25)
    assert (d.masks, d.boxes, d.labels, d.ignore) == ({}, (), (1,), None)
    assert found.notes == (
        "pictures that coco does not list: 2 (first: cat/b.png)",
        "classes of a picture with an object that has a box but no outline, without a mask there: 2 (first: cat in cat/a)",
    )


def test_coco_finds_pictures_by_path_before_name(pets, tmp_path):
    draw(pets / "dog" / "a.png")
    boxes = [(i, 0, {"bbox": [0, 0, i + 1, 1]}) for i in range(4)]
    images = [(f, 20, 10) for f in ("cat/a.png", "x/dog/a.png", "c.png", "cat/d.png")]
    found = folder(pets, coco=coco(tmp_path / "i.json", images, boxes))
    assert {id: box(known.boxes[0])[2] for id, known in found.known.items()} == {"cat/a": 1, "dog/a": 2, "dog/c": 3}
    assert "pictures in coco that are not in the class folders: 1 (first: cat/d.png)" in found.notes
    images = [(f, 20, 10) for f in ("a.png", "1/c.png", "2/c.png", "d.png")]
    found = folder(pets, coco=coco(tmp_path / "i.json", images, boxes))
    assert list(found.known) == ["dog/d"]
    assert "pictures in coco that fit several files or share one, ignored: 3 (first: a.png)" in found.notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "'images' is missing, or no list"),
        (lambda c: c["annotations"].append({}), r"annotations\[1\]: 'image_id' is missing"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), r"annotations\[0\]: 'bbox' has not the four numbers"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), r"annotations\[0\]: 'bbox' is no list of numbers"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3]]), r"annotations\[0\]: a polygon .* odd number"),
        (lambda c: c["annotations"][0].update(segmentation={"size": [10, 20], "counts": [3]}), "do not fill 10 x 20 pixels"),
        (lambda c: c["annotations"][0].update(segmentation={"size": [10, 20], "counts": "\x00"}), "in compressed runs"),
        (lambda c: c["images"].append(c["images"][0]), "two images have the id 100"),
        (lambda c: c["categories"].append(5), r"categories\[1\] is no object|categories\[2\] is no object"),
    ],
)
def test_a_broken_coco_file_says_where(pets, tmp_path, change, message):
    file = coco(tmp_path / "i.json", [("a.png", 20, 10)], [(0, 0, {"bbox": [0, 0, 1, 1]})])
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(XbenchError, match=message):
        folder(pets, coco=file)


def test_a_coco_file_that_is_no_json(pets, tmp_path):
    (tmp_path / "i.json").write_text('{"images": [}')
    with pytest.raises(XbenchError, match=r"i\.json cannot be read \(Expecting value: line 1 column 13"):
        folder(pets, coco=tmp_path / "i.json")
    with pytest.raises(XbenchError, match="give either coco, or boxes and masks"):
        folder(pets, coco=tmp_path / "i.json", boxes=tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs pictures of COCO: set XBENCH_DATA")
def test_real_pictures_of_coco(tmp_path):
    """Class folders by each picture's largest object; areas against those that the file states."""
    (file,) = (REAL / "annotations").glob("instances_*.json")
    content = json.loads(file.read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    objects = {image["id"]: [a for a in content["annotations"] if a["image_id"] == image["id"]] for image in content["images"]}
    stems = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
    for image in content["images"]:
        largest = max(objects[image["id"]], key=lambda a: a["area"], default={"category_id": content["categories"][0]["id"]})
        where = tmp_path / names[largest["category_id"]] / image["file_name"]
        where.parent.mkdir(exist_ok=True)
        where.symlink_to((file.parents[1] / file.stem.removeprefix("instances_") / image["file_name"]).resolve())
    listed = tmp_path / "classes.txt"
    listed.write_text("\n".join(names.values()))
    found = folder(tmp_path, coco=file, classes=listed)
    assert found.notes == ()
    assert len(found.classes) == len(names) == 80
    by_stem = {entry.id.partition("/")[2]: entry for entry in found.entries()}
    boxes = areas = stated = crowds = 0
    for image, some in objects.items():
        sample = found.load(by_stem[stems[image]].id)
        plain = [a for a in some if not a["iscrowd"]]
        assert {found.classes.names[label] for label in sample.masks} == {names[a["category_id"]] for a in plain}
        assert set(sample.labels[1:]) <= set(sample.masks)
        boxes += len(sample.boxes)
        crowds += sample.ignore is not None
        for name, count in Counter(names[a["category_id"]] for a in plain).items():
            if count == 1:  # masks of several may overlap
                area = next(a["area"] for a in plain if names[a["category_id"]] == name)
                painted_area = int(sample.masks[found.classes.names.index(name)].sum())
                assert abs(painted_area - area) < 0.06 * area + 8
                areas, stated = areas + painted_area, stated + area
        for b in sample.boxes:
            assert 0 <= b.x0 < b.x1 <= sample.image.shape[2]
            assert 0 <= b.y0 < b.y1 <= sample.image.shape[1]
    assert areas == pytest.approx(stated, rel=0.002)
    assert boxes == sum(not a["iscrowd"] for a in content["annotations"])
    assert crowds == sum(any(a["iscrowd"] for a in some) for some in objects.values())
