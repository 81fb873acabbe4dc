"""Class lists: what the integer targets of models and datasets stand for."""

from __future__ import annotations

import functools
from collections import Counter
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
        """For each class its index in another list; None where ``matches`` finds one of them nowhere."""
        found = self.matches(other)
        known = tuple(index for index in found if index is not None)
        return known if len(known) == len(found) else None

    def matches(self, other: ClassList) -> tuple[int | None, ...]:
        """For each class its index in another list, by WordNet id where both know them, else by name; None where it is missing
        there, or one of the lists has it twice."""
        both = bool(self.synsets and other.synsets)
        ours, theirs = (self.synsets, other.synsets) if both else (self.names, other.names)
        once = [{name for name, count in Counter(names).items() if count == 1} for names in (ours, theirs)]
        index = {name: i for i, name in enumerate(theirs) if name in once[0] & once[1]}
        return tuple(index.get(name) for name in ours)

    def index(self, name: str) -> int:
        """The index of a class given by name, index, WordNet id, or name in any case; tried in this order.

        >>> birds = ClassList(("brambling", "Goldfinch"), ("n01530575", "n01531178"))
        >>> birds.index("goldfinch"), birds.index("n01530575"), birds.index("1")
        (1, 0, 1)

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
