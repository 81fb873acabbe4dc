"""Where rows live: a run directory of Parquet parts with a JSON manifest, written atomically, resumable.

    RUN/manifest.json         what was asked, from which inputs, and whether it is complete
    RUN/parts/NNNNNN-ID.parquet        rows of one work unit; the number orders them in time
    RUN/parts/NNNNNN-ID.safetensors    maps for the report's gallery
    RUN/rows.parquet, gallery.safetensors   the same after a run is complete: sorted, superseded rows dropped
    RUN/maps/                 maps at the methods' own grids, where they were asked for (see maps.py)

Every file appears under its name only when it is whole. Rows are never changed: a newer row of the same identity supersedes.

In memory, strings that repeat are pandas categories, sorted and no more than occur: so millions of rows are read, sorted and
grouped by small integers. ``plain`` turns them into strings.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors

from xbench.errors import XbenchError
from xbench.store import gallery, manifests
from xbench.store.gallery import Gallery, Key
from xbench.store.manifests import Manifest

SCHEMA = pa.schema(
    [
        ("cache_key", pa.string()),  # see plan/keys.py
        ("protocol_key", pa.string()),
        ("method", pa.string()),  # canonical spec strings
        ("model", pa.string()),
        ("dataset", pa.string()),
        ("metric", pa.string()),
        ("item", pa.string()),  # id, unique in its dataset under one target policy
        ("cluster", pa.string()),  # source photograph: what intervals resample
        ("target", pa.int32()),  # class index that was explained
        ("target_policy", pa.string()),
        ("status", pa.string()),  # ok | nan | not_applicable | unreadable
        ("reason", pa.string()),  # why there is no value
        ("value", pa.float64()),  # NaN unless ok; NaN where the metric's figure is one of vectors
        ("vector", pa.list_(pa.float32())),  # such as a curve
        ("constant", pa.bool_()),  # the map is constant: the value is an expectation over tie orders
        ("tie_mass", pa.float32()),  # share of the map's cells that share their value with another
        ("grid", pa.string()),  # native size of the map, such as 7x7
        ("residual", pa.float32()),  # by how much the map misses the sum that its method promises, as a share of it
        ("correct", pa.bool_()),  # the model's top-1 class on this very picture is one of its labels
        ("confidence", pa.float32()),  # the model's probability of the target on this very picture
        ("sources_correct", pa.bool_()),  # of a composed picture: the model gets all its sources right
        ("forwards", pa.float32()),  # stand-alone cost of the explanation, per item
        ("backwards", pa.float32()),
        ("seconds", pa.float32()),  # informative; never part of equality
    ]
)
MANIFEST = "manifest.json"
OPTIONAL = ["residual"]  # what rows of an older xbench lack; null there
IDENTITY = ["dataset", "protocol_key", "metric", "model", "method", "item"]  # a newer row of the same identity supersedes
INFORMATIVE = ["seconds"]
REPEATED = [field.name for field in SCHEMA if field.type == pa.string() and field.name != "cache_key"]  # few strings, in many rows


class Store:
    """A run directory."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.parts, self.maps = folder, folder / "parts", folder / "maps"

    def make(self) -> None:
        """Make the directory.

        Raises:
            XbenchError: it cannot be made.
        """
        with _disk(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    # -- writing -----------------------------------------------------------------------------------------------------------

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory for writing; the lock goes with the process, however that ends. Clears what a killed run left.

        Raises:
            XbenchError: another process holds it, or the directory cannot be written.
        """
        with hold(self.folder):
            with _disk(self.folder):
                self.parts.mkdir(exist_ok=True)
            for leftover in [*self.folder.glob("*.tmp"), *self.parts.glob("*.tmp"), *self.maps.rglob("*.tmp")]:
                leftover.unlink()
            yield

    def write_part(self, unit: str, rows: list[dict[str, Any]], shown: Gallery) -> None:
        """Append the rows of a unit, and images and maps for the gallery."""
        number = 1 + max((int(path.name[:6]) for path in self.parts.glob("*.*")), default=0)
        stem = f"{number:06d}-{unit}"
        if shown:
            # Before the rows: rows mark a unit as done.
            write(self.parts / f"{stem}.safetensors", lambda tmp: gallery.save(shown, tmp))
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        write(self.parts / f"{stem}.parquet", lambda tmp: _write_table(table, tmp))

    def write_manifest(self, manifest: Manifest) -> None:
        write_text(self.folder / MANIFEST, manifest.to_json())

    def compact(self, current: Iterable[str] = ()) -> pd.DataFrame:
        """Merge all parts into ``rows.parquet``: sorted, superseded rows dropped. -> the rows.

        current: cache keys of the rows that the plan wants; they win over others of their identity whatever their age.
        """
        rows = self.rows(current)
        shown = self.gallery()
        parts = sorted(self.parts.glob("*.*"))
        if parts:
            if shown:
                self.write_gallery(shown)
            self.write_rows(rows)
            for path in parts:
                path.unlink()
        return rows

    def write_gallery(self, shown: Gallery) -> None:
        ordered = {key: shown[key] for key in sorted(shown)}
        write(self.folder / "gallery.safetensors", lambda tmp: gallery.save(ordered, tmp))

    def write_rows(self, rows: pd.DataFrame) -> None:
        # Without what pandas notes of its own types: not theirs to read, who come with another tool.
        table = pa.Table.from_pandas(plain(rows), schema=SCHEMA, preserve_index=False).replace_schema_metadata()
        write(self.folder / "rows.parquet", lambda tmp: _write_table(table, tmp))

    def clear(self) -> None:
        """Forget everything (``--fresh``)."""
        maps = self.maps.rglob("*.safetensors")
        for path in [self.folder / MANIFEST, *self._files("parquet"), *self._files("safetensors"), *maps]:
            path.unlink(missing_ok=True)

    # -- reading -----------------------------------------------------------------------------------------------------------

    def manifest(self) -> Manifest | None:
        """The manifest, where there is one.

        Raises:
            XbenchError: it is damaged, or a newer xbench wrote it.
        """
        path = self.folder / MANIFEST
        return manifests.read(path) if path.is_file() else None

    def rows(self, current: Iterable[str] = ()) -> pd.DataFrame:
        """All rows that are not superseded, in canonical order: by IDENTITY. current: as in ``compact``."""
        tables = [_read_table(path) for path in self._files("parquet")] or [SCHEMA.empty_table()]
        together = pa.concat_tables(tables).unify_dictionaries()
        del tables
        return canonical(together.to_pandas(ignore_metadata=True, split_blocks=True, self_destruct=True), current)

    def cache_keys(self) -> set[str]:
        """The keys of all rows, superseded ones too."""
        return {key for path in self._files("parquet") for key in _read_table(path, ["cache_key"])["cache_key"].to_pylist()}

    def gallery(self) -> dict[Key, np.ndarray]:
        """Images and maps for the report, newest first served."""
        found: dict[Key, np.ndarray] = {}
        for path in self._files("safetensors"):
            found.update(gallery.load(path))
        return found

    def _files(self, kind: str) -> list[Path]:
        """Whole files of a kind from oldest to newest."""
        merged = self.folder / {"parquet": "rows.parquet", "safetensors": "gallery.safetensors"}[kind]
        return [*([merged] if merged.is_file() else []), *sorted(self.parts.glob(f"*.{kind}"))]


def canonical(rows: pd.DataFrame, current: Iterable[str] = ()) -> pd.DataFrame:
    """Rows sorted by IDENTITY; of equal ones the last, or the last whose cache key is in ``current``. As ``coded``."""
    rows = coded(rows)
    if _in_order(rows):  # as ``compact`` left them
        return rows.reset_index(drop=True)
    places = rows[IDENTITY].assign(wanted=rows["cache_key"].isin(set(current)), age=np.arange(len(rows)))
    places = places.sort_values([*IDENTITY, "wanted", "age"]).drop_duplicates(IDENTITY, keep="last")
    return coded(rows.iloc[places["age"]].reset_index(drop=True))


def concat(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The rows of several frames one after another. As ``coded``."""
    frames = [coded(frame) for frame in frames]
    if len(frames) == 1:
        return frames[0].reset_index(drop=True)
    together = {}
    for name in REPEATED:
        every = [frame[name].cat.categories for frame in frames]
        together[name] = pd.CategoricalDtype(_sorted(itertools.chain(*every)))
    return pd.concat([frame.astype(together) for frame in frames], ignore_index=True)


def coded(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows with repeated strings as categories, sorted and no more than occur: they tell nothing of how rows were read."""
    return rows.assign(**{name: _coded(rows[name]) for name in REPEATED})


def _coded(strings: pd.Series[Any]) -> pd.Series[Any]:
    column = strings.astype("category")
    categories = column.cat.categories
    times = np.bincount(column.cat.codes + 1, minlength=len(categories) + 1)[1:]  # code -1: there is none
    found = _sorted(categories[times > 0])
    return column if found.identical(categories) else column.cat.set_categories(found)


def plain(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows with repeated strings as strings: for whoever adds and compares them freely."""
    columns = {name: rows[name].cat for name in REPEATED if isinstance(rows[name].dtype, pd.CategoricalDtype)}
    return rows.assign(**{name: its.categories.array.take(its.codes.to_numpy(), allow_fill=True) for name, its in columns.items()})


def _sorted(names: Iterable[str]) -> pd.Index[str]:
    return pd.Index(sorted(set(names)), dtype="str")


def _in_order(rows: pd.DataFrame) -> bool:
    """Whether each row's IDENTITY is above that of the row before. Of ``coded`` rows."""
    equal, above = np.ones(max(len(rows) - 1, 0), bool), np.zeros(max(len(rows) - 1, 0), bool)
    for name in IDENTITY:
        codes = rows[name].cat.codes.to_numpy()
        above |= equal & (codes[:-1] < codes[1:])
        equal &= codes[:-1] == codes[1:]
    return bool(above.all())


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Make a directory and hold it for writing; the lock goes with the process, however that ends.

    Raises:
        XbenchError: another process holds it, or the directory cannot be written.
    """
    with _disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.close()
        raise XbenchError(f"another run is writing to {folder}; wait for it, or choose another --out") from error
    try:
        yield
    finally:
        handle.close()


def write_text(path: Path, text: str) -> None:
    """Write a text file through the same door as everything else.

    Raises:
        XbenchError: it cannot be written.
    """
    write(path, lambda tmp: tmp.write_text(text, encoding="utf-8"))


def _write_table(table: pa.Table, path: Path) -> None:
    # Of numbers a dictionary saves nothing; and a reader holds one group at a time in its compressed form.
    pq.write_table(table, path, compression="zstd", use_dictionary=REPEATED, row_group_size=2**17)


def _read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    remedy = "delete it and run again to compute its rows anew"
    try:
        table = pq.read_table(path, columns=columns, read_dictionary=REPEATED, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise XbenchError(f"{path} is damaged ({error}); {remedy}") from error
    if columns is not None:
        return table
    for name in SCHEMA.names:
        if name not in table.column_names:
            if name not in OPTIONAL:
                raise XbenchError(f"{path} is damaged (it lacks the column {name} of docs/rows.md); {remedy}")
            table = table.append_column(SCHEMA.field(name), pa.nulls(len(table), SCHEMA.field(name).type))
    return table.select(SCHEMA.names)


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Save through a temporary file in the same folder: the name appears when the bytes are on disk, or never.

    Raises:
        XbenchError: it cannot be written.
    """
    tmp = path.with_name(path.name + ".tmp")
    with _disk(path):
        try:
            save(tmp)
            with tmp.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(tmp, path)
        except BaseException:
            tmp.unlink(missing_ok=True)
            raise


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, safetensors.SafetensorError) as error:
        number = re.search(r"(?:\[errno|os error) (\d+)", str(error))  # how Arrow and safetensors pass it on
        known = error.strerror if isinstance(error, OSError) else None
        reason = os.strerror(int(number[1])) if number else known or str(error).splitlines()[0]
        raise XbenchError(f"cannot write {path}: {reason}; free some space, or choose another --out") from error
