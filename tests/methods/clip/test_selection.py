"""What a max pooling selects, beside a plain loop over channels; mutants of the source must fail."""

import numpy as np
import pytest
import torch

from xbench.data.samples import Batch, Item, Truth
from xbench.network.model import ModelView
from xbench.plugins.registry import registry


class Fixed:
    """A view of a model whose features are given."""

    def __init__(self, features: torch.Tensor) -> None:
        self.features = lambda batch: features


def layers():
    g = torch.Generator().manual_seed(0)
    dead = torch.randn(2, 6, 3, 5, generator=g).relu()
    dead[:, 1] = 0
    dead[0, 2] = -4.5
    return {
        "signed": torch.randn(3, 40, 4, 7, generator=g),
        "negative": -torch.rand(2, 30, 4, 4, generator=g),
        "rectified": (torch.randn(2, 30, 3, 3, generator=g) - 1).relu(),
        "tied": torch.randint(-2, 2, (4, 9, 3, 4), generator=g).float(),
        "dead channels": dead,
        "all dead": torch.ones(2, 5, 3, 3),
        "one place": torch.randn(2, 5, 1, 1, generator=g),
        "huge": torch.randn(1, 8, 5, 5, generator=g) * 1e38,
    }


def plain(features):
    """By loops over channels and places."""
    found = np.zeros((features.shape[0], *features.shape[2:]))
    for item, channels in enumerate(features.numpy()):
        for channel in channels:
            places = [p for p in np.ndindex(*channel.shape) if channel[p] == channel.max()]
            for p in places if len(places) < channel.size else []:
                found[item][p] += 1 / len(places)
    return found


def agrees(name):
    return all(
        found.shape == wanted.shape and np.allclose(found, wanted, rtol=0, atol=1e-5)
        for features in layers().values()
        for found, wanted in [(registry.method(name)(Fixed(features), None).numpy(), plain(features))]
    )


def test_equals_the_plain_loops_on_all_kinds_of_features():
    assert agrees("max_selection")


def test_every_channel_that_moves_selects_one_place(tiny_model):
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batch = Batch(images, torch.arange(4), tuple(Item(f"{i}", f"{i}", i, f"{i}") for i in range(4)), seed="0")
    view = ModelView(tiny_model)
    map_ = registry.method("max_selection")(view, batch)
    moving = (view.features(batch).amax(dim=(2, 3)) > view.features(batch).amin(dim=(2, 3))).sum(dim=1)
    assert map_.shape == (4, 8, 8)
    assert torch.allclose(map_.sum(dim=(1, 2)), moving.float())


def test_its_relevance_mass_is_the_foreground_selection_ratio():
    features = layers()["signed"]
    mask = torch.zeros(4, 7, dtype=torch.bool)
    mask[1:3, 2:6] = True
    selected = features.flatten(2).argmax(dim=2)
    ratios = mask.flatten()[selected].double().mean(dim=1)
    maps = registry.method("max_selection")(Fixed(features), None)
    assert registry.metric("relevance_mass")(maps, Truth(mask)).tolist() == pytest.approx(ratios.tolist())


MUTANTS = [
    ("places.amax", "places.amin"),
    ("places.amax", "places.abs().amax"),
    ("(places == highest)", "(places >= highest * 0.9)"),
    (" & (places.amin(dim=2, keepdim=True) < highest)", ""),
    ("places.amin(dim=2, keepdim=True) < highest", "highest > 0"),
    (" / chosen.sum(dim=2, keepdim=True).clamp(min=1)", ""),
    ("shares.sum(dim=1)", "shares.mean(dim=1)"),
    ("shares = chosen", "shares = places * chosen"),
    ("flatten(2)", "relu().flatten(2)"),
]


@pytest.mark.parametrize("number", range(len(MUTANTS)))
def test_planted_mutants_of_the_source_are_caught(tmp_path, number):
    old, new = MUTANTS[number]
    source = registry.get("method", "max_selection").path.read_text(encoding="utf-8")
    assert old in source
    name = f"selection_mutant{number}"
    (tmp_path / "mutant.py").write_text(
        source.replace(old, new).replace('"max_selection"', f'"{name}"').replace('"token_', f'"{name}_'), encoding="utf-8"
    )
    registry.load(str(tmp_path / "mutant.py"))
    assert not agrees(name)


def test_a_clips_tokens_select_as_the_plain_loops_say(clips):
    for clip in (clips.vision(), clips.resnet()):
        model = clips.model(clip)
        view, batch = ModelView(model), clips.batch(model)
        with torch.no_grad():
            tokens = model.network.tower.project(model.network.tower.places(batch.images)).permute(0, 3, 1, 2)
        found = registry.method("token_selection")(view, batch)
        assert np.allclose(found.numpy(), plain(tokens), atol=1e-5)
        assert torch.allclose(found.sum(dim=(1, 2)), torch.full((3,), 24.0))
