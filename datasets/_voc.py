"""Boxes from XML files as PASCAL VOC and ILSVRC write them, one per picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from xbench import Box

from ._beside import beside
from ._boxes import clipped
from ._tree import Tree, readable

LARGEST = 4 * 2**20  # bytes; the largest files of VOC and ILSVRC have some 30 kB


@dataclass(frozen=True)
class Annotation:
    """size: the (height, width) of the picture, None where it is not stated. objects: (name, corners as written, difficult)."""

    size: tuple[int, int] | None
    objects: tuple[tuple[str, tuple[float, float, float, float], bool], ...]


def parse(path: Path) -> Annotation:
    """A file of annotations.

    Python's parser loads no external entities; those inside a file could still make a small file huge, so a document type, which
    no annotation has, is refused.

    Raises:
        ValueError: it cannot be read, or is none.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"larger than {LARGEST:,} bytes")
        text = path.read_bytes()
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text or text[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise ValueError("a document type or UTF-16")
        root = ElementTree.fromstring(text)
    except (OSError, ElementTree.ParseError) as error:
        raise ValueError(str(error)) from error
    if root.tag != "annotation":
        raise ValueError(f"<{root.tag}> instead of <annotation>")
    height, width = (float(root.findtext(f"size/{side}") or 0) for side in ("height", "width"))
    if not math.isfinite(height * width):
        raise ValueError("a size that is no number")
    return Annotation((int(height), int(width)) if height and width else None, tuple(_objects(root)))


def _objects(root: ElementTree.Element) -> Iterator[tuple[str, tuple[float, float, float, float], bool]]:
    for number, element in enumerate(root.findall("object")):
        name = (element.findtext("name") or "").strip()
        texts = [element.findtext(f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")]
        try:
            x0, y0, x1, y1 = (float(text or "") for text in texts)
        except ValueError:
            x0 = y0 = x1 = y1 = math.nan
        if not name or not all(map(math.isfinite, (x0, y0, x1, y1))):
            raise ValueError(f"object {number} lacks its name or a corner of its box")
        yield name, (x0, y0, x1, y1), (element.findtext("difficult") or "").strip() == "1"


def found(tree: Tree, folder: Path, first: int) -> dict[str, tuple[Path, tuple[Box, ...]]]:
    """Picture id -> (its file, its boxes); objects of classes that the dataset does not have are left out.

    first: the coordinate of the first pixel. In PASCAL VOC it is 1, and both corners are inside: pixels 1 to 1 are the half-open
    box from 0 to 1. In ILSVRC the corners run from 0 to the width, and are half-open as they stand.

    Raises:
        XbenchError: there is no such folder, or no annotation in it.
    """
    known, files = {}, beside(tree, folder, ".xml", "boxes")
    for picture in tree.pictures:
        if (path := files.get(picture.id)) is None:
            continue
        try:
            annotation = parse(path)
        except ValueError as error:
            tree.notes.add("broken files in boxes, dropped", f"{readable(path.name)}: {error}")
            continue
        size = tree.size(picture)
        if size is None or not tree.fits(picture, [annotation.size] if annotation.size else []):
            continue
        boxes, where = [], readable(path.name)
        for name, (x0, y0, x1, y1), difficult in annotation.objects:
            if name not in tree.index:
                tree.notes.add("objects of classes that the dataset does not have, ignored", f"{name} in {where}")
            elif box := clipped(Box(tree.index[name], x0 - first, y0 - first, x1, y1, difficult), size, tree.notes, where):
                boxes.append(box)
        known[picture.id] = path, tuple(boxes)
    return known
