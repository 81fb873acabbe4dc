"""The adapters on networks of full size, built by the libraries themselves, with random weights: no figure here is a result.

About 45 seconds on one core. Ablation-CAM, and leave-patch-out but for CLIP's 49 patches, take hundreds of passes: they are tested
on small networks only.
"""

import dataclasses
import logging

import open_clip
import pytest
import timm
import torch
from torch.nn import functional as F

from xbench.data.classes import ClassList
from xbench.data.samples import Batch, Item
from xbench.errors import XbenchError
from xbench.network.attention import recorded
from xbench.network.features import Layout
from xbench.network.model import Model, ModelView, Preprocessing
from xbench.network.zero_shot import ZeroShot
from xbench.plugins.registry import registry

CLASSES = ClassList(tuple("abcdefghij"))
CAMS = ["grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hires_cam", "layer_cam", "eigen_cam", "eigen_cam_centered"]
CAMS += ["eigen_grad_cam", "score_cam(top=2)"]
ATTENTION = ["raw_attention", "attention_rollout", "transformer_attribution", "attn_grad_cam"]
AGNOSTIC = {"eigen_cam", "eigen_cam_centered", "raw_attention", "attention_rollout"}


def a_timm(name, **kwargs):
    return lambda: timm.create_model(name, pretrained=False, num_classes=len(CLASSES), **kwargs)


def clip():
    """The visual tower of ViT-B-32 with random directions for the classes."""
    logging.disable()  # it warns that the weights are random
    try:
        whole = open_clip.create_model("ViT-B-32", pretrained=None)
    finally:
        logging.disable(logging.NOTSET)
    return ZeroShot(whole, F.normalize(torch.randn(len(CLASSES), 512), dim=-1))


# name: how it is built, its feature layer, grid, tokens before the patches; None where it has no row of tokens
NETWORKS = {
    "vit_base_patch16_224.dino": (a_timm("vit_base_patch16_224.dino"), "blocks.11.norm1", (14, 14), 1),
    "vit_small_patch14_reg4_dinov2": (a_timm("vit_small_patch14_reg4_dinov2", img_size=224), "blocks.11.norm1", (16, 16), 5),
    "deit3_small_patch16_224": (a_timm("deit3_small_patch16_224"), "blocks.11.norm1", (14, 14), 1),
    "swin_tiny_patch4_window7_224": (a_timm("swin_tiny_patch4_window7_224"), "norm", (7, 7), None),
    "open_clip ViT-B-32": (clip, "visual.transformer.resblocks.11.ln_1", (7, 7), 1),
}


TOKENS = [name for name, (*_, extra) in NETWORKS.items() if extra is not None]


@pytest.fixture(scope="module", params=NETWORKS)
def view(request):
    """Of one network at a time; what it computes for the picture serves all methods."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = NETWORKS[request.param][0]()
    return ModelView(Model(request.param, network, Preprocessing((224, 224), 1.0, (127.0,) * 3, (64.0,) * 3), CLASSES))


def of(names):
    return pytest.mark.parametrize("view", names, indirect=True, scope="module")


@pytest.fixture(scope="module")
def batch():
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    return Batch(images, torch.tensor([0]), (Item("a", "a", None, "c"),), seed="0")


def maps(view, batch, spec):
    """Maps of the picture for three targets: chance may make the map of one zero behind a ReLU, a dead layer makes all."""
    method = registry.method(spec)
    assert method.needs <= view.model.capabilities
    targets = [0] if spec.partition("(")[0] in AGNOSTIC else [0, 1, 2]
    return torch.cat([method(view, dataclasses.replace(batch, targets=torch.tensor([t]))) for t in targets])


def test_layer_grid_and_capabilities(view):
    model, (_, layer, grid, extra) = view.model, NETWORKS[view.model.id]
    assert model.feature_layer == layer
    if extra is None:
        assert model.layout.kind != "tokens"
        assert model.capabilities == {"feature_maps", "gradients"}
    else:
        assert model.layout == Layout("tokens", grid, extra)
        assert model.capabilities == {"feature_maps", "gradients", "attention"}
        assert model.attention_rows == (0,)


def check(view, found):
    """Maps of the model's grid, finite, neither all zero nor constant."""
    assert found.shape[1:] == NETWORKS[view.model.id][2]
    assert torch.isfinite(found).all()
    assert found.any()
    assert found.amin() < found.amax()


@pytest.mark.parametrize("spec", CAMS)
def test_class_activation_maps(view, batch, spec):
    check(view, maps(view, batch, spec))


@of(TOKENS)
@pytest.mark.parametrize("spec", ATTENTION)
def test_maps_of_attention(view, batch, spec):
    check(view, maps(view, batch, spec))


@of(TOKENS)
def test_attention_of_every_block(view, batch):
    layout = view.model.layout
    n = layout.extra + layout.grid[0] * layout.grid[1]
    found, gradients = view.attention_gradients(batch)
    assert len(found) == len(gradients) == 12
    for attention, gradient in zip(found, gradients, strict=True):
        heads = attention.shape[1]
        assert heads in (6, 12)
        assert attention.shape == gradient.shape == (1, heads, n, n)
        assert torch.allclose(attention.sum(dim=-1), torch.ones(1, heads, n), atol=1e-5)
        assert gradient.any()
    with recorded(1, layout):
        assert torch.allclose(view.network(batch.images), view.logits(batch), atol=1e-4)


@of(["open_clip ViT-B-32"])
def test_leave_patch_out(view, batch):
    packed = dataclasses.replace(batch, images=batch.images.expand(25, -1, -1, -1), targets=batch.targets.expand(25))
    found = registry.method("leave_patch_out")(ModelView(view.model), packed)
    assert found.shape == (1, 7, 7)
    assert torch.isfinite(found).all()
    assert found.amin() < found.amax()


@of(["open_clip ViT-B-32"])
def test_a_dead_layer_would_show(view, batch):
    """CLIP's last block as a whole, which others take: its patches go nowhere, so that Grad-CAM is zero for every target."""
    block = view.network.get_submodule("visual.transformer.resblocks.11")
    kept = []
    handle = block.register_forward_hook(lambda _, __, output: kept.append(output))
    logits = view.network(batch.images.clone().requires_grad_())
    handle.remove()
    for target in range(3):
        (gradient,) = torch.autograd.grad(logits[0, target], kept[0], retain_graph=True)
        assert gradient.any()
        assert not view.model.layout.to_grid(gradient).any()
    with pytest.raises(XbenchError, match="the logits do not depend on its grid; name another layer"):
        dataclasses.replace(view.model, feature_layer="visual.transformer.resblocks.11", layout=None)
