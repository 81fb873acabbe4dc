"""Class lists: what the integer targets of models and datasets stand for."""

from __future__ import annotations

import functools
from dataclasses import dataclass


@dataclass(frozen=True)
class ClassList:
    """Names by index, with WordNet ids (such as ``n01440764``) where they are known.

    Two lists mean the same classes when their ids are equal, or their names where there are no ids.
    """

    names: tuple[str, ...]
    synsets: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def same_as(self, other: ClassList) -> bool:
        if self.synsets and other.synsets:
            return self.synsets == other.synsets
        return self.names == other.names

    def translation(self, other: ClassList) -> tuple[int, ...] | None:
        """For each class its index in another list, by WordNet id where both know them, else by name; None where one is missing
        there or two of them are the same."""
        both = bool(self.synsets and other.synsets)
        ours, theirs = (self.synsets, other.synsets) if both else (self.names, other.names)
        if len(set(ours)) < len(ours) or any(theirs.count(name) != 1 for name in ours):
            return None
        return tuple(theirs.index(name) for name in ours)

    def index(self, name: str) -> int:
        """The index of a class given by name, index, WordNet id, or name in any case; tried in this order.

        Raises:
            KeyError: there is no such class.
        """
        if name in self.names:
            return self.names.index(name)
        if name.isdigit() and int(name) < len(self):
            return int(name)
        if name in self.synsets:
            return self.synsets.index(name)
        lower = [n.lower() for n in self.names]
        if name.lower() in lower:
            return lower.index(name.lower())
        raise KeyError(name)


@functools.cache
def imagenet_1k() -> ClassList:
    """The 1,000 classes of ILSVRC-2012 in the usual order (sorted by WordNet id), from timm's class information."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    synsets = tuple(info.label_names())  # type: ignore[no-untyped-call]
    return ClassList(tuple(info.index_to_description(i).partition(",")[0] for i in range(len(synsets))), synsets)
