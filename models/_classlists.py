"""What the outputs of a network stand for: ImageNet's lists, or one's own from a file or from the checkpoint itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

from xbench.plugin import ClassList, XbenchError, imagenet_1k

NAMED = {
    11221: "imagenet-21k-miil",
    11821: "imagenet-12k",
    21841: "imagenet-22k",
    21842: "imagenet-22k-ms",
    21843: "imagenet-21k-goog",
}
WNID = re.compile(r"(n\d{8})(?:[\s,:]+(.+))?")  # a WordNet id, with or without a name behind it


def class_list(file: str, brought: tuple[str, ...], count: int, what: str, known: bool) -> tuple[ClassList, tuple[Path, ...]]:
    """The classes of a network with that many outputs, and the files that they were read from.

    file: the user's own list, which comes first. brought: the checkpoint's. known: whether ImageNet's larger lists are meant where
    the count is theirs; 1,000 classes are ImageNet's always.

    Raises:
        XbenchError: none is known, the file cannot be read, or it lists another number of classes.
    """
    files: tuple[Path, ...] = ()
    if file:
        path = Path(file).expanduser()
        classes, files, source = _parse(_lines(path)), (path,), str(path)
    elif brought:
        classes, source = _parse(list(brought)), "the checkpoint's metadata"
    elif count == 1000:
        return imagenet_1k(), ()
    elif known and count in NAMED:
        return _imagenet(NAMED[count]), ()
    else:
        raise XbenchError(f"{what} has {count} outputs and no names for them; add classes=FILE, one class a line, or a JSON list")
    if len(classes) != count:
        raise XbenchError(
            f"{source} lists {len(classes)} classes, but {what} has {count}; list one for each output, in their order"
        )
    return classes, files


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = json.loads(text) if text.lstrip().startswith(("[", "{")) else text.splitlines()
    except (OSError, ValueError) as error:
        raise XbenchError(f"cannot read the classes in {path}: {error}; write one class a line, or a JSON list") from error
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise XbenchError(f"{path} must be a JSON list of class names; write one class a line, or a JSON list")
    return [name.strip() for name in found if name.strip()]


def _parse(lines: list[str]) -> ClassList:
    found = [WNID.fullmatch(line) for line in lines]
    if not lines or None in found:
        return ClassList(tuple(lines))
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-22k")

    def name(wnid: str) -> str:
        try:
            return info.label_name_to_description(wnid).partition(",")[0]
        except KeyError:  # WordNet has more than ImageNet
            return wnid

    pairs = [(m[1], m[2] or name(m[1])) for m in found if m]
    return ClassList(tuple(n for _, n in pairs), tuple(s for s, _ in pairs))


def _imagenet(subset: str) -> ClassList:
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo(subset)
    synsets = tuple(info.label_names())  # type: ignore[no-untyped-call]
    return ClassList(tuple(info.label_name_to_description(s).partition(",")[0] for s in synsets), synsets)
