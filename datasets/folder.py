"""Anybody's pictures, in one folder per class, in PASCAL VOC's layout or in no order at all, with the truth that there is."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

from xbench.plugin import Box, ClassList, Dataset, XbenchError, dataset

from .readers import voc
from .readers.coco import Objects, read_objects
from .readers.coco_json import Instances
from .readers.labelled import Known, Labelled
from .readers.masks import Masks, read_masks
from .readers.notes import Notes
from .readers.tree import Picture, Tree, picture, scan
from .readers.values import VOC, VOC_TABLE, Nonzero, Reading, Table, numbered, read_table

Size = tuple[bool, float]  # of an object: whether it is not difficult, area
WORDS = ("", "voc", "classes", "nonzero")  # for values
DEVKIT = {"boxes": "Annotations", "masks": "SegmentationClass"}  # beside JPEGImages


@dataset("folder", provides={"mask", "boxes"}, licence="that of your pictures")
def folder(
    root: str,
    boxes: str = "",
    coco: str = "",
    masks: str = "",
    classes: str = "",
    values: str = "",
    corners: Literal["", "voc", "ilsvrc"] = "",
) -> Dataset:
    """Your own pictures in class folders, with boxes and masks where there are some.

    root: holds one folder of pictures per class. Classes are the sorted names of the folders, as for torchvision's ImageFolder, or
    the lines of the text file ``classes``, so that labels are a model's indices. Folder names like ``n01440764`` are WordNet ids.
    A root that holds pictures itself is taken too: their labels are what annotations say, if there are some. So is PASCAL VOC's
    layout (JPEGImages beside Annotations or SegmentationClass): its boxes and masks are found.
    boxes: a folder of XML files, named like the pictures (``a.xml`` or ``dog/a.xml`` for ``dog/a.jpg``). corners: whose coordinates
    they have: ``voc`` (from 1, the far corner inside) or ``ilsvrc`` (from 0, outside); by default what the files say.
    masks: a folder of PNG masks named likewise. values: what their values mean, ``voc``, ``classes`` (1 is the first), a text file
    of lines like ``1,cat``, or ``nonzero``; by default masks have a single value beside 0, the picture's own class.
    coco: a JSON file of instances, instead of boxes and masks; crowds are ignored regions.

    Pictures are upright, as their EXIF says; annotations are of the upright picture, and dropped where their size says otherwise.
    Samples come class by class in turn, so that the first n are balanced. What is amiss is counted in the dataset's notes.

    Raises:
        XbenchError: a folder or file is missing, is not of the form above, or contradicts another parameter.
    """
    if coco and (boxes or masks):
        raise XbenchError("dataset folder: coco holds boxes and masks already; give either coco, or boxes and masks")
    given = {"boxes": boxes, "coco": coco, "masks": masks, "classes": classes}
    paths = {key: Path(path).expanduser() for key, path in given.items() if path}
    home, notes = Path(root).expanduser(), Notes()
    devkit = (home / "JPEGImages").is_dir() and any((home / inside).is_dir() for inside in DEVKIT.values())
    if devkit:
        if not boxes and not coco and not masks:
            paths |= {key: home / inside for key, inside in DEVKIT.items() if (home / inside).is_dir()}
        home, values = home / "JPEGImages", values or ("voc" if "masks" in paths else "")
    for parameter, text, of in (("values", values, "masks"), ("corners", corners, "boxes")):
        if text and of not in paths:
            raise XbenchError(f"dataset folder: {parameter} says how {of} are read, and there are none; give {of} too")

    inside = scan(home, "folder", notes, but={path.resolve() for path in paths.values()}, flat=True)
    names = _names(inside, paths.get("classes"))
    tree = Tree(_in_turn(inside, names), _class_list(names), notes, upright=True)
    written = voc.read(tree, paths["boxes"]) if "boxes" in paths else {}
    content = Instances.parse(paths["coco"]) if coco else None
    reading = _reading(values, names)
    if not names:
        said = sorted({name for _, annotation in written.values() for name, *_ in annotation.objects})
        said = [*(reading.names if isinstance(reading, Table) else ()), *(content.names if content else ()), *said]
        names = VOC if devkit and set(said) <= set(VOC) else tuple(dict.fromkeys(said))
        tree = dataclasses.replace(tree, classes=_class_list(names))

    whose: voc.Corners = corners or voc.convention(written, notes)
    drawn = voc.boxes(tree, written, whose)
    painted = read_masks(tree, paths["masks"], reading) if "masks" in paths else None
    objects = read_objects(tree, content) if content else {}
    if devkit and not coco:
        _keep(tree, painted.files if painted else drawn)
    known = {picture.id: found for picture in tree.pictures if (found := _known(picture, drawn, painted, objects))}
    files = {"boxes": {id: written[id][0] for id in known if id in drawn}}
    files["masks"] = {id: found.mask for id, found in known.items() if found.mask is not None}
    extra = {key: path for key, path in paths.items() if key in ("coco", "classes")}
    if isinstance(reading, Table) and values not in WORDS:
        extra["values"] = Path(values).expanduser()
    outlined = painted is not None or any(found.regions for found in known.values())
    how = (whose if drawn else "", values if values in WORDS else "")
    return Labelled(tree, known, files, extra, painted.reading if painted else None, outlined, how)


def _names(inside: Collection[str], file: Path | None) -> tuple[str, ...]:
    """The classes that folders or a file name; none where there is neither."""
    folders = [name for name in inside if name]
    if file is None:
        return tuple(folders)
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except (OSError, ValueError) as error:
        raise XbenchError(
            f"dataset folder: classes: {file} cannot be read ({error}); give a text file of one class per line"
        ) from error
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise XbenchError(f"dataset folder: {file} lists {twice[0]!r} twice; classes need names of their own")
    unknown = sorted(set(folders) - set(names))
    if unknown:
        raise XbenchError(f"dataset folder: the class folder {unknown[0]!r} is not in {file}; add or rename it")
    return tuple(names)


def _class_list(names: Sequence[str]) -> ClassList:
    wordnet = all(re.fullmatch(r"n\d{8}", name) for name in names)
    return ClassList(tuple(names), tuple(names) if wordnet else ())


def _reading(values: str, names: Sequence[str]) -> Reading | None:
    """What the values of masks mean, where somebody says."""
    if values == "classes" and not names:
        raise XbenchError("dataset folder: values=classes counts classes, and nothing lists them; give classes=FILE too")
    match values:
        case "":
            return None
        case "voc":
            return VOC_TABLE
        case "classes":
            return numbered(names)
        case "nonzero":
            return Nonzero()
        case _:
            return read_table(Path(values).expanduser())


def _keep(tree: Tree, known: Collection[str]) -> None:
    """Leave out pictures without truth, as PASCAL VOC has many: it has masks for a part of them."""
    for found in tree.pictures:
        if found.id not in known:
            tree.notes.add("pictures without truth in PASCAL VOC's layout, left out", found.place)
    tree.pictures = [found for found in tree.pictures if found.id in known]


def _known(
    picture: Picture, drawn: Mapping[str, tuple[Box, ...]], painted: Masks | None, objects: Mapping[str, Objects]
) -> Known | None:
    """What annotations say of a picture; None where they say nothing."""
    mask = painted.files.get(picture.id) if painted else None
    if picture.id in objects:
        some = objects[picture.id]
        others = _others(picture, {label: (True, size) for label, size in some.sizes.items()})
        return Known(tuple(some.boxes), some.regions, some.crowds, others=others)
    if picture.id not in drawn and mask is None:
        return None
    sizes: dict[int, Size] = {}
    for box in drawn.get(picture.id, ()):
        size = not box.difficult, (box.x1 - box.x0) * (box.y1 - box.y0)
        sizes[box.label] = max(size, sizes.get(box.label, size))
    areas = painted.areas.get(picture.id, {}) if painted else {}
    sizes = {label: (True, float(area)) for label, area in areas.items()} | sizes
    return Known(drawn.get(picture.id, ()), mask=mask, others=_others(picture, sizes))


def _others(picture: Picture, sizes: Mapping[int, Size]) -> tuple[int, ...]:
    """The labels of a picture's objects; the largest that is not difficult first where no folder says which is the main one."""
    labels = sorted(sizes)
    if picture.label is None and labels:
        main = max(labels, key=lambda label: sizes[label])
        labels.sort(key=lambda label: label != main)
    return tuple(labels)


def _in_turn(inside: Mapping[str, list[Path]], classes: Sequence[str]) -> list[Picture]:
    """The first picture of each class, the second of each, and so on. A file's id is ``<class>/<stem>``; files that share a stem
    keep their suffixes."""
    groups = []
    for name, paths in inside.items():
        label, before = (classes.index(name), f"{name}/") if name else (None, "")
        stems, names = Counter(path.stem for path in paths), {path.name for path in paths}
        alone = {path: stems[path.stem] == 1 and path.stem not in names for path in paths}
        groups.append([picture(path, label, before + (path.stem if alone[path] else path.name)) for path in paths])
    return [found for row in itertools.zip_longest(*groups) for found in row if found is not None]
