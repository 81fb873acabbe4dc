"""The opened towers of CLIPs against their own answers, and their last steps written out from the weights."""

import copy

import pytest
import torch
from torch.nn import functional as F

from xbench.network import towers
from xbench.network.model import ModelView


@pytest.fixture(params=["vision", "pooled", "normed after", "resnet"])
def visual(request, clips):
    made = {
        "vision": clips.vision,
        "pooled": lambda: clips.vision(pool_type="avg"),
        "normed after": lambda: clips.vision(pool_type="avg", final_ln_after_pool=True),
        "resnet": clips.resnet,
    }
    return made[request.param]().visual


def pictures(side, count=2):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def own_side(visual):
    return visual.image_size[0] if isinstance(visual.image_size, tuple) else visual.image_size


@torch.no_grad()
def test_blocks_recomputed_by_their_parts_give_the_towers_own_answer(visual):
    tower, given = towers.of(visual), pictures(own_side(visual))
    seen, wanted = tower.seen(given), visual(given)
    assert torch.equal(seen.embedding, wanted)
    stream = seen.streams[0]
    for number, block in enumerate(tower.blocks):
        assert torch.allclose(stream, seen.streams[number], atol=1e-5)
        q, k, v = (part.unflatten(-1, (block.heads, -1)).transpose(1, 2) for part in block.parts(stream))
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1)
        stream = block.after(stream, block.out((weights @ v).transpose(1, 2).flatten(2)))
    assert torch.allclose(tower.embedding(stream), wanted, atol=1e-5)


@torch.no_grad()
def test_a_places_embedding_is_its_own_token_through_the_last_layers(visual):
    tower, given = towers.of(visual), pictures(own_side(visual))
    found, weights = tower.project(tower.places(given)), {k: v.double() for k, v in visual.state_dict().items()}
    stream = tower.seen(given).streams[-1].double()
    grid = tower.grid(given.shape[-2:])
    assert found.shape == (2, *grid, 24)
    for item in range(2):
        for row in range(grid[0]):
            for column in range(grid[1]):
                token = stream[item, 1 + row * grid[1] + column]
                if "proj" in weights:
                    centred = token - token.mean()
                    normed = centred / (token.var(correction=0) + 1e-5).sqrt() * weights["ln_post.weight"] + weights["ln_post.bias"]
                    wanted = normed @ weights["proj"]
                else:
                    pool = {k.removeprefix("attnpool."): v for k, v in weights.items() if k.startswith("attnpool.")}
                    value = pool["v_proj.weight"] @ token + pool["v_proj.bias"]
                    wanted = pool["c_proj.weight"] @ value + pool["c_proj.bias"]
                assert torch.allclose(found[item, row, column].double(), wanted, atol=1e-5)


@torch.no_grad()
def test_a_change_in_a_corner_shows_in_that_corner_of_a_transformers_places(clips):
    visual = clips.vision(layers=1).visual
    visual.transformer.resblocks[0].attn.out_proj.weight.zero_()  # no token sees another
    tower, given = towers.of(visual), pictures(32, 1)
    changed = given.clone()
    changed[..., :8, -8:] += 1
    difference = (tower.places(changed) - tower.places(given))[0].abs().sum(dim=-1)
    assert difference[0, 3] > 0.1
    assert difference.sum() == difference[0, 3]


@torch.no_grad()
def test_the_pools_mean_of_places_with_equal_attention_is_its_answer(clips):
    visual = clips.resnet().visual
    for one in ("q_proj", "k_proj"):
        getattr(visual.attnpool, one).weight.zero_()
    tower, given = towers.of(visual), pictures(64)
    seen = tower.seen(given)
    tokens = tower.project(tower.last(seen.streams[-1]))  # of the mean and of all places
    assert torch.allclose(tokens.mean(dim=1), visual(given), atol=1e-5)
    assert torch.allclose(tokens[:, 1:].unflatten(1, seen.grid), tower.project(tower.placed(seen)), atol=1e-5)


@torch.no_grad()
def test_positions_are_interpolated_for_other_sizes_and_the_parameters_stay(visual):
    tower, state = towers.of(visual), copy.deepcopy(visual.state_dict())
    side = own_side(visual)
    assert tower.resized((side, side)) == {}
    larger = (side + 2 * tower.stride[0], side + tower.stride[1])
    ((name, moved),) = tower.resized(larger).items()
    own, grid = tower.grid((side, side)), tower.grid(larger)
    given = visual.get_parameter(name)
    assert torch.equal(moved[0], given[0])
    places = given[1:].T.reshape(1, -1, *own)
    wanted = F.interpolate(places, grid, mode="bicubic", antialias=True, align_corners=False)
    assert torch.allclose(moved[1:], wanted.flatten(2)[0].T, atol=1e-6)
    seen = tower.seen(pictures(1)[:, :, :1, :1].expand(2, 3, *larger))
    assert seen.grid == grid
    assert seen.streams[-1].shape[1] == 1 + grid[0] * grid[1]
    assert all(torch.equal(state[key], value) for key, value in visual.state_dict().items())


def test_interpolated_positions_are_those_that_open_clip_loads(clips):
    """Its own resize of a checkpoint's positions for a larger network."""
    from open_clip.model import resize_pos_embed

    clip, larger = clips.vision(), clips.vision(image_size=48)
    state = copy.deepcopy(clip.state_dict())
    resize_pos_embed(state, larger)
    ((_, moved),) = towers.of(clip.visual).resized((48, 48)).items()
    assert torch.allclose(moved, state["visual.positional_embedding"], atol=1e-6)


def test_a_classifier_takes_inputs_of_other_sizes(clips):
    model = clips.model(clips.vision(), size=48)
    larger = clips.vision(image_size=48)
    state = copy.deepcopy(model.network.visual.state_dict())
    state.update(model.network.tower.resized((48, 48)))
    larger.visual.load_state_dict(state)
    batch = clips.batch(model)
    with torch.no_grad():
        wanted = F.normalize(larger.visual(batch.images), dim=-1) @ model.network.texts.T
    assert torch.allclose(model.network.cosines(model(batch.images)), wanted, atol=1e-5)
    assert model.layout.grid == (6, 6)


def test_towers_of_other_kinds_stay_closed(clips):
    assert towers.of(clips.vision(attentional_pool=True, attn_pooler_heads=4).visual) is None
    assert towers.of(torch.nn.Linear(2, 2)) is None
    assert "patch_tokens" in clips.model(clips.vision()).capabilities


def test_the_view_shares_one_pass_and_detaches(clips):
    model = clips.model(clips.resnet())
    batch, view = clips.batch(model), ModelView(model)
    calls = []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    view.feature_gradients(batch)
    seen = view.seen(batch)
    assert view.seen(batch).streams
    assert len(calls) == 1
    assert not any(stream.requires_grad for stream in (*seen.streams, seen.embedding))
    with torch.no_grad():
        assert torch.allclose(seen.embedding, model.network.visual(batch.images), atol=1e-5)


def test_embeddings_are_made_in_full_batches_and_counted_by_item(clips):
    model = clips.model(clips.vision())
    batch = clips.batch(model, count=4)  # of 3 items
    shapes, told = [], []
    view = ModelView(model, told.append)
    model.network.visual.register_forward_hook(lambda _, given, __: shapes.append(len(given[0])))
    given = pictures(32, 9)
    with view.account() as cost:
        found = view.embeddings(batch, given)
    assert shapes == [4, 4, 4]
    assert told == [4, 4, 1]
    assert cost.forwards == 9 / 3
    with torch.no_grad():
        assert torch.allclose(found, F.normalize(model.network.visual(given), dim=-1), atol=1e-5)


def test_sentences_are_embedded_once(clips):
    model, asked = clips.model(clips.vision()), []
    real = clips.embedding
    clips.embedding = lambda sentence: asked.append(sentence) or real(sentence)
    try:
        views = ModelView(model), ModelView(model)
        first, second = (view.sentences(["one", "two"]) for view in views)
    finally:
        clips.embedding = real
    assert asked == ["one", "two"]
    assert torch.equal(first, second)
    assert torch.allclose(first, F.normalize(clips.encode(["one", "two"]), dim=-1))
