"""ImageNet's validation pictures (ILSVRC-2012) with their boxes, from a local copy in the official layout."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from xbench.plugin import Dataset, XbenchError, dataset, imagenet_1k

from .readers import voc
from .readers.labelled import Known, Labelled
from .readers.notes import Notes
from .readers.tree import Tree, picture, scan


@dataset(
    "imagenet",
    provides={"mask", "boxes"},
    licence="ImageNet's terms of access: non-commercial research and education",
    cite="russakovsky2015imagenet",
)
def imagenet(root: str = "") -> Dataset:
    """ImageNet-1k's validation pictures, or some of them, with the boxes of the localization task.

    root: holds ``val/<WordNet id>/*.JPEG`` and ``bbox/val/*.xml``; default: ``imagenet`` in the folder that the environment
    variable XBENCH_DATA names, else in ``data``. Labels are indices of all 1,000 classes, whichever are there. The order is
    that of the file names, in which classes are mixed. EXIF is not applied: torchvision and timm train and test without it, and the
    boxes were drawn on pictures as stored.

    Raises:
        XbenchError: there is no such folder, or one of its class folders is not a class of ImageNet-1k.
    """
    home = Path(root).expanduser() if root else Path(os.environ.get("XBENCH_DATA") or "data", "imagenet")
    if not (home / "val").is_dir():
        remedy = "give root=..., or set XBENCH_DATA to the folder that holds imagenet/"
        raise XbenchError(f"dataset imagenet: there is no {home / 'val'} (val/<WordNet id>/*.JPEG); {remedy}")
    notes, classes = Notes(), imagenet_1k()
    labels = {synset: label for label, synset in enumerate(classes.synsets)}
    pictures = []
    for name, paths in scan(home / "val", "imagenet", notes).items():
        if name not in labels:
            raise XbenchError(f"dataset imagenet: {home / 'val' / name} is not a class of ImageNet-1k; use the dataset folder")
        pictures += [picture(path, labels[name], path.stem) for path in paths]
    pictures.sort(key=lambda found: (found.id, found.place))
    for one, other in itertools.pairwise(pictures):
        if one.id == other.id:
            raise XbenchError(f"dataset imagenet: {one.place} and {other.place} have one name; remove the wrong one")

    tree = Tree(pictures, classes, notes, upright=False)
    boxes = home / "bbox" / "val"
    if not boxes.is_dir():
        notes.add("folders of boxes that are missing", f"{boxes.parent.name}/{boxes.name}")
    drawn = voc.read(tree, boxes) if boxes.is_dir() else {}
    known = {id: Known(found) for id, found in voc.boxes(tree, drawn, "ilsvrc").items()}
    return Labelled(tree, known, {"boxes": {id: drawn[id][0] for id in known}}, {})
