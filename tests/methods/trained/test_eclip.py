"""ECLIP: a projection of one's own on a tiny CLIP, against explicit projection, and projections that do not fit."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from xbench.methods.trained import eclip as module

from xbench.data.classes import ClassList
from xbench.data.samples import Batch, Item
from xbench.errors import NotApplicable, XbenchError
from xbench.network import zero_shot
from xbench.network.model import Model, ModelView, Preprocessing, weights_digest
from xbench.plan import keys
from xbench.plan.suite import Suite, Track
from xbench.plugins.registry import registry
from xbench.run.pipeline import Selection, run
from xbench.train import cards, networks, recipes, weights

pytest.importorskip("open_clip")
CLIP = recipes.ClipNetwork(
    open_clip="CLIP",
    embed_dim=8,
    vision={"patch_size": 4, "width": 16, "layers": 2, "head_width": 8},
    text={"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
)
CLASSES = ClassList(("bar", "cross", "frame", "dot"))


def tiny_clip(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    clip = networks.build(CLIP, 4, 16)
    encode = networks.text_encoder(clip, networks.tokenizer(CLIP))
    inputs = Preprocessing((16, 16), 1.0, (127.5,) * 3, (127.5,) * 3)
    return zero_shot.classifier(f"tiny_{seed}", clip, encode, CLASSES, zero_shot.fill(["a {}"], CLASSES.names), inputs)


def made(folder: Path, model: Model, seed: int = 0, **changes: object) -> Path:
    """A projection with its card, as a training leaves it."""
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(seed))
    folder.mkdir(parents=True, exist_ok=True)
    card = cards.Card(
        name="mine",
        title="",
        task="masked_max",
        generated=True,
        classes=list(CLASSES.names),
        synsets=[],
        template="a {}",
        prompts={},
        network={"clip": "tiny", "encoder": "", "share": 1.0},
        preprocessing=recipes.Input(size=16),
        held_out={},
        data={},
        recipe={},
        started_from="",
        seed=0,
        epochs=1,
        selected_epoch=1,
        parameters=128,
        seconds=0.0,
        machine={},
        versions={},
        parts={"clip": "tiny", "tower": weights_digest(model.network.visual), "file": ""},
        sha256=weights.save(folder / "model.safetensors", weights.halved({"weight": weight})),
    ).model_copy(update=changes)
    (folder / "model.json").write_text(card.model_dump_json())
    return folder


def batch_of(count: int) -> Batch:
    items = tuple(Item(f"i{n}", f"i{n}", None, f"i{n}") for n in range(count))
    images = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return Batch(images, torch.arange(count) % 4, items, seed="0")


def test_it_is_the_cosine_of_projected_tokens_and_the_text(tmp_path):
    model, batch = tiny_clip(), batch_of(5)
    before = model(batch.images)
    got = registry.method(f'eclip(projection="{made(tmp_path, model)}")')(ModelView(model), batch)
    kept = weights.tensors(cards.read(tmp_path / "model.json"), tmp_path / "model.safetensors")["weight"].numpy()
    seen = []
    handle = model.network.visual.transformer.register_forward_hook(lambda _, __, output: seen.append(output))
    model(batch.images)
    handle.remove()
    norm = model.network.visual.ln_post
    tokens = functional.layer_norm(seen[0], (16,), norm.weight, norm.bias, norm.eps).numpy()
    texts = model.encode_text([f"a {name}" for name in CLASSES.names]).numpy()
    for b in range(5):
        cosines = []
        for place in range(16):
            v = [sum(kept[d, k] * tokens[b, 1 + place, k] for k in range(16)) for d in range(8)]
            dot = sum(x * y for x, y in zip(v, texts[b % 4], strict=True))
            cosines.append(dot / np.sqrt(sum(x * x for x in v)) / np.sqrt(sum(y * y for y in texts[b % 4])))
        low, high = min(cosines), max(cosines)
        assert got[b].flatten().tolist() == pytest.approx([(c - low) / (high - low) for c in cosines], abs=1e-4)
    assert torch.equal(model(batch.images), before)


def test_with_clips_own_projection_it_is_itsm(tmp_path):
    model, batch = tiny_clip(), batch_of(3)
    made(tmp_path, model)
    own = {"weight": model.network.visual.proj.T.contiguous()}
    digest = weights.save(tmp_path / "model.safetensors", own)
    (tmp_path / "model.json").write_text(
        cards.read(tmp_path / "model.json").model_copy(update={"sha256": digest}).model_dump_json()
    )
    view = ModelView(model)
    got = registry.method(f'eclip(projection="{tmp_path}")')(view, batch)
    assert torch.allclose(got, registry.method("itsm")(view, batch), atol=1e-6)
    selection = registry.method(f'eclip_selection(projection="{tmp_path}")')(view, batch)
    assert torch.equal(selection, registry.method("token_selection")(view, batch))
    assert selection.sum(dim=(1, 2)).tolist() == [8.0] * 3


def test_a_projection_that_fits_ships_or_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHIPPED", tmp_path)
    model, other = tiny_clip(), tiny_clip(5)
    for name, of in (("a", other), ("b", model)):
        made(tmp_path / "made" / name, of, seed=len(name))
        for suffix in ("json", "safetensors"):
            shutil.copy(tmp_path / "made" / name / f"model.{suffix}", tmp_path / f"{name}.{suffix}")
    named = registry.method(f'eclip(projection="{tmp_path}/b.json")')
    assert torch.equal(registry.method("eclip")(ModelView(model), batch_of(2)), named(ModelView(model), batch_of(2)))
    with pytest.raises(NotApplicable, match=r"no projection for tiny_9 ships; train one, xbench train eclip, and name it"):
        registry.method("eclip")(ModelView(tiny_clip(9)), batch_of(2))


def test_a_projection_of_something_else_is_one_line(tmp_path):
    model, view = tiny_clip(), ModelView(tiny_clip(7))
    made(tmp_path / "fits", model)
    made(tmp_path / "classifier", model, task="classify", parts={})
    for folder, message in (
        ("fits", r"eclip: .*fits is a projection for tiny and does not fit tiny_7; train one for it: xbench train eclip"),
        ("classifier", r"eclip: .*classifier is a model of the task classify and does not fit tiny_7"),
        ("absent", r"no trained model at .*absent: its card"),
    ):
        with pytest.raises(XbenchError, match=message):
            registry.method(f'eclip(projection="{tmp_path}/{folder}")')(view, batch_of(2))


def test_a_copy_with_other_weights_keeps_its_projection(tmp_path):
    """What randomisation makes of a model names the file that it came from."""
    import dataclasses

    model = tiny_clip()
    source = tmp_path / "clip.safetensors"
    source.write_bytes(b"weights")
    made(tmp_path, model, parts={"clip": "tiny", "tower": "", "file": keys.file_digest(source)})
    copy = dataclasses.replace(tiny_clip(3), files=(source,))
    assert registry.method(f'eclip(projection="{tmp_path}")')(ModelView(copy), batch_of(2)).shape == (2, 4, 4)


def test_the_bytes_of_the_projection_are_part_of_what_rows_depend_on(tmp_path, monkeypatch):
    model = tiny_clip()
    method, plain = registry.method(f'eclip(projection="{made(tmp_path / "own", model)}")'), registry.method("itsm")
    before, of_plain = keys.source_digest(method), keys.source_digest(plain)
    assert {path.name for path in method.files} == {"model.json", "model.safetensors"}
    smooth = registry.method(f'absolute(eclip(projection="{tmp_path}/own"))')
    assert smooth.files == method.files
    made(tmp_path / "own", model, seed=8)
    assert keys.source_digest(method) != before
    assert keys.source_digest(plain) == of_plain
    monkeypatch.setattr(module, "SHIPPED", tmp_path / "own")
    assert registry.method("eclip").files == method.files


def test_the_files_of_what_ships_are_inputs_of_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    track = Track(dataset="scenes(most=1, n=8)", metrics=["pointing_game"], target="label")
    suite = Suite(
        name="here", version="1", models=["scenes/clip"], methods=["eclip", "itsm"], tracks=[track], batch_size=4, block=4
    )
    done = run(suite, Selection())
    assert set(done.rows["status"]) == {"ok"}, set(done.rows["reason"])
    shipped = {str(path.resolve()) for path in module.SHIPPED.glob("*.*")}
    assert shipped
    assert shipped <= set(done.manifest.local.inputs)


def test_what_ships_is_of_its_recipe_for_scenes_clip_and_by_the_attention_of_scenes_simclr():
    path, file = cards.find(module.SHIPPED / "eclip.json")
    card, clip = cards.read(path), registry.model("scenes/clip")()
    assert recipes.of(card.recipe) == recipes.load(recipes.find("eclip"))
    assert module.fits(card, clip)
    assert card.parts["tower"] == weights_digest(clip.network.visual)
    assert card.parts["encoder_digest"] == registry.model("scenes/simclr")().digest
    found = weights.tensors(card, file)
    weight = found["weight"]
    assert weight.shape == clip.tower.projection[0].shape
    assert list(found) == ["weight"]
    assert not torch.allclose(weight, clip.tower.projection[0], atol=1e-2)
