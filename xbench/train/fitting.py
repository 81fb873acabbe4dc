"""The passes over the data, by Lightning: devices, mixed precision, and a checkpoint after every epoch.

All that is random is a function of (seed, epoch) or (seed, step), and the checkpoint holds the rest: a training that was killed and
goes on ends at the same weights as one that was not.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypedDict

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from xbench import host
from xbench.data.samples import generator
from xbench.errors import XbenchError, did_you_mean
from xbench.network.attention import Unfused
from xbench.progress import Progress
from xbench.train import examples, objectives
from xbench.train.contract import Step, Trainer
from xbench.train.examples import Batch, Splits
from xbench.train.recipes import Recipe

DEVICES = ("auto", "cpu", "cuda", "mps")


class Epoch(TypedDict):
    """What is known after an epoch. loss: mean over its steps. lr: of its last step. figures: on validation, the main one first."""

    epoch: int
    loss: float
    lr: float
    figures: dict[str, float]
    seconds: float


class Fit(pl.LightningModule):
    """A training between two epochs: what learns (the task's module), what is known so far, and the weights that are kept.

    kept: called after every epoch whose checkpoint is on the disk. Lightning gives devices, precision and the optimiser's steps.
    """

    def __init__(
        self, network: nn.Module, task: Trainer, recipe: Recipe, splits: Splits, folder: Path, kept: Callable[[Fit], None]
    ) -> None:
        super().__init__()
        self.network = task.module(network)
        self.task, self.recipe, self.splits, self.folder = task, recipe, splits, folder
        self.averaged = _average(self.network, recipe.training.ema) if recipe.training.ema else None
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.best_epoch = 0
        self.workers = examples.worker_count(recipe.data.workers)
        self._kept, self._begun, self._losses = kept, 0.0, torch.zeros(())

    @property
    def selected(self) -> nn.Module:
        """The network that is validated and kept: of the average where there is one."""
        return self.task.kept(self._learned)

    @property
    def _learned(self) -> nn.Module:
        return self.network if self.averaged is None else self.averaged.module

    @property
    def _done(self) -> float:
        """The share of all steps that lie behind."""
        return self.global_step / int(self.trainer.estimated_stepping_batches)

    # -- steps -------------------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[Batch]:
        trainer, how = self.trainer, self.recipe.training
        seed = self.recipe.seed
        return self.splits.train.shuffled(how.batch_size, self.workers, seed, trainer.world_size, trainer.global_rank)

    def on_train_epoch_start(self) -> None:
        self._begun, self._losses = time.monotonic(), torch.zeros((), dtype=torch.float64, device=self.device)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        pictures, places = batch
        how = self.recipe.training
        draw = generator(self.recipe.seed, "step", self.global_step, self.global_rank)
        torch.manual_seed(draw.initial_seed())  # for what networks draw themselves, such as dropout
        pictures = examples.augment(pictures, draw, how.flip, how.shift)
        pictures, owners = pictures[:, :3], pictures[:, 3:]
        with torch.device(self.device):
            inputs = self.splits.train.preprocessing.normalise(pictures)
        # Fused attention is several times slower backwards in bfloat16 on a CPU.
        slow = self.device.type == "cpu" and how.precision == "bf16-mixed"
        with Unfused() if slow else nullcontext():
            step = Step(inputs, places, owners, self.current_epoch, self._done, draw)
            loss = self.task.loss(self.network, step)
        self._losses += loss.detach()
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.task.after_step(self.network, self._done)
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)

    def on_train_epoch_end(self) -> None:
        """Validate, note what is known, and keep all of it.

        Raises:
            XbenchError: the loss is no number any more.
        """
        steps = int(self.trainer.num_training_batches)
        loss = float(self.trainer.strategy.reduce(self._losses, reduce_op="mean")) / steps
        if not math.isfinite(loss):
            raise XbenchError(f"the loss became {loss} in epoch {self.current_epoch + 1}; lower lr in [training], or raise warmup")
        how, validation = self.recipe.training, self.splits.validation
        beside = self.task.after_epoch(self._learned, self.device)
        classifiers = self.task.classifiers(self.selected)
        logits, places = objectives.evaluate(classifiers, validation, how.batch_size, self.workers, self.device)
        figures = objectives.figures(logits, validation.present[places]) | beside
        main = next(iter(figures))
        if self.task.best(figures[main], [epoch["figures"][main] for epoch in self.history]):
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.selected.state_dict().items()}
            self.best_epoch = self.current_epoch + 1
        rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        seconds = time.monotonic() - self._begun
        self.history.append(Epoch(epoch=self.current_epoch + 1, loss=loss, lr=rate, figures=figures, seconds=seconds))
        self._save()

    def configure_optimizers(self) -> Any:
        how, steps = self.recipe.training, int(self.trainer.estimated_stepping_batches)
        optimiser = torch.optim.AdamW(groups(self.network, how.weight_decay), lr=how.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate(step, steps, how.warmup))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # -- checkpoints -------------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["xbench"] = {"history": self.history, "best": self.best, "best_epoch": self.best_epoch}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        known = checkpoint["xbench"]
        self.history, self.best, self.best_epoch = known["history"], known["best"], known["best_epoch"]

    def _save(self) -> None:
        """One file with everything, which replaces that of the last epoch at once."""
        path = self.folder / "last.ckpt"
        tmp = path.with_name("last.ckpt.tmp")
        self.trainer.save_checkpoint(tmp)
        if self.trainer.is_global_zero:
            with tmp.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(tmp, path)
            self._kept(self)


class _Report(pl.Callback):
    """Tells a Progress about steps."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Fit)
        total = int(trainer.estimated_stepping_batches)
        self.progress.start(f"{pl_module.recipe.name}: {pl_module.recipe.training.epochs} epochs, {total} steps", total)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        batch: Batch = rest[1]
        self.progress.advance(len(batch[0]) * trainer.world_size)
        self.progress.finish_unit(trainer.global_step, int(trainer.estimated_stepping_batches))


def passes(recipe: Recipe, folder: Path, device: str, devices: int | None, progress: Progress) -> pl.Trainer:
    """What runs the passes.

    device: ``auto``, ``cpu``, ``cuda`` (all of them), ``cuda:1``, ``mps``. devices: how many.

    Raises:
        XbenchError: no such device, or not here.
    """
    how, (name, _, number) = recipe.training, device.partition(":")
    if name not in DEVICES:
        raise XbenchError(f"unknown --device {device!r}{did_you_mean(name, DEVICES)}")
    accelerator = "gpu" if name == "cuda" else name
    chosen: Any = [int(number)] if number.isdigit() else devices or ("auto" if accelerator in ("auto", "gpu") else 1)
    with _quiet():
        try:
            return pl.Trainer(
                accelerator=accelerator,
                devices=chosen,
                strategy="auto",
                precision=how.precision,
                max_epochs=how.epochs,
                gradient_clip_val=how.clip or None,
                use_distributed_sampler=False,
                callbacks=[_Report(progress)],
                default_root_dir=folder,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
        except (MisconfigurationException, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise XbenchError(f"cannot train on {device}: {reason}; choose another --device") from error


def fit(loop: pl.Trainer, module: Fit, resume: Path | None) -> None:
    """Train until the recipe's last epoch. resume: a checkpoint to go on from.

    Raises:
        XbenchError: the loss is no number any more.
        KeyboardInterrupt: the checkpoint of the last whole epoch stays.
    """
    with _quiet(), host.signals():
        try:
            loop.fit(module, ckpt_path=resume, weights_only=True)
        except SystemExit as error:  # how Lightning ends when it is interrupted, with the signal switched off
            raise KeyboardInterrupt from error


def groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters for the optimiser. Only matrices and kernels decay: no biases, norms, embeddings, positions or class tokens."""
    spared = set(getattr(network, "no_weight_decay", set)())
    for name, module in network.named_modules():
        if isinstance(module, nn.Embedding):
            spared.add(f"{name}.weight")
    spared |= {name for name, _ in network.named_parameters() if name.endswith(("positional_embedding", "pos_embed", "_token"))}
    found: list[dict[str, Any]] = param_groups_weight_decay(network, weight_decay, no_weight_decay_list=tuple(spared))
    return found


def rate(step: int, steps: int, warmup: float) -> float:
    """Factor of the learning rate at a step, from 0: rising for the share ``warmup`` of all steps, then a half cosine to 0."""
    rising = round(steps * warmup)
    if step < rising:
        return (step + 1) / rising
    return (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2


def _average(network: nn.Module, decay: float) -> AveragedModel:
    averaged = AveragedModel(copy.deepcopy(network), multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
    return averaged.requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's banners, hints and warnings."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
