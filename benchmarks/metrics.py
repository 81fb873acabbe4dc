"""What the rules for scoring maps gain, as ratios of processor times that are measured in one run.

    python benchmarks/metrics.py [--rounds N] [--threads N] [--sections a,b] [--pictures FOLDER [--items N]]

probing: scoring against a library and the loops that people write. stratified: what ``steps=stratified(8)`` saves against
``steps=exact(224)``, and what it costs in precision. road: imputation against the libraries'. memory: peaks as items grow tenfold.
With --pictures (ImageNet's layout), ``stratified`` takes the first of these photographs instead of generated scenes.

All works that are compared are timed in turn within each round, in an order that rotates, after one round that warms up; figures
are medians of the rounds' ratios, with the least and the greatest. A section is a function from rounds to rows.
Time is this process's own, so that others on the machine disturb least; with one thread it is the wall's on an idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import io
import itertools
import multiprocessing
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType

import cv2
import numpy as np
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from scipy.stats import kendalltau
from torch import Tensor, nn
from xbench.metrics.faithfulness._imputation import impute

from xbench.data.classes import imagenet_1k
from xbench.data.samples import Batch, Item
from xbench.host import keep_memory
from xbench.maps.perturbation import Prober
from xbench.maps.saliency import SaliencyMap
from xbench.network.folding import folded
from xbench.network.model import Model, ModelView, Preprocessing
from xbench.plugins.registry import registry

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """A line of the table. figures: one a round, or a method; none where it could not be measured, and note says why."""

    what: str
    figures: Sequence[float]
    goal: str = ""
    note: str = ""

    def __str__(self) -> str:
        if not self.figures:
            return f"{self.what:70} {self.note}"
        found = f"{statistics.median(self.figures):6.2f}"
        if len(self.figures) > 1:
            found += f" [{min(self.figures):.2f} to {max(self.figures):.2f}]"
        return f"{self.what:70}{found:24}{f'goal {self.goal}  ' if self.goal else ''}{self.note}".rstrip()


def alternated(works: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of every work in every round."""
    names, times = list(works), {name: [0.0] * rounds for name in works}
    for turn in range(-1, rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.process_time()
            works[name]()
            if turn >= 0:
                times[name][turn] = time.process_time() - start
    return times


def ratios(times: Mapping[str, Sequence[float]], slow: str, fast: str) -> list[float]:
    return [a / b for a, b in zip(times[slow], times[fast], strict=True)]


# -- probing: deletion in 12 steps of one Grad-CAM map for each picture -----------------------------------------------------------

STEPS = 12  # quantus wants features_in_step to divide 224 * 224, and walks through 3 * 224 * 224 of them


def probing(rounds: int) -> Iterator[Row]:
    lite = registry.bind("model", "efficientnet_lite0")()
    yield from _deletion("EfficientNet-Lite0", lite, 8, 8, rounds)
    yield from _deletion("EfficientNet-Lite0", lite, 16, 16, rounds)
    yield from _deletion("ResNet-50, random weights", _random_resnet50(), 4, 8, min(rounds, 2))


def _deletion(name: str, model: Model, count: int, size: int, rounds: int) -> list[Row]:
    inputs, targets, maps = _explained(model, count)
    rows = inputs.contiguous()
    plain_network = copy.deepcopy(model.network).to(memory_format=torch.contiguous_format)
    quick, quick_rows = folded(model.network, inputs[:1]), folded(plain_network, rows[:1])
    batches = -(-count * (STEPS + 1) // size)
    works: dict[str, Work] = {
        "xbench": lambda: _xbench(quick, inputs, targets, maps, size),
        "no folding": lambda: _xbench(model.network, inputs, targets, maps, size),
        "no format": lambda: _xbench(quick_rows, rows, targets, maps, size),
        "no packing": lambda: _loop(quick, inputs, targets, maps, size),
        "plain": lambda: _loop(plain_network, rows, targets, maps, size),
        "rise": lambda: _rise(plain_network, rows, targets, maps),
        "bare": lambda: _bare(quick, inputs[torch.arange(size) % count], batches),
    }
    quantus = _quantus(plain_network, rows, targets, maps, size)
    if quantus:
        works["quantus"] = quantus
    times = alternated(works, rounds)
    head = f"{name}, batch {size}:"
    theirs = ratios(times, "quantus", "xbench") if quantus else []
    speed = f"{count * (STEPS + 1) / statistics.median(times['xbench']):.0f} pictures a second"
    flips = f"flips channel values, not pixels; {STEPS} points, not {STEPS + 1}" if quantus else "quantus is not installed"
    return [
        Row(f"{head} quantus PixelFlipping / xbench", theirs, "1.7", flips),
        Row(f"{head} plain RISE loop, a picture a pass / xbench", ratios(times, "rise", "xbench"), "2.5", speed),
        Row(f"{head} plain loop in batches / xbench", ratios(times, "plain", "xbench")),
        Row(f"{head}   without channels_last", ratios(times, "no format", "xbench")),
        Row(f"{head}   without packing (loop)", ratios(times, "no packing", "xbench")),
        Row(f"{head}   without folding", ratios(times, "no folding", "xbench")),
        Row(f"{head} bare passes of as many batches / xbench", ratios(times, "bare", "xbench"), "0.95"),
    ]


def _random_resnet50() -> Model:
    import torchvision

    torch.manual_seed(0)
    how = Preprocessing((224, 224), 0.875, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    network = torchvision.models.resnet50(weights=None)
    return Model(
        "resnet50", network, how, imagenet_1k(), feature_layer="layer4", capabilities=frozenset({"feature_maps", "gradients"})
    )


def _explained(model: Model, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(inputs ``[n, 3, H, W]`` of photographs, their predicted classes, Grad-CAM maps at the network's own grid)."""
    photos = registry.bind("dataset", "photos")()
    entries = photos.entries()[:count]
    inputs = model.inputs([photos.load(entry.id).image for entry in entries], "crop")
    with torch.inference_mode():
        targets = model(inputs).argmax(dim=1)
    items = tuple(Item(e.id, e.id, int(t), e.id) for e, t in zip(entries, targets, strict=True))
    batch = Batch(inputs, targets.clone(), items)
    return inputs, batch.targets, registry.method("grad_cam")(ModelView(model), batch)


def _xbench(network: nn.Module, inputs: Tensor, targets: Tensor, maps: Tensor, size: int) -> list[float]:
    """As a run scores: resizing and ranking of maps, substrates, packed passes, areas."""
    judge = registry.metric(f"deletion(steps=exact({STEPS}))")()
    found = [SaliencyMap(m, (224, 224), i, f"0/{i}") for i, m in enumerate(maps)]
    plans = [judge.plan(map_) for map_ in found]
    answers = iter(Prober(network, inputs, targets, size).run([curve for plan in plans for curve in plan]))
    return [judge.score(map_, [next(answers) for _ in plan]).value for map_, plan in zip(found, plans, strict=True)]


def _loop(network: nn.Module, inputs: Tensor, targets: Tensor, maps: Tensor, size: int) -> list[float]:
    """As users write it: for each picture its steps by copies, batches of them, the softmax of all classes, the area."""
    scores = []
    side, pixels = inputs.shape[-1], inputs.shape[-2] * inputs.shape[-1]
    big = nn.functional.interpolate(maps[:, None], inputs.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    for picture, target, map_ in zip(inputs, targets, big, strict=True):
        order = np.argsort(-map_.numpy().reshape(-1))
        current, steps = picture.clone().numpy(), []
        for step in range(STEPS + 1):
            chosen = order[round((step - 1) * pixels / STEPS) if step else 0 : round(step * pixels / STEPS)]
            current[:, chosen // side, chosen % side] = 0
            steps.append(torch.from_numpy(current.copy()))
        curve: list[Tensor] = []
        with torch.no_grad():
            for part in torch.stack(steps).split(size):
                batch = part.contiguous(memory_format=torch.channels_last) if _is_channels_last(inputs) else part
                curve.append(network(batch).softmax(dim=1)[:, target])
        scores.append(float(np.trapezoid(torch.cat(curve).numpy(), dx=1 / STEPS)))
    return scores


def _rise(network: nn.Module, inputs: Tensor, targets: Tensor, maps: Tensor) -> list[float]:
    """As RISE's evaluation script works: one picture a pass, step by step; after each the next pixels are copied."""
    scores = []
    big = nn.functional.interpolate(maps[:, None], inputs.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    pixels = big[0].numel()
    for picture, target, map_ in zip(inputs, targets, big, strict=True):
        order = np.flip(np.argsort(map_.numpy().reshape(-1)))
        current = picture[None].clone()
        seen, final, curve = current.numpy().reshape(3, -1), np.zeros((3, pixels), dtype=np.float32), []
        for step in range(STEPS + 1):
            with torch.no_grad():
                curve.append(float(network(current).softmax(dim=1)[0, target]))
            chosen = order[round(step * pixels / STEPS) : round((step + 1) * pixels / STEPS)]
            seen[:, chosen] = final[:, chosen]
        scores.append(float(np.trapezoid(curve, dx=1 / STEPS)))
    return scores


def _is_channels_last(inputs: Tensor) -> bool:
    return inputs.is_contiguous(memory_format=torch.channels_last)


def _quantus(network: nn.Module, inputs: Tensor, targets: Tensor, maps: Tensor, size: int) -> Work | None:
    try:
        import quantus
    except ImportError:
        return None
    # Its areas per sample call numpy.trapz, which numpy 2.4 has not: curves are what is asked for.
    metric = quantus.PixelFlipping(features_in_step=3 * 224 * 224 // STEPS, disable_warnings=True)
    big = nn.functional.interpolate(maps[:, None], inputs.shape[-2:], mode="bilinear", align_corners=False)
    pictures, classes, attributions = inputs.numpy(), targets.numpy(), big.numpy()

    def work() -> object:
        with contextlib.redirect_stdout(io.StringIO()):
            return metric(network, pictures, classes, a_batch=attributions, batch_size=size, device="cpu")

    assert np.shape(work()) == (len(inputs), STEPS), "not the steps that are compared"
    return work


def _bare(network: nn.Module, pictures: Tensor, batches: int) -> None:
    with torch.inference_mode():
        for _ in range(batches):
            network(pictures)


# -- stratified: random places on a curve instead of all of them ----------------------------------------------------------------

DENSE, SPARSE = "exact(224)", "stratified(8)"
SEEDS = 30
CLEAR = 2.0  # standard errors of a paired difference between two methods, from which on their order should be kept
METHODS = (
    "grad_cam",
    "layer_cam",
    "eigen_cam",
    "gradient",
    "input_x_gradient",
    "mean_activation",
    "inverted(grad_cam)",
    "sobel",
    "center",
    "random",
)


@dataclass(frozen=True)
class Case:
    """The methods' maps for the predicted class. counts: how many of the first pictures each metric gets."""

    model: str
    dataset: str
    counts: Mapping[str, int]
    methods: Sequence[str]

    def first(self, items: int | None) -> Case:
        return replace(self, counts=dict.fromkeys(self.counts, items)) if items else self


SCENES = Case("scenes/resnet", "scenes(most=1, n=100)", {"deletion": 100, "insertion": 20}, METHODS)


def photographs(folder: str) -> Case:
    """Fewer pictures and methods: 450 passes for a map take EfficientNet-Lite0 ten seconds."""
    return Case(
        "efficientnet_lite0",
        f'imagenet(root="{folder}")',
        {"deletion": 16, "insertion": 16},
        ("grad_cam", "gradient", "center", "random"),
    )


def stratified(case: Case, _: int) -> Iterator[Row]:
    """Real runs of both protocols once; other seeds look their places up in the dense curves, linearly between two points.

    Each method runs alone, two at a time in processes of their own.
    """
    for name, count in case.counts.items():
        jobs = [(case, method, f"{name}(steps={steps})", count) for steps in (DENSE, SPARSE) for method in case.methods]
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            done = list(pool.map(_scored, *zip(*jobs, strict=True)))
        dense, sparse = done[: len(case.methods)], done[len(case.methods) :]
        exact = np.array([one.values for one in dense])  # [methods, items]
        found = _looked_up(f"{name}(steps={SPARSE})", np.array([one.vectors for one in dense]), dense[0])  # [seeds, methods, items]
        yield from _compared(f"{name}, {len(dense)} methods x {count} items:", exact, found, dense, sparse)


def _compared(head: str, exact: np.ndarray, found: np.ndarray, dense: Sequence[Scored], sparse: Sequence[Scored]) -> Iterator[Row]:
    errors = found - exact
    one = np.sqrt((errors**2).mean(axis=(0, 2)))
    means = errors.mean(axis=2)  # [seeds, methods]
    standard = means.std(axis=0, ddof=1) / SEEDS**0.5
    shift, error = float(means.mean()), float(means.mean(axis=1).std(ddof=1) / SEEDS**0.5)
    taus = [float(kendalltau(run, exact.mean(axis=1)).statistic) for run in found.mean(axis=2)]
    real = np.array([each.values for each in sparse])
    agreed = kendalltau(real.mean(axis=1), exact.mean(axis=1)).statistic
    kept = _kept(exact, found)
    note = f"{shift:+.5f} +- {error:.5f} over {SEEDS} seeds"
    yield Row(f"{head} forwards of {DENSE} / {SPARSE}", [a.forwards / b.forwards for a, b in zip(dense, sparse, strict=True)], "20")
    yield Row(f"{head} processor time of both", [a.seconds / b.seconds for a, b in zip(dense, sparse, strict=True)])
    yield Row(f"{head} bias over its standard error, all methods", [abs(shift) / error], "at most 2", note)
    yield Row(f"{head} bias over its standard error, by method", list(np.abs(means.mean(axis=0)) / standard))
    yield Row(
        f"{head} error of an item x 1000, by method",
        list(1000 * one),
        "",
        f"sd of items {1000 * exact.std(axis=1).mean():.0f}",
    )
    yield Row(f"{head} error of a dataset's mean x 1000, by method", list(1000 * means.std(axis=0, ddof=1)))
    yield Row(f"{head} Kendall's tau with exact means, by seed", taus, "", f"{agreed:.2f} in the real run")
    yield Row(
        f"{head} order kept of pairs that differ clearly",
        list(kept.mean(axis=1)) if kept.size else [],
        "1",
        f"{kept.shape[1]} pairs, by seed",
    )
    apart = float(np.sqrt(((real - exact) ** 2).mean())), float(np.sqrt((errors**2).mean()))
    yield Row(f"{head} error x 1000 of items in the real run", [1000 * apart[0]], "", f"{1000 * apart[1]:.2f} by look-up")


@dataclass(frozen=True)
class Scored:
    """One method's values and curves by item; pictures evaluated, processor seconds; the inputs' size, the items' ids."""

    values: list[float]
    vectors: list[tuple[float, ...]]
    forwards: int
    seconds: float
    size: tuple[int, int]
    ids: list[str]


def _scored(case: Case, method: str, spec: str, count: int) -> Scored:
    """As a run scores, in batches of 16."""
    torch.set_num_threads(1)
    keep_memory()
    model, data, judge = registry.bind("model", case.model)(), registry.dataset(case.dataset)(), registry.metric(spec)()
    entries, scores, forwards, seconds = data.entries()[:count], [], 0, 0.0
    for start in range(0, count, 16):
        some = entries[start : start + 16]
        inputs = model.inputs([data.load(entry.id).image for entry in some], "crop")
        with torch.no_grad():
            targets = model.network(inputs).argmax(dim=1)
        items = tuple(Item(e.id, e.id, int(t), e.id) for e, t in zip(some, targets, strict=True))
        batch = Batch(inputs, targets, items, seed="0")
        maps = registry.method(method)(ModelView(model), batch.seeded(method)).detach().float()
        begin = time.process_time()
        found = [SaliencyMap(map_, batch.size, i, f"0/{items[i].id}") for i, map_ in enumerate(maps)]
        prober, plans = Prober(model.infer, inputs, targets, 16), [judge.plan(map_) for map_ in found]
        answers = iter(prober.run([curve for plan in plans for curve in plan]))
        scores += [judge.score(map_, [next(answers) for _ in plan]) for map_, plan in zip(found, plans, strict=True)]
        seconds, forwards = seconds + time.process_time() - begin, forwards + prober.forwards
    ids = [entry.id for entry in entries]
    return Scored([s.value for s in scores], [s.vector for s in scores], forwards, seconds, batch.size, ids)


def _looked_up(spec: str, curves: np.ndarray, like: Scored) -> np.ndarray:
    """What a protocol finds on curves ``[methods, items, points]`` that are straight between points, for SEEDS seeds."""
    judge, pixels = registry.metric(spec)(), like.size[0] * like.size[1]
    found = np.empty((SEEDS, *curves.shape[:2]))
    grid, any_map = np.linspace(0, pixels, curves.shape[2]), torch.arange(2.0)[None]
    for seed in range(SEEDS):
        for i, id in enumerate(like.ids):
            map_ = SaliencyMap(any_map, like.size, 0, f"{seed}/{id}")
            counts = judge.plan(map_)[0].counts
            for k in range(len(curves)):
                found[seed, k, i] = judge.score(map_, [torch.from_numpy(np.interp(counts, grid, curves[k, i]))]).value
    return found


def _kept(exact: np.ndarray, found: np.ndarray) -> np.ndarray:
    """bool ``[seeds, pairs]``: of the pairs of methods that differ clearly, whether their means have the same order."""
    means, kept = found.mean(axis=2), []
    for a, b in itertools.combinations(range(len(exact)), 2):
        difference = exact[a] - exact[b]
        if abs(difference.mean()) > CLEAR * difference.std(ddof=1) / len(difference) ** 0.5:
            kept.append((means[:, a] - means[:, b]) * difference.mean() > 0)
    return np.array(kept, dtype=bool).reshape(-1, len(found)).T


# -- road: the most and the least salient 10 to 90 % of a photograph's pixels, imputed --------------------------------------------

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
Imputer = Callable[[Tensor, Tensor], Tensor]  # (picture [3, H, W], removed [H, W]) -> picture


def road(rounds: int) -> Iterator[Row]:
    """By maps that leave wide smooth holes, scattered ones, and noise. A round is a photograph, of 3 at most: others are slow."""
    cv2.setNumThreads(1)
    lite = registry.bind("model", "efficientnet_lite0")()
    solvers: dict[str, Imputer] = {"xbench": impute, "pytorch-grad-cam": _by_gradcam}
    with contextlib.suppress(ImportError):
        solvers["quantus"] = partial(_by_quantus, importlib.import_module("quantus.functions.perturb_func"))
    inputs, targets, smooth = _explained(lite, min(rounds, 3))
    items = tuple(Item(str(i), str(i), int(t), str(i)) for i, t in enumerate(targets))
    batch = Batch(inputs, targets, items, seed="0")
    for solve in solvers.values():
        solve(inputs[0], torch.rand(batch.size) < 0.1)  # warms up
    for name in ("grad_cam", "gradient", "random"):
        maps = smooth if name == "grad_cam" else registry.method(name)(ModelView(lite), batch).detach()
        times: dict[str, list[float]] = {solver: [] for solver in solvers}
        apart = dict.fromkeys(solvers, 0.0)
        for i, picture in enumerate(inputs.contiguous()):
            removed = _removed(SaliencyMap(maps[i], batch.size, i, str(i)).rankings[0].ranks)
            ours = [impute(picture, mask) for mask in removed]
            for solver, solve in solvers.items():
                start = time.process_time()
                found = [solve(picture, mask) for mask in removed]
                times[solver].append(time.process_time() - start)
                apart[solver] = max(apart[solver], *(float((a - b).abs().max()) for a, b in zip(found, ours, strict=True)))
        each = statistics.median(times["xbench"]) / len(removed) * 1000
        for solver in ("pytorch-grad-cam", "quantus"):
            note = f"{each:.0f} ms a mask; values differ by at most {apart[solver]:.0e}" if solver in solvers else f"no {solver}"
            theirs = ratios(times, solver, "xbench") if solver in solvers else []
            yield Row(f"imputation by {name}: {solver} / xbench", theirs, "2", note)


def _removed(ranks: Tensor) -> list[Tensor]:
    pixels = ranks.numel()
    return [mask for share in SHARES for mask in (ranks < round(share * pixels), ranks >= pixels - round(share * pixels))]


def _by_gradcam(picture: Tensor, removed: Tensor) -> Tensor:
    filled: Tensor = NoisyLinearImputer(noise=0)(picture, (~removed).float())
    return filled


def _by_quantus(module: ModuleType, picture: Tensor, removed: Tensor) -> Tensor:
    filled = module.noisy_linear_imputation(picture.numpy(), np.flatnonzero(removed.numpy()), noise=0)
    return torch.from_numpy(filled).float()


# -- memory: deletion and insertion of so many items, in a process of its own -----------------------------------------------------

PEAK = """
import sys, tempfile
from pathlib import Path
from xbench.plan.suite import Selection, Suite, Track
from xbench.run.pipeline import run

def peak(count):
    judges = ["deletion(steps=exact(4))", "insertion(steps=exact(4))"]
    track = Track(dataset="scenes(most=1, n=1000)", metrics=judges, target="label")
    chosen = Suite(name="peak", version="1", batch_size=8, block=8, models=["scenes/resnet"], methods=["grad_cam"], tracks=[track])
    with tempfile.TemporaryDirectory() as folder:
        run(chosen, Selection(limit=count), out=Path(folder), threads=1)
    status = Path("/proc/self/status").read_text()  # its own: getrusage counts the parent's peak, that of the sections before
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024

print(peak(8), peak(int(sys.argv[1])))
"""
FEW = 32


def memory(rounds: int) -> Iterator[Row]:
    """Peaks above that of a run of one batch, which holds all libraries and the model."""
    above: dict[int, list[float]] = {FEW: [], 10 * FEW: []}
    for _ in range(min(rounds, 2)):
        for count, found in above.items():
            done = subprocess.run([sys.executable, "-c", PEAK, str(count)], capture_output=True, text=True, check=True)
            first, peak = map(float, done.stdout.split()[-2:])
            found.append(peak - first)
    few, many = (statistics.median(found) for found in above.values())
    more = [b - a for a, b in zip(*above.values(), strict=True)]
    note = f"{few:.1f} and {many:.1f} MB above a run of one batch"
    yield Row(f"peak of {10 * FEW} items less that of {FEW}, MB", more, "at most 5", note)


def sections(pictures: str | None, items: int | None) -> dict[str, Callable[[int], Iterable[Row]]]:
    return {
        "probing": probing,
        "stratified": partial(stratified, (photographs(pictures) if pictures else SCENES).first(items)),
        "road": road,
        "memory": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sections", help="some of them, separated by commas; all by default")
    parser.add_argument("--pictures", metavar="FOLDER", help="photographs in ImageNet's layout, for the section stratified")
    parser.add_argument("--items", type=int, help="how many pictures the section stratified scores")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    keep_memory()
    print(f"{options.rounds} rounds, {options.threads} thread(s), torch {torch.__version__}")
    known = sections(options.pictures, options.items)
    for name in options.sections.split(",") if options.sections else known:
        print(f"\n{name}", flush=True)
        for row in known[name](options.rounds):
            print(f"  {row}", flush=True)


if __name__ == "__main__":
    main()
