import resource

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xbench.errors import XbenchError
from xbench.store import directory as stores
from xbench.store.directory import IDENTITY, REPEATED, SCHEMA, Store
from xbench.store.gallery import Key

PICTURE = Key("net", "d", "a")


def row(method="m", item="i", value=1.0, key="k", **more):
    empty = dict.fromkeys(SCHEMA.names)
    named = {"dataset": "d", "protocol_key": "p", "metric": "x", "model": "net", "status": "ok"}
    return empty | named | {"method": method, "item": item, "value": value, "cache_key": key} | more


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path / "run")
    with found.lock():
        yield found


def test_rows_come_back_sorted(store):
    store.write_part("u1", [row(item="b"), row(item="a")], {})
    assert store.rows()["item"].tolist() == ["a", "b"]
    assert store.cache_keys() == {"k"}


def test_a_newer_row_supersedes_and_compaction_keeps_one(store):
    store.write_part("u1", [row(value=1.0, key="old")], {PICTURE: np.zeros(2, np.float32)})
    store.write_part("u1", [row(value=2.0, key="new")], {PICTURE: np.ones(2, np.float32)})
    assert store.rows()["value"].tolist() == [2.0]
    assert store.compact()["value"].tolist() == [2.0]
    assert not list(store.parts.glob("*"))
    assert store.cache_keys() == {"new"}
    assert store.gallery()[PICTURE].tolist() == [1.0, 1.0]


def test_rows_that_the_plan_wants_win_whatever_their_age(store):
    store.write_part("u1", [row(value=1.0, key="wanted")], {})
    store.write_part("u1", [row(value=2.0, key="edited in between")], {})
    assert store.rows(["wanted"])["value"].tolist() == [1.0]


def test_compaction_killed_between_write_and_delete_loses_and_doubles_nothing(store):
    store.write_part("u1", [row(item="a"), row(item="b")], {})
    before = store.rows()
    store.write_rows(before)  # what compact does first; the parts are still there
    assert store.rows().equals(before)


def test_half_written_files_are_never_read(tmp_path):
    store = Store(tmp_path / "run")
    with store.lock():
        store.write_part("u1", [row()], {})
    (store.parts / "000002-u2.parquet.tmp").write_bytes(b"half a file")
    assert len(store.rows()) == 1
    with store.lock():
        assert not list(store.parts.glob("*.tmp"))


def test_a_damaged_part_is_named(store):
    store.write_part("u1", [row()], {})
    (part,) = store.parts.glob("*.parquet")
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(XbenchError, match=rf"{part.name} is damaged .* delete it and run again"):
        store.rows()


def test_two_writers_are_refused(store):
    with pytest.raises(XbenchError, match="another run is writing"), Store(store.folder).lock():
        pass


def test_a_full_disk_is_one_line_and_leaves_nothing(store):
    store.write_part("u1", [row()], {})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(XbenchError, match=r"cannot write .*: File too large; free some space"):
            store.write_part("u2", [row(item=f"{i}", key=f"{i * 7919}") for i in range(5000)], {})
        with pytest.raises(XbenchError, match=r"cannot write .*safetensors: File too large; free"):
            store.write_part("u3", [row()], {"big": np.zeros(9999, np.float32)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(list(store.parts.glob("*"))) == 1
    assert len(store.rows()) == 1


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(XbenchError, match="cannot write"), Store(tmp_path / "file" / "run").lock():
        pass


def test_a_damaged_manifest_is_named(store):
    (store.folder / "manifest.json").write_text('{"complete": tr')
    with pytest.raises(XbenchError, match=r"manifest.json is damaged"):
        store.manifest()


def categories(rows, name):
    return rows[name].cat.categories.tolist()


def test_repeated_strings_are_sorted_categories_of_what_occurs(store):
    store.write_part("u1", [row(item="b", reason="old"), row(item="d")], {})
    store.write_part("u2", [row(item="c"), row(item="a"), row(item="b")], {})  # supersedes the only row with a reason
    found = store.rows()
    assert categories(found, "item") == ["a", "b", "c", "d"]
    assert categories(found, "reason") == []
    pd.testing.assert_frame_equal(store.compact(), found)
    pd.testing.assert_frame_equal(store.rows(), found)  # now from one file, with nothing to sort
    assert stores.plain(found)["item"].tolist() == ["a", "b", "c", "d"]
    assert stores.plain(found)["reason"].isna().all()
    assert not any(isinstance(kind, pd.CategoricalDtype) for kind in stores.plain(found).dtypes)


def test_sorted_like_a_plain_sort_of_strings(store):
    rng = np.random.default_rng(0)
    names = [f"{n}" for n in rng.permutation(60)]  # 10 comes before 9
    for part in np.array_split(names * 2, 5):
        store.write_part(
            "u", [row(item=name, method=f"m{len(name)}", value=float(name), key=f"k{i}") for i, name in enumerate(part)], {}
        )
    tables = [pq.read_table(path) for path in sorted(store.parts.glob("*.parquet"))]
    everything = pa.concat_tables(tables).to_pandas()
    expected = everything.drop_duplicates(IDENTITY, keep="last").sort_values(IDENTITY).reset_index(drop=True)
    pd.testing.assert_frame_equal(stores.plain(store.rows()), expected)


def test_rows_on_disk_are_plain_whatever_they_were_in_memory(store):
    store.write_part("u", [row(item="b", vector=[0.5, 1.0]), row(item="a", reason="why")], {})
    found = store.rows()
    store.write_rows(found)
    first = (store.folder / "rows.parquet").read_bytes()
    schema = pq.read_schema(store.folder / "rows.parquet")
    assert schema.equals(SCHEMA)
    assert schema.metadata is None
    store.write_rows(stores.plain(found))
    assert (store.folder / "rows.parquet").read_bytes() == first


def test_a_file_that_something_else_wrote_is_put_in_order(store):
    unordered = [row(item="b", value=2.0), row(item="a", value=1.0), row(item="b", value=3.0)]
    pq.write_table(pa.Table.from_pylist(unordered, schema=SCHEMA), store.folder / "rows.parquet")
    assert store.rows()[["item", "value"]].to_numpy().tolist() == [["a", 1.0], ["b", 3.0]]


def test_frames_of_different_strings_go_together(store, tmp_path):
    other = Store(tmp_path / "other")
    with other.lock():
        other.write_part("u", [row(item="a", method="z"), row(item="c")], {})
    store.write_part("u", [row(item="b", reason="why")], {})
    together = stores.concat([store.rows(), other.rows(), Store(tmp_path / "none").rows()])
    assert all(isinstance(together[name].dtype, pd.CategoricalDtype) for name in REPEATED)
    assert categories(together, "item") == ["a", "b", "c"]
    assert together["item"].tolist() == ["b", "c", "a"]
    assert together["reason"].dropna().tolist() == ["why"]
    # Strings are as good as categories.
    pd.testing.assert_frame_equal(stores.concat([stores.plain(store.rows()), stores.plain(other.rows())]), together)
    assert stores.canonical(together)["item"].tolist() == ["b", "c", "a"]  # method m before z


def test_a_directory_without_rows_has_none(tmp_path):
    found = Store(tmp_path).rows()
    assert found.empty
    assert found.columns.tolist() == SCHEMA.names


def test_rows_of_an_older_xbench_lack_what_they_did_not_know(store):
    table = pa.Table.from_pylist([row(item="a")], schema=SCHEMA)
    pq.write_table(table.drop_columns("residual"), store.folder / "rows.parquet")
    store.write_part("u1", [row(item="b", residual=0.25)], {})
    found = store.compact()
    assert found.columns.tolist() == SCHEMA.names
    assert found["residual"].isna().tolist() == [True, False]
    pq.write_table(table.drop_columns("item"), store.folder / "rows.parquet")
    with pytest.raises(XbenchError, match=r"it lacks the column item of docs/rows\.md"):
        store.rows()
