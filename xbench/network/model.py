"""The contract of a model, and the per-batch view through which methods see it.

The view remembers what it computed: all gradient methods of a batch share one forward and one backward pass.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from xbench.data import geometry
from xbench.data.classes import ClassList
from xbench.data.samples import Batch
from xbench.errors import NotApplicable, XbenchError
from xbench.maps.perturbation import COSINE, OUTPUTS, Blends, Prober, Request
from xbench.network import attention, features, folding, towers
from xbench.network.features import Layout

Dtype = Literal["float32", "bfloat16", "float32-compiled", "bfloat16-compiled"]
CAPABILITIES = frozenset({"feature_maps", "gradients", "attention"})  # looked for in every network
OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # among them parameters, hooks and submodules
_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the network's input.

    size: (height, width). share: side of the centre crop over the picture's shorter side. mean, std: per channel, on 0..255.
    interpolation: how pictures are resized.
    """

    size: tuple[int, int]
    share: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: geometry.Interpolation = "bicubic"

    def view(self, kind: geometry.ViewKind, height: int, width: int) -> geometry.View:
        """The view of that kind for a picture of that size."""
        return geometry.view(kind, height, width, self.size, self.share)

    def normalise(self, images: Tensor) -> Tensor:
        """Values on 0..255, ``[..., 3, H, W]`` -> float32, (x - mean) / std."""
        mean, std = self._of_channels(images)
        return (images.float() - mean) / std

    def plain(self, inputs: Tensor) -> Tensor:
        """The inverse: float32 ``[..., 3, H, W]`` -> values on 0..255."""
        mean, std = self._of_channels(inputs)
        return inputs * std + mean

    def _of_channels(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(v, device=like.device).reshape(3, 1, 1) for v in (self.mean, self.std))
        return mean, std


def weights_digest(network: nn.Module, *more: str) -> str:
    """sha256 over a network's weights, and whatever else is said of it, hex (20 digits)."""
    hasher = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hasher.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    for part in more:
        hasher.update(part.encode())
    return hasher.hexdigest()[:20]


def structure_digest(network: nn.Module) -> str:
    """sha256 over what a network is beside its weights, hex (20 digits): modules, plain attributes, tensors that its state lacks.

    Two networks of equal weights may differ in a number of heads, a scale or an activation.
    """
    hasher = hashlib.sha256()
    for name, module in network.named_modules():
        hasher.update(f"{name} {type(module).__qualname__} {_script(module)}".encode())
        found = {key: value for key, value in vars(module).items() if key not in OF_EVERY_MODULE}
        found |= {key: module._buffers[key] for key in module._non_persistent_buffers_set}
        for key, value in sorted(found.items()):
            if isinstance(value, Tensor):
                hasher.update(f"{key} {weights_digest(_Holder(value))}".encode())
            elif _is_plain(value):
                hasher.update(f"{key} {value!r}".encode())
    return hasher.hexdigest()[:20]


class _Holder(nn.Module):
    """A tensor as a network's only weight."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.register_buffer("tensor", tensor)


def _script(module: nn.Module) -> str:
    """The code of a traced network, which no file has."""
    try:
        return str(getattr(module, "code", ""))
    except RuntimeError:  # a part of it that is never called
        return ""


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, bool | int | float | str | torch.dtype)


@dataclass(frozen=True, eq=False)
class Model:
    """A classifier with everything that gives its outputs their meaning; without classes, a network whose features have their use.

    network: maps ``[B, 3, H, W]`` to logits ``[B, classes]``. feature_layer: name of the submodule whose output CAMs explain by;
    found where it is not given, checked where it is (see features.py). A network without one has no ``feature_maps``.
    capabilities: what methods may ask for; ``feature_maps`` and ``attention`` are taken away where the network has none.
    attention_rows: of a model with the capability ``attention``, the tokens that its logits are read from; found (attention.py).
    files: the weights' files, by which a finished run and the gate can tell whether they changed.
    card: what it is, how it was trained, under which licence.
    made_by: a class or function that its plug-in had it from by name and not by an import, so that keys know of its code.
    prompts: of a model with the capability ``text``, the sentences whose mean embedding stands for a class; part of its identity.
    encode_text: of such a model, sentences -> embeddings of length 1, float32 ``[n, D]``; those asked for last are remembered.
    device, dtype: where and how it computes; ``bfloat16`` runs forward passes under autocast, ``-compiled`` those without gradients
    by torch.compile. Logits are float32 always.

    Raises:
        XbenchError: no layer of that name, or its output is not a map of the picture.
    """

    id: str
    network: nn.Module
    preprocessing: Preprocessing
    classes: ClassList
    feature_layer: str = ""
    capabilities: frozenset[str] = CAPABILITIES
    files: tuple[Path, ...] = ()
    card: str = ""
    memory_format: torch.memory_format = field(default=torch.channels_last)
    layout: Layout | None = None
    attention_rows: tuple[int, ...] = ()
    prompts: tuple[tuple[str, ...], ...] = ()
    encode_text: Callable[[Sequence[str]], Tensor] | None = None
    device: str = "cpu"
    dtype: Dtype = "float32"
    made_by: object = None

    xbench_kind = "model"

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False).to(memory_format=self.memory_format).to(self.device)
        example = torch.zeros(1, 3, *self.preprocessing.size).to(self.device)
        if self.layout is None and "feature_maps" in self.capabilities:
            try:
                name, layout = features.find(self.network, example, self.feature_layer) or ("", None)
            except XbenchError as error:
                raise XbenchError(f"model {self.id}: {error}") from error
            self._found(feature_layer=name, layout=layout, attention_rows=())
            if layout is None:
                self._found(capabilities=self.capabilities - {"feature_maps"})
        if "attention" in self.capabilities and not self.attention_rows:
            grid = self.layout
            rows = attention.rows_read(self.network, example, grid) if grid is not None and grid.kind == "tokens" else ()
            self._found(attention_rows=rows, capabilities=self.capabilities - (set() if rows else {"attention"}))

    def _found(self, **fields: object) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __call__(self, images: Tensor) -> Tensor:
        """Model inputs ``[B, 3, H, W]`` -> logits, float32 ``[B, classes]``."""
        return self._logits(self.network, images)

    def infer(self, images: Tensor) -> Tensor:
        """As a call, but faster and without gradients: through a copy of the network that has its batch norms folded (folding.py).

        The copy is made once; weights that change later do not reach it.

        Raises:
            XbenchError: it was to be compiled, and cannot be.
        """
        if not self.dtype.endswith("-compiled"):
            return self._logits(self._folded, images)
        try:
            return self._logits(self._compiled, images)
        except Exception as error:  # each compiler fails in its own way
            why = " ".join(str(error).split())[:200]
            raise XbenchError(f"model {self.id} does not run compiled here ({why}); leave -compiled out of --dtype") from error

    def embed(self, images: Tensor) -> Tensor:
        """Model inputs ``[B, 3, H, W]`` -> embeddings of length 1, float32 ``[B, D]``, without gradients. Of a CLIP."""
        embed = getattr(self._folded, "embed", None)
        assert embed is not None, "only a CLIP has embeddings"
        with torch.inference_mode():
            if self.dtype.startswith("float32"):
                return embed(images)
            with torch.autocast(torch.device(self.device).type, torch.bfloat16):
                return embed(images)

    @functools.cached_property
    def _folded(self) -> nn.Module:
        example = torch.zeros(1, 3, *self.preprocessing.size).to(self.device)
        return folding.folded(self.network, example)

    @functools.cached_property
    def _compiled(self) -> Callable[[Tensor], Tensor]:
        return torch.compile(self._folded)

    def _logits(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        if self.dtype.startswith("float32"):
            return network(images)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16):
            return network(images).float()

    def classifier(self) -> Model:
        """The model itself.

        Raises:
            XbenchError: it has no classes, and nothing that it says can be explained.
        """
        if not len(self.classes):
            raise XbenchError(f"model {self.id} gives features, not classes; name a checkpoint with a classifier: {self.id}@FILE")
        return self

    @functools.cached_property
    def tower(self) -> towers.Tower | None:
        """The image tower of a CLIP to look into, None where there is none of a known kind."""
        return getattr(self.network, "tower", None)

    @property
    def outputs(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """What of its logits ``[B, classes]`` metrics can ask for, by name."""
        cosines = getattr(self.network, "cosines", None)
        return {**OUTPUTS, COSINE: cosines} if cosines else OUTPUTS

    @functools.cached_property
    def digest(self) -> str:
        """sha256 over weights, preprocessing, classes, feature layer and prompts, hex (20 digits)."""
        return weights_digest(self.network, repr((self.preprocessing, self.classes, self.feature_layer, self.prompts)))

    @functools.cached_property
    def structure(self) -> str:
        """A digest of all else that its values depend on: the network's structure, and what was found in it."""
        found = (sorted(self.capabilities), self.layout, self.attention_rows, str(self.memory_format))
        return hashlib.sha256(f"{structure_digest(self.network)} {found}".encode()).hexdigest()[:20]

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
        """Pictures (uint8 ``[3, H, W]`` each, in the image frame) -> model inputs ``[n, 3, h, w]``, on the model's device."""
        how = self.preprocessing
        seen = [how.view(kind, *image.shape[-2:]).image(image, how.interpolation) for image in images]
        return how.normalise(torch.stack(seen)).contiguous(memory_format=self.memory_format).to(self.device)


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

    def __init__(self, model: Model, progress: Callable[[int], None] | None = None, pass_size: int = 0) -> None:
        self.model = model
        self.progress = progress
        self.pass_size = pass_size  # pictures that are embedded at once, where that is not the batch's own number
        self._prober: Prober | None = None
        self._home: Tensor | None = None
        self._passes: dict[tuple[str, str], _Pass] = {}
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
        return done.features.detach(), self._gradients(done, batch.targets, "features")[0]

    def input_gradients(self, batch: Batch) -> Tensor:
        """The gradient of the target's logit with respect to the input, ``[B, 3, H, W]``."""
        return self._gradients(self._pass(batch), batch.targets, "images")[0]

    @property
    def tower(self) -> towers.Tower:
        """The image tower, for methods that need ``patch_tokens``."""
        assert self.model.tower is not None, "a method that looks into the tower needs patch_tokens"
        return self.model.tower

    def seen(self, batch: Batch) -> towers.Seen:
        """What enters each block of the image tower, and its answer, detached. From the shared pass."""
        *streams, embedding = (found.detach().float() for found in self._pass(batch).seen)
        return towers.Seen(tuple(streams), embedding, self.tower.grid(batch.size))

    def texts(self, batch: Batch) -> Tensor:
        """The embedding of each target, of length 1, ``[B, D]``; of all classes: ``network.texts``."""
        return self.class_texts[batch.targets]

    @property
    def class_texts(self) -> Tensor:
        """The embedding of each class, of length 1, ``[classes, D]``. Of a model with the capability ``text``."""
        texts = self.network.texts
        assert isinstance(texts, Tensor)
        return texts

    def sentences(self, sentences: Sequence[str]) -> Tensor:
        """Embeddings of sentences, of length 1, ``[n, D]``, on the model's device; computed once for all batches of a run. What is
        longer than the text tower reads is cut."""
        assert self.model.encode_text is not None, "a method that reads sentences needs text"
        return self.model.encode_text(sentences).to(self.model.device)

    def embeddings(self, batch: Batch, images: Tensor) -> Tensor:
        """Embeddings of pictures made from a batch, of the model's input size: float ``[n, 3, H, W]`` -> ``[n, D]``, of length 1.

        In passes of the batch's shape, the last one padded; the items of the batch share the cost. For models with text.
        """
        size = self.pass_size or len(batch)
        found = []
        self._inside = True
        try:
            for start in range(0, len(images), size):
                some = images[start : start + size]
                padded = torch.cat([some, some[:1].expand(size - len(some), -1, -1, -1)])
                found.append(self.model.embed(padded.contiguous(memory_format=self.model.memory_format))[: len(some)])
                if self.progress:
                    self.progress(len(some))
        finally:
            self._inside = False
        self._cost.forwards += len(images) / len(batch.items)
        return torch.cat(found)

    def charge(self, forwards: float = 0.0, backwards: float = 0.0) -> None:
        """Add passes to the cost of the method that runs, of parts of the network that it computes itself."""
        self._cost.forwards += forwards
        self._cost.backwards += backwards

    def attention(self, batch: Batch) -> list[Tensor]:
        """Attention probabilities of every self-attention block over the tokens of the model's layout, the first block first.

        float32 ``[B, heads, N, N]`` each, a row for each token that looks, summing to one; N = extra + h * w tokens of the layout.
        From a pass of its own, in which attention is not fused.

        Raises:
            NotApplicable: there is no attention over that many tokens, as where the input's size is not the model's own.
        """
        return [map_.detach().float() for map_ in self._pass(batch, "attention").maps]

    def attention_gradients(self, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """What ``attention`` gives, and the gradients of the target's logit with respect to it, float32 ``[B, heads, N, N]`` each.

        Raises:
            NotApplicable: as ``attention``.
        """
        done = self._pass(batch, "attention")
        return [map_.detach().float() for map_ in done.maps], self._gradients(done, batch.targets, "attention")

    def probe(self, batch: Batch, requests: Sequence[Request | Blends]) -> list[Tensor]:
        """The target's probability on perturbed inputs of a batch, packed into full forward passes: float64 ``[points]`` per
        Request, ``[rows, masks]`` per Blends. A method that perturbs asks here."""
        prober = self.prober(batch)
        self._inside = True
        try:
            responses = prober.run(requests)
        finally:
            self._inside = False
        # Stand-alone cost: end points that others asked for before count too.
        asked = sum(r.points if isinstance(r, Request) else len(r.rows) * r.count for r in requests)
        self._cost.forwards += asked / prober.rows
        return responses

    def prober(self, batch: Batch) -> Prober:
        """What answers requests for a batch; one for all metrics and methods where the batch is the view's own."""
        at_home = self._home is None or batch.images is self._home
        if at_home and self._prober is not None:
            return self._prober
        count = len(batch.items)
        asked = (self.model.infer, batch.images[:count], batch.targets[:count], len(batch), self.progress)
        made = Prober(*asked, self.model.outputs)
        if at_home:
            self._home, self._prober = batch.images, made
        return made

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

    def _pass(self, batch: Batch, kind: Literal["plain", "attention"] = "plain") -> _Pass:
        if self._home is None:
            self._home = batch.images
        key = "home" if batch.images is self._home else "away", kind
        done = self._passes.get(key)
        if done is None or done.given is not batch.images:
            self._inside = True
            try:
                done = self._passes[key] = _Pass(self.model, batch.images, kind)  # of other inputs the last pass is remembered
            finally:
                self._inside = False
            self._cost.seconds -= done.seconds  # the time is in account()'s clock; _charge adds it for all alike
        self._charge(done, "forward", done.seconds)
        return done

    def _gradients(self, done: _Pass, targets: Tensor, of: str) -> list[Tensor]:
        gradients, seconds, new = done.gradients(targets, of)
        if new:
            self._cost.seconds -= seconds
        self._charge(done, of, seconds)
        return gradients

    def _charge(self, done: _Pass, what: str, seconds: float) -> None:
        if (done.number, what) in self._charged:
            return
        self._charged.add((done.number, what))
        self._cost.seconds += seconds
        if what == "forward":
            self._cost.forwards += 1
        else:
            self._cost.backwards += 1


class _Pass:
    """One forward pass with its graph: logits, the feature layer's output or the attention, and gradients on request."""

    def __init__(self, model: Model, images: Tensor, kind: Literal["plain", "attention"]) -> None:
        start = time.perf_counter()
        self.given, self.images = images, images.detach().requires_grad_()
        self._layout = model.layout
        self._captured: list[Tensor] = []
        self.seen: list[Tensor] = []
        self.maps: list[Tensor] = []
        with torch.enable_grad():
            if kind == "attention":
                self._run_recorded(model)
            else:
                self._run(model)
        self.seconds = time.perf_counter() - start
        self.number = next(_NUMBERS)
        self._known: dict[str, tuple[Tensor, list[Tensor], float]] = {}

    def _run(self, model: Model) -> None:
        layers = [model.layer] if model.layout is not None else []
        handles = [layer.register_forward_hook(lambda _, __, output: self._captured.append(output)) for layer in layers]
        try:
            with self._watched(model) as self.seen:
                self.logits = model(self.images)
        finally:
            for handle in handles:
                handle.remove()
        if model.layout is not None and (len(self._captured) != 1 or not isinstance(self._captured[0], Tensor)):
            raise XbenchError(f"model {model.id}: layer {model.feature_layer} must run once a pass and give one tensor")

    def _watched(self, model: Model) -> AbstractContextManager[list[Tensor]]:
        return model.tower.watched() if model.tower else nullcontext([])

    def _run_recorded(self, model: Model) -> None:
        assert model.layout is not None, "the model has no attention"
        with attention.recorded(len(self.images), model.layout) as self.maps:
            self.logits = model(self.images)
        if not self.maps:
            count, (height, width) = attention.tokens(model.layout), self.images.shape[-2:]
            raise NotApplicable(f"model {model.id} has no attention over {count} tokens at inputs of {height} x {width}")

    @functools.cached_property
    def features(self) -> Tensor:
        """The feature layer's output, float32 ``[B, K, h, w]``."""
        assert self._layout is not None, "the model has no feature maps"
        return self._layout.to_grid(self._captured[0]).detach().float()

    def gradients(self, targets: Tensor, of: str) -> tuple[list[Tensor], float, bool]:
        """(gradients of the targets' logits, seconds that they took, whether they were computed just now)."""
        known = self._known.get(of)
        if known is not None and known[0] is targets:
            return known[1], known[2], False
        start = time.perf_counter()
        score = self.logits.gather(1, targets[:, None]).sum()
        wanted = {"features": self._captured, "images": [self.images], "attention": self.maps}[of]
        leads_nowhere = of == "attention"  # may be true of some map, whose gradient is zero then
        gradients = torch.autograd.grad(score, wanted, retain_graph=True, materialize_grads=leads_nowhere)
        if of == "features":
            assert self._layout is not None, "the model has no feature maps"
            gradients = tuple(map(self._layout.to_grid, gradients))
        found = [gradient.detach().float() for gradient in gradients]
        self._known[of] = targets, found, time.perf_counter() - start
        return found, self._known[of][2], True
