"""The gallery's keys, and that names may hold any character wherever several stand together."""

import json

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch
from safetensors.torch import save_file

from xbench.api import Outcome
from xbench.errors import XbenchError
from xbench.plan.suite import Track
from xbench.plugins.registry import registry
from xbench.report import html
from xbench.run import pipeline
from xbench.store import gallery, maps
from xbench.store.directory import Store
from xbench.store.gallery import Key
from xbench.store.manifests import AboutColumn
from xbench.store.maps import GivenMaps
from xbench.tables import compare, query, runs
from xbench.tables.query import Filter

IMAGE = np.zeros((4, 4, 3), np.uint8)
MAP = np.zeros((2, 2), np.float16)
ODD = [
    "a|b",
    "a",
    "b|a|",
    "|",
    "dir/a|b.png",
    "with spaces  and\ttab",
    "café 猫 \U0001f426",
    "quote\" and 'other\\",
    '["a", "b"]',
    "a:b?*<>#1%2F",
    "..",
    "x" * 300,
]
PLUGIN = f"""
import dataclasses
from xbench import dataset
from xbench.plugins.registry import registry

ODD = {ODD!r}


@dataset("odd", provides={{"mask", "boxes"}})
def odd(name: str = "", more: str = ""):
    \"\"\"Squares under odd names.\"\"\"
    inner = registry.dataset(f"tiny_pictures(n={{len(ODD)}})")()
    entries, load = inner.entries(), inner.load
    inner.entries = lambda: [dataclasses.replace(e, id=id) for e, id in zip(entries, ODD)]
    inner.load = lambda id: dataclasses.replace(load(entries[ODD.index(id)].id), id=id)
    inner.generated = True
    return inner
"""
SPEC = 'odd("name|with / and (", more="\\"ü, %2F|")'


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """The plug-in file."""
    path = tmp_path_factory.mktemp("odd") / "odd.py"
    path.write_text(PLUGIN, encoding="utf-8")
    registry.load(str(path))
    return str(path)


@pytest.fixture
def odd_suite(tiny_suite, odd):
    track = Track(dataset=SPEC, metrics=["tiny_mass"], target="label")
    return tiny_suite.model_copy(update={"tracks": [track], "gallery": len(ODD)})


# -- the file --------------------------------------------------------------------------------------------------------------------


def test_any_name_comes_back(tmp_path):
    """Four names that joined by any mark would be one."""
    keys = [Key(*names) for names in zip(ODD, ODD[1:], ODD[2:], ["", *ODD[4:]], strict=False)]
    keys += [Key("a|b", "c", "d"), Key("a", "b|c", "d"), Key("a", "b", "c|d"), Key("a", "b", "c", "d")]
    assert len(set(keys)) == len(keys)
    saved = {key: np.full((2, 2), i, np.float16) for i, key in enumerate(keys)}
    gallery.save(saved, tmp_path / "g.safetensors")
    found = gallery.load(tmp_path / "g.safetensors")
    assert set(found) == set(keys)
    assert all((found[key] == saved[key]).all() for key in keys)


def test_the_format_before_is_read_where_it_is_clear(tmp_path):
    path = tmp_path / "g.safetensors"
    safetensors.numpy.save_file({"net|d(n=1)|a/b c|": IMAGE, "net|d(n=1)|a/b c|cam": MAP, "net|d|a|b|": IMAGE}, path)
    assert set(gallery.load(path)) == {Key("net", "d(n=1)", "a/b c"), Key("net", "d(n=1)", "a/b c", "cam")}


@pytest.mark.parametrize(
    ("name", "metadata", "message"),
    [
        ("picture", None, "'picture' names no model, dataset, item and method"),
        ("net|d|a|", {"format": "2"}, "names no model, dataset, item and method"),
        (json.dumps(["net", "d", "a"]), {"format": "2"}, "names no model"),
        (json.dumps(["net", "d", "a", None]), {"format": "2"}, "names no model"),
        (json.dumps({"net": 1}), {"format": "2"}, "names no model"),
        (json.dumps(["net", "d", "a", ""]), {"format": "x"}, "there is no format 'x'"),
        (
            json.dumps(["net", "d", "a", ""]),
            {"format": "3"},
            "written by a newer xbench (format 3, and this one reads up to 2); upd",
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, metadata, message):
    path = tmp_path / "g.safetensors"
    safetensors.numpy.save_file({name: IMAGE}, path, metadata)
    with pytest.raises(XbenchError) as error:
        gallery.load(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "g.safetensors"
    gallery.save({Key("net", "d", "a"): IMAGE}, path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(XbenchError, match=r"g.safetensors is damaged"):
        gallery.load(path)


# -- a run of odd names ----------------------------------------------------------------------------------------------------------


def test_a_run_shows_every_item_whatever_it_is_called(odd_suite, odd, tmp_path):
    done = pipeline.run(odd_suite, out=tmp_path / "run", plugins=[odd], save_maps=True)
    (dataset,) = set(done.rows["dataset"])
    shown = Store(done.folder).gallery()
    assert {key.item for key in shown} == set(ODD)
    assert {key.dataset for key in shown} == {dataset}
    page = html.render(Outcome.of(done).leaderboard(), done.rows, done.manifest, shown)
    assert page.count("data:image/jpeg") == len(ODD) * 6
    merged = runs.merge([done.folder], tmp_path / "merged")
    assert merged[0]["item"].nunique() == len(ODD)
    assert set(Store(tmp_path / "merged").gallery()) == set(shown)
    kept = maps.MapStore(tmp_path / "merged" / "maps")
    again = pipeline.run(odd_suite, out=tmp_path / "run", plugins=[odd], save_maps=True)
    assert again.computed == 0
    for path in kept.folder.rglob("*.safetensors"):
        assert path.relative_to(kept.folder).parts[:1] == ("tiny_net",)
        assert len(path.relative_to(kept.folder).parts) == 4


def test_maps_of_one_file_are_each_item_s_own(odd_suite, odd, tmp_path):
    """An item whose name ends as another's does not take that one's map."""
    maps = {"a": 1.0, "dir/a": 2.0, "z/dir/a": 3.0}
    save_file({item: torch.full((2, 2), value) for item, value in maps.items()}, tmp_path / "maps.safetensors")
    (tmp_path / "inner").mkdir()
    save_file({"a": torch.full((2, 2), 4.0)}, tmp_path / "inner" / "maps.safetensors")
    given = GivenMaps(tmp_path)
    for item, value in {**maps, "inner/a": 4.0}.items():
        assert (given.load(given.find("d", item)) == value).all()


@pytest.mark.parametrize("name", [*ODD, ".", 'clip(prompt="' + "ü" * 90 + '")'])
def test_a_folder_s_name_is_one_name_for_one_spec(name, tmp_path):
    folder = maps.folder_name(name)
    (tmp_path / folder).mkdir()
    assert (tmp_path / folder).resolve().parent == tmp_path.resolve()
    assert folder != maps.folder_name(name + "x")


def test_names_that_differ_by_blanks_are_two():
    specs = ['folder("a b")', 'folder("ab")', "other(n=1, m=2)"]
    about = AboutColumn(
        dataset="",
        metric="m",
        version="",
        direction="higher",
        range=(None, None),
        chance="",
        reduce="mean",
        group="",
        axes=(),
        cite="",
        protocol="",
    )
    columns = {spec: about.model_copy(update={"dataset": spec}) for spec in specs}
    rows = pd.DataFrame({"protocol_key": specs, "model": "net", "method": "cam"})

    def chosen(name):
        return list(query.narrowed(rows, columns, [], Filter(datasets=[name]))[1])

    assert chosen('folder("a b")') == ['folder("a b")']
    assert chosen('folder("ab")') == ['folder("ab")']
    assert chosen("folder") == specs[:2]
    assert chosen("other(n=1,m=2)") == specs[2:]


def test_maps_under_a_name_that_is_no_spec_are_compared(odd_suite, odd, tmp_path):
    done = pipeline.run(odd_suite, out=tmp_path / "run", plugins=[odd])
    named = done.rows.assign(method=done.rows["method"].where(done.rows["method"] != "tiny_cam", "my own | maps"))
    report = compare.of_methods((named, done.manifest), "my own | maps", "tiny_negated")
    assert report.names == ("my own | maps", "tiny_negated(tiny_cam)")
