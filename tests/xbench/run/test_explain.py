"""`xbench explain` in words: sheets for texts and concepts, on a small CLIP with random weights."""

import numpy as np
import pytest
import torch
from PIL import Image

from xbench.data.classes import ClassList
from xbench.errors import XbenchError
from xbench.network.zero_shot import Encoder
from xbench.plugins.registry import registry
from xbench.report import pictures
from xbench.run import explain


@pytest.fixture
def sheet(clips, tmp_path, monkeypatch):
    """What is written for texts and concepts: captions by row, and what is said of them."""
    model, bind = clips.model(clips.vision()), registry.bind
    encoder = Encoder(clips.encode, lambda sentence: len(sentence.split()) + 2, 6)
    object.__setattr__(model, "encode_text", encoder)
    monkeypatch.setattr(registry, "bind", lambda kind, spec: (lambda: model) if spec == "clip" else bind(kind, spec))
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "p.png")
    rows = []
    monkeypatch.setattr(pictures, "sheet", lambda given, path: rows.extend([[c for c, _ in row] for row in given]))

    def write(texts=(), concepts=(), model_spec="clip", methods=("tiny_cam", "tiny_noise"), dataset=None, count=None):
        rows.clear()
        image = dataset or str(tmp_path / "p.png")
        said = explain.explain_words(image, count, model_spec, methods, texts, concepts, tmp_path / "out.png")
        return rows, said, model

    return write


def test_each_text_and_concept_has_a_row(sheet, clips, tmp_path):
    rows, said, model = sheet(["a striped circle"], ["bird.n.01", "traffic_light.n.01"])
    assert rows == [[name, "tiny_cam", "tiny_noise"] for name in ("a striped circle", "bird.n.01", "traffic_light.n.01")]
    image = torch.from_numpy(np.array(Image.open(tmp_path / "p.png"))).permute(2, 0, 1)
    with torch.no_grad():
        picture = torch.nn.functional.normalize(model.network.visual(model.inputs([image], "crop"))[0], dim=0)
    lemmas = ("traffic light", "traffic signal", "stoplight")
    mean = torch.nn.functional.normalize(clips.encode(lemmas), dim=1).mean(dim=0)
    cosines = [torch.nn.functional.normalize(v, dim=0) @ picture for v in (clips.embedding("a striped circle"), mean)]
    assert f"'a striped circle' (cosine {cosines[0]:.2f})" in said
    assert f"'traffic_light.n.01' (cosine {cosines[1]:.2f})" in said
    assert said.endswith(f"explained by tiny_cam, tiny_noise: {tmp_path / 'out.png'}")


def test_several_pictures_have_a_row_for_each_text(sheet, tmp_path, monkeypatch):
    seen, row = [], explain._row
    monkeypatch.setattr(explain, "_row", lambda shown, *rest: seen.append(shown) or row(shown, *rest))
    rows, said, _ = sheet(["a ring", "bird"], dataset="tiny_pictures", count=3)
    assert [captions[0] for captions in rows] == ["a ring", "bird"] * 3
    dataset = registry.dataset("tiny_pictures")()
    ids = [entry.id for entry in dataset.entries()[:3] for _ in range(2)]
    assert [shown.name for shown in seen] == ids
    assert all(torch.equal(shown.image, dataset.load(id).image) for shown, id in zip(seen, ids, strict=True))
    assert said == f"'a ring' and 'bird' in 3 pictures of tiny_pictures explained by tiny_cam, tiny_noise: {tmp_path / 'out.png'}"


def test_the_models_own_classes_have_no_part_in_it_and_stay(sheet):
    _, _, model = sheet(["one"])
    assert model.classes.names == ("ant", "bee", "cat")
    assert model.network.texts.shape[0] == 3


def test_a_long_text_is_wrapped(sheet):
    rows, _, _ = sheet(["incomprehensibilities and more words"])
    assert rows[0][0] == "incomprehensibilities and\nmore words"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"texts": [""]}, "--text is empty; write what to look for"),
        ({"texts": ["fine", "  "]}, "--text is empty"),
        ({"texts": ["one two three four five"]}, "'one two three four five' has 7 tokens, and the text tower reads 6; shorten it"),
        ({"concepts": ["birdd.n.01"]}, r"no synset 'birdd.n.01' among .*; did you mean 'bird.n.01'\?"),
        ({"concepts": ["crane"]}, "'crane' has 2 meanings; name one of"),
        ({"texts": ["x"], "model_spec": "tiny_net"}, "model .* has no text; a sentence needs a CLIP"),
        ({"texts": ["x"], "methods": ["tiny_truth"]}, "needs truth, which a single picture"),
    ],
)
def test_what_cannot_be_explained_is_said_in_a_line(sheet, asked, message):
    with pytest.raises(XbenchError, match=message) as caught:
        sheet(**asked)
    assert "\n" not in str(caught.value)


def test_a_picture_without_a_label_that_the_model_has_is_explained_by_its_prediction(tmp_path, monkeypatch):
    sheets = []
    monkeypatch.setattr(pictures, "sheet", lambda rows, path: sheets.append([row[0][0] for row in rows]))
    tiny = registry.get("dataset", "tiny_pictures").make.__globals__["Pictures"]
    model = registry.model("tiny_net")()
    given = ("tiny_pictures", 3, "tiny_net", ["tiny_cam"], None, tmp_path / "out.png")
    explain.explain_dataset(*given)
    monkeypatch.setattr(tiny, "classes", ClassList(("ant", "yak", "elk", "dog", "cat")))
    explain.explain_dataset(*given)
    seen = [tiny_picture.image for tiny_picture in map(registry.dataset("tiny_pictures")().load, ("picture_1",))]
    predicted = model.classes.names[int(model(model.inputs(seen, "crop"))[0].argmax())]
    assert [[name.partition(",")[0] for name in names] for names in sheets] == [["ant", "bee", "cat"], ["ant", predicted, "elk"]]
