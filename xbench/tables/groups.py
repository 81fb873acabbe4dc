"""The groups of metrics, in the order in which tables show them."""

from __future__ import annotations

import typing

from xbench.plugins.declarations import Group
from xbench.store.manifests import AboutColumn, Columns

ORDER: tuple[str, ...] = typing.get_args(Group)


def arranged(columns: Columns) -> dict[str, AboutColumn]:
    """A manifest's columns group by group, unknown groups last; within a group the order stays."""
    place = {group: i for i, group in enumerate(ORDER)}
    return dict(sorted(columns.items(), key=lambda entry: place.get(entry[1].group, len(place))))
