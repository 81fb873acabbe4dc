"""What there is, and what it says of itself."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator, Sequence

from xbench.errors import XbenchError, did_you_mean
from xbench.plan import suite
from xbench.plugins.declarations import KINDS as PLUGIN_KINDS
from xbench.plugins.declarations import Kind, Plugin
from xbench.plugins.registry import registry
from xbench.plugins.specs import parse
from xbench.tables import published
from xbench.train import recipes

KINDS = ("methods", "metrics", "datasets", "models", "trainers", "suites", "recipes", "published")


def listing(kind: str, plugins: Sequence[str] = ()) -> dict[str, str]:
    """Everything of a kind by id or name, with a sentence. Imports no plug-in but those that are to be loaded first.

    Raises:
        XbenchError: no such kind; a suite, recipe or plug-in that cannot be read.
    """
    if kind not in KINDS:
        raise XbenchError(f"cannot list {kind!r}{did_you_mean(kind, KINDS)}")
    for name in plugins:
        registry.load(name)
    if kind == "suites":
        return {name: suite.title(suite.find(name)) for name in suite.suites()}
    if kind == "recipes":
        return {name: recipes.title(recipes.find(name)) for name in recipes.recipes()}
    if kind == "published":
        return published.listing(published.load())
    single = typing.cast(Kind, kind.removesuffix("s"))
    return {id: registry.summary(single, id) for id in registry.ids(single)}


def described(spec: str) -> Iterator[str]:
    """What the plug-ins of a name are, their parameters and what they declare, line by line; of a model also its card.

    Raises:
        XbenchError: there is none.
    """
    id = parse(spec).name.partition("@")[0]
    ids = {kind: registry.ids(kind) for kind in PLUGIN_KINDS}
    matching = [
        kind for kind, known in ids.items() if any(id == i or ("<" in i and id.startswith(i.partition("<")[0])) for i in known)
    ]
    if not matching:
        raise XbenchError(f"unknown plug-in {id!r}{did_you_mean(id, [i for known in ids.values() for i in known])}")
    for kind in matching:
        plugin = registry.get(kind, id)
        yield from _described(plugin, id)
        if kind == "model" and parse(spec).name != plugin.id:  # one of a family, or with a checkpoint: it has a card of its own
            try:
                yield f"\n{registry.model(spec)().card}"
            except XbenchError as error:
                yield f"\nnot here: {error}"


def _described(plugin: Plugin, id: str) -> Iterator[str]:
    documented = (inspect.getdoc(plugin.make) or "").replace("``", "")
    yield f"{plugin.kind} {plugin.id}\n\n{documented}\n"
    for key, value in vars(plugin.info).items():
        shown = ", ".join(sorted(value)) if isinstance(value, frozenset) else value
        if shown not in ("", None, ()) and not callable(value):  # which files a method reads is told by its parameters
            yield f"  {key}: {shown}"
    if plugin.names and id == plugin.id:
        yield f"  members: {', '.join(plugin.names())}"
    for p in plugin.parameters:
        yield f"  parameter {p.name}: {p.annotation}" + ("" if p.default is p.empty else f", default {p.default}")
    for table, schema in plugin.tables.items():
        for key, field in schema.model_fields.items():
            shown = "" if field.is_required() else f", default {field.default!r}"
            yield f"  [{table}] {key}: {inspect.formatannotation(field.annotation)}{shown}"
    yield f"  source: {plugin.module}"
