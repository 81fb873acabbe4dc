"""Files of repositories on the Hugging Face hub: from its cache, or downloaded where that is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
import huggingface_hub.errors

from xbench.plugin import XbenchError


def in_cache(repository: str, files: Sequence[str]) -> Path | None:
    """The first of these files that the hub's cache has."""
    found = (huggingface_hub.try_to_load_from_cache(repository, file) for file in files)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def download(spec: str, repository: str, files: Sequence[str]) -> Path:
    """Download the first of these files that a repository has.

    Raises:
        XbenchError: it has none of them, or the download fails.
    """
    for file in files:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, file))
        except huggingface_hub.errors.RemoteEntryNotFoundError:
            continue  # older repositories have no safetensors
        except Exception as error:  # the hub's client has no common one
            why = str(error).partition("\n")[0]
            raise XbenchError(f"model {spec}: the download of {file} of {repository} failed: {why}") from error
    raise XbenchError(f"model {spec}: {repository} has none of {', '.join(files)}; name a checkpoint: {spec}@FILE")
