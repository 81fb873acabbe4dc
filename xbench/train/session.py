"""One training from the request to the card, in a folder of its own:

request.json        what was asked, of which revisions of which data
last.ckpt           all that is needed to go on: weights, optimiser, history, and the best weights so far
history.json        loss, rate and validation figures of every epoch; history.svg shows them
model.safetensors   the weights of the epoch that was best on validation, in half precision
model.json          the card; the training is finished when it is there
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xbench import host
from xbench.errors import XbenchError
from xbench.plugins.registry import registry
from xbench.progress import Progress, Silent
from xbench.store.directory import hold, write, write_text
from xbench.train import cards, recipes
from xbench.train.cards import Card, FigureCard, SplitCard
from xbench.train.recipes import Recipe

if TYPE_CHECKING:
    from xbench.train.contract import Trainer
    from xbench.train.examples import Splits
    from xbench.train.fitting import Epoch, Fit

FILES = ("request.json", "last.ckpt", "last.ckpt.tmp", "history.json", "history.svg", "model.safetensors", "model.json")


@dataclass(frozen=True)
class Outcome:
    """A finished training. trained: whether anything was left to do."""

    folder: Path
    card: Card
    trained: bool

    @property
    def use(self) -> str:
        """How it is used, in words: the model trained@FOLDER."""
        return registry.trainer(self.card.task).info.use.format(self.folder)


def train(
    recipe: str | Recipe,
    *,
    dataset: str | None = None,
    out: Path | None = None,
    resume: bool = False,
    fresh: bool = False,
    plugins: Sequence[str] = (),
    epochs: int | None = None,
    device: str = "auto",
    devices: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Outcome | None:
    """Train by a recipe, or what is left of it. -> None in the further processes of a training on several devices.

    Args:
        recipe: a name, the path of a TOML file, or a Recipe.
        dataset: instead of the recipe's; validation and test are held out of it.
        out: the folder, ``results/runs/train-<recipe>`` by default.
        resume: go on with what is there.
        fresh: forget what is there.
        plugins: files or modules to load first.
        epochs: instead of the recipe's.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        devices: how many of them.
        threads: of torch, all cores by default.
        progress: what is told of the training; nothing by default.

    Raises:
        XbenchError: anything the user can mend; the checkpoint of the last whole epoch stays.
    """
    for plugin in plugins:  # which may have the recipe's trainer
        registry.load(plugin)
    chosen = recipe if isinstance(recipe, Recipe) else recipes.load(recipes.find(recipe))
    chosen = chosen.on(dataset) if dataset else chosen
    if epochs is not None:
        chosen = chosen.model_copy(update={"training": chosen.training.model_copy(update={"epochs": epochs})})
    folder = out or Path("results/runs") / f"train-{chosen.name}"
    first = _is_first_process()
    with hold(folder) if first else nullcontext():
        if first and fresh:
            for name in FILES:
                (folder / name).unlink(missing_ok=True)
        if first and _finished(chosen, folder, resume):
            return Outcome(folder, cards.read(folder / "model.json"), False)
        return _train(chosen, folder, resume, device, devices, threads, (progress or Silent()) if first else Silent())


def _finished(chosen: Recipe, folder: Path, resume: bool) -> bool:
    """Whether nothing is left to do in a folder.

    Raises:
        XbenchError: another training is there, or an unfinished one and no ``resume``.
    """
    done, begun = (folder / "model.json").is_file(), (folder / "last.ckpt").is_file()
    if not done and not begun:  # an epoch that was not finished is nothing to go on with
        return False
    old = json.loads((folder / "request.json").read_text(encoding="utf-8"))["recipe"]
    new = chosen.model_dump(mode="json")
    if difference := _difference(old, new):
        raise XbenchError(f"{folder} has a training with another {difference}; choose another --out, or --fresh to forget it")
    if not done and not resume:
        raise XbenchError(f"{folder} has an unfinished training; go on with --resume, or forget it with --fresh")
    return done


@host.restored()
def _train(
    chosen: Recipe, folder: Path, resume: bool, device: str, devices: int | None, threads: int | None, progress: Progress
) -> Outcome | None:
    try:
        from xbench.train import fitting
    except ImportError as error:
        raise XbenchError(f"xbench train needs Lightning ({error}); pip install 'xbench-xai[train]'") from error

    import torch

    from xbench.train import examples, objectives

    torch.set_num_threads(threads or os.cpu_count() or 1)
    task: Trainer = registry.trainer(chosen.task)(chosen)
    splits = examples.open_splits(chosen.data, task.preprocessing, registry)
    with torch.random.fork_rng():
        torch.manual_seed(chosen.seed)
        network, started = task.build(len(splits.train.classes))
        network = network.to(memory_format=torch.channels_last)
        objectives.prompt_sets(chosen, splits.train.classes)  # before minutes of reading
        checkpoint = folder / "last.ckpt" if resume and (folder / "last.ckpt").is_file() else None
        _note_request(chosen, task, splits, folder, checkpoint is not None)
        passes = fitting.passes(chosen, folder, device, devices, progress)
        _gather(chosen, splits, task, progress)
        task.begin(splits)

        def kept(fit: fitting.Fit) -> None:
            last = fit.history[-1]
            write_text(folder / "history.json", json.dumps(fit.history, indent=1) + "\n")
            shown = ", ".join(f"{name.replace('_', ' ')} {100 * value:.1f} %" for name, value in last["figures"].items())
            progress.say(
                f"epoch {last['epoch']}/{chosen.training.epochs}: loss {last['loss']:.4f}, {shown}, {last['seconds']:.0f} s"
            )

        fit = fitting.Fit(network, task, chosen, splits, folder, kept)
        fitting.fit(passes, fit, checkpoint)
        if not passes.is_global_zero:
            return None
        return Outcome(folder, _finish(fit, chosen, splits, folder, started), True)


def _note_request(chosen: Recipe, task: Trainer, splits: Splits, folder: Path, resumed: bool) -> None:
    """Write down what is about to be trained, or check that it is what was begun.

    Raises:
        XbenchError: the data, or the models that it builds on, are not those that the training began with.
    """
    path = folder / "request.json"
    revisions = {name: split.dataset.revision for name, split in splits.named().items()} | dict(task.parts)
    if resumed:
        difference = _difference(json.loads(path.read_text(encoding="utf-8"))["revisions"], revisions)
        if difference:
            raise XbenchError(f"the data of the training in {folder} have changed ({difference}); begin anew with --fresh")
    elif _is_first_process():
        write_text(path, json.dumps({"recipe": chosen.model_dump(mode="json"), "revisions": revisions}, indent=1) + "\n")


def _gather(chosen: Recipe, splits: Splits, task: Trainer, progress: Progress) -> None:
    """Read the pictures once where they fit into memory, or where their captions must be known before."""
    from xbench.train.examples import worker_count

    splits.train.masks = task.masks
    keep = sum(split.bytes for split in splits.named().values()) <= chosen.data.cache_gb * 1e9
    for name, split in splits.named().items():
        captions = name in task.captions
        if keep or captions:
            split.gather(keep, captions, worker_count(chosen.data.workers), progress)


def _finish(fit: Fit, chosen: Recipe, splits: Splits, folder: Path, started: str) -> Card:
    """Round the selected weights, judge them on what was held out, and write them with their card."""
    from xbench.train import objectives, weights

    task, state = fit.task, weights.halved(fit.best)
    network = task.kept(fit.network)
    network.load_state_dict(weights.restored(state))
    network = network.to(fit.device)
    classifiers = task.classifiers(network)
    held_out: dict[str, dict[str, FigureCard]] = {}
    for name, split in splits.test.items():
        logits, places = objectives.evaluate(classifiers, split, chosen.training.batch_size, fit.workers, fit.device)
        clusters = split.clusters
        found = objectives.with_errors(logits, split.present[places], [clusters[i] for i in places.tolist()])
        held_out[name] = {k: FigureCard(value=f.value, standard_error=f.standard_error, n=f.n) for k, f in found.items()}
    write(folder / "history.svg", lambda tmp: _draw(fit.history, tmp))
    card = Card(
        name=chosen.name,
        title=chosen.title,
        task=chosen.task,
        generated=splits.train.dataset.generated,
        classes=list(splits.train.classes.names),
        synsets=list(splits.train.classes.synsets),
        template=chosen.template if task.captions else "",
        prompts=chosen.prompts,
        network=chosen.network.model_dump(mode="json"),
        preprocessing=recipes.Input.of(task.preprocessing),
        held_out=held_out,
        data={
            name: SplitCard(
                dataset=split.spec + (" (held out of it)" if splits.held_out and name != "train" else ""),
                revision=split.dataset.revision,
                pictures=len(split),
                unreadable=split.unreadable,
            )
            for name, split in splits.named().items()
        },
        recipe=chosen.model_dump(mode="json"),
        started_from=started,
        seed=chosen.seed,
        epochs=chosen.training.epochs,
        selected_epoch=fit.best_epoch,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        seconds=round(sum(epoch["seconds"] for epoch in fit.history), 1),
        machine=_machine(fit),
        versions=_versions(),
        parts=dict(task.parts),
        remarks=task.remarks,
        sha256=weights.save(folder / "model.safetensors", state),
    )
    write_text(folder / "model.json", json.dumps(card.model_dump(mode="json"), indent=1) + "\n")
    return card


def _draw(history: Sequence[Epoch], path: Path) -> None:
    """Loss and validation figures over the epochs, as SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [epoch["epoch"] for epoch in history]
    left.plot(epochs, [epoch["loss"] for epoch in history])
    left.set(xlabel="epoch", ylabel="training loss")
    for name in history[0]["figures"]:
        right.plot(epochs, [epoch["figures"][name] for epoch in history], label=name.replace("_", " "))
    right.set(xlabel="epoch", ylabel="on validation", ylim=(0, 1))
    right.legend(frameon=False)
    with matplotlib.rc_context({"svg.hashsalt": "xbench"}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def _machine(fit: Fit) -> dict[str, str | int]:
    import platform

    import torch

    device = torch.cuda.get_device_name(fit.device) if fit.device.type == "cuda" else str(fit.device)
    return {
        "device": device,
        "devices": fit.trainer.world_size,
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "system": platform.machine(),
    }


def _versions() -> dict[str, str]:
    import importlib.metadata

    found = {}
    for name in ("xbench-xai", "torch", "timm", "open_clip_torch", "lightning"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], at: str = "") -> str:
    """The first key at which two JSON objects differ, with both values; "" where they are equal."""
    for key in sorted({*old, *new}):
        one, other = old.get(key), new.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            if inside := _difference(one, other, f"{at}{key}."):
                return inside
        elif one != other:
            return f"{at}{key} ({one!r}, now {other!r})"
    return ""


def _is_first_process() -> bool:
    """Of a training on several devices; launchers number their processes."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
