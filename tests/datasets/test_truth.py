"""Truth of several classes: which pixels of a mask are whose, whose coordinates boxes have, and that kinds of truth never mix."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from xbench.datasets.readers.values import VOC, VOC_VOID

from xbench.api import Outcome
from xbench.errors import XbenchError
from xbench.plan.suite import Suite, Track
from xbench.plugins.registry import registry
from xbench.run import pipeline

HEIGHT, WIDTH = 12, 16
CAT, DOG, PERSON = 8, 12, 15  # of PASCAL VOC
NAMES = {CAT: "cat", DOG: "dog", PERSON: "person"}


def folder(root, **parameters):
    given = "".join(f', {key}="{value}"' for key, value in parameters.items())
    return registry.bind("dataset", f'folder("{root}"{given})')()


def save(path, values, mode="L", palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(values).astype(np.uint8))
    if palette is not None:
        picture.putpalette([channel for colour in palette for channel in colour])
    picture.convert(mode if palette is None else "P").save(path)
    return path


def voc_palette():
    """PASCAL VOC's colours, by the loop of its development kit."""
    colours = []
    for index in range(256):
        red = green = blue = 0
        rest = index
        for shift in range(7, -1, -1):
            red |= (rest & 1) << shift
            green |= (rest >> 1 & 1) << shift
            blue |= (rest >> 2 & 1) << shift
            rest >>= 3
        colours.append((red, green, blue))
    return colours


PALETTE = voc_palette()


def xml(path, *objects, head="", size=(WIDTH, HEIGHT)):
    """objects: (name, xmin, ymin, xmax, ymax), or with what is written of their difficulty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    inside = "".join(
        f"<object><name>{name}</name>{f'<difficult>{rest[0]}</difficult>' if rest else ''}<bndbox><xmin>{x0}</xmin>"
        f"<ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, x0, y0, x1, y1, *rest in objects
    )
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    path.write_text(f"<annotation>{head}{stated}{inside}</annotation>")


def box(found):
    return (found.x0, found.y0, found.x1, found.y1)


@pytest.fixture
def arrays():
    """Ten masks by stem: a cat or a dog, in some a person, everywhere background and void."""
    found = {}
    for number in range(10):
        values = np.zeros((HEIGHT, WIDTH), np.uint8)
        values[2:9, 3:8] = (CAT, DOG)[number % 2]
        if number % 3:
            values[5:11, 6 : 9 + number % 4] = PERSON
        values[1, 2 : 9 + number % 5], values[:, 15] = 255, 255
        found[f"p{number}"] = values
    return found


@pytest.fixture
def pictures(tmp_path, arrays):
    """Class folders ``cat`` and ``dog`` with a picture for each mask."""
    for stem, values in arrays.items():
        save(tmp_path / "pics" / NAMES[int(values[2, 3])] / f"{stem}.png", np.full((HEIGHT, WIDTH), 99))
    return tmp_path / "pics"


def grey_of(index):
    """What Pillow makes of VOC's colours in grey."""
    return int(np.array(Image.new("RGB", (1, 1), PALETTE[index]).convert("L"))[0, 0])


FORMS = [
    "palette",
    "palette of greys",
    "colours",
    "colours with alpha",
    "indices",
    "greys",
    "indices by a file",
    "colours by a file",
]


def masks_in(form, arrays, where):
    """Save the masks in a form -> the parameter ``values``."""
    greys = {index: grey_of(index) for index in (0, *NAMES, 255)}
    for stem, values in arrays.items():
        path = where / "masks" / f"{stem}.png"
        if form == "palette":
            save(path, values, palette=PALETTE)
        elif form == "palette of greys":
            save(path, values, palette=[(i, i, i) for i in range(256)])
        elif form.startswith("colours"):
            colours = np.array(PALETTE, np.uint8)[values]
            save(
                path,
                colours if "alpha" not in form else np.dstack([colours, (values > 0) * 255]),
                "RGBA" if "alpha" in form else "RGB",
            )
        elif form == "greys":
            save(path, np.vectorize(greys.get)(values))
        else:
            save(path, values)
    lines = {
        "greys": [f"{greys[i]},{name}" for i, name in NAMES.items()] + [f"{greys[255]}, void"],
        "indices by a file": [*(f"{i}\t{name}" for i, name in NAMES.items()), "255;void", "# end"],
        "colours by a file": [",".join(map(str, (*PALETTE[i], name))) for i, name in (NAMES | {255: "void"}).items()],
    }
    if form not in lines:
        return "voc"
    (where / "values.txt").write_text("\n".join(lines[form]))
    return where / "values.txt"


@pytest.mark.parametrize("form", FORMS)
def test_class_masks_are_read_pixel_by_pixel(pictures, arrays, tmp_path, form):
    values = masks_in(form, arrays, tmp_path)
    listed = tmp_path / "classes.txt"
    listed.write_text("person\ndog\nbird\ncat")
    found = folder(pictures, masks=tmp_path / "masks", values=values, classes=listed)
    assert found.notes == ()
    labels = {name: found.classes.names.index(name) for name in NAMES.values()}
    for entry in found.entries():
        sample, expected = found.load(entry.id), arrays[entry.id.partition("/")[2]]
        there = [index for index in NAMES if (expected == index).any()]
        assert sample.labels == entry.labels
        assert sample.labels[0] == labels[entry.id.partition("/")[0]]
        assert sorted(sample.labels) == sorted(labels[NAMES[index]] for index in there)
        assert {label for label, mask in sample.masks.items() if mask.any()} == set(sample.labels)
        for index in there:
            assert sample.masks[labels[NAMES[index]]].equal(torch.from_numpy(expected == index))
        assert sample.ignore.equal(torch.from_numpy(expected == 255))
        assert sample.outlined
    items = found.items("present")
    assert len(items) == sum(len(entry.labels) for entry in found.entries()) > len(found.entries())
    assert [item.target for item in found.items("label")] == [entry.labels[0] for entry in found.entries()]


@pytest.mark.parametrize("form", FORMS)
def test_class_masks_of_which_nobody_says_what_they_mean_are_refused(pictures, arrays, tmp_path, form):
    masks_in(form, arrays, tmp_path)
    with pytest.raises(XbenchError, match=r"there are several values \(.* of p0\.png.*\); say what they mean: values=FILE"):
        folder(pictures, masks=tmp_path / "masks")


def test_classes_in_masks_that_no_folder_has_are_counted(pictures, arrays, tmp_path):
    masks_in("palette", arrays, tmp_path)
    found = folder(pictures, masks=tmp_path / "masks", values="voc")
    assert found.classes.names == ("cat", "dog")
    people = [stem for stem, values in arrays.items() if (values == PERSON).any()]
    assert found.notes == (f"classes in masks that the dataset does not have, ignored: {len(people)} (first: person in p1.png)",)
    save(tmp_path / "masks" / "p0.png", np.where(arrays["p0"] == CAT, DOG, 0), palette=PALETTE)
    found = folder(pictures, masks=tmp_path / "masks", values="voc")
    assert "masks without a pixel of their picture's own class: 1 (first: p0.png)" in found.notes
    sample = found.load("cat/p0")
    assert (sample.labels, int(sample.masks[0].sum()), int(sample.masks[1].sum())) == ((0, 1), 0, int((arrays["p0"] == CAT).sum()))


def test_values_may_count_the_classes(pictures, arrays, tmp_path):
    for stem, values in arrays.items():
        save(tmp_path / "masks" / f"{stem}.png", np.select([values == CAT, values == DOG, values == 255], [1, 2, 255]))
    found = folder(pictures, masks=tmp_path / "masks", values="classes")
    assert found.notes == ()
    for entry in found.entries():
        expected = arrays[entry.id.partition("/")[2]] == (CAT, DOG)[entry.labels[0]]
        assert found.load(entry.id).masks[entry.labels[0]].equal(torch.from_numpy(expected))


# -- masks of one class ------------------------------------------------------------------------------------------------------

INSIDE = np.zeros((HEIGHT, WIDTH), bool)
INSIDE[3:9, 4:11] = True
BORDER = np.zeros((HEIGHT, WIDTH), bool)
BORDER[3, 4:11] = True
WHITE = np.where(INSIDE, 255, 0)
OPAQUE = np.full((HEIGHT, WIDTH), 255)


def coloured(red, green, blue, *alpha):
    return np.dstack([np.broadcast_to(channel, INSIDE.shape) for channel in (red, green, blue, *alpha)])


BINARY = {
    "grey": (WHITE, "L", None),
    "ones": (INSIDE * 1, "L", None),
    "one bit": (WHITE, "1", None),
    "red": (coloured(WHITE, 0, 0), "RGB", None),
    "cut out": (coloured(200, 10, 30, WHITE), "RGBA", None),
    "opaque": (coloured(WHITE, WHITE, WHITE, OPAQUE), "RGBA", None),
    "index 1": (INSIDE * 1, "P", [(0, 0, 0), (128, 0, 0)]),
    "index 255": (WHITE, "P", [(i, i, i) for i in range(256)]),
    "index 0 is white": (~INSIDE * 1, "P", [(255, 255, 255), (0, 0, 0)]),
    "index 0 is red": (~INSIDE * 1, "P", [(255, 0, 0), (0, 0, 0)]),
    "VOC's palette": (INSIDE * 7, "P", PALETTE),
}


@pytest.mark.parametrize("form", BINARY)
def test_a_binary_mask_is_the_pictures_own_class(pictures, arrays, tmp_path, form):
    values, mode, palette = BINARY[form]
    for stem in arrays:
        save(tmp_path / "masks" / f"{stem}.png", values, mode, palette)
    found = folder(pictures, masks=tmp_path / "masks")
    assert found.notes == ()
    for values in ("", "nonzero"):
        sample = folder(pictures, masks=tmp_path / "masks", **({"values": values} if values else {})).load("dog/p1")
        assert sample.labels == (1,)
        assert sample.masks.keys() == {1}
        assert sample.masks[1].equal(torch.from_numpy(INSIDE))
        assert sample.ignore is None or not sample.ignore.any()


@pytest.mark.parametrize(
    ("values", "mode", "palette"),
    [
        (np.where(BORDER, 255, INSIDE * 3), "P", PALETTE),
        (np.where(BORDER, 255, INSIDE * 3), "P", [(i, 0, i) for i in range(256)]),
        (np.where(BORDER[..., None], VOC_VOID, coloured(INSIDE * 192, 0, 0)), "RGB", None),
    ],
    ids=["VOC's palette", "another palette", "colours"],
)
def test_void_is_nobodys(pictures, tmp_path, values, mode, palette):
    save(tmp_path / "masks" / "p0.png", values, mode, palette)
    sample = folder(pictures, masks=tmp_path / "masks").load("cat/p0")
    assert sample.masks[0].equal(torch.from_numpy(INSIDE & ~BORDER))
    assert sample.ignore.equal(torch.from_numpy(BORDER))


def test_quantised_by_pillow_white_may_be_index_0(pictures, tmp_path):
    (tmp_path / "masks").mkdir()
    Image.fromarray(WHITE.astype(np.uint8)).quantize(2).save(tmp_path / "masks" / "p0.png")
    assert folder(pictures, masks=tmp_path / "masks").load("cat/p0").masks[0].equal(torch.from_numpy(INSIDE))


def test_soft_edges_are_refused_or_said_to_be_the_object(pictures, tmp_path):
    soft = np.where(BORDER, 100, WHITE)
    save(tmp_path / "masks" / "p0.png", soft)
    with pytest.raises(
        XbenchError, match=r"several values \(100 on 7 pixels of p0\.png and 255 on 35 pixels of p0\.png, for two\)"
    ):
        folder(pictures, masks=tmp_path / "masks")
    assert int(folder(pictures, masks=tmp_path / "masks", values="nonzero").load("cat/p0").masks[0].sum()) == 42
    with pytest.raises(XbenchError, match=r"p0\.png has the value 100 on 7 pixels, which means nothing; say what they mean"):
        folder(pictures, masks=tmp_path / "masks", values="voc")
    save(tmp_path / "masks" / "p0.png", np.dstack([soft, soft, soft // 2]), "RGB")
    with pytest.raises(XbenchError, match=r"p0\.png has the value 100,100,50 on 7 pixels, which means nothing"):
        folder(pictures, masks=tmp_path / "masks", values="voc")


@pytest.mark.parametrize(
    ("values", "mode", "palette", "message"),
    [
        (~INSIDE * 1, "P", [(255, 255, 255), (255, 0, 0)], "several values"),
        (coloured(0, 0, 0, WHITE), "RGBA", None, "p0.png is black and transparent, and which is the object is not known"),
    ],
    ids=["a palette without black", "black on transparent"],
)
def test_what_may_be_inverted_is_refused(pictures, tmp_path, values, mode, palette, message):
    save(tmp_path / "masks" / "p0.png", values, mode, palette)
    with pytest.raises(XbenchError, match=message):
        folder(pictures, masks=tmp_path / "masks")


def test_a_file_may_say_which_value_is_the_folders_own_class(pictures, tmp_path):
    """As trimaps have it: 1 the pet, 2 the rest, 3 nobody knows."""
    save(tmp_path / "masks" / "p1.png", np.where(BORDER, 3, np.where(INSIDE, 1, 2)))
    (tmp_path / "values.csv").write_text("1,label\n2,background\n3,void\n")
    sample = folder(pictures, masks=tmp_path / "masks", values=tmp_path / "values.csv").load("dog/p1")
    assert sample.masks[1].equal(torch.from_numpy(INSIDE & ~BORDER))
    assert sample.ignore.equal(torch.from_numpy(BORDER))


def test_masks_without_a_pixel_are_counted_with_their_own_reason(pictures, tmp_path):
    save(tmp_path / "masks" / "p0.png", INSIDE * 0)
    save(tmp_path / "masks" / "p1.png", INSIDE * 1)
    found = folder(pictures, masks=tmp_path / "masks")
    assert "masks without a pixel of an object: 1 (first: p0.png)" in found.notes
    assert not found.load("cat/p0").masks[0].any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,cat\ncat", "line 2: 'cat'; write `number,class` or `red,green,blue,class`"),
        ("1,2", "line 1: '1,2'; write"),
        ("1,cat\n\n1,dog", "line 3: '1,dog' names a value that a line above names"),
        ("# nothing\n", "names no value"),
    ],
)
def test_a_file_of_values_that_is_none(pictures, tmp_path, text, message):
    save(tmp_path / "masks" / "p0.png", WHITE)
    (tmp_path / "values.txt").write_text(text)
    with pytest.raises(XbenchError, match=message):
        folder(pictures, masks=tmp_path / "masks", values=tmp_path / "values.txt")
    with pytest.raises(XbenchError, match=r"none\.txt cannot be read .*; give a text file, or voc, classes or nonzero"):
        folder(pictures, masks=tmp_path / "masks", values=tmp_path / "none.txt")
    with pytest.raises(XbenchError, match="values says how masks are read, and there are none; give masks too"):
        folder(pictures, values="voc")


def test_the_revision_knows_how_files_were_read(pictures, tmp_path):
    save(tmp_path / "masks" / "p0.png", WHITE)
    xml(tmp_path / "xml" / "p0.xml", ("cat", 1, 1, 5, 5))
    (tmp_path / "values.txt").write_text("255,label")
    given = [{"masks": tmp_path / "masks"} | more for more in ({}, {"values": "nonzero"}, {"values": tmp_path / "values.txt"})]
    given += [{"boxes": tmp_path / "xml", "corners": corners} for corners in ("voc", "ilsvrc")]
    assert len({folder(pictures, **some).revision for some in given}) == 5


# -- whose coordinates -------------------------------------------------------------------------------------------------------

ILSVRC = "<folder>val</folder><filename>ILSVRC2012_val_00000537</filename>"
CALLED_ILSVRC = "<source><database>ILSVRC_2012</database></source>"
CALLED_VOC = "<source><database>The VOC2007 Database</database></source>"


@pytest.mark.parametrize(
    ("head", "corners", "expected", "note"),
    [
        ("<folder>VOC2012</folder>", (1, 1, 16, 12), (0, 0, 16, 12), ""),
        (CALLED_VOC, (3, 4, 3, 4), (2, 3, 3, 4), ""),
        (ILSVRC, (0, 5, 16, 12), (0, 5, 16, 12), ""),
        (ILSVRC, (3, 5, 16, 12), (3, 5, 16, 12), ""),
        (CALLED_ILSVRC, (3, 4, 5, 6), (3, 4, 5, 6), ""),
        ("", (0, 5, 16, 12), (0, 5, 16, 12), "boxes taken for ILSVRC's (coordinates begin at 0, the far corner is outside)"),
        ("<filename>a.jpg</filename>", (3, 0, 5, 6), (3, 0, 5, 6), "boxes taken for ILSVRC's"),
        ("", (1, 5, 16, 12), (0, 4, 16, 12), "boxes taken for PASCAL VOC's (coordinates begin at 1, corners are inside)"),
    ],
)
def test_files_say_whose_coordinates_they_have(pictures, tmp_path, head, corners, expected, note):
    xml(tmp_path / "xml" / "p0.xml", ("cat", *corners), head=head)
    xml(tmp_path / "xml" / "p1.xml")
    found = folder(pictures, boxes=tmp_path / "xml")
    assert [box(b) for b in found.load("cat/p0").boxes] == [expected]
    notes = [line for line in found.notes if "taken for" in line]
    assert len(notes) == bool(note)
    assert all(line.startswith(note) and line.endswith("1 (first: p0.xml)") for line in notes)


def test_objects_named_by_wordnet_are_ilsvrcs(tmp_path):
    save(tmp_path / "pics" / "n01440764" / "a.png", WHITE)
    xml(tmp_path / "xml" / "a.xml", ("n01440764", 3, 4, 5, 6))
    found = folder(tmp_path / "pics", boxes=tmp_path / "xml")
    assert box(found.load("n01440764/a").boxes[0]) == (3, 4, 5, 6)
    assert found.notes == ()


@pytest.mark.parametrize("other", [(ILSVRC, (3, 4, 5, 6)), (CALLED_VOC, (0, 4, 5, 6)), ("", (3, 0, 5, 6))])
def test_two_conventions_in_one_folder_are_asked_about(pictures, tmp_path, other):
    xml(tmp_path / "xml" / "p0.xml", ("cat", 3, 4, 5, 6), head=CALLED_VOC)
    xml(tmp_path / "xml" / "p1.xml", ("dog", *other[1]), head=other[0])
    with pytest.raises(XbenchError, match=r"p0\.xml calls itself .* p1\.xml is ILSVRC's, .* say which they are: corners=voc or"):
        folder(pictures, boxes=tmp_path / "xml")
    for corners, x0 in (("voc", 2), ("ilsvrc", 3)):
        assert folder(pictures, boxes=tmp_path / "xml", corners=corners).load("cat/p0").boxes[0].x0 == x0


def test_difficult_is_written_in_words_too(pictures, tmp_path):
    words = ("1", "true", "Yes", "0", "no", "FALSE", "Unspecified", "perhaps")
    xml(tmp_path / "xml" / "p0.xml", *(("cat", 1, 1, 5, 5, word) for word in words), head=CALLED_VOC)
    found = folder(pictures, boxes=tmp_path / "xml")
    assert [b.difficult for b in found.load("cat/p0").boxes] == [True] * 3 + [False] * 5
    assert "objects whose difficulty is neither yes nor no, taken for no: 1 (first: 'perhaps' in p0.xml)" in found.notes


def test_boxes_that_are_no_pixels(pictures, tmp_path):
    boxes = [(0.1, 0.2, 0.9, 0.95), (3.6, 2, 4.4, 6), (2, 2, 4, 4)]
    xml(tmp_path / "xml" / "p0.xml", *(("cat", *corners) for corners in boxes))
    found = folder(pictures, boxes=tmp_path / "xml", corners="ilsvrc")
    assert [box(b) for b in found.load("cat/p0").boxes] == [(2, 2, 4, 4)]
    assert "boxes on 0 to 1 instead of pixels, dropped: 1 (first: p0.xml)" in found.notes
    assert "boxes that cover no pixel, dropped: 1 (first: p0.xml)" in found.notes


# -- one kind of truth -------------------------------------------------------------------------------------------------------


def instances(path, annotations, names=("cat", "dog")):
    """annotations: (file name, name, further keys)."""
    files = list(dict.fromkeys(file for file, _, _ in annotations))
    content = {
        "images": [{"id": i, "file_name": file, "width": WIDTH, "height": HEIGHT} for i, file in enumerate(files)],
        "annotations": [{"image_id": files.index(f), "category_id": names.index(name), **more} for f, name, more in annotations],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
    }
    path.write_text(json.dumps(content))
    return path


RLE = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * 8, HEIGHT * 8]}  # the right half
POLYGON = [[2, 1, 7, 1, 7, 4, 2, 4]]


def test_outlines_of_coco_never_mix_with_boxes(pictures, tmp_path):
    bare = {"bbox": [2, 1, 5, 3]}
    mixed = [("p0.png", "cat", bare | {"segmentation": POLYGON}), ("p0.png", "dog", bare), ("p1.png", "dog", bare)]
    mixed += [("p3.png", "dog", {"bbox": [8, 0, 8, 12], "segmentation": RLE})]
    found = folder(pictures, coco=instances(tmp_path / "i.json", mixed))
    kinds = {id: (set(found.load(id).masks), len(found.load(id).boxes)) for id in ("cat/p0", "dog/p1", "dog/p3")}
    assert kinds == {"cat/p0": ({0}, 2), "dog/p1": (set(), 1), "dog/p3": ({1}, 1)}
    assert found.load("cat/p0").labels == (0, 1)
    right = torch.arange(WIDTH).expand(HEIGHT, WIDTH) >= 8
    assert found.load("dog/p3").masks[1].equal(right)
    note = "classes of a picture with an object that has a box but no outline, without a mask there: 2 (first: dog in cat/p0)"
    assert note in found.notes
    found = folder(pictures, coco=instances(tmp_path / "i.json", [(f, name, bare) for f, name, _ in mixed]))
    assert not any(found.load(id).masks or found.load(id).outlined for id in kinds)


def test_an_outline_without_area_leaves_its_box(pictures, tmp_path):
    line = {"bbox": [2, 1, 5, 3], "segmentation": [[2, 1, 7, 1]]}
    nothing = {"bbox": [2, 1, 5, 3], "segmentation": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}}
    outside = {"bbox": [2, 1, 5, 3], "segmentation": [[50, 50, 90, 50, 90, 90]]}
    some = [("p0.png", "cat", line), ("p1.png", "dog", nothing), ("p3.png", "dog", outside), ("p5.png", "dog", {})]
    found = folder(pictures, coco=instances(tmp_path / "i.json", some))
    assert [box(found.load(id).boxes[0]) for id in ("cat/p0", "dog/p1", "dog/p3")] == [(2, 1, 7, 4)] * 3
    assert "outlines that cover no pixel, dropped: 3 (first: annotations[0] of cat/p0.png)" in found.notes
    assert "objects without a box or an outline, ignored: 1 (first: annotations[3] of dog/p5.png)" in found.notes


def run(tmp_path, dataset, **track):
    listed = tmp_path / "model.txt"
    listed.write_text("ant\nbee\ncat\ndog\nelk")
    chosen = Track(dataset=dataset, view="squash", **{"target": "present", **track})
    suite = Suite(name="s", version="1", batch_size=2, models=["tiny_net"], methods=["tiny_cam", "tiny_truth"], tracks=[chosen])
    return pipeline.run(suite, out=tmp_path / "run")


def test_a_column_has_one_kind_of_truth(pictures, tmp_path):
    """Masks beside boxes: what has only a box is not applicable to metrics of masks, and the other way round."""
    save(tmp_path / "masks" / "p0.png", WHITE)
    xml(tmp_path / "xml" / "p0.xml", ("cat", 1, 1, 5, 5), ("dog", 6, 6, 16, 12), head=CALLED_VOC)
    xml(tmp_path / "xml" / "p1.xml", ("dog", 1, 1, 5, 5), head=CALLED_VOC)
    save(tmp_path / "masks" / "p2.png", WHITE)
    data = f'folder("{pictures}", boxes="{tmp_path / "xml"}", masks="{tmp_path / "masks"}")'
    rows = run(tmp_path, data, metrics=["tiny_mass", "box_iou"]).rows
    rows = rows[rows["item"].str.contains("p[012]#")].set_index(["method", "metric", "item"])
    oracle, rows = rows.loc["tiny_truth"], rows.loc["tiny_cam"]
    only_box = "the explained class has boxes in this picture, but no mask"
    assert rows.loc["tiny_mass", "reason"].replace({np.nan: None}).to_dict() == {
        "cat/p0#2": None,
        "cat/p0#3": only_box,
        "dog/p1#3": only_box,
        "cat/p2#2": None,
    }
    assert rows.loc["box_iou", "status"].to_dict() == {
        "cat/p0#2": "ok",
        "cat/p0#3": "ok",
        "dog/p1#3": "ok",
        "cat/p2#2": "not_applicable",
    }
    assert oracle.loc["tiny_mass", "value"].dropna().to_dict() == {"cat/p0#2": 1, "cat/p2#2": 1}


# -- layouts -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def devkit(tmp_path, arrays):
    """PASCAL VOC's layout; the last picture has no mask, another no truth at all."""
    home = tmp_path / "VOC2012"
    for stem, values in arrays.items():
        save(home / "JPEGImages" / f"{stem}.jpg", np.full((HEIGHT, WIDTH), 99))
        objects = [(NAMES[int(i)], *corners(values == i)) for i in np.unique(values) if i in NAMES]
        xml(home / "Annotations" / f"{stem}.xml", *objects, head="<folder>VOC2012</folder>")
        if stem != "p9":
            save(home / "SegmentationClass" / f"{stem}.png", values, palette=PALETTE)
    save(home / "JPEGImages" / "bare.jpg", np.full((HEIGHT, WIDTH), 99))
    (home / "ImageSets" / "Main").mkdir(parents=True)
    return home


def corners(mask):
    """As VOC writes them."""
    rows, columns = np.nonzero(mask)
    return columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1


def test_vocs_own_layout(devkit, arrays):
    found = folder(devkit)
    assert found.classes.names == VOC
    assert [entry.id for entry in found.entries()] == [f"p{i}" for i in range(9)]
    assert "pictures without truth in PASCAL VOC's layout, left out: 2 (first: bare.jpg)" in found.notes
    for entry in found.entries():
        sample, values = found.load(entry.id), arrays[entry.id]
        boxes = {b.label + 1: (b.x1 - b.x0) * (b.y1 - b.y0) for b in sample.boxes}
        assert sample.labels[0] + 1 == max(boxes, key=boxes.get)
        assert {label + 1 for label in sample.labels} == {int(i) for i in np.unique(values) if i in NAMES}
        for label in sample.labels:
            assert sample.masks[label].equal(torch.from_numpy(values == label + 1))
            (drawn,) = (b for b in sample.boxes if b.label == label)
            x0, y0, x1, y1 = corners(values == label + 1)
            assert box(drawn) == (x0 - 1, y0 - 1, x1, y1)
        assert sample.ignore.equal(torch.from_numpy(values == 255))


def test_vocs_layout_with_boxes_alone(devkit):
    found = folder(devkit, boxes=devkit / "Annotations")
    assert len(found.entries()) == 10
    assert not found.load("p0").outlined
    assert found.load("p0").masks == {}
    xml(devkit / "Annotations" / "p0.xml", ("person", 1, 1, 16, 12, 1), ("dog", 1, 1, 3, 3), ("cat", 1, 1, 5, 5), head=CALLED_VOC)
    assert [found.classes.names[i] for i in folder(devkit, boxes=devkit / "Annotations").load("p0").labels] == [
        "cat",
        "dog",
        "person",
    ]


def test_a_flat_folder(tmp_path):
    for name in ("b.png", "a.jpg"):
        save(tmp_path / "photos" / name, WHITE)
    (tmp_path / "photos" / "notes").mkdir()
    found = folder(tmp_path / "photos")
    assert [(entry.id, entry.labels, entry.clusters) for entry in found.entries()] == [("a", (), ("a",)), ("b", (), ("b",))]
    assert len(found.classes) == 0
    assert found.load("a").labels == ()
    assert found.notes == ("folders beside the pictures, not read: 1 (first: notes)",)
    assert [item.target for item in found.items("prediction")] == [None, None]
    assert found.items("label") == found.items("present") == []
    save(tmp_path / "photos" / "cat" / "c.png", WHITE)
    found = folder(tmp_path / "photos")
    assert [entry.id for entry in found.entries()] == ["cat/c"]
    assert "pictures beside the class folders, not read: 2 (first: a.jpg)" in found.notes


def test_a_flat_folder_has_the_classes_of_its_truth(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        save(tmp_path / "photos" / name, WHITE)
    xml(tmp_path / "xml" / "a.xml", ("zebra", 1, 1, 5, 5), ("lion", 1, 1, 9, 9), head=CALLED_VOC)
    found = folder(tmp_path / "photos", boxes=tmp_path / "xml")
    assert found.classes.names == ("lion", "zebra")
    assert [entry.labels for entry in found.entries()] == [(0, 1), (), ()]
    file = instances(tmp_path / "i.json", [("x/a.png", "dog", {"bbox": [0, 0, 4, 4]}), ("b.png", "cat", {"bbox": [0, 0, 4, 4]})])
    found = folder(tmp_path / "photos", coco=file)
    assert found.classes.names == ("cat", "dog")
    assert [entry.labels for entry in found.entries()] == [(1,), (0,), ()]
    save(tmp_path / "masks" / "a.png", INSIDE * 3 + BORDER)
    (tmp_path / "values.txt").write_text("4,yak\n3,ox")
    found = folder(tmp_path / "photos", masks=tmp_path / "masks", values=tmp_path / "values.txt")
    assert found.classes.names == ("yak", "ox")
    assert found.entries()[0].labels == (1, 0)
    assert found.load("a").masks[0].equal(torch.from_numpy(BORDER))
    save(tmp_path / "masks" / "a.png", WHITE)
    with pytest.raises(
        XbenchError, match=r"the picture of a\.png has no class folder, so its mask must name one; say what they mean"
    ):
        folder(tmp_path / "photos", masks=tmp_path / "masks")


def test_a_flat_folder_and_an_unknown_class_run_where_predictions_are_explained(tiny_plugin, pictures, tmp_path):
    save(tmp_path / "photos" / "a.png", WHITE)
    save(pictures / "yak" / "y.png", WHITE)
    metrics = ["tiny_deletion", "tiny_mass"]
    for root, count in ((tmp_path / "photos", 1), (pictures, 11)):
        done = run(tmp_path, f'folder("{root}")', metrics=metrics, target="prediction")
        deletion = done.rows[(done.rows["metric"] == "tiny_deletion") & (done.rows["method"] == "tiny_cam")]
        assert deletion["status"].tolist() == ["ok"] * count
        assert deletion["correct"].isna().sum() == 1
    rows = run(tmp_path, f'folder("{pictures}")', metrics=metrics, target="label")
    assert "yak/y" not in set(rows.rows["item"])
    note = "pictures with a label that tiny_net does not have, left out: 1 (first: yak/y)"
    assert any(note in line for line in Outcome.of(rows).leaderboard().notes)
    with pytest.raises(XbenchError, match='has no labels to explain; explain what the model predicts: target = "prediction"'):
        run(tmp_path, f'folder("{tmp_path / "photos"}")', metrics=metrics, target="label")
