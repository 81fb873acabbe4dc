"""Anybody's pictures, in one folder per class, with the truth that there is."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from xbench import ClassList, Dataset, XbenchError, dataset

from . import _coco, _masks, _voc
from ._labelled import Known, Labelled
from ._notes import Notes
from ._tree import Picture, Tree, picture, scan


@dataset("folder", provides={"mask", "boxes"}, licence="that of your pictures")
def folder(root: str, boxes: str = "", coco: str = "", masks: str = "", classes: str = "") -> Dataset:
    """Your own pictures in class folders, with boxes and masks where there are some.

    root: holds one folder of pictures per class. Classes are the sorted names of the folders, as for torchvision's ImageFolder, or
    the lines of the text file ``classes``, so that labels are a model's indices. Folder names like ``n01440764`` are WordNet ids.
    boxes: a folder of PASCAL VOC's XML files, named like the pictures (``a.xml`` or ``dog/a.xml`` for ``dog/a.jpg``); coordinates
    begin at 1 and corners are inside. masks: a folder of PNG masks named likewise; what is not zero is the object, but 255 in
    palette PNGs is void. coco: a JSON file of instances, instead of boxes and masks; crowds are ignored regions.

    Pictures are upright, as their EXIF says; annotations are of the upright picture, and dropped where their size says otherwise.
    Samples come class by class in turn, so that the first n are balanced. What is amiss is counted in the dataset's notes.

    Raises:
        XbenchError: a folder or file is missing, is not of the form above, or contradicts another parameter.
    """
    if coco and (boxes or masks):
        raise XbenchError("dataset folder: coco holds boxes and masks already; give either coco, or boxes and masks")
    paths = {
        key: Path(p).expanduser() for key, p in (("boxes", boxes), ("coco", coco), ("masks", masks), ("classes", classes)) if p
    }
    notes = Notes()
    inside = scan(Path(root).expanduser(), "folder", notes, but={path.resolve() for path in paths.values()})
    listed = _classes(inside, paths.get("classes"))
    tree = Tree(_in_turn(inside, listed), listed, notes, upright=True)

    known = {}
    drawn = _voc.found(tree, paths["boxes"], first=1) if boxes else {}
    painted = _masks.found(tree, paths["masks"]) if masks else {}
    objects = _coco.found(tree, paths["coco"]) if coco else {}
    for id in drawn.keys() | painted.keys():
        found = drawn[id][1] if id in drawn else ()
        known[id] = Known(found, mask=painted.get(id), others=_sorted(box.label for box in found))
    for id, some in objects.items():
        known[id] = Known(tuple(some.boxes), some.regions, some.crowds, others=_sorted(some.regions))
    files = {"boxes": {id: path for id, (path, _) in drawn.items()}, "masks": painted}
    return Labelled(tree, known, files, {key: paths[key] for key in ("coco", "classes") if key in paths})


def _sorted(labels: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(labels)))


def _classes(inside: Collection[str], file: Path | None) -> ClassList:
    names = list(inside)
    if file is not None:
        try:
            names = [line.strip() for line in file.read_text(encoding="utf-8-sig").rstrip().splitlines()]
        except (OSError, ValueError) as error:
            raise XbenchError(
                f"dataset folder: classes: {file} cannot be read ({error}); give a text file of one class per line"
            ) from error
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise XbenchError(f"dataset folder: {file} lists {twice[0]!r} twice; classes need names of their own")
        unknown = sorted(set(inside) - set(names))
        if unknown:
            raise XbenchError(f"dataset folder: the class folder {unknown[0]!r} is not in {file}; add or rename it")
    wordnet = all(re.fullmatch(r"n\d{8}", name) for name in names)
    return ClassList(tuple(names), tuple(names) if wordnet else ())


def _in_turn(inside: Mapping[str, list[Path]], classes: ClassList) -> list[Picture]:
    """The first picture of each class, the second of each, and so on. A file's id is ``<class>/<stem>``; files that share a stem
    keep their suffixes."""
    groups = []
    for name, paths in inside.items():
        label, stems, names = classes.names.index(name), Counter(path.stem for path in paths), {path.name for path in paths}
        alone = {path: stems[path.stem] == 1 and path.stem not in names for path in paths}
        groups.append([picture(path, label, f"{name}/{path.stem if alone[path] else path.name}") for path in paths])
    return [found for row in itertools.zip_longest(*groups) for found in row if found is not None]
