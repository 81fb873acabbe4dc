"""The contract of a model, and the per-batch view through which methods see it.

The view remembers what it computed: all gradient methods of a batch share one forward and one backward pass.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from xbench import geometry
from xbench.classes import ClassList
from xbench.data import Batch
from xbench.errors import XbenchError
from xbench.probing import Curve, Prober


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the network's input.

    size: (height, width). share: side of the centre crop over the picture's shorter side. mean, std: per channel, on 0..255.
    """

    size: tuple[int, int]
    share: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def view(self, kind: geometry.ViewKind, height: int, width: int) -> geometry.View:
        """The view of that kind for a picture of that size."""
        return geometry.full(height, width) if kind == "full" else geometry.crop(height, width, self.size, self.share)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 ``[..., 3, H, W]`` -> float32, (x - mean) / std."""
        mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (self.mean, self.std))
        return (images.float() - mean) / std


@dataclass(frozen=True, eq=False)
class Model:
    """A classifier with everything that gives its outputs their meaning.

    network: maps ``[B, 3, H, W]`` to logits ``[B, classes]``. feature_layer: name of the submodule whose output ``[B, K, h, w]``
    CAMs explain by. files: the weights' files. card: what it is, how it was trained, under which licence.
    """

    id: str
    network: nn.Module
    preprocessing: Preprocessing
    classes: ClassList
    feature_layer: str
    capabilities: frozenset[str] = frozenset({"feature_maps", "gradients"})
    files: tuple[Path, ...] = ()
    card: str = ""
    memory_format: torch.memory_format = field(default=torch.channels_last)

    xbench_kind = "model"

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False).to(memory_format=self.memory_format)

    @functools.cached_property
    def digest(self) -> str:
        """sha256 over weights, preprocessing, classes and feature layer, hex (20 digits)."""
        hasher = hashlib.sha256()
        for name, tensor in self.network.state_dict().items():
            hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            hasher.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        hasher.update(repr((self.preprocessing, self.classes, self.feature_layer)).encode())
        return hasher.hexdigest()[:20]

    @functools.cached_property
    def layer(self) -> nn.Module:
        """The feature layer.

        Raises:
            XbenchError: the network has no submodule of that name.
        """
        try:
            return self.network.get_submodule(self.feature_layer)
        except AttributeError as error:
            raise XbenchError(f"model {self.id} has no layer {self.feature_layer!r}; name one of its submodules") from error

    def inputs(self, images: Sequence[Tensor], kind: geometry.ViewKind) -> Tensor:
        """Pictures (uint8 ``[3, H, W]`` each, in the image frame) -> model inputs ``[n, 3, h, w]``."""
        seen = [self.preprocessing.view(kind, *image.shape[-2:]).image(image) for image in images]
        return self.preprocessing.normalise(torch.stack(seen)).contiguous(memory_format=self.memory_format)


@dataclass
class Cost:
    """What a method needs for one item when it runs alone: passes (deterministic) and seconds (informative)."""

    forwards: float = 0.0
    backwards: float = 0.0
    seconds: float = 0.0


class ModelView:
    """A model as a method sees it, for one batch. Results for the batch's own images and targets are computed once.

    Every tensor that it returns is detached. Gradients are those of the target's *logit*.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.prober: Prober | None = None  # set once the batch's targets are known
        self._home: Tensor | None = None
        self._passes: dict[str, _Pass] = {}
        self._cost = Cost()
        self._charged: set[tuple[int, str]] = set()
        self._inside = False

    @property
    def network(self) -> nn.Module:
        """The network itself, for libraries that want it; leave it as you found it."""
        return self.model.network

    def logits(self, batch: Batch) -> Tensor:
        """``[B, classes]``, pre-softmax."""
        return self._pass(batch).logits.detach()

    def features(self, batch: Batch) -> Tensor:
        """Activations of the feature layer, ``[B, K, h, w]``."""
        return self._pass(batch).features.detach()

    def feature_gradients(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Activations of the feature layer and the gradient of the target's logit with respect to them, ``[B, K, h, w]`` each."""
        done = self._pass(batch)
        return done.features.detach(), self._gradient(done, batch.targets, "features")

    def input_gradients(self, batch: Batch) -> Tensor:
        """The gradient of the target's logit with respect to the input, ``[B, 3, H, W]``."""
        return self._gradient(self._pass(batch), batch.targets, "images")

    def probe(self, curves: Sequence[Curve]) -> list[Tensor]:
        """The target's probability along each curve of perturbed inputs of this batch, ``[points]`` each; packed into full
        forward batches. A method that perturbs asks here."""
        if self.prober is None:
            raise XbenchError("this view of the model cannot probe; methods that perturb run inside a benchmark")
        self._inside = True
        try:
            responses = self.prober.run(curves)
        finally:
            self._inside = False
        self._cost.forwards += sum(len(curve.counts) for curve in curves) / self.prober.rows
        return responses

    @contextmanager
    def account(self) -> Iterator[Cost]:
        """Charge what happens inside to one method, as if it ran alone: shared passes count in full, each once."""
        self._cost, self._charged, start = Cost(), set(), time.perf_counter()
        cost = self._cost

        def outside(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if self._inside or self._home is None:
                return
            share = inputs[0].shape[0] / self._home.shape[0]
            cost.forwards += share
            if output.requires_grad:

                def count(_: Tensor) -> None:
                    cost.backwards += share

                output.register_hook(count)  # type: ignore[no-untyped-call]

        handle = self.network.register_forward_hook(outside)
        try:
            yield cost
        finally:
            handle.remove()
            cost.seconds += time.perf_counter() - start

    # -- the shared pass ---------------------------------------------------------------------------------------------------

    def _pass(self, batch: Batch) -> _Pass:
        if self._home is None:
            self._home = batch.images
        at_home = batch.images is self._home
        done = self._passes.get("home") if at_home else None
        if done is None:
            self._inside = True
            try:
                done = _Pass(self.model, batch.images)
            finally:
                self._inside = False
            if at_home:
                self._passes["home"] = done
            self._cost.seconds -= done.seconds  # the time is in account()'s clock; _charge adds it for all alike
        self._charge(done, "forward", done.seconds)
        return done

    def _gradient(self, done: _Pass, targets: Tensor, of: str) -> Tensor:
        gradient, seconds, new = done.gradient(targets, of)
        if new:
            self._cost.seconds -= seconds
        self._charge(done, of, seconds)
        return gradient

    def _charge(self, done: _Pass, what: str, seconds: float) -> None:
        if (id(done), what) in self._charged:
            return
        self._charged.add((id(done), what))
        self._cost.seconds += seconds
        if what == "forward":
            self._cost.forwards += 1
        else:
            self._cost.backwards += 1


class _Pass:
    """One forward pass with its graph: logits, the feature layer's output, and gradients on request."""

    def __init__(self, model: Model, images: Tensor) -> None:
        start = time.perf_counter()
        captured: list[Tensor] = []
        handle = model.layer.register_forward_hook(lambda _, __, output: captured.append(output))
        try:
            with torch.enable_grad():
                self.images = images.detach().requires_grad_()
                self.logits = model.network(self.images)
        finally:
            handle.remove()
        if len(captured) != 1 or not isinstance(captured[0], Tensor) or captured[0].ndim != 4:
            raise XbenchError(f"model {model.id}: layer {model.feature_layer} must run once a pass and give [B, K, h, w]")
        self.features = captured[0]
        self.seconds = time.perf_counter() - start
        self._gradients: dict[str, tuple[Tensor, Tensor, float]] = {}

    def gradient(self, targets: Tensor, of: str) -> tuple[Tensor, float, bool]:
        """(gradient of the targets' logits, seconds that it took, whether it was computed just now)."""
        known = self._gradients.get(of)
        if known is not None and known[0] is targets:
            return known[1], known[2], False
        start = time.perf_counter()
        score = self.logits.gather(1, targets[:, None]).sum()
        wanted = self.features if of == "features" else self.images
        (gradient,) = torch.autograd.grad(score, wanted, retain_graph=True)
        self._gradients[of] = targets, gradient.detach(), time.perf_counter() - start
        return gradient.detach(), self._gradients[of][2], True
