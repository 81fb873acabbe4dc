import resource

import numpy as np
import pytest

from xbench.errors import XbenchError
from xbench.store import SCHEMA, Store


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
    store.write_part("u1", [row(value=1.0, key="old")], {"picture": np.zeros(2, np.float32)})
    store.write_part("u1", [row(value=2.0, key="new")], {"picture": np.ones(2, np.float32)})
    assert store.rows()["value"].tolist() == [2.0]
    assert store.compact()["value"].tolist() == [2.0]
    assert not list(store.parts.glob("*"))
    assert store.cache_keys() == {"new"}
    assert store.gallery()["picture"].tolist() == [1.0, 1.0]


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
