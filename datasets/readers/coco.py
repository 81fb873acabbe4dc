"""Boxes and outlines from a JSON file of COCO instances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from xbench.plugin import Box

from .boxes import clipped
from .coco_json import Instance, Instances, Stated
from .masks import Rectangle, Region
from .tree import Picture, Tree


@dataclass
class Objects:
    """What is known of one picture. regions: label -> outlines of its objects; crowds: regions of uncounted objects.
    bare: labels of objects without an outline. sizes: label -> area of its largest object's box."""

    boxes: list[Box] = field(default_factory=list)
    regions: dict[int, list[Region]] = field(default_factory=dict)
    crowds: list[Region] = field(default_factory=list)
    bare: set[int] = field(default_factory=set)
    sizes: dict[int, float] = field(default_factory=dict)


def read_objects(tree: Tree, content: Instances) -> dict[str, Objects]:
    """Picture id -> its objects of the dataset's classes.

    Crowds are ignored, not truth: nobody knows how much of a crowd's region is objects. Where objects have outlines, boxes do not
    stand for those that are missing: a class with an object without one has no mask in that picture.
    """
    pictures = _matched(tree, content.images)
    instances: dict[Any, list[Instance]] = {}
    for instance in content.instances:
        if instance.image in content.images:
            instances.setdefault(instance.image, []).append(instance)
        else:
            tree.notes.add("objects in coco whose picture it does not list, ignored", instance.where)
    known = {}
    for image, picture in pictures.items():
        mine = instances.get(image, [])
        stated = [*filter(None, [content.images[image].size]), *(i.size for i in mine if i.size)]
        size = tree.size(picture)
        if size is not None and tree.fits(picture, stated):
            known[picture.id] = _objects(tree, picture, size, mine)
    if any(objects.regions for objects in known.values()):
        for id, objects in known.items():
            for label in sorted(objects.bare):
                kind = "classes of a picture with an object that has a box but no outline, without a mask there"
                tree.notes.add(kind, f"{tree.classes.names[label]} in {id}")
                objects.regions.pop(label, None)
    return known


def _objects(tree: Tree, picture: Picture, size: tuple[int, int], instances: list[Instance]) -> Objects:
    objects = Objects()
    for instance in instances:
        label = tree.index.get(instance.name)
        if label is None:
            what = f"{instance.name} in {picture.place}"
            tree.notes.add("objects of classes that the dataset does not have, ignored", what)
            continue
        box = None
        if instance.corners:
            box = clipped(Box(label, *instance.corners), size, tree.notes, f"{instance.where} of {picture.place}")
        regions = [region for region in instance.regions if region.covers(*size)]
        where = f"{instance.where} of {picture.place}"
        if instance.regions and not regions:
            tree.notes.add("outlines that cover no pixel, dropped", where)
        if instance.crowd:
            objects.crowds += regions or ([Rectangle(box.x0, box.y0, box.x1, box.y1)] if box else [])
        elif box or regions:
            area = (box.x1 - box.x0) * (box.y1 - box.y0) if box else 0.0
            objects.sizes[label] = max(area, objects.sizes.get(label, 0.0))
            objects.boxes += [box] if box else []
            objects.bare |= set() if regions else {label}
            objects.regions |= {label: [*objects.regions.get(label, []), *regions]} if regions else {}
        elif not instance.corners and not instance.regions:
            tree.notes.add("objects without a box or an outline, ignored", where)
    return objects


def _matched(tree: Tree, images: Mapping[Any, Stated]) -> dict[Any, Picture]:
    """Image id -> its picture: the one at the end of its path, or else the only one of its name that no image is exactly."""
    places = {picture.place: picture for picture in tree.pictures}
    groups = {place.rpartition("/")[0] for place in places} - {""}
    names: dict[str, list[Picture]] = {}
    for picture in tree.pictures:
        names.setdefault(picture.place.rpartition("/")[2], []).append(picture)
    paths = {id: PurePosixPath(image.file) for id, image in images.items()}
    exact = {id: places[end] for id, path in paths.items() if (end := "/".join(path.parts[-2:])) in places}
    taken = {picture.id for picture in exact.values()}
    fitting = {id: [picture] for id, picture in exact.items()}
    for id, path in paths.items():
        if id not in exact and path.parent.name not in groups:  # in another class's folder it would be another picture
            fitting[id] = [picture for picture in names.get(path.name, []) if picture.id not in taken]
    claims = Counter(picture.id for some in fitting.values() for picture in some)
    matched = {}
    for id, image in images.items():
        some = fitting.get(id, [])
        if not some:
            tree.notes.add("pictures in coco that are not in the class folders", image.file)
        elif len(some) > 1 or claims[some[0].id] > 1:
            tree.notes.add("pictures in coco that fit several files or share one, ignored", image.file)
        else:
            matched[id] = some[0]
    there = {picture.id for picture in matched.values()}
    for picture in tree.pictures:
        if picture.id not in there:
            tree.notes.add("pictures that coco does not list", picture.place)
    return matched
