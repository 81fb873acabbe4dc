"""Finding the feature layer of plain networks; no plug-in of the families is used here. Random weights, for tests only."""

import dataclasses

import pytest
import timm
import torch
import torchvision
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from xbench import Model, ModelView, Preprocessing, XbenchError
from xbench.data.classes import ClassList
from xbench.data.samples import Batch, Item
from xbench.network.features import Layout, find
from xbench.plugins.registry import registry


def seeded(make, *args, **kwargs):
    torch.manual_seed(0)
    return make(*args, **kwargs).eval().requires_grad_(False)


def a_timm(name, **kwargs):
    return lambda: timm.create_model(name, num_classes=5, **kwargs)


def a_torchvision(name, **kwargs):
    return lambda: torchvision.models.get_model(name, weights=None, num_classes=5, **kwargs)


def small_vit(**kwargs):
    return VisionTransformer(img_size=64, patch_size=16, embed_dim=48, depth=3, num_heads=3, num_classes=5, **kwargs)


def small_swin():
    return SwinTransformer(img_size=64, patch_size=4, window_size=4, embed_dim=16, depths=(1, 2), num_heads=(1, 2), num_classes=5)


def untrained_head(name, head, **kwargs):
    """torchvision's ViT starts with a head of zeros, on which no layer has any influence."""

    def make():
        network = a_torchvision(name, **kwargs)()
        nn.init.normal_(network.get_submodule(head).weight)
        return network

    return make


NETWORKS = {
    "resnet": (a_timm("resnet18"), 224, "layer4", "nchw", (512, 7, 7), 0),
    "resnet_clip": (a_timm("resnet50_clip"), 224, "final_conv", "nchw", (2048, 7, 7), 0),
    "vgg": (a_torchvision("vgg11", init_weights=False), 224, "features.19", "nchw", (512, 14, 14), 0),
    "densenet": (a_timm("densenet121"), 224, "features", "nchw", (1024, 7, 7), 0),
    "mobilenetv3": (a_timm("mobilenetv3_small_050"), 224, "blocks", "nchw", (288, 7, 7), 0),
    "convnext": (a_timm("convnext_atto"), 224, "norm_pre", "nchw", (320, 7, 7), 0),
    "efficientnet": (a_timm("efficientnet_b0"), 224, "bn2", "nchw", (1280, 7, 7), 0),
    "swin": (a_timm("swin_tiny_patch4_window7_224"), 224, "norm", "nhwc", (768, 7, 7), 0),
    "vit": (a_timm("vit_tiny_patch16_224"), 224, "blocks.11.norm1", "tokens", (192, 14, 14), 1),
    "vit_mean": (lambda: small_vit(global_pool="avg"), 64, "norm", "tokens", (48, 4, 4), 1),
    "deit": (a_timm("deit_tiny_distilled_patch16_224"), 224, "blocks.11.norm1", "tokens", (192, 14, 14), 2),
    "dinov2": (a_timm("vit_small_patch14_reg4_dinov2", img_size=224), 224, "blocks.11.norm1", "tokens", (384, 16, 16), 5),
    "pit": (a_timm("pit_ti_224"), 224, "transformers.2.blocks.3.norm1", "tokens", (256, 7, 7), 1),
    "torchvision_swin": (a_torchvision("swin_t"), 224, "permute", "nchw", (768, 7, 7), 0),
    "torchvision_vit": (
        untrained_head("vit_b_32", "heads.head", image_size=96),
        96,
        "encoder.layers.encoder_layer_11.ln_1",
        "tokens",
        (768, 3, 3),
        1,
    ),
    "googlenet": (a_torchvision("googlenet", init_weights=False), 224, "inception5b", "nchw", (1024, 7, 7), 0),
    "inception": (a_torchvision("inception_v3", init_weights=False), 299, "Mixed_7c", "nchw", (2048, 8, 8), 0),
}


@pytest.mark.parametrize("family", NETWORKS)
def test_the_layer_is_found(family):
    make, side, name, kind, shape, extra = NETWORKS[family]
    network, example = seeded(make), torch.zeros(1, 3, side, side)
    found, layout = find(network, example)
    assert (found, layout.kind, layout.extra) == (name, kind, extra)
    output = outputs(network, found, example)
    assert layout.to_grid(output).shape[1:] == shape
    assert not any(m._forward_hooks for m in network.modules())


def outputs(network, name, pictures):
    """What a layer gives, as a graph's leaf would be seen by hand: through a hook."""
    kept = []
    handle = network.get_submodule(name).register_forward_hook(lambda _, __, output: kept.append(output))
    network(pictures)
    handle.remove()
    return kept[0]


@pytest.mark.parametrize(("height", "width", "grid"), [(64, 96, (4, 6)), (112, 48, (7, 3))])
def test_pictures_need_not_be_square(height, width, grid):
    network = seeded(VisionTransformer, img_size=(height, width), patch_size=16, embed_dim=48, depth=2, num_heads=3, num_classes=5)
    assert find(network, torch.zeros(1, 3, height, width)) == ("blocks.1.norm1", Layout("tokens", grid, 1))
    convolutional = seeded(Small)
    name, layout = find(convolutional, torch.zeros(1, 3, height, width))
    assert (name, layout.kind) == ("between", "nchw")


class Small(nn.Module):
    """Two strided convolutions; ``between`` works on their output."""

    def __init__(self, between=None):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1)
        )
        self.between = between or nn.Identity()
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.between(self.body(x)).mean(dim=(2, 3)))


class Patches(nn.Module):
    """Cuts the picture without a convolution: no output of four dimensions tells the grid."""

    def __init__(self, shuffle=None):
        super().__init__()
        self.embed = nn.Linear(3 * 64, 16)
        self.block = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
        self.head = nn.Linear(16, 5)
        self.shuffle = shuffle

    def forward(self, x):
        patches = nn.functional.unfold(x, 8, stride=8).transpose(1, 2)
        if self.shuffle is not None:
            patches = patches[:, self.shuffle]
        return self.head(self.block(self.embed(patches)).mean(dim=1))


def test_patches_cut_without_a_convolution():
    found = find(seeded(Patches), torch.zeros(1, 3, 64, 48))
    assert found == ("block", Layout("tokens", (8, 6), 0))


ORDERS = {
    "shuffled": torch.randperm(64, generator=torch.Generator().manual_seed(0)),
    "transposed": torch.arange(64).reshape(8, 8).T.flatten(),
    "turned": torch.arange(64).flip(0),
    "mirrored": torch.arange(64).reshape(8, 8).flip(1).flatten(),
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_wrong_order_of_the_cells_is_refused(order):
    network, example = seeded(Patches, ORDERS[order]), torch.zeros(1, 3, 64, 64)
    with pytest.raises(XbenchError, match=r"layer 'block' gives no map.*a change in a corner of the picture does not show.*name"):
        find(network, example, "block")
    assert find(network, example) is None


def test_the_last_ordered_layer_is_taken_where_the_order_is_lost():
    class Turn(nn.Module):
        def forward(self, x):
            return x.flip(2, 3) * 1.0

    assert find(seeded(Small, Turn()), torch.zeros(1, 3, 64, 64))[0] == "body"


def test_a_named_layer_is_honoured():
    network, example = seeded(timm.create_model, "resnet18", num_classes=5), torch.zeros(1, 3, 96, 96)
    assert find(network, example, "layer3") == ("layer3", Layout("nchw"))
    assert find(seeded(small_vit), torch.zeros(1, 3, 64, 64), "blocks.0") == ("blocks.0", Layout("tokens", (4, 4), 1))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("layer5", "the network has no layer 'layer5'; did you mean 'layer"),
        ("fc", r"layer 'fc' gives no map .*its output \(1, 5\) has no grid of the picture's proportions; name another layer"),
        ("global_pool", "has no grid"),
    ],
)
def test_a_layer_that_is_no_map_is_refused(name, why):
    with pytest.raises(XbenchError, match=why) as caught:
        find(seeded(timm.create_model, "resnet18", num_classes=5), torch.zeros(1, 3, 96, 96), name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["blocks.2", "norm"])
def test_a_layer_whose_patches_do_not_move_the_logits_is_refused(name):
    with pytest.raises(XbenchError, match="the logits do not depend on its grid; name another layer"):
        find(seeded(small_vit), torch.zeros(1, 3, 64, 64), name)


def test_a_layer_that_runs_twice_is_refused_and_never_found():
    class Twice(Small):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x):
            return self.fc(self.act(self.body[3](self.act(self.body[0](x)))).mean(dim=(2, 3)))

    network, example = seeded(Twice), torch.zeros(1, 3, 64, 64)
    with pytest.raises(XbenchError, match="it runs 2 times a pass"):
        find(network, example, "act")
    with pytest.raises(XbenchError, match="it runs 0 times a pass"):
        find(network, example, "between")
    assert find(network, example)[0] == "body.3"


def test_what_ends_in_place_comes_after_the_branch_that_it_adds():
    network = seeded(timm.create_model, "test_resnet", num_classes=5)  # bn2, then the shortcut, then += and ReLU in place
    assert find(network, torch.zeros(1, 3, 160, 160))[0] == "layer4"


def test_narrow_side_branches_are_not_taken_for_the_residual_stream():
    network = seeded(small_vit, global_pool="avg")
    for block in network.blocks:  # as adapters have it
        block.norm2 = nn.Sequential(block.norm2, nn.Linear(48, 4), nn.Linear(4, 48))
    assert find(network, torch.zeros(1, 3, 64, 64))[0] == "norm"


def test_logits_that_depend_on_nothing():
    network, example = seeded(Small), torch.zeros(1, 3, 64, 64)
    network.fc.weight.zero_()
    assert find(network, example) is None
    with pytest.raises(XbenchError, match="the logits do not depend on its grid"):
        find(network, example, "body")


def test_what_is_not_logits_is_refused():
    class Pair(Small):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(XbenchError, match=r"must return logits, one tensor \[B, classes\]"):
        find(seeded(Pair), torch.zeros(1, 3, 64, 64))


def model(network, side, layer=""):
    preprocessing = Preprocessing((side, side), 1.0, (127.0,) * 3, (64.0,) * 3)
    return Model("own", network, preprocessing, ClassList(tuple("abcde")), layer)


def test_a_network_without_maps_lacks_the_capability():
    own = model(seeded(nn.Sequential, nn.Flatten(), nn.Linear(3 * 256, 32), nn.ReLU(), nn.Linear(32, 5)), 16)
    assert own.feature_layer == ""
    assert own.layout is None
    assert own.capabilities == {"gradients"}
    with pytest.raises(XbenchError, match="model own: the network has no layer 'body'"):
        model(seeded(nn.Sequential, nn.Flatten(), nn.Linear(3 * 256, 5)), 16, "body")


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (Layout("nchw"), (2, 7, 3, 4)),
        (Layout("nhwc"), (2, 3, 4, 7)),
        (Layout("tokens", (3, 4), 0), (2, 12, 7)),
        (Layout("tokens", (3, 4), 5), (2, 17, 7)),
    ],
)
def test_from_grid_is_the_inverse_of_to_grid(layout, shape):
    output = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    grid = layout.to_grid(output)
    assert grid.shape == (2, 7, 3, 4)
    assert torch.equal(layout.from_grid(grid, output), output)
    other = layout.from_grid(grid + 1, output)
    assert torch.equal(layout.to_grid(other), grid + 1)
    assert torch.equal(other[:, : layout.extra], output[:, : layout.extra]) or layout.kind != "tokens"


@pytest.mark.parametrize(
    ("make", "name", "extra"),
    [(lambda: small_vit(reg_tokens=3), "blocks.2.norm1", 4), (small_swin, "norm", 0)],
    ids=["vit", "swin"],
)
def test_the_view_gives_features_and_gradients_as_autograd_by_hand(make, name, extra):
    own = model(seeded(make), 64)
    assert (own.feature_layer, own.layout.extra) == (name, extra)
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([0, 4, 2])
    batch = Batch(images, targets, tuple(Item(str(i), str(i), None, "c") for i in range(3)))
    view = ModelView(own)
    activations, gradients = view.feature_gradients(batch)
    with torch.enable_grad():
        leaves = []
        handle = own.network.get_submodule(name).register_forward_hook(
            lambda _, __, output: leaves.append(output.detach().requires_grad_()) or leaves[0]
        )
        logits = own.network(images)
        handle.remove()
        logits.gather(1, targets[:, None]).sum().backward()
    (leaf,) = leaves
    if extra:
        by_hand = [t[:, extra:].reshape(3, 4, 4, -1).permute(0, 3, 1, 2) for t in (leaf.detach(), leaf.grad)]
    else:
        by_hand = [t.permute(0, 3, 1, 2) for t in (leaf.detach(), leaf.grad)]
    assert activations.shape == gradients.shape == by_hand[0].shape
    assert torch.allclose(activations, by_hand[0], atol=1e-6)
    assert torch.allclose(gradients, by_hand[1], atol=1e-7)
    assert torch.equal(view.features(batch), activations)
    assert gradients.any()


OWN = """
from torch import nn

from xbench import ClassList, Model, Preprocessing, model


@model("features_test_own")
def own() -> Model:
    '''A network of one's own; where its features are is found.'''
    network = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    return Model("own", network, Preprocessing((64, 64), 1.0, (127.0,) * 3, (64.0,) * 3), ClassList(("yes", "no")))
"""


def test_a_network_of_ones_own_in_a_plugin_file(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    registry.load(str(file))
    torch.manual_seed(0)
    own = registry.bind("model", "features_test_own")()
    assert own.feature_layer == "1"
    assert own.layout == Layout("nchw")
    assert "feature_maps" in own.capabilities
    named = dataclasses.replace(own, feature_layer="0", layout=None)
    assert named.feature_layer == "0"
