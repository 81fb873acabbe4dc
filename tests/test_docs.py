"""What the pages of docs/ show works: suites validate, plug-in files load and run, commands exist, links lead somewhere."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from xbench.cli import app
from xbench.data import wordnet
from xbench.errors import XbenchError
from xbench.plan import suite
from xbench.plan.suite import Suite, Track
from xbench.plugins.registry import registry
from xbench.run import pipeline

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.glob("*.md"))

pytestmark = pytest.mark.skipif(not PAGES, reason="needs the source tree")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def plug_in(tmp_path):
    """Load a page's plug-in files, known by their first line."""

    def load(page: str) -> None:
        for code in blocks(page, "python"):
            if name := re.match(r"# (my_\w+\.py)\n", code):
                (tmp_path / name[1]).write_text(code, encoding="utf-8")
                registry.load(str(tmp_path / name[1]))

    return load


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_exist_with_their_options(page):
    import typer

    commands = typer.main.get_command(app).commands
    for block in re.findall(r"```\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in re.findall(r"^(?:\w+=\S+ )*xbench (.+?)(?: {2,}#.*)?$", block, re.MULTILINE):
            name, *words = shlex.split(line, comments=True)
            options = {option for parameter in commands[name].params for option in parameter.opts}
            unknown = [word for word in words if word.startswith("--") and word not in options]
            assert not unknown, line


def test_methods_of_the_page_run(plug_in, tiny_suite, tmp_path):
    plug_in("method.md")
    methods = ["my_cam", "my_cam(power=2.0)", "my_quarters"]
    rows = pipeline.run(tiny_suite.model_copy(update={"methods": methods}), out=tmp_path / "run").rows
    assert set(rows[rows["method"].isin(methods)]["status"]) == {"ok"}
    assert rows[rows["method"] == "my_quarters"]["forwards"].eq(4).all()


def test_metrics_of_the_page_run(plug_in, tiny_suite, tmp_path):
    plug_in("metric.md")
    track = Track(dataset="tiny_pictures", metrics=["my_share", "my_drop(share=0.2)"], target="label")
    rows = pipeline.run(tiny_suite.model_copy(update={"tracks": [track]}), out=tmp_path / "run").rows
    assert set(rows["status"]) == {"ok"}
    assert rows[(rows["method"] == "tiny_truth") & (rows["metric"] == "my_share")]["value"].eq(1).all()


def test_the_dataset_and_the_model_of_the_pages_run_together(plug_in, tiny_suite, tmp_path):
    plug_in("dataset.md")
    plug_in("model.md")
    network = registry.plugins["model", "my_net"].make.__globals__["Net"]()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    for i, name in enumerate(("cat_10_20_60_70", "dog_5_5_40_80")):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (100, 90, 3), dtype=np.uint8)).save(tmp_path / f"{name}.jpg")
    track = Track(dataset=f'tagged("{tmp_path}")', metrics=["tiny_mass", "tiny_deletion"], target="label", view="squash")
    rows = pipeline.run(tiny_suite.model_copy(update={"tracks": [track], "models": ["my_net"]}), out=tmp_path / "run").rows
    assert set(rows["status"]) == {"ok"}
    assert set(rows["item"]) == {"cat_10_20_60_70", "dog_5_5_40_80"}


def test_the_trainer_of_the_page_trains_by_its_recipe_and_its_model_is_opened(plug_in, tmp_path):
    """On small pictures; the file is given as --plugin gives it, which the recipe needs."""
    pytest.importorskip("lightning")
    from xbench.train import recipes, session

    (toml,) = blocks("trainer.md", "toml")
    (tmp_path / "my_recipe.toml").write_text(toml)
    with pytest.raises(XbenchError, match=r"line 3: unknown task 'my_mixup'.*--plugin FILE"):
        recipes.load(tmp_path / "my_recipe.toml")
    registry.load(str(DOCS.parent / "tests" / "xbench" / "tiny_shapes.py"))
    plug_in("trainer.md")
    given = {"dataset": "tiny_shapes(n=120)", "epochs": 1, "device": "cpu", "threads": 1, "out": tmp_path / "out"}
    done = session.train(str(tmp_path / "my_recipe.toml"), plugins=[str(tmp_path / "my_mixup.py")], **given)
    assert done.card.task == "my_mixup"
    assert done.card.recipe["my_mixup"] == {"least": 0.7}
    assert "a key of references.bib" in registry.trainer("my_mixup").info.cite
    model = registry.model(f"{done.use.removeprefix('the model ')}")()
    assert model(torch.zeros(2, 3, 96, 96)).shape == (2, 4)
    wrong = toml.replace("least = 0.7", "most = 0.7")
    (tmp_path / "wrong.toml").write_text(wrong)
    with pytest.raises(XbenchError, match=r"wrong.toml, line 6: unknown key 'most'"):
        recipes.load(tmp_path / "wrong.toml")


def test_the_suite_of_the_pictures_page_runs_from_nothing(tmp_path, monkeypatch):
    """A checkpoint, six pictures with VOC XML, and the page's own suite."""
    import torchvision

    monkeypatch.chdir(tmp_path)
    (tmp_path / "my" / "xml").mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("dog\ncat\n")  # not in the folders' order
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=2)
    torch.save(network.state_dict(), "mine.pt")
    for label in ("cat", "dog"):
        (tmp_path / "my" / "pictures" / label).mkdir(parents=True)
        for i in range(3):
            pixels = np.random.default_rng(i).integers(0, 255, (80, 120, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "my" / "pictures" / label / f"{label}_{i}.png")
            box = "<xmin>11</xmin><ymin>21</ymin><xmax>60</xmax><ymax>70</ymax>"
            head = f"<filename>{label}_{i}.png</filename><size><width>120</width><height>80</height><depth>3</depth></size>"
            xml = f"<annotation>{head}<object><name>{label}</name><bndbox>{box}</bndbox></object></annotation>"
            (tmp_path / "my" / "xml" / f"{label}_{i}.xml").write_text(xml)
    toml, photos = blocks("pictures.md", "toml")
    Path("my_suite.toml").write_text(toml)
    Path("my_photos.toml").write_text(photos)
    mine = suite.load(Path("my_suite.toml")).model_copy(update={"batch_size": 2, "block": 2})
    assert isinstance(mine, Suite)
    done = pipeline.run(mine, suite.Selection(limit=4, metrics=["pointing_game", "energy_pointing_game", "max_box_acc"]))
    assert done.rows["item"].nunique() == 4
    assert set(done.rows["status"]) == {"ok"}
    targets = done.rows.groupby("item")["target"].first()
    assert {item.split("/")[0]: int(target) for item, target in targets.items()} == {"cat": 1, "dog": 0}
    oracle = done.rows[done.rows["method"] == "oracle"]
    assert oracle[oracle["metric"].isin(["pointing_game", "energy_pointing_game"])]["value"].eq(1).all()
    assert json.loads((done.folder / "manifest.json").read_text())["complete"]
    (tmp_path / "my" / "pictures" / "cat").rename(tmp_path / "my" / "photos")
    flat = suite.load(Path("my_photos.toml")).model_copy(update={"batch_size": 2, "block": 2})
    rows = pipeline.run(
        flat, suite.Selection(models=["torchvision/resnet18@mine.pt(classes=classes.txt)"], methods=["grad_cam"])
    ).rows
    assert set(rows["status"]) == {"ok"}
    assert set(rows["item"]) == {"cat_0", "cat_1", "cat_2"}


def test_the_values_of_masks_on_the_pictures_page_are_read(tmp_path):
    (lines,) = re.findall(r"```\n(1,cat\n.*?)```", (DOCS / "pictures.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "values.txt").write_text(lines)
    (tmp_path / "photos").mkdir()
    (tmp_path / "masks").mkdir()
    Image.new("L", (4, 6)).save(tmp_path / "photos" / "a.png")
    Image.fromarray(np.full((6, 4), 2, np.uint8)).save(tmp_path / "masks" / "a.png")
    data = f'folder("{tmp_path}/photos", masks="{tmp_path}/masks", values="{tmp_path}/values.txt")'
    found = registry.dataset(data)()
    assert found.classes.names == ("cat", "dog", "person")
    assert found.load("a").masks[1].all()


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([\w./]+\.md)\)|\{image\} (\S+)", text):
            assert (DOCS / next(filter(None, target))).is_file(), target
        for name in re.findall(r"```\{toctree\}.*?\n\n(.*?)```", text, re.DOTALL):
            assert all((DOCS / f"{entry}.md").is_file() for entry in name.split())


def test_the_rows_page_has_every_column_and_key():
    from xbench.store.directory import SCHEMA
    from xbench.store.manifests import FORMAT, Local, Manifest, Submission

    text = (DOCS / "rows.md").read_text(encoding="utf-8")
    columns, keys = text.split("## The manifest")
    listed = re.findall(r"^\| `(\w+)` \| ([\w ]+) \| ", columns, re.MULTILINE)
    types = [f"list of {f.type.value_type}" if f.name == "vector" else str(f.type) for f in SCHEMA]
    assert listed == list(zip(SCHEMA.names, types, strict=True))
    named = {key for cell in re.findall(r"^\| (`\w+`.*?) \| ", keys, re.MULTILINE) for key in re.findall(r"`(\w+)`", cell)}
    assert named == {*Manifest.model_fields, *Local.model_fields}
    assert f"version of this layout: {FORMAT}" in keys
    assert f"only: {', '.join(Submission.model_fields)} (sha256" in keys


def test_the_queries_of_the_rows_page_print_what_it_shows(monkeypatch, tmp_path, capsys):
    duckdb = pytest.importorskip("duckdb")
    monkeypatch.chdir(DOCS.parent)
    names: dict[str, object] = {}

    def shown(match: re.Match[str]) -> str:
        language, code = match[1], match[2]
        if language == "python":
            exec(code, names)
        else:
            print(duckdb.sql(code).df().to_string(index=False))  # noqa: T201
        lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
        return f"```{language}\n{code}```\n" + ("\n".join(["\n```text", *lines, "```\n"]) if match[3] else "")

    text = (DOCS / "rows.md").read_text(encoding="utf-8")
    true = re.sub(r"```(python|sql)\n(.*?)```\n(\n```text\n.*?```\n)?", shown, text, flags=re.DOTALL)
    (tmp_path / "rows.md").write_text(true, encoding="utf-8")
    assert text == true, f"the page as its queries print it: {tmp_path / 'rows.md'}"


def test_the_networks_of_the_page_are_those_that_ship():
    """Its figures are the cards'."""
    from xbench.train import cards

    folder = DOCS.parent / "models" / "weights"
    lines = dict(re.findall(r"^\| `scenes/(\w+)` \|(.+)\|$", (DOCS / "scenes.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(lines) == {path.stem for path in folder.glob("*.json")}
    for name, line in lines.items():
        card = cards.read(folder / f"{name}.json")
        assert f"{card.parameters:,}" in line
        for test, figures in card.held_out.items():
            for figure in figures.values():
                assert f"{100 * figure.value:.1f} %" in line, (name, test)


def test_what_the_wordnet_page_says_is_so():
    (code,) = blocks("wordnet.md", "python")
    exec(code, {})


def test_the_wordnet_page_counts_what_ships():
    text, graph = (DOCS / "wordnet.md").read_text(encoding="utf-8"), wordnet.compact()
    assert f"has {len(graph):,} of" in text
    assert f"{wordnet.NOUNS:,}" in text
