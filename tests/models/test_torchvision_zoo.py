"""torchvision's classifiers through the registry. Random weights, for tests only: no number of theirs is a result."""

import hashlib

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torchvision import models
from xbench.models import _downloads, torchvision_zoo

from xbench.data.classes import imagenet_1k
from xbench.errors import XbenchError
from xbench.plugins.registry import registry


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return models.resnet18(num_classes=3).eval().to(memory_format=torch.channels_last)


@pytest.fixture
def classes(tmp_path):
    path = tmp_path / "my classes.txt"
    path.write_text("ant\nbee\ncat\n")
    return path


def logits(network, side=96):
    pictures = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return network(pictures.contiguous(memory_format=torch.channels_last))


def load(spec):
    return registry.bind("model", spec)()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_round_trip_of_a_checkpoint(resnet, classes, tmp_path, suffix):
    path = tmp_path / f"mine.{suffix}"
    state = {k: v.contiguous() for k, v in resnet.state_dict().items()}
    save_file(state, path) if suffix == "safetensors" else torch.save({"state_dict": state}, path)
    model = load(f'torchvision/resnet18@{path}(classes="{classes}")')
    assert torch.equal(logits(model), logits(resnet))
    assert model.id == "torchvision/resnet18"
    assert model.classes.names == ("ant", "bee", "cat")
    assert model.feature_layer == "layer4"
    assert set(model.files) == {path, classes}
    assert torchvision.__version__ in model.card
    assert str(path) in model.card
    assert "licence of the weights: not known" in model.card
    named = load(f'torchvision/resnet18(checkpoint="{path}", classes="{classes}", layer=layer3)')
    assert named.feature_layer == "layer3"


def test_classes_come_with_the_file_or_are_asked_for(resnet, tmp_path):
    path = tmp_path / "mine.safetensors"
    state = {k: v.contiguous() for k, v in resnet.state_dict().items()}
    save_file(state, path, metadata={"classes": '["x", "y", "z"]'})
    assert load(f"torchvision/resnet18@{path}").classes.names == ("x", "y", "z")
    save_file(state, path)
    with pytest.raises(XbenchError, match="model torchvision/resnet18 has 3 outputs and no names for them; add classes=FILE"):
        load(f"torchvision/resnet18@{path}")


def test_errors_name_the_file_and_the_architecture(resnet, tmp_path):
    path = tmp_path / "mine.pt"
    torch.save(resnet.state_dict(), path)
    with pytest.raises(XbenchError, match=r"mine\.pt does not fit torchvision/resnet34: 80 missing \(layer1\.2\.conv1\.weight, "):
        load(f"torchvision/resnet34@{path}")
    with pytest.raises(XbenchError, match=r"mine\.pt does not fit torchvision/alexnet: none of its 122 tensors does"):
        load(f"torchvision/alexnet@{path}")
    with pytest.raises(XbenchError, match=r"gone\.pt is not there"):
        load(f"torchvision/resnet18@{tmp_path}/gone.pt")
    with pytest.raises(XbenchError, match="unknown model 'torchvision/resnet19'; did you mean 'torchvision/resnet1"):
        load("torchvision/resnet19")


@pytest.mark.parametrize("name", ["googlenet", "mnasnet0_5", "squeezenet1_1", "regnet_y_400mf"])
def test_other_kinds_of_heads(name, classes, tmp_path):
    kwargs = {"init_weights": False, "transform_input": True} if name == "googlenet" else {}
    torch.manual_seed(0)
    network = models.get_model(name, weights=None, num_classes=3, **kwargs).eval().to(memory_format=torch.channels_last)
    path = tmp_path / "mine.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    model = load(f'torchvision/{name}@{path}(classes="{classes}")')
    assert torch.equal(logits(model), logits(network))


def test_published_densenets_have_dots_in_their_names(classes, tmp_path):
    torch.manual_seed(0)
    network = models.densenet121(num_classes=3).eval().to(memory_format=torch.channels_last)
    state = network.state_dict()
    old = {k.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): v for k, v in state.items()}
    assert old.keys() != state.keys()
    path = tmp_path / "mine.pt"
    torch.save(old, path)
    model = load(f'torchvision/densenet121@{path}(classes="{classes}")')
    assert torch.equal(logits(model), logits(network))


def test_pretrained_weights_are_looked_for_and_never_fetched(offline):
    with pytest.raises(XbenchError) as caught:
        load("torchvision/resnet18")
    message = str(caught.value)
    assert "needs resnet18-f37072fd.pth of https://download.pytorch.org/models, which is not on this machine" in message
    assert f"place it in {offline[0]}, or name it: torchvision/resnet18@resnet18-f37072fd.pth" in message
    assert "XBENCH_DOWNLOAD=1" in message
    assert "\n" not in message


def test_a_file_with_other_bytes_than_its_name_says(offline, resnet):
    offline[0].mkdir(parents=True)
    torch.save(resnet.state_dict(), offline[0] / "resnet18-f37072fd.pth")
    with pytest.raises(XbenchError, match=r"resnet18-f37072fd\.pth is not the file that its name says .*delete it and get https"):
        load("torchvision/resnet18")


def test_pretrained_weights_from_the_cache(offline, monkeypatch, tmp_path):
    torch.manual_seed(0)
    network = models.squeezenet1_1().eval().to(memory_format=torch.channels_last)
    monkeypatch.setattr(torchvision_zoo, "cached", lambda url, spec: tmp_path / url.rpartition("/")[2])
    torch.save(network.state_dict(), tmp_path / "squeezenet1_1-b8a52dc0.pth")
    model = load("torchvision/squeezenet1_1")
    assert torch.equal(logits(model), logits(network))
    assert model.classes is imagenet_1k()
    assert "SqueezeNet1_1_Weights.IMAGENET1K_V1" in model.card
    assert model.files == (tmp_path / "squeezenet1_1-b8a52dc0.pth",)


@pytest.mark.parametrize("right", [True, False])
def test_a_download_that_is_allowed(offline, monkeypatch, tmp_path, right):
    content = b"weights"
    digest = hashlib.sha256(content if right else b"others").hexdigest()[:8]
    source = tmp_path / f"net-{digest}.pth"
    source.write_bytes(content)
    with pytest.raises(XbenchError, match="not on this machine"):
        _downloads.cached(source.as_uri(), "torchvision/net")
    monkeypatch.setenv("XBENCH_DOWNLOAD", "1")
    if right:
        assert _downloads.cached(source.as_uri(), "torchvision/net").read_bytes() == content
        monkeypatch.delenv("XBENCH_DOWNLOAD")
        assert _downloads.cached(source.as_uri(), "torchvision/net") == offline[0] / source.name
    else:
        with pytest.raises(XbenchError, match=r"model torchvision/net: the download of .* failed: invalid hash value"):
            _downloads.cached(source.as_uri(), "torchvision/net")
        assert list(offline[0].iterdir()) == []


def test_preprocessing_is_that_of_the_weights():
    def of(name, entry):
        return torchvision_zoo._preprocessing(name, getattr(models.get_model_weights(name), entry))

    v1, v2 = of("resnet50", "IMAGENET1K_V1"), of("resnet50", "IMAGENET1K_V2")
    assert (v1.size, v1.share, v1.interpolation) == ((224, 224), 224 / 256, "bilinear")
    assert (v2.size, v2.share) == ((224, 224), 224 / 232)
    assert v1.mean == pytest.approx((123.675, 116.28, 103.53))
    assert v1.std == pytest.approx((58.395, 57.12, 57.375))
    swag = of("vit_b_16", "IMAGENET1K_SWAG_E2E_V1")
    assert (swag.size, swag.share, swag.interpolation) == ((384, 384), 1.0, "bicubic")


def test_pixels_become_what_torchvision_makes_of_them():
    entry = models.ResNet50_Weights.IMAGENET1K_V2
    picture = torch.randint(0, 256, (3, 300, 400), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    how = torchvision_zoo._preprocessing("resnet50", entry)
    ours = how.normalise(how.view("crop", 300, 400).image(picture, how.interpolation))
    theirs = entry.transforms()(torchvision.transforms.functional.to_pil_image(picture))
    # They resize and then crop, we crop and then resize: the grids differ by less than a pixel.
    smooth = [torch.nn.functional.avg_pool2d(x[None], 8) for x in (ours, theirs)]
    assert ours.shape == theirs.shape
    assert (smooth[0] - smooth[1]).abs().mean() < 0.05


def test_every_classifier_has_the_usual_classes_and_preprocessing():
    known = imagenet_1k()
    names = torchvision_zoo.names()
    assert "resnet50" in names
    assert "resnet50.IMAGENET1K_V2" in names
    assert not any("fcos" in n or "deeplab" in n or "raft" in n or "quantized" in n for n in names)
    assert "vgg16.IMAGENET1K_FEATURES" not in names
    for name in names:
        architecture, _, tag = name.partition(".")
        entries = models.get_model_weights(architecture)
        entry = entries[tag] if tag else entries.DEFAULT
        assert torchvision_zoo._preprocessing(name, entry).size[0] >= 224
        theirs = entry.meta["categories"]
        # Two names differ, because they are not unique: crane (bird), maillot (tank suit).
        assert sum(t.lower().split()[0] != n.lower().split()[0] for t, n in zip(theirs, known.names, strict=True)) == 0
