"""The groups of metrics: what a manifest says of them, and the order in which tables show them."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from xbench.plugins import Group

ORDER: tuple[str, ...] = typing.get_args(Group)
OLDER = {"ground_truth": "localization"}  # as manifests of 0.1.0 call it


def of(about: Mapping[str, Any]) -> str:
    """The group of a column, as a manifest describes it; empty where an older one does not say."""
    group = str(about.get("group", ""))
    return OLDER.get(group, group)


def arranged(columns: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """A manifest's columns group by group, unknown groups last; within a group the order stays."""
    place = {group: i for i, group in enumerate(ORDER)}
    return dict(sorted(columns.items(), key=lambda entry: place.get(of(entry[1]), len(place))))
