"""Reading and fitting files of weights, and the lists of classes beside them."""

import json
import os
import pickle
from argparse import Namespace
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import VisionTransformer
from xbench.models._checkpoints import read
from xbench.models._classlists import class_list
from xbench.models._fitting import class_count, fit

from xbench.data.classes import imagenet_1k
from xbench.errors import XbenchError


class Net(nn.Sequential):
    def __init__(self, classes=3, width=4):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, classes)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Net()


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    return message


def same(tensors, network):
    wanted = network.state_dict()
    return tensors.keys() == wanted.keys() and all(torch.equal(tensors[k], wanted[k]) for k in wanted)


def prefixed(prefix):
    return lambda state: {prefix + k: v for k, v in state.items()}


NESTINGS = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": s, "optimizer": {"state": {}}},
    "model_state_dict": lambda s: {"model_state_dict": s},
    "timm": lambda s: {"state_dict": {k: v + 1 for k, v in s.items()}, "state_dict_ema": s, "args": Namespace(lr=0.1)},
    "torchvision": lambda s: {"model": {}, "model_ema": prefixed("module.")(s) | {"n_averaged": torch.tensor(9)}},
    "lightning": lambda s: {"state_dict": prefixed("model.")(s), "pytorch-lightning_version": "2.5", "callbacks": {}},
    "lightning_net": lambda s: {"state_dict": prefixed("net.")(s)},
    "compiled_and_parallel": prefixed("module._orig_mod."),
    "lightning_compiled": lambda s: {"state_dict": prefixed("model._orig_mod.")(s)},
    "nested": lambda s: {"model": {"state_dict": s}},
}


@pytest.mark.parametrize("nesting", NESTINGS)
def test_usual_nestings_are_unwrapped(network, tmp_path, nesting):
    torch.save(NESTINGS[nesting](network.state_dict()), tmp_path / "x.pt")
    found = read(tmp_path / "x.pt")
    assert same(found.tensors, network)
    other = Net()
    fit(other, found, "net")
    assert same(other.state_dict(), network)


def test_safetensors_bring_their_classes(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "x.safetensors", metadata={"classes": '["a", "b", "c"]'})
    found = read(tmp_path / "x.safetensors")
    assert same(found.tensors, network)
    assert found.classes == ("a", "b", "c")
    for bad in ("{}", "["):
        save_file(network.state_dict(), tmp_path / "x.safetensors", metadata={"classes": bad})
        with pytest.raises(XbenchError, match=r"x\.safetensors"):
            read(tmp_path / "x.safetensors")


def test_a_missing_file(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(XbenchError, match="is not there; check the path behind the @"):
            read(path)


def whole(path):
    torch.save(Net(width=64).state_dict(), path)
    return path.read_bytes()


def tensors(path):
    save_file(Net(width=64).state_dict(), path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.pt", lambda _: b"these are my weights\n"),
        ("empty.pt", lambda _: b""),
        ("cut.pt", lambda path: whole(path)[:-3000]),
        ("html.pth", lambda _: b"<!DOCTYPE html><html>not found</html>"),
        ("empty.safetensors", lambda _: b""),
        ("text.safetensors", lambda _: b"these are my weights\n"),
        ("cut.safetensors", lambda path: tensors(path)[:-100]),
        ("renamed.safetensors", whole),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content(path))
    with pytest.raises(
        XbenchError, match=f"{name} is no (checkpoint|safetensors file), or a damaged one.*; save it again"
    ) as caught:
        read(path)
    one_line(caught)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], torch.zeros(3), {"state_dict": {"a": 1}}, {3: torch.zeros(3)}])
def test_what_holds_no_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(XbenchError, match="holds no tensors by name; save it again"):
        read(tmp_path / "x.pt")


class Bomb:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_would_run_code_does_not(network, tmp_path, new):
    trace = tmp_path / "it_ran"
    torch.save(
        {"state_dict": network.state_dict(), "hyper": Bomb(f"touch {trace}")},
        tmp_path / "x.pt",
        _use_new_zipfile_serialization=new,
    )
    with pytest.raises(XbenchError, match=r"holds more than tensors: it would run \w+\.system, which is refused") as caught:
        read(tmp_path / "x.pt")
    one_line(caught)
    assert not trace.exists()


def test_a_whole_module_is_refused(network, tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(XbenchError, match=r"would run torch\.nn\.modules\.linear\.Linear.*save it again with torch.save\(network"):
        read(tmp_path / "x.pt")


def test_nan_is_refused(network, tmp_path):
    network.fc.weight.data[0, 0] = float("nan")
    torch.save(network.state_dict(), tmp_path / "x.pt")
    with pytest.raises(XbenchError, match=r"x\.pt has NaN in 1 of 9 tensors, first in fc\.weight; name an earlier one"):
        read(tmp_path / "x.pt")


def misfit(state, tmp_path, network):
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(XbenchError) as caught:
        fit(network, read(tmp_path / "x.pt"), "some/net")
    return one_line(caught)


def test_what_does_not_fit_is_named_and_counted(network, tmp_path):
    state = network.state_dict()
    less = {k: v for k, v in state.items() if not k.startswith("bn")}
    message = misfit(less, tmp_path, Net())
    assert "x.pt does not fit some/net: 4 missing (bn.weight, bn.bias, bn.running_mean, ...); name the architecture" in message
    more = state | {"head.weight": torch.zeros(3)}
    assert "does not fit some/net: 1 unexpected (head.weight); name the architecture" in misfit(more, tmp_path, Net())
    assert "1 of another shape (fc.bias (3,) instead of (7,))" in misfit(state | {"fc.weight": torch.zeros(7, 4)}, tmp_path, Net(7))
    message = misfit(less | {"extra": torch.zeros(1)}, tmp_path, Net(7))
    assert "4 missing" in message
    assert "1 unexpected" in message
    assert "2 of another shape" in message


def test_another_architecture_is_called_one(network, tmp_path):
    other = {f"layer{k}": v for k, v in network.state_dict().items()}
    assert "none of its 9 tensors does (such as layerstem.weight); name the architecture" in misfit(other, tmp_path, Net())


def test_counters_of_old_batch_norms_may_be_missing(network, tmp_path):
    old = {k: v for k, v in network.state_dict().items() if "num_batches" not in k}
    save_file(old, tmp_path / "x.safetensors")
    fit(Net(), read(tmp_path / "x.safetensors"), "net")


def test_modules_mend_the_names_of_older_versions(tmp_path):
    def make():
        return VisionTransformer(image_size=32, patch_size=16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3)

    torch.manual_seed(0)
    network, other = make(), make()
    state = network.state_dict()
    old = OrderedDict((k.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"), v) for k, v in state.items())
    old._metadata = OrderedDict((k, {"version": 1}) for k in state._metadata)
    torch.save(old, tmp_path / "x.pt")
    fit(other, read(tmp_path / "x.pt"), "vit")
    assert same(other.state_dict(), network)


def test_the_number_of_classes_is_read_from_the_file():
    assert class_count(Net, Net(17).state_dict()) == 17
    assert class_count(Net, {"other": torch.zeros(3)}) is None


def test_classes_from_files(tmp_path):
    text, listed = tmp_path / "classes.txt", tmp_path / "classes.json"
    text.write_text("\ufeffkatze\n hund \n\nélan\n", encoding="utf-8")
    listed.write_text(json.dumps(["katze", "hund", "élan"]))
    for path in (text, listed):
        found, files = class_list(str(path), ("brought", "along"), 3, "net", known=False)
        assert found.names == ("katze", "hund", "élan")
        assert found.synsets == ()
        assert files == (path,)


def test_wordnet_ids_become_synsets(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("n01440764\nn02123045 my tabby\nn99999999\n")
    found, _ = class_list(str(path), (), 3, "net", known=False)
    assert found.synsets == ("n01440764", "n02123045", "n99999999")
    assert found.names == ("tench", "my tabby", "n99999999")
    path.write_text("n01440764\nother\n")
    assert class_list(str(path), (), 2, "net", known=False)[0].synsets == ()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a\nb\n", r"lists 2 classes, but net has 3; list one for each output"),
        (b"", "lists 0 classes, but net has 3"),
        (b'{"0": "a"}', "must be a JSON list of class names"),
        (b"[1, 2, 3]", "must be a JSON list of class names"),
        (b'["a", ', "cannot read the classes in .*write one class a line"),
        (b"\xff\xfe\x00", "cannot read the classes in .*write one class a line"),
    ],
)
def test_bad_class_files(tmp_path, content, why):
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    with pytest.raises(XbenchError, match=why) as caught:
        class_list(str(path), (), 3, "net", known=False)
    assert "classes.txt" in one_line(caught)


def test_known_and_unknown_counts(tmp_path):
    assert class_list("", (), 1000, "net", known=False) == (imagenet_1k(), ())
    for count in (11221, 11821, 21841, 21842, 21843):
        large, _ = class_list("", (), count, "net", known=True)
        assert len(large) == len(large.synsets) == count
    assert class_list("", ("a", "b"), 2, "net", known=False)[0].names == ("a", "b")
    for count, known in ((3, True), (21843, False)):
        with pytest.raises(XbenchError, match=f"net has {count} outputs and no names for them; add classes=FILE, one class a line"):
            class_list("", (), count, "net", known=known)
    with pytest.raises(XbenchError, match=r"cannot read the classes in .*nowhere"):
        class_list(str(tmp_path / "nowhere"), (), 3, "net", known=False)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_bare_pickle_that_would_run_code_is_refused_in_one_line(tmp_path, protocol, recwarn):
    """Not torch's zip: such files pass for old checkpoints."""

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"state_dict": Evil()}, protocol=protocol))
    with pytest.raises(XbenchError, match="which is refused"):
        read(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()
    assert not recwarn.list
