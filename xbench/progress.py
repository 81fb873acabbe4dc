"""What whatever takes long tells of itself while it goes on: a run, a training, an experiment. The command line shows it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Who is told. A unit is what is counted: a work unit of a run, a step of a training, a batch of an experiment."""

    def start(self, description: str, total: int) -> None:
        """Something begins, which has so many units; what was begun before is over."""

    def advance(self, pictures: int) -> None:
        """So many more pictures were evaluated."""

    def finish_unit(self, done: int, total: int) -> None:
        """One more unit is done, ``done`` in all."""

    def say(self, line: str) -> None:
        """Something worth a line of its own."""


class Silent:
    """Tells nobody."""

    def start(self, description: str, total: int) -> None: ...
    def advance(self, pictures: int) -> None: ...
    def finish_unit(self, done: int, total: int) -> None: ...
    def say(self, line: str) -> None: ...
