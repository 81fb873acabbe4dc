"""What is amiss with data: counted by kind, each kind with its first example."""

from __future__ import annotations


class Notes:
    """Becomes ``Dataset.notes``."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, kind: str, example: str) -> None:
        """One more of a kind. kind: what it is and what became of it, in the plural."""
        count, first = self._found.get(kind, (0, example))
        self._found[kind] = count + 1, first

    def lines(self) -> tuple[str, ...]:
        """``boxes reaching beyond their pictures, clipped: 3 (first: dog/a.jpg)``, one per kind, in order of appearance."""
        return tuple(f"{kind}: {count:,} (first: {first})" for kind, (count, first) in self._found.items())
