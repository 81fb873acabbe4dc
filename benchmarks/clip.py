"""Memory and time of the methods for CLIP on open_clip's networks of full size, beside a bare pass of the image tower.

    python benchmarks/clip.py [--networks ViT-B-32,ViT-B-16,RN50] [--sizes 224,336] [--batch 8] [--threads N]

With random weights: neither depends on them. Memory is the peak above that of the loaded network, in a process of its own for each
figure, with the embedding of the prompts: of one class, and of a hundred. Time is that of the map alone, a second call in the
same process, over that of a bare pass.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import logging
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import open_clip
import torch
from torch import Tensor
from xbench.models.open_clip_zoo import _encode, _network

from xbench.data.classes import ClassList
from xbench.data.samples import Batch, Item
from xbench.host import keep_memory
from xbench.network.model import Model, ModelView, Preprocessing
from xbench.network.zero_shot import classifier, retold
from xbench.plugins.registry import registry

METHODS = ("itsm", "clip_surgery", "clip_surgery_single", "grad_eclip", "mmel", "token_selection")
HEAD = "| network, side | | one text, MB | a hundred, MB | time, passes |\n|---|---|---:|---:|---:|"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="ViT-B-32,ViT-B-16,RN50")
    parser.add_argument("--sizes", default="224,336")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()
    logging.disable()  # open_clip warns that the weights are random
    print(f"batches of {options.batch}, float32, {options.threads} thread(s), torch {torch.__version__}\n\n{HEAD}")
    for name in options.networks.split(","):
        torch.manual_seed(0)
        network = _network("", name, {})
        encode = functools.partial(_encode, network, open_clip.SimpleTokenizer())
        for side in map(int, options.sizes.split(",")):
            images = torch.randn(options.batch, 3, side, side)
            how = Preprocessing((side, side), 1.0, (122.8, 116.7, 104.1), (68.5, 66.6, 70.3))
            model = classifier(name, network, encode, ClassList(("cat",)), [("a photo of a cat.",)], how)
            model.embed(images[:1])  # what libraries load at a first pass
            bare_peak, bare = measured(lambda m=model, x=images: functools.partial(m.embed, x))
            print(f"| {name}, {side} | a bare pass | {bare_peak:.0f} | | 1 |", flush=True)
            for method in METHODS:
                (one, _), (many, seconds) = (measured(functools.partial(_mapped, model, images, method, n)) for n in (1, 100))
                print(f"| | `{method}` | {one:.0f} | {many:.0f} | {seconds / bare:.1f} |", flush=True)


def _mapped(model: Model, images: Tensor, method: str, texts: int) -> Callable[[], object]:
    """Maps of a batch for the first of so many texts, which are embedded before."""
    names = tuple(f"number {i}" for i in range(texts))
    told = retold(model, ClassList(names), [(f"a photo of {name}.",) for name in names])
    items = tuple(Item(str(i), str(i), 0, str(i)) for i in range(len(images)))
    batch = Batch(images, torch.zeros(len(images), dtype=torch.int64), items, seed="0")
    return lambda: registry.method(method)(ModelView(told), batch)


def measured(prepare: Callable[[], Callable[[], object]]) -> tuple[float, float]:
    """(peak in MB above what this process holds, seconds of a second call) of what ``prepare`` returns, in a process of its own."""
    found = multiprocessing.get_context("fork").SimpleQueue()
    child = multiprocessing.get_context("fork").Process(target=_measure, args=(prepare, found))
    child.start()
    result: tuple[float, float] = found.get()
    child.join()
    return result


def _measure(prepare: Callable[[], Callable[[], object]], found: multiprocessing.SimpleQueue[tuple[float, float]]) -> None:
    ctypes.CDLL(None).malloc_trim(0)  # what is free but held would hide growth
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak until here
    before = _status("VmRSS")
    work = prepare()
    work()
    peak = _status("VmHWM")
    start = time.perf_counter()
    work()
    found.put(((peak - before) / 1024, time.perf_counter() - start))


def _status(name: str) -> int:
    """In kB."""
    return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0])


if __name__ == "__main__":
    main()
