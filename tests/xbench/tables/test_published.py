import pytest

from xbench.errors import XbenchError
from xbench.tables import citations, published

GOOD = """
[ids]
methods = { "Grad-CAM" = "grad_cam" }
datasets = { "VOC 2007" = "voc" }
metrics = { "insertion" = "insertion" }

[[reported]]
source = "petsiuk2018rise"
where = "Table 1"
tag = "[P:paper]"
dataset = "VOC 2007"
metric = "insertion"
unit = "%"
models = ["VGG", "ResNet"]
[reported.values]
"Grad-CAM" = [60.0, 61.5]
"Other" = [1.0, 2.0]
"""


@pytest.fixture
def write(tmp_path):
    def written(text):
        path = tmp_path / "published.toml"
        path.write_text(text)
        return path

    return written


def test_a_figure_for_each_method_and_model(write):
    found = published.load(write(GOOD))
    assert [(f.method, f.model, f.value) for f in found.figures()] == [
        ("Grad-CAM", "VGG", 60.0),
        ("Grad-CAM", "ResNet", 61.5),
        ("Other", "VGG", 1.0),
        ("Other", "ResNet", 2.0),
    ]
    assert found.figures()[0].text == "60.0 % (VGG; petsiuk2018rise [P])"
    assert published.listing(found)["Other, VGG: insertion on VOC 2007 (petsiuk2018rise)"] == "1.0 %, Table 1 [P:paper]"


def test_only_what_has_three_ids_stands_beside_measured_figures(write):
    (key,) = (by_ids := published.load(write(GOOD)).by_ids())
    assert key == ("grad_cam", "voc", "insertion")
    assert [f.value for f in by_ids[key]] == [60.0, 61.5]
    assert published.load(write(GOOD.replace('"insertion" =', '"ROAD" ='))).by_ids() == {}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[P:paper]", "[M]", r"line 10: figures from memory, \[M\], are not published ones"),
        ("[P:paper]", "somewhere", "line 10: tag 'somewhere' is not of the form"),
        ("petsiuk2018rise", "petsiuk2018rice", "line 8: source 'petsiuk2018rice' is not in references.bib; .* 'petsiuk2018rise'"),
        ("[60.0, 61.5]", "[60.0]", "'Grad-CAM' has 1 figures for 2 models"),
        ("[60.0, 61.5]", "[60.0, nan]", "finite number"),
        ("unit =", "units =", "unknown key 'units'; did you mean 'unit'"),
        ('where = "Table 1"', "", "the key 'where' is missing"),
    ],
)
def test_errors_name_the_line(write, old, new, message):
    with pytest.raises(XbenchError, match=message):
        published.load(write(GOOD.replace(old, new)))


def test_what_ships_is_whole():
    shipped = published.load()
    figures = shipped.figures()
    assert len(figures) > 200
    assert len(published.listing(shipped)) == len(figures)  # nothing is there twice
    assert all(f.source in citations.bibliography() for f in figures)
    of = {(f.method, f.model, f.dataset, f.metric, f.source): f.value for f in figures}
    assert of["Grad-CAM", "ResNet50", "PASCAL VOC 2007 test", "pointing game, difficult", "fong2019extremal"] == 82.3
    assert of["RISE", "ResNet-50", "ImageNet", "insertion", "petsiuk2018rise"] == 0.77193
    assert of["CAM", "Inception", "CUB-200-2011", "MaxBoxAccV2", "choe2020evaluating"] == 56.7
    assert of["RISE", "WRN-28-8 trained by LICO", "CIFAR-100", "deletion", "lei2023lico"] == 11.67
    names = {
        "methods": {f.method for f in figures},
        "datasets": {f.dataset for f in figures},
        "metrics": {f.metric for f in figures},
    }
    for kind, known in names.items():
        assert set(getattr(shipped.ids, kind)) <= known  # no id for what no paper names


def test_ids_are_of_plugins():
    pytest.importorskip("xbench.methods")
    from xbench.plugins.registry import registry

    ids = published.load().ids
    assert set(ids.methods.values()) <= set(registry.ids("method"))
    assert set(ids.datasets.values()) <= set(registry.ids("dataset"))
    assert set(ids.metrics.values()) <= set(registry.ids("metric"))
