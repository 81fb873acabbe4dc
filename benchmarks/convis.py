"""Seconds a picture of ConVis, for its first concept and for each further one, on a CLIP at full size.

    python benchmarks/convis.py [--network ViT-B-32] [--batch 16] [--further 5]

With random weights: time does not depend on them. One picture of noise, the vocabulary that ships, windows packed into batches.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import open_clip
import torch
from xbench.models.open_clip_zoo import _encode, _network, _preprocessing

from xbench.data.classes import ClassList
from xbench.data.samples import Batch, Item
from xbench.data.wordnet import compact
from xbench.host import keep_memory
from xbench.network.model import Model, ModelView
from xbench.network.zero_shot import classifier
from xbench.plugins.registry import registry

CONCEPTS = ("bird.n.01", "dog.n.01", "vehicle.n.01", "plant.n.02", "furniture.n.01", "food.n.02", "person.n.01", "building.n.01")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="ViT-B-32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--further", type=int, default=5, choices=range(1, len(CONCEPTS)))
    args = parser.parse_args()
    keep_memory()
    model = clip(args.network)
    glosses = [synset.gloss for synset in sorted(compact(), key=lambda s: (len(s.gloss), s.wnid))]
    once, _ = timed(lambda: ModelView(model).sentences(glosses))  # in the method's own order, so that they are not read again
    print(f"{args.network}, {torch.get_num_threads()} threads: {len(glosses):,} glosses in {once:.1f} s, once a run")
    for method in ("convis", "convis_stochastic"):
        report(method, model, args.batch, args.further)


def report(method: str, model: Model, size: int, further: int) -> None:
    """One line: the first concept, further ones, and their ratio. The picture alone is timed, among rows that repeat it."""
    image = model.inputs([torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8)], "crop").expand(size, -1, -1, -1)
    batch = Batch(image.contiguous(), torch.zeros(size, dtype=torch.int64), (Item("0", "0", 0, "0"),), seed="0")
    view = ModelView(model)
    bound = [registry.method(f"{method}(concept={concept})") for concept in CONCEPTS[: 1 + further]]
    model.embed(batch.images)  # what is made once a run
    with view.account() as cost:
        first, _ = timed(functools.partial(bound[0], view, batch))
    windows = cost.forwards  # before others are charged for the windows that they share
    others = [timed(functools.partial(m, view, batch))[0] for m in bound[1:]]
    each = statistics.median(others)
    print(f"{method:18} first {first:7.2f} s ({windows:.0f} windows), each further {each:6.3f} s, {each / first:.2%} of it")


def timed(work: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def clip(name: str) -> Model:
    """With random weights, as a classifier of one class."""
    torch.manual_seed(0)
    network = _network("", name, {})
    encode = functools.partial(_encode, network, open_clip.get_tokenizer(name))
    return classifier(name, network, encode, ClassList(("thing",)), [("a thing",)], _preprocessing("", network, {})[0])


if __name__ == "__main__":
    main()
