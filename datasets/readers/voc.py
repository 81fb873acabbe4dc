"""Boxes from XML files as PASCAL VOC and ILSVRC write them, one per picture."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from xbench.plugin import Box, XbenchError

from .beside import beside
from .boxes import clipped
from .notes import Notes
from .tree import Tree, readable

Corners = Literal["voc", "ilsvrc"]
MEANING: Mapping[Corners, str] = {
    "voc": "coordinates begin at 1, corners are inside",
    "ilsvrc": "coordinates begin at 0, the far corner is outside",
}
SAY = "though no file says so (corners=voc or corners=ilsvrc does)"
DIFFICULT = dict.fromkeys(("1", "true", "yes"), True) | dict.fromkeys(("", "0", "false", "no", "unspecified"), False)
LARGEST = 4 * 2**20  # bytes; the largest files of VOC and ILSVRC have some 30 kB


@dataclass(frozen=True)
class Annotation:
    """size: the (height, width) of the picture, None where it is not stated. objects: (name, corners as written, what is written of
    its difficulty). origin: what it says of its collection and its picture's name."""

    size: tuple[int, int] | None
    objects: tuple[tuple[str, tuple[float, float, float, float], str], ...]
    origin: tuple[str, str, str]

    @property
    def called(self) -> set[Corners]:
        """Whose it is by its words; nobody's where it does not say."""
        database, folder, name = self.origin
        voc = re.search("voc|pascal", database, re.IGNORECASE) or folder.upper().startswith("VOC")
        ilsvrc = "ilsvrc" in f"{database} {name}".lower() or re.match(r"n\d{8}(_|$)", name)
        wordnet = any(re.fullmatch(r"n\d{8}", name) for name, _, _ in self.objects)
        kinds: dict[Corners, bool] = {"voc": bool(voc), "ilsvrc": bool(ilsvrc or wordnet)}
        return {kind for kind, there in kinds.items() if there}

    @property
    def zero(self) -> bool:
        """Whether a box of pixels begins at 0."""
        return any(0 in corners[:2] and max(corners) > 1 for _, corners, _ in self.objects)


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
    database, folder, name = ((root.findtext(key) or "").strip() for key in ("source/database", "folder", "filename"))
    return Annotation((int(height), int(width)) if height and width else None, tuple(_objects(root)), (database, folder, name))


def _objects(root: ElementTree.Element) -> Iterator[tuple[str, tuple[float, float, float, float], str]]:
    for number, element in enumerate(root.findall("object")):
        name = (element.findtext("name") or "").strip()
        texts = [element.findtext(f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")]
        try:
            x0, y0, x1, y1 = (float(text or "") for text in texts)
        except ValueError:
            x0 = y0 = x1 = y1 = math.nan
        if not name or not all(map(math.isfinite, (x0, y0, x1, y1))):
            raise ValueError(f"object {number} lacks its name or a corner of its box")
        yield name, (x0, y0, x1, y1), (element.findtext("difficult") or "").strip().lower()


def read(tree: Tree, folder: Path) -> dict[str, tuple[Path, Annotation]]:
    """Picture id -> its file, and what this says.

    Raises:
        XbenchError: there is no such folder, or no annotation in it.
    """
    found, files = {}, beside(tree, folder, ".xml", "boxes")
    for picture in tree.pictures:
        if (path := files.get(picture.id)) is None:
            continue
        try:
            found[picture.id] = path, parse(path)
        except ValueError as error:
            tree.notes.add("broken files in boxes, dropped", f"{readable(path.name)}: {error}")
    return found


def convention(found: Mapping[str, tuple[Path, Annotation]], notes: Notes) -> Corners:
    """Whose coordinates files have. Where none tells, they are taken for VOC's, which is noted.

    Raises:
        XbenchError: some have VOC's and some ILSVRC's.
    """
    called: dict[str, str] = {}
    zeros: list[str] = []
    for path, annotation in found.values():
        called |= {kind: readable(path.name) for kind in annotation.called if kind not in called}
        zeros += [readable(path.name)] if annotation.zero else []
    if "voc" in called and ("ilsvrc" in called or zeros):
        other = called.get("ilsvrc") or zeros[0]
        raise XbenchError(
            f"boxes: {called['voc']} calls itself PASCAL VOC's, whose coordinates begin at 1, but {other} is ILSVRC's, by its "
            "words or by a coordinate of 0; say which they are: corners=voc or corners=ilsvrc"
        )
    if called:
        return "voc" if "voc" in called else "ilsvrc"
    for name in zeros:
        notes.add(f"boxes taken for ILSVRC's ({MEANING['ilsvrc']}), since some begin at 0, {SAY}", name)
    for path, annotation in found.values() if not zeros else ():
        if annotation.objects:
            notes.add(f"boxes taken for PASCAL VOC's ({MEANING['voc']}), {SAY}", readable(path.name))
    return "ilsvrc" if zeros else "voc"


def boxes(tree: Tree, found: Mapping[str, tuple[Path, Annotation]], corners: Corners) -> dict[str, tuple[Box, ...]]:
    """Picture id -> its boxes; objects of classes that the dataset does not have are left out.

    corners: in PASCAL VOC the first pixel is 1, and both corners are inside: pixels 1 to 1 are the half-open box from 0 to 1. In
    ILSVRC the corners run from 0 to the width, and are half-open as they stand.
    """
    known, before = {}, 1 if corners == "voc" else 0
    for picture in tree.pictures:
        if picture.id not in found:
            continue
        path, annotation = found[picture.id]
        size = tree.size(picture)
        if size is None or not tree.fits(picture, [annotation.size] if annotation.size else []):
            continue
        kept, where = [], readable(path.name)
        for name, (x0, y0, x1, y1), word in annotation.objects:
            if word not in DIFFICULT:
                tree.notes.add("objects whose difficulty is neither yes nor no, taken for no", f"{word!r} in {where}")
            if name not in tree.index:
                tree.notes.add("objects of classes that the dataset does not have, ignored", f"{name} in {where}")
                continue
            box = Box(tree.index[name], x0 - before, y0 - before, x1, y1, DIFFICULT.get(word, False))
            if inside := clipped(box, size, tree.notes, where):
                kept.append(inside)
        known[picture.id] = tuple(kept)
    return known
