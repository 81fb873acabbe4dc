"""What the report shows of a run: pictures and maps in a safetensors file, each under a key of four names.

A tensor's name is its key as a JSON list, so that any name may hold any character. The file says its format; one that says none is
of xbench 0.1.0, which joined the four names by ``|``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy

from xbench.errors import XbenchError

FORMAT = 2


class Key(NamedTuple):
    """Whose map it is; without a method it is the image, as the model sees it."""

    model: str
    dataset: str
    item: str
    method: str = ""

    def of(self, method: str) -> Key:
        """The key of a method's map on the same image."""
        return self._replace(method=method)


Gallery = Mapping[Key, np.ndarray]  # images uint8 [h, w, 3], maps float16 [h, w] in [-1, 1]


def save(gallery: Gallery, path: Path) -> None:
    """Write a gallery, in its order."""
    named = {json.dumps(key): array for key, array in gallery.items()}
    safetensors.numpy.save_file(named, path, {"format": str(FORMAT)})


def load(path: Path) -> dict[Key, np.ndarray]:
    """A gallery as it was saved. Of the format before, what has a ``|`` inside a name is left out: whose it is cannot be told.

    Raises:
        XbenchError: the file is damaged, or a newer xbench wrote it.
    """  # noqa: DOC501
    try:
        with safetensors.safe_open(path, "np") as file:
            form = (file.metadata() or {}).get("format", "1")
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from error
    if form == "1":
        parts = {name: name.split("|") for name in found}
        if few := [name for name, its in parts.items() if len(its) < len(Key._fields)]:
            raise _damaged(path, f"{few[0]!r} names no model, dataset, item and method")
        return {Key(*parts[name]): array for name, array in found.items() if len(parts[name]) == len(Key._fields)}
    if form.isdecimal() and int(form) > FORMAT:
        newest = f"format {form}, and this one reads up to {FORMAT}"
        raise XbenchError(f"{path} was written by a newer xbench ({newest}); update xbench: pip install --upgrade xbench-xai")
    if form != str(FORMAT):
        raise _damaged(path, f"there is no format {form!r}")
    return {_key(name, path): array for name, array in found.items()}


def _key(name: str, path: Path) -> Key:
    try:
        parts = json.loads(name)
    except ValueError:
        parts = None
    if not isinstance(parts, list) or len(parts) != len(Key._fields) or not all(isinstance(part, str) for part in parts):
        raise _damaged(path, f"{name!r} names no model, dataset, item and method")
    return Key(*parts)


def _damaged(path: Path, why: str) -> XbenchError:
    return XbenchError(f"{path} is damaged ({why}); delete it: only the images and maps of the report are lost")
