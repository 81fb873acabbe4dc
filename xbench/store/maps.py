"""Maps on disk: those that a run keeps (``--save-maps``), and somebody's own that ``xbench score`` puts on a leaderboard.

    MAPS/<model>/<dataset>/<method>/<unit>.safetensors     what a run keeps; tensors are named by item, at the method's own grid
    MAPS/<item>.npy   MAPS/<any>.safetensors               somebody's own; a .npy is one item's map, a .safetensors has many by item

Folder names are spec strings with ``/`` written as ``%2F``. A run that finds its maps here does not explain again: each file
carries the key of all that its maps depend on.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from xbench.errors import XbenchError, did_you_mean
from xbench.plugins.declarations import Method, MethodInfo, Plugin
from xbench.plugins.specs import Spec
from xbench.store.directory import write


@dataclass(frozen=True)
class Facts:
    """What is known of an item's map beside it: what it took alone, and by how much it misses the sum that its method promises.

    seconds: of the whole batch. NaN where it is not known.
    """

    forwards: float = math.nan
    backwards: float = math.nan
    seconds: float = math.nan
    residual: float = math.nan


Known = tuple[Tensor, Facts]
LONGEST = 200  # letters of a folder's name; file systems take 255 bytes


def folder_name(spec: str) -> str:
    """A spec string as the name of a folder; one that is too long for that is cut, and ends in a digest of the whole."""
    name = quote(spec, safe=' (),=+@:"-._')
    if len(name) > LONGEST:
        name = f"{name[:LONGEST]}~{hashlib.sha256(spec.encode()).hexdigest()[:16]}"
    return name if name.strip(".") else name.replace(".", "%2E")


class MapStore:
    """The maps of a run directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index: dict[Path, dict[str, tuple[Path, str]]] = {}  # method's folder -> item -> (file, key)

    def get(self, model: str, dataset: str, method: str, item: str, key: str) -> Known | None:
        """An item's native map (float32 ``[h, w]``) and its facts, where it is kept and all that it depends on is equal."""
        folder = self._folder(model, dataset, method)
        found = self._indexed(folder).get(item)
        if found is None or found[1] != key:
            return None
        with _opened(found[0]) as file:
            return file.get_tensor(item), Facts(*json.loads(file.metadata()["facts"])[item])

    def save(
        self,
        model: str,
        dataset: str,
        method: str,
        unit: str,
        maps: Mapping[str, Tensor],
        key: str,
        facts: Mapping[str, Facts],
    ) -> None:
        """Keep a unit's maps of a method by item, unless they are here already."""
        if all(self.get(model, dataset, method, item, key) for item in maps):
            return
        folder = self._folder(model, dataset, method)
        folder.mkdir(parents=True, exist_ok=True)
        metadata = {"key": key, "facts": json.dumps({item: astuple(facts[item]) for item in maps})}
        ready = {item: m.clone(memory_format=torch.contiguous_format) for item, m in maps.items()}  # views of one batch
        write(folder / f"{unit}.safetensors", lambda tmp: safetensors.torch.save_file(ready, tmp, metadata))
        self._index.pop(folder, None)

    def _folder(self, model: str, dataset: str, method: str) -> Path:
        return self.folder / folder_name(model) / folder_name(dataset) / folder_name(method)

    def _indexed(self, folder: Path) -> dict[str, tuple[Path, str]]:
        if folder not in self._index:
            index: dict[str, tuple[Path, str]] = {}
            for path in sorted(folder.glob("*.safetensors"), key=lambda p: p.stat().st_mtime_ns):
                with _opened(path) as file:
                    index |= {item: (path, (file.metadata() or {}).get("key", "")) for item in file.keys()}  # noqa: SIM118
            self._index[folder] = index
        return self._index[folder]


class GivenMaps:
    """Somebody's own maps: a folder of ``.npy`` and ``.safetensors`` files, or one ``.safetensors`` file.

    Maps are float ``[h, w]`` in the frame of the model's input, at any grid up to its size; higher = more evidence. A subfolder
    named like a dataset holds the maps of that dataset.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.exists():
            raise XbenchError(f"{folder} does not exist; give the folder that holds the maps, as .npy or .safetensors by item id")
        self.folder = folder
        self._index: dict[str, tuple[Path, str]] = {}  # name -> (file, the tensor in it)
        self.root = root = folder if folder.is_dir() else folder.parent
        for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
            if path.suffix == ".npy":
                self._index[path.relative_to(root).with_suffix("").as_posix()] = path, ""
            elif path.suffix == ".safetensors":
                inside = path.parent.relative_to(root).as_posix()
                with _opened(path) as file:
                    for item in file.keys():  # noqa: SIM118
                        self._index[item if inside == "." else f"{inside}/{item}"] = path, item
        if not self._index:
            raise XbenchError(f"{folder} holds no maps; save them as <item id>.npy, or in a .safetensors file by item id")

    @property
    def digest(self) -> str:
        """Changes whenever a map does."""
        hasher = hashlib.sha256()
        for path in sorted({path for path, _ in self._index.values()}):
            hasher.update(f"{path.relative_to(self.root).as_posix()} ".encode() + path.read_bytes())
        return hasher.hexdigest()[:20]

    def find(self, dataset: str, item: str) -> str | None:
        """The name under which an item's map is kept."""
        return next((name for name in (f"{folder_name(dataset)}/{item}", item) if name in self._index), None)

    def load(self, name: str) -> Tensor:
        """float32 ``[h, w]``.

        Raises:
            XbenchError: not a map.
        """
        path, tensor = self._index[name]
        if path.suffix == ".npy":
            try:
                array = np.load(path, allow_pickle=False)
            except (ValueError, OSError, EOFError) as error:
                raise XbenchError(f"{path} is not a NumPy array without objects ({error}); save it anew with numpy.save") from error
            if array.dtype.kind not in "fiub":
                raise XbenchError(f"{path} holds {array.dtype}; a map is a real array [h, w]")
            map_ = torch.from_numpy(array.astype(np.float32))
        else:
            with _opened(path) as file:
                map_ = file.get_tensor(tensor).float()
        return map_.reshape(map_.shape[-2:]) if map_.numel() == map_.shape[-2:].numel() and map_.ndim > 2 else map_

    def suggest(self, item: str) -> str:
        """What is there instead of an item that is not."""
        return did_you_mean(item, self._index) or f"; there is {next(iter(self._index))!r}, for example"


class StoredMethod(Method):
    """A method whose maps somebody made elsewhere. Its name is the one of the leaderboard's row."""

    def __init__(self, name: str, given: GivenMaps) -> None:
        def none(*_: object) -> Tensor:
            raise XbenchError(f"method {name} has only the maps that it was given")

        none.__doc__ = "Maps made elsewhere."
        plugin = Plugin("method", name, none, MethodInfo(), __name__, Path(__file__))
        super().__init__(plugin, Spec(name), {"maps": given.digest})
        object.__setattr__(self, "given", given)

    def check(self, items: Collection[tuple[str, str]]) -> None:
        """Raises XbenchError where there is not one map for these (dataset, item)."""
        given: GivenMaps = self.given  # type: ignore[attr-defined]
        if not any(given.find(dataset, item) for dataset, item in items):
            item = min(item for _, item in items)
            raise XbenchError(f"{given.folder} has no map of any item of this suite, such as {item!r}{given.suggest(item)}")

    def map_of(self, dataset: str, item: str, size: tuple[int, int]) -> Tensor | None:
        """An item's map, or None.

        Raises:
            XbenchError: it is no map for an input of that size.
        """
        given: GivenMaps = self.given  # type: ignore[attr-defined]
        name = given.find(dataset, item)
        if name is None:
            return None
        map_ = given.load(name)
        if map_.ndim != 2 or not all(1 <= m <= s for m, s in zip(map_.shape, size, strict=True)):
            wanted = f"[h, w] with h <= {size[0]} and w <= {size[1]}, the model's input"
            raise XbenchError(f"the map of {item} in {given.folder} is {list(map_.shape)}; it must be {wanted}")
        return map_


def _opened(path: Path) -> safetensors.safe_open:
    try:
        return safetensors.safe_open(path, "pt")
    except (safetensors.SafetensorError, OSError) as error:
        raise XbenchError(f"{path} is not a safetensors file ({error}); write it anew") from error
