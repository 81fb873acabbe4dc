"""Citations by key: BibTeX of what ships, and whatever text a plug-in of one's own gave instead."""

from __future__ import annotations

import re
from importlib import resources

from xbench.store.manifests import Manifest


def bibliography() -> dict[str, str]:
    """Key -> BibTeX entry of every paper that the plug-ins that ship cite."""
    text = (resources.files("xbench.tables") / "references.bib").read_text(encoding="utf-8")
    entries = [entry.strip() for entry in re.split(r"\n(?=@)", text)]
    return {entry.partition("{")[2].partition(",")[0]: entry for entry in entries}


def of_run(manifest: Manifest) -> list[str]:
    """The entries of all methods, metrics, datasets and models of a run, each once, in the order of first use."""
    kinds = (manifest.methods, manifest.columns, manifest.datasets, manifest.models)
    used = [about.cite for kind in kinds for about in kind.values()]
    known = bibliography()
    return [known.get(key, f"% {key}") for key in dict.fromkeys(filter(None, used))]
