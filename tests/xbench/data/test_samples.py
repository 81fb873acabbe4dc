import torch

from xbench.data.samples import Batch, Item, generator
from xbench.plugins.registry import registry


def batch(ids: list[str], size: int = 4) -> Batch:
    items = tuple(Item(id, id, 0, id) for id in ids)
    return Batch(torch.zeros(size, 3, 8, 8), torch.zeros(size, dtype=torch.int64), items, seed="0")


def test_noise_belongs_to_the_item_not_to_the_batch():
    together, alone, later = batch(["a", "b", "c"]).rand(5), batch(["b"]).rand(5), batch(["c", "b"]).rand(5)
    assert torch.equal(together[1], alone[0])
    assert torch.equal(together[1], later[1])
    assert not torch.equal(together[0], together[1])


def test_padding_repeats_the_last_item():
    noise = batch(["a", "b"]).rand(5)
    assert torch.equal(noise[1], noise[2])
    assert torch.equal(noise[1], noise[3])


def test_plugins_and_seeds_draw_differently():
    one = batch(["a"])
    assert not torch.equal(one.seeded("x").rand(5), one.seeded("y").rand(5))
    assert torch.equal(one.seeded("x").rand(5), one.seeded("x").rand(5))


def test_generator_is_the_same_on_every_machine():
    assert torch.randint(0, 1000, (4,), generator=generator("0", "item")).tolist() == [179, 937, 695, 3]


def test_items_by_policy():
    pictures = registry.bind("dataset", "tiny_pictures(n=3)")()
    assert [(i.id, i.target) for i in pictures.items("label")] == [("picture_0", 0), ("picture_1", 1), ("picture_2", 2)]
    assert [i.target for i in pictures.items("prediction")] == [None] * 3
    present = pictures.items("present")
    assert [(i.id, i.target) for i in present[:2]] == [("picture_0#0", 0), ("picture_0#1", 1)]
    assert len({i.id for i in present}) == 6
    assert present[0].cluster == present[3].cluster == "cluster_0"
