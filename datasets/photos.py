"""The 20 labelled ImageNet photographs that ship in the PyPI package foolbox, read from the installed package as stored.

19 are 512 x 512, one is 1024 x 683; foolbox's own loader stretches them to 224 x 224, we leave that to the model's view.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from xbench.plugin import Dataset, Entry, Sample, XbenchError, dataset, digest, file_digest, imagenet_1k, images


class Photos(Dataset):
    """Files ``imagenet_<number>_<class index>.jpg``; the id of a sample is the file's stem."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("foolbox")  # found, not imported: importing it takes seconds
        if spec is None or spec.origin is None:
            raise XbenchError("dataset photos reads the pictures of the package foolbox; pip install 'xbench-xai[quick]'")
        self.files = tuple(sorted((Path(spec.origin).parent / "data").glob("imagenet_*_*.jpg")))
        if len(self.files) != 20:
            raise XbenchError(f"foolbox has {len(self.files)} ImageNet photographs instead of 20; reinstall it")
        self.classes = imagenet_1k()
        self.revision = digest([(path.name, file_digest(path)) for path in self.files])

    def entries(self) -> Sequence[Entry]:
        return [Entry(path.stem, (_label(path),), (path.stem,)) for path in self.files]

    def load(self, id: str) -> Sample:
        path = next(path for path in self.files if path.stem == id)
        return Sample(id, images.read(path), (_label(path),))


def _label(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


@dataset(
    "photos",
    licence="pictures of ImageNet (ILSVRC-2012), for research; the package foolbox is MIT",
    cite="rauber2017foolbox",
)
def photos() -> Dataset:
    """20 labelled ImageNet photographs from the package foolbox."""
    return Photos()
