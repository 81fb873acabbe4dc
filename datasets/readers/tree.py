"""Class folders: which pictures there are."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xbench.plugin import BrokenSample, ClassList, XbenchError, images

from .notes import Notes


@dataclass(frozen=True)
class Picture:
    """A picture file. place: ``<class folder>/<file name>``, or the name alone where there are no class folders: label is None."""

    id: str
    path: Path
    label: int | None
    place: str


@dataclass
class Tree:
    """Pictures in their order, with what is amiss with them. upright: whether the EXIF orientation is applied."""

    pictures: Sequence[Picture]
    classes: ClassList
    notes: Notes
    upright: bool
    index: Mapping[str, int] = field(init=False)  # what annotations call a class -> its label
    _sizes: dict[str, tuple[int, int] | None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        named = {name: label for label, name in enumerate(self.classes.names)} if not self.classes.synsets else {}
        self.index = named | {synset: label for label, synset in enumerate(self.classes.synsets)}

    def size(self, picture: Picture) -> tuple[int, int] | None:
        """(height, width) as loaded; None where the header cannot be read, which loading tells."""
        if picture.id not in self._sizes:
            try:
                self._sizes[picture.id] = images.size(picture.path, self.upright)
            except BrokenSample:
                self._sizes[picture.id] = None
        return self._sizes[picture.id]

    def fits(self, picture: Picture, stated: Iterable[tuple[int, int]]) -> bool:
        """Whether truth that states these sizes can be laid over a picture; counts it where a size contradicts."""
        size = self.size(picture)
        wrong = next((s for s in stated if s != size), None)
        if size is not None and wrong is not None:
            example = f"{picture.place} is {size[1]} x {size[0]}, its annotation {wrong[1]} x {wrong[0]}"
            self.notes.add("annotations of another size than their upright pictures, dropped", example)
        return size is not None and wrong is None


def scan(root: Path, dataset: str, notes: Notes, but: Collection[Path] = (), flat: bool = False) -> dict[str, list[Path]]:
    """Class folder -> its pictures, both sorted by name. Hidden files and folders, and those of ``but``, do not count.

    flat: a folder of pictures without class folders is taken too, as a single one without a name.

    Raises:
        XbenchError: there is no such folder, or it does not hold class folders with pictures.
    """
    if not root.is_dir():
        raise XbenchError(f"dataset {dataset}: there is no folder {root}; give the folder that holds one folder per class")
    inside = [path for path in listed(root) if path.resolve() not in but]
    folders, loose = [path for path in inside if path.is_dir()], [path for path in inside if _is_picture(path)]
    if flat and loose and not any(_is_picture(path) for folder in folders for path in folder.iterdir()):
        for folder in folders:
            notes.add("folders beside the pictures, not read", readable(folder.name))
        return {"": loose}
    if not folders and loose:
        raise XbenchError(f"dataset {dataset}: {root} holds pictures directly; move them into one folder per class")
    for path in loose:
        notes.add("pictures beside the class folders, not read", readable(path.name))
    if not folders:
        raise XbenchError(f"dataset {dataset}: {root} holds no class folders; give the folder that holds one folder per class")
    found = {readable(folder.name): _pictures(folder, notes) for folder in folders}
    if not any(found.values()):
        raise XbenchError(
            f"dataset {dataset}: no class folder of {root} ({readable(folders[0].name)}, ...) holds pictures; "
            "give the folder whose folders hold them, such as that of one split"
        )
    return found


def _pictures(folder: Path, notes: Notes) -> list[Path]:
    inside = listed(folder)
    for path in inside:
        if path.is_dir():
            notes.add("folders inside class folders, not read", _place(path))
        elif not _is_picture(path):
            notes.add("files in class folders that are no pictures, ignored", _place(path))
    found = [path for path in inside if _is_picture(path)]
    if not found:
        notes.add("class folders without pictures", readable(folder.name))
    return found


def picture(path: Path, label: int | None, id: str) -> Picture:
    """A picture of a class folder, or of none."""
    return Picture(readable(id), path, label, readable(path.name) if label is None else _place(path))


def readable(name: str) -> str:
    """A file's name as text that can be stored: bytes that are no UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _place(path: Path) -> str:
    return f"{readable(path.parent.name)}/{readable(path.name)}"


def listed(folder: Path) -> list[Path]:
    """What is not hidden in a folder, by name."""
    return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name)


def _is_picture(path: Path) -> bool:
    """By its name; a broken link is one too, so that loading it says what is wrong."""
    return path.suffix.lower() in images.SUFFIXES and (path.is_file() or path.is_symlink()) and not path.is_dir()
