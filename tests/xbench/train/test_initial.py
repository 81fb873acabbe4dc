import math

import numpy as np
import pytest
import timm
import torch
from torch import nn

from xbench.errors import XbenchError
from xbench.train import initial


def a_vit():
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=4, embed_dim=64, depth=2, num_heads=2, num_classes=3)


def a_tower():
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    vision = open_clip.model.CLIPVisionCfg(layers=2, width=64, head_width=32, patch_size=4, image_size=32)
    return open_clip.model.CLIP(
        16, vision, open_clip.model.CLIPTextCfg(context_length=8, vocab_size=50, width=16, heads=2, layers=1)
    )


def of_block(network):
    """W_Q, W_K, W_V, W_proj of the first block, as x W, and the number of heads."""
    if hasattr(network, "visual"):
        attention = network.visual.transformer.resblocks[0].attn
        return *attention.in_proj_weight.T.chunk(3, dim=1), attention.out_proj.weight.T, attention.num_heads
    attention = network.blocks[0].attn
    return *attention.qkv.weight.T.chunk(3, dim=1), attention.proj.weight.T, attention.num_heads


@pytest.mark.parametrize("make", [a_vit, a_tower])
def test_products_of_weights_are_noise_plus_identity(make):
    network = make().requires_grad_(False)
    initial.mimetic(network)
    q, k, v, p, heads = of_block(network)
    width = len(q)
    product = v @ p
    noise = product + 0.4 * torch.eye(width)
    assert abs(float(product.diagonal().mean()) + 0.4) < 0.05
    assert float(noise.std()) == pytest.approx(0.4 / math.sqrt(width), rel=0.1)
    for one, other in zip(q.chunk(heads, dim=1), k.chunk(heads, dim=1), strict=True):
        kept = one @ other.T
        assert np.linalg.matrix_rank(kept.detach().numpy(), tol=1e-4) == width // heads
        assert float(kept.diagonal().mean()) > 0.3  # the best approximation of that rank keeps most of the identity


def test_a_token_attends_to_what_is_near():
    network = a_vit()
    initial.mimetic(network)
    maps = []
    attention = network.blocks[0].attn
    attention.fused_attn = False
    attention.attn_drop.register_forward_hook(lambda _, __, output: maps.append(output))
    network.eval()(torch.randn(4, 3, 32, 32) * 0.1)
    patches = maps[0].mean(dim=(0, 1))[1:, 1:].detach()
    y, x = torch.arange(64) // 8, torch.arange(64) % 8
    distance = ((y[:, None] - y) ** 2 + (x[:, None] - x) ** 2).sqrt()
    near, far = patches[(distance <= 1.5) & (distance > 0)].mean(), patches[distance > 4].mean()
    assert near > 2 * far


def test_positions_are_sines_and_cosines_of_row_and_column():
    found = initial.sinusoids(3, 8)
    for place in range(9):
        row, column = divmod(place, 3)
        expected = [f(at * 10000 ** (-i / 2)) for at in (column, row) for f in (math.sin, math.cos) for i in range(2)]
        assert found[place].tolist() == pytest.approx(expected, abs=1e-6)


def test_other_networks_are_refused():
    with pytest.raises(XbenchError, match="is for vision transformers"):
        initial.mimetic(nn.Linear(2, 2))
    pooled = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        patch_size=8,
        embed_dim=64,
        depth=1,
        num_heads=2,
        class_token=False,
        global_pool="avg",
        num_classes=3,
    )
    with pytest.raises(XbenchError, match="needs a class token and a square grid"):
        initial.mimetic(pooled)
