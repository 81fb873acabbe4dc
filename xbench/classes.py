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

    def index(self, name: str) -> int:
        """The index of a class given by index, name (any case) or WordNet id.

        Raises:
            KeyError: there is no such class.
        """
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
