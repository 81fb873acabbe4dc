"""What several folders of metrics share."""

from __future__ import annotations

from xbench.plugin import XbenchError


def at_least(least: int, **parameters: int) -> None:
    """Raises XbenchError for a parameter below ``least``."""
    for name, value in parameters.items():
        if value < least:
            raise XbenchError(f"{name} must be {least} or more, not {value}")
