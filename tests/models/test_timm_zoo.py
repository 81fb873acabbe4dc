"""timm's networks through the registry. Random weights, for tests only: no number of theirs is a result."""

import json

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import PretrainedCfg
from torch import nn
from xbench.models import timm_zoo

from xbench.data.classes import imagenet_1k
from xbench.errors import XbenchError
from xbench.plan.suite import Suite, Track
from xbench.plugins.registry import registry
from xbench.run import pipeline


def network(name, **kwargs):
    torch.manual_seed(0)
    return timm.create_model(name, **kwargs).eval().to(memory_format=torch.channels_last)


def logits(net, side=160):
    pictures = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return net(pictures.contiguous(memory_format=torch.channels_last))


def load(spec):
    return registry.bind("model", spec)()


def save(net, path, **metadata):
    state = {k: v.contiguous() for k, v in net.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata=metadata) if path.suffix == ".safetensors" else torch.save(state, path)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(("name", "layer"), [("test_resnet", "layer4"), ("test_vit", "blocks.5.norm1")])
def test_round_trip_of_a_checkpoint(tmp_path, name, layer, suffix):
    net, path, classes = network(name, num_classes=4), tmp_path / f"mine.{suffix}", tmp_path / "classes.json"
    save(net, path)
    classes.write_text(json.dumps(["a", "b", "c", "d"]))
    model = load(f"timm/{name}@{path}(classes={classes})")
    assert torch.equal(logits(model), logits(net))
    assert model.id == f"timm/{name}"
    assert model.classes.names == ("a", "b", "c", "d")
    assert model.feature_layer == layer
    assert set(model.files) == {path, classes}
    assert model.card.startswith(f"timm {timm.__version__}: {name} (configuration r160_in1k); weights: checkpoint {path};")
    with pytest.raises(XbenchError, match=f"model timm/{name} has 4 outputs and no names for them; add classes=FILE"):
        load(f"timm/{name}@{path}")


def test_a_named_layer(tmp_path):
    save(network("test_resnet"), tmp_path / "mine.safetensors")
    assert load(f"timm/test_resnet@{tmp_path}/mine.safetensors(layer=layer3)").feature_layer == "layer3"
    with pytest.raises(XbenchError, match="model timm/test_resnet: the network has no layer 'layer9'; did you mean 'layer"):
        load(f"timm/test_resnet@{tmp_path}/mine.safetensors(layer=layer9)")


def cache(hub, net, name="model.safetensors", repository="timm/test_resnet.r160_in1k"):
    folder = hub / f"models--{repository.replace('/', '--')}"
    save(net, folder / "snapshots" / "0123abc" / name)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123abc")
    return folder / "snapshots" / "0123abc" / name


@pytest.mark.parametrize("name", ["test_resnet", "test_resnet.r160_in1k"])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_pretrained_weights_from_the_hubs_cache(offline, name, file):
    net = network("test_resnet")
    path = cache(offline[1], net, file)
    model = load(f"timm/{name}")
    assert torch.equal(logits(model), logits(net))
    assert model.classes is imagenet_1k()
    assert model.files == (path,)
    assert "weights: timm/test_resnet.r160_in1k; licence of the weights: apache-2.0." in model.card
    assert model.preprocessing.size == (160, 160)


def test_pretrained_weights_from_torchs_cache(offline, monkeypatch):
    net, known = network("test_resnet"), timm_zoo.get_pretrained_cfg("test_resnet")
    url = PretrainedCfg(url="https://example.org/test_resnet.pth", architecture="test_resnet", tag=known.tag)
    for config in (url, PretrainedCfg(hf_hub_id="timm/nowhere", url=url.url)):
        monkeypatch.setattr(timm_zoo, "get_pretrained_cfg", lambda _, config=config: config)
        with pytest.raises(XbenchError, match="not on this machine"):
            load("timm/test_resnet")
        save(net, offline[0] / "test_resnet.pth")
        assert torch.equal(logits(load("timm/test_resnet")), logits(net))
        (offline[0] / "test_resnet.pth").unlink()


def test_pretrained_weights_are_never_fetched():
    with pytest.raises(XbenchError) as caught:
        load("timm/resnet50.a1_in1k")
    assert str(caught.value) == (
        "model timm/resnet50.a1_in1k needs model.safetensors of https://huggingface.co/timm/resnet50.a1_in1k, which is not on this "
        "machine; get it with `hf download timm/resnet50.a1_in1k model.safetensors`, or name it: "
        "timm/resnet50.a1_in1k@model.safetensors, or set XBENCH_DOWNLOAD=1 to allow the download"
    )


def test_a_download_that_is_allowed(monkeypatch, tmp_path):
    net, asked = network("test_resnet"), []
    save(net, tmp_path / "pytorch_model.bin")

    def download(repository, file, revision=None):
        asked.append((repository, file, revision))
        if file.endswith(".safetensors"):
            raise absent
        return str(tmp_path / file)

    absent = huggingface_hub.errors.RemoteEntryNotFoundError.__new__(huggingface_hub.errors.RemoteEntryNotFoundError)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(XbenchError, match="not on this machine"):
        load("timm/test_resnet")
    assert asked == []
    monkeypatch.setenv("XBENCH_DOWNLOAD", "1")
    assert torch.equal(logits(load("timm/test_resnet")), logits(net))
    repository = "timm/test_resnet.r160_in1k"
    assert asked == [(repository, "model.safetensors", None), (repository, "pytorch_model.bin", None)]


def test_a_download_that_fails(monkeypatch):
    def download(*_, **__):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setenv("XBENCH_DOWNLOAD", "1")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(
        XbenchError, match=r"the download of model\.safetensors of timm/test_vit\.r160_in1k failed: no route to host$"
    ):
        load("timm/test_vit")


def test_weights_without_a_classifier_give_features_and_nothing_to_explain(tmp_path, monkeypatch):
    net = network("test_vit", num_classes=0)
    save(net, tmp_path / "mine.safetensors")
    monkeypatch.setattr(timm_zoo, "get_pretrained_cfg", lambda _: PretrainedCfg(num_classes=0, input_size=(3, 160, 160)))
    model = load(f"timm/test_vit@{tmp_path}/mine.safetensors")
    assert torch.equal(logits(model), logits(net))
    assert len(model.classes) == 0
    assert (model.attention_rows, "attention" in model.capabilities) == ((0,), True)
    with pytest.raises(XbenchError, match="model timm/test_vit gives features, not classes; name a checkpoint with a classifier"):
        model.classifier()
    track = Track(dataset="scenes(n=2)", metrics=["pointing_game"], target="label")
    suite = Suite(name="a", version="1", models=[f"timm/test_vit@{tmp_path}/mine.safetensors"], methods=["random"], tracks=[track])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(XbenchError, match="gives features, not classes"):
        pipeline.run(suite, pipeline.Selection())


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(XbenchError, match="timm has no weights for timm/resnet50_clip; name a checkpoint: timm/resnet50_clip@FILE"):
        timm_zoo._locate("timm/resnet50_clip", PretrainedCfg())
    with pytest.raises(XbenchError, match=r"unknown model 'timm/resnet50.b9_in1k'; did you mean 'timm/resnet50"):
        load("timm/resnet50.b9_in1k")
    save(network("test_resnet"), tmp_path / "mine.pt")
    with pytest.raises(XbenchError, match=r"mine\.pt does not fit timm/test_vit: none of its \d+ tensors does"):
        load(f"timm/test_vit@{tmp_path}/mine.pt")


def test_files_as_their_authors_published_them(tmp_path):
    net = network("test_vit", num_classes=3)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    torch.save({"model": {**net.state_dict(), "mask_token": torch.zeros(1, 1)}}, tmp_path / "mine.pth")  # as DINOv2's have it
    assert torch.equal(logits(load(f"timm/test_vit@{tmp_path}/mine.pth(classes={tmp_path}/classes.txt)")), logits(net))


def configured(**config):
    made = nn.Identity()
    made.pretrained_cfg = {"input_size": (3, 224, 224), "mean": (0.5,) * 3, "std": (0.25, 0.5, 1.0), **config}
    return made


def test_preprocessing_is_timms_own():
    how, remark = timm_zoo._preprocessing("x", configured(crop_pct=0.95, interpolation="bilinear"))
    assert (how.size, how.share, how.interpolation) == ((224, 224), 224 / 235, "bilinear")
    assert (how.mean, how.std) == ((127.5,) * 3, (63.75, 127.5, 255.0))
    assert remark == ""
    tall, _ = timm_zoo._preprocessing("x", configured(input_size=(3, 1024, 768), crop_pct=1.0))
    assert (tall.size, tall.share) == ((1024, 768), 1.0)
    assert "the view `squash`" in timm_zoo._preprocessing("x", configured(crop_mode="squash"))[1]
    assert "the view `keep_aspect`" in timm_zoo._preprocessing("x", configured(crop_mode="border"))[1]
    for config in ({"interpolation": "lanczos"}, {"input_size": (1, 28, 28)}):
        with pytest.raises(XbenchError, match=r"model x wants . channels, resized"):
            timm_zoo._preprocessing("x", configured(**config))


def test_names_are_all_networks_and_all_their_tags():
    names = timm_zoo.names()
    assert {"resnet50", "resnet50.a1_in1k", "vit_base_patch16_224.augreg_in21k"} <= set(names)
    assert registry.get("model", "timm/resnet50.a1_in1k").id == "timm/<name>"
