"""Files of pretrained weights: nothing comes from the network unless XBENCH_DOWNLOAD=1 allows it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from xbench.plugin import XbenchError, file_digest


def cached(url: str, spec: str) -> Path:
    """The file of a URL in torch's own cache, downloaded where that is allowed; checked by the digest in its name.

    Raises:
        XbenchError: it is not there and may not be downloaded, the download fails, or its bytes are not the known ones.
    """
    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir(), "checkpoints", name)
    digest = re.search(r"-([0-9a-f]{8,64})\.", name)
    if not path.is_file():
        if not downloads():
            raise XbenchError(absent(spec, name, url.rpartition("/")[0], f"place it in {path.parent}"))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), digest and digest[1], progress=False)
        except (OSError, RuntimeError) as error:
            raise XbenchError(f"model {spec}: the download of {url} failed: {error}; {spec}@FILE takes a local one") from error
    elif digest and not file_digest(path).startswith(digest[1]):
        raise XbenchError(
            f"model {spec}: {path} is not the file that its name says (sha256 differs); delete it and get {url} again"
        )
    return path


def downloads() -> bool:
    """Whether the user allowed downloads."""
    return os.environ.get("XBENCH_DOWNLOAD") == "1"


def absent(spec: str, name: str, where: str, remedy: str) -> str:
    """The one line that says which file is needed and the three ways to give it."""
    return (
        f"model {spec} needs {name} of {where}, which is not on this machine; {remedy}, or name it: {spec}@{name}, "
        "or set XBENCH_DOWNLOAD=1 to allow the download"
    )
