"""Which annotation file belongs to which picture."""

from __future__ import annotations

from pathlib import Path

from xbench.plugin import XbenchError

from .tree import Picture, Tree, listed, readable


def beside(tree: Tree, folder: Path, suffix: str, parameter: str) -> dict[str, Path]:
    """Picture id -> the annotation file of its name in a folder, or in that folder's folder of the picture's class.

    ``a.xml`` belongs to ``a.jpg``, and so does ``a.jpg.xml``, which is told from that of ``a.png``. A file that fits several
    pictures is nobody's, since it would be wrong for all but one.

    Raises:
        XbenchError: there is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise XbenchError(f"{parameter}: there is no folder {folder}; give the folder that holds the {suffix} files")
    folders = [folder, *(path for path in listed(folder) if path.is_dir())]
    files = {
        (readable(inside.name) if inside != folder else "", readable(path.stem)): path
        for inside in folders
        for path in listed(inside)
        if path.suffix.lower() == suffix
    }
    if not files:
        raise XbenchError(f"{parameter}: {folder} holds no {suffix} files; give the folder that does")
    claims: dict[Path, list[Picture]] = {}
    for found in tree.pictures:
        group, _, name = found.place.rpartition("/")
        keys = [(where, what) for where in (group, "") for what in (name, readable(found.path.stem))]
        file = next((files[key] for key in keys if key in files), None)
        if file is None:
            tree.notes.add(f"pictures without a file in {parameter}", found.place)
        else:
            claims.setdefault(file, []).append(found)
    for path in files.values():
        if path not in claims:
            tree.notes.add(f"files in {parameter} without a picture", readable(path.name))
        elif len(claims[path]) > 1:
            both = " and ".join(p.place for p in claims[path][:2])
            tree.notes.add(f"files in {parameter} that fit several pictures, ignored", f"{readable(path.name)} fits {both}")
    return {found[0].id: path for path, found in claims.items() if len(found) == 1}
