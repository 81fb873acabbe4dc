"""Work units in several processes of this machine, each with its own models: what fills the cores where networks are small."""

from __future__ import annotations

import dataclasses
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch

from xbench import host
from xbench.data.samples import Item
from xbench.errors import XbenchError
from xbench.evaluate.unit import run_unit
from xbench.plan import keys, opening, suite
from xbench.plan.suite import Plan, PlannedTrack, Selection, Suite
from xbench.plan.units import Result, Scene, Unit
from xbench.plugins.registry import registry
from xbench.store.maps import MapStore

Scenes = Sequence[tuple[Scene, PlannedTrack]]


@dataclass(frozen=True)
class Job:
    """What a process needs to open the same models and datasets as this one. maps: where a run keeps them; returned: if wanted.

    keys: of this process, which must be those of the other, too.
    """

    suite: Suite
    selection: Selection
    plugins: tuple[str, ...]
    maps: Path
    returned: bool
    threads: int
    keys: str = ""


@dataclass(frozen=True)
class Task:
    """A unit, as it travels. scene: its place in the plan. cells: names of method and metric."""

    id: str
    scene: int
    items: tuple[Item, ...]
    cells: tuple[tuple[str, str], ...]
    gallery: frozenset[str]


_opened: list[tuple[Job, Plan, Scenes]] = []  # of a worker: one


def execute(
    units: Sequence[Unit], scenes: Scenes, job: Job, workers: int, progress: Callable[[int], None]
) -> Iterator[tuple[Unit, Result]]:
    """Yield (unit, result) as each is done; progress is told of the pictures that were evaluated, a unit's together.

    Raises:
        XbenchError: as ``run_unit`` does; or a process ended by itself.
    """
    places = {id(scene): place for place, (scene, _) in enumerate(scenes)}
    job = dataclasses.replace(job, keys=_keys(scenes))
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's locked threads
    pool = ProcessPoolExecutor(min(workers, len(units)), mp_context=context, initializer=_open, initargs=(job,))
    try:
        waiting = {}
        for unit in units:
            cells = tuple((method.name, metric.name) for method, metric in unit.cells)
            waiting[pool.submit(_work, Task(unit.id, places[id(unit.scene)], unit.items, cells, unit.gallery))] = unit
        for future in as_completed(waiting):
            result, pictures = future.result()
            progress(pictures)
            yield waiting[future], dataclasses.replace(result, maps={key: torch.as_tensor(m) for key, m in result.maps.items()})
    except BrokenProcessPool as error:
        why = "a worker process ended by itself, perhaps for want of memory"
        raise XbenchError(f"{why}; start the same command again to continue, with fewer --workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _open(job: Job) -> None:
    """Make a worker ready. An interrupt is the parent's to handle: units in work are finished, then the worker ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(job.threads)
    host.keep_memory()
    for plugin in job.plugins:
        registry.load(plugin)
    plan = suite.plan(job.suite, job.selection, registry)
    _opened.append((job, plan, opening.open_scenes(plan, MapStore(job.maps))))


def _keys(scenes: Scenes) -> str:
    """A digest of what all rows' keys begin with."""
    return keys.digest([sorted(scene.prefixes.values()) for scene, _ in scenes])


def _work(task: Task) -> tuple[Result, int]:
    """(the unit's result, pictures evaluated). Maps travel as arrays, for tensors would each hold a file open."""
    ((job, plan, scenes),) = _opened
    if job.keys != _keys(scenes):
        raise XbenchError("code, weights or pictures have changed since the run began; start the same command again to continue")
    scene, planned = scenes[task.scene]
    methods, metrics = {m.name: m for m in plan.methods}, {m.name: m for m in planned.metrics}
    cells = tuple((methods[method], metrics[metric]) for method, metric in task.cells)
    evaluated: list[int] = []
    result = run_unit(Unit(task.id, scene, task.items, cells, task.gallery), evaluated.append)
    maps = {key: map_.numpy() for key, map_ in result.maps.items()} if job.returned else {}
    return dataclasses.replace(result, maps=maps), sum(evaluated)  # type: ignore[arg-type]
