"""The JSON of COCO instances: checked record by record, so that what is wrong is found where it stands."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xbench.plugin import XbenchError

from .masks import Polygon, Region, Runs, decompressed

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Stated:
    """A picture as the file names it, with its (height, width) where it tells."""

    file: str
    size: tuple[int, int] | None


@dataclass(frozen=True)
class Instance:
    """An annotated object. corners: half-open box. regions: its outline in parts. size: (height, width) that its runs fill."""

    where: str
    image: Any
    name: str
    corners: Corners | None
    regions: tuple[Region, ...]
    size: tuple[int, int] | None
    crowd: bool


@dataclass(frozen=True)
class Instances:
    """names: of the categories. images: by their ids, which may be numbers or text."""

    names: tuple[str, ...]
    images: Mapping[Any, Stated]
    instances: tuple[Instance, ...]

    @staticmethod
    def parse(file: Path) -> Instances:
        """A file of instances.

        Raises:
            XbenchError: it cannot be read, or is none; the message says where.
        """
        try:
            content = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise XbenchError(f"coco: {file} cannot be read ({error}); give the JSON file of instances") from error
        try:
            names = {_id(record, "id"): _get(record, "name", str) for record in _records(content, "categories")}
            instances = [_instance(f"annotations[{n}]", record, names) for n, record in enumerate(_records(content, "annotations"))]
            return Instances(tuple(dict.fromkeys(names.values())), _images(content), tuple(instances))
        except ValueError as error:
            raise XbenchError(f"coco: {file}: {error}; correct the file") from error


def _images(content: Any) -> dict[Any, Stated]:
    images: dict[Any, Stated] = {}
    for record in _records(content, "images"):
        id, height, width = _id(record, "id"), record.get("height"), record.get("width")
        if id in images:
            raise ValueError(f"two images have the id {id}")
        size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        images[id] = Stated(_get(record, "file_name", str).replace("\\", "/"), size)
    return images


def _instance(where: str, record: dict[str, Any], names: Mapping[Any, str]) -> Instance:
    try:
        image, category = _id(record, "image_id"), _id(record, "category_id")
        regions, size = _regions(record.get("segmentation"))
        corners = _corners(record.get("bbox"))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return Instance(where, image, names.get(category, f"category {category}"), corners, regions, size, bool(record.get("iscrowd")))


def _records(content: Any, key: str) -> list[dict[str, Any]]:
    records = _get(content, key, list)
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise ValueError(f"{key}[{number}] is no object")
    return records


def _get(record: Any, key: str, kind: type) -> Any:
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"{key!r} is missing, or no {kind.__name__}")
    return value


def _id(record: Any, key: str) -> Any:
    value = record.get(key)
    if not isinstance(value, int | str):
        raise ValueError(f"{key!r} is missing, or neither number nor text, in {str(record)[:80]}")
    return value


def _numbers(value: Any, what: str) -> tuple[float, ...]:
    if not isinstance(value, list) or not all(isinstance(x, int | float) and math.isfinite(x) for x in value):
        raise ValueError(f"{what} is no list of numbers")
    return tuple(map(float, value))


def _corners(box: Any) -> Corners | None:
    if not box:
        return None
    numbers = _numbers(box, "'bbox'")
    if len(numbers) != 4:
        raise ValueError("'bbox' has not the four numbers x, y, width, height")
    x, y, width, height = numbers
    return x, y, x + width, y + height


def _regions(outline: Any) -> tuple[tuple[Region, ...], tuple[int, int] | None]:
    """(parts of an outline, the (height, width) that it states)."""
    if not outline:
        return (), None
    if isinstance(outline, list):
        parts = [_numbers(part, "a polygon of 'segmentation'") for part in outline]
        if any(len(part) % 2 for part in parts):
            raise ValueError("a polygon of 'segmentation' has an odd number of coordinates")
        return tuple(Polygon(part) for part in parts if part), None
    size, counts = _get(outline, "size", list), outline.get("counts")
    if len(size) != 2 or not all(isinstance(x, int) and x > 0 for x in size):
        raise ValueError("'size' of 'segmentation' is not [height, width]")
    runs = decompressed(counts) if isinstance(counts, str) else [int(x) for x in _numbers(counts, "'counts' of 'segmentation'")]
    if min(runs, default=-1) < 0 or sum(runs) != size[0] * size[1]:
        raise ValueError(f"the runs of 'segmentation' do not fill {size[0]} x {size[1]} pixels")
    return (Runs(tuple(runs)),), (size[0], size[1])
