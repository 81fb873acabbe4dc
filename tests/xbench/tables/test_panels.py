"""Rows to arrays, against plain loops over the rows."""

import numpy as np
import pandas as pd
import pytest

from xbench.store import directory
from xbench.store.directory import SCHEMA
from xbench.store.manifests import AboutColumn
from xbench.tables import panels
from xbench.tables.panels import STATUSES

ABOUT = AboutColumn(
    dataset="d",
    metric="unused",
    version="1",
    direction="higher",
    range=(0.0, 1.0),
    chance="",
    reduce="mean",
    group="",
    axes=(),
    cite="",
    protocol="p",
)
COLUMNS = {
    "second": ABOUT.model_copy(update={"metric": "curve", "reduce": "best(2)", "group": "localization"}),
    "first": ABOUT.model_copy(update={"metric": "mass", "direction": "lower"}),
    "classes": ABOUT.model_copy(update={"metric": "per_class", "reduce": "class_mean"}),
    "nobody": ABOUT,
}
METRICS = {"first": "mass", "second": "curve", "classes": "per_class"}


@pytest.fixture
def rows():
    """Two models, three methods, items of which some methods lack some; in no order."""
    rng = np.random.default_rng(0)
    found = []
    for model in ("net_b", "net_a"):
        for key, metric in METRICS.items():
            for method in ("grad_cam", "Random", "lrp"):
                for i in range(9, 21):
                    if method == "lrp" and i % 5 == 0:
                        continue
                    status = "nan" if (method, i) == ("Random", 10) else "ok"
                    known = status == "ok"
                    row = {
                        "protocol_key": key,
                        "method": method,
                        "model": model,
                        "dataset": "d",
                        "metric": metric,
                        "item": f"item {i}",
                        "cluster": f"photo {i // 2}",
                        "target": i % 3,
                        "status": status,
                        "value": rng.random() if known and key != "second" else np.nan,
                        "vector": rng.random(4).astype(np.float32) if known and key == "second" else None,
                        "constant": i == 11 if known else None,
                        "grid": "14x14" if method == "lrp" else "7x7",
                    }
                    found.append(dict.fromkeys(SCHEMA.names) | row)
    return pd.DataFrame([found[i] for i in rng.permutation(len(found))])


def by_key(rows):
    return {(panel.model, panel.column.key): panel for panel in panels.of_rows(rows, COLUMNS)}


def test_models_by_name_and_columns_in_the_manifests_order(rows):
    assert list(by_key(rows)) == [(model, key) for model in ("net_a", "net_b") for key in ("second", "first", "classes")]


@pytest.mark.parametrize("read", [lambda rows: rows, directory.coded], ids=["strings", "categories"])
def test_every_row_is_at_its_place(rows, read):
    found = by_key(read(rows))
    panel = found["net_a", "first"]
    assert panel.methods == ["Random", "grad_cam", "lrp"]
    assert panel.items == sorted(f"item {i}" for i in range(9, 21))
    filled = 0
    for place, row in enumerate(rows.to_dict("records")):
        panel = found[row["model"], row["protocol_key"]]
        at = panel.methods.index(row["method"]), panel.items.index(row["item"])
        filled += panel.rows[at] == place
        assert STATUSES[panel.status[at]] == row["status"]
        assert panel.scores.known[at] == (row["status"] == "ok")
        assert panel.targets[at[1]] == row["target"]
        if row["status"] == "ok":
            stored = row["vector"] if row["protocol_key"] == "second" else [row["value"]]
            assert panel.scores.data[at].tolist() == list(stored)
            assert panel.constant[at] == row["constant"]
    assert filled == len(rows) == sum((panel.rows >= 0).sum() for panel in found.values())
    for panel in found.values():
        lrp = panel.methods.index("lrp")
        assert panel.count(lrp, "missing") == 3  # items 10, 15 and 20
        assert not panel.scores.known[lrp, panel.items.index("item 15")]
        assert panel.same_grid(0, 1)
        assert not panel.same_grid(0, lrp)


def test_what_the_manifest_says_of_a_column(rows):
    found = by_key(rows)
    assert (found["net_a", "second"].scores.reduce, found["net_a", "second"].column.group) == ("best(2)", "localization")
    assert [found["net_a", key].scores.higher for key in METRICS] == [False, True, True]
    assert found["net_a", "first"].scores.classes is None
    assert (found["net_a", "classes"].scores.classes == found["net_a", "classes"].targets).all()
    assert found["net_a", "classes"].column.label == "per_class ↑"


def test_figures_do_not_depend_on_the_order_of_rows_or_of_categories(rows):
    """The bootstrap draws clusters by their place, which must be that of their names."""

    def figures(frame):
        return [panel.scores.estimates() for panel in panels.of_rows(frame, COLUMNS)]

    clusters = rows["cluster"].drop_duplicates().sample(frac=1, random_state=1)
    strange = rows.assign(cluster=pd.Categorical(rows["cluster"], [*clusters, "photo that no row is of"]))
    ordered = rows.sort_values(["item", "method"], ascending=False)
    assert figures(rows) == figures(ordered) == figures(strange)


def test_clusters_are_told_apart(rows):
    (panel, *_) = panels.of_rows(rows, COLUMNS)
    numbers = [int(item.split()[1]) // 2 for item in panel.items]
    same = np.equal.outer(panel.scores.clusters, panel.scores.clusters)
    assert (same == np.equal.outer(numbers, numbers)).all()


def test_a_column_in_which_nothing_has_a_value(rows):
    nothing = rows.assign(status="not_applicable", value=np.nan, vector=None)
    for panel in panels.of_rows(nothing, COLUMNS):
        assert not panel.scores.known.any()
        assert [estimate.n for estimate in panel.scores.estimates()] == [0, 0, 0]


def test_no_rows_no_panels(rows):
    assert list(panels.of_rows(rows[:0], COLUMNS)) == []
