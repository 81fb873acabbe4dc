"""Citations by key: BibTeX of what ships, and whatever text a plug-in of one's own gave instead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from typing import Any


def bibliography() -> dict[str, str]:
    """Key -> BibTeX entry of every paper that the plug-ins that ship cite."""
    text = (resources.files("xbench") / "references.bib").read_text(encoding="utf-8")
    entries = [entry.strip() for entry in re.split(r"\n(?=@)", text)]
    return {entry.partition("{")[2].partition(",")[0]: entry for entry in entries}


def of_run(manifest: Mapping[str, Any]) -> list[str]:
    """The entries of all methods, metrics, datasets and models of a run, each once, in the order of first use."""
    used = [about.get("cite", "") for kind in ("methods", "columns", "datasets", "models") for about in manifest[kind].values()]
    known = bibliography()
    return [known.get(key, f"% {key}") for key in dict.fromkeys(filter(None, used))]
