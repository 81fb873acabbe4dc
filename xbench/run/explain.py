"""Explain a picture, or some of a dataset, outside a benchmark: a sheet of overlays."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from xbench import host
from xbench.data import wordnet
from xbench.data.classes import ClassList
from xbench.data.images import read
from xbench.data.samples import Batch, Item
from xbench.errors import XbenchError, did_you_mean
from xbench.maps import saliency
from xbench.network.model import Model, ModelView
from xbench.network.zero_shot import retold
from xbench.plugins.declarations import Method
from xbench.plugins.registry import registry
from xbench.report import pictures

COLUMNS = 6
PASS = 16  # windows of a picture that are embedded at once
WRAPPED = 28  # characters of a caption's line


def explain(
    image: str,
    count: int | None = None,
    *,
    model: str,
    methods: Sequence[str],
    target: str | None = None,
    texts: Sequence[str] = (),
    concepts: Sequence[str] = (),
    out: Path | None = None,
    plugins: Sequence[str] = (),
) -> str:
    """Write a sheet of a picture file, or of so many pictures of a dataset. -> a sentence that says what it shows.

    texts, concepts: explain these, for a CLIP, instead of a class. out: ``<image>-explained.png`` beside a file, ``explained.png``
    for a dataset by default. plugins: files or modules to load first.

    Raises:
        XbenchError: anything the user can mend.
    """
    for name in plugins:
        registry.load(name)
    path = Path(image)
    sheet = out or (path.with_name(f"{path.stem}-explained.png") if count is None else Path("explained.png"))
    if count is None and not path.exists() and image.partition("(")[0] in registry.ids("dataset"):
        raise XbenchError(f"{image} is a dataset; say how many of its pictures to explain: --pictures 6")
    if (texts or concepts) and target is not None:
        raise XbenchError("--target is a class of the model, --text and --concept are words of your own; give one or the other")
    if texts or concepts:
        return explain_words(image, count, model, methods, texts, concepts, sheet)
    if count is not None:
        return explain_dataset(image, count, model, methods, target, sheet)
    return explain_picture(path, model, methods, target, sheet)


@host.restored()
def explain_picture(path: Path, model_spec: str, methods: Sequence[str], target: str | None, out: Path) -> str:
    """Write a sheet with the picture as the model sees it and an overlay per method. -> a sentence that says what it shows.

    target: a class of the model, None for its prediction.

    Raises:
        XbenchError: not a picture, an unknown plug-in or class, a method that needs what the model or a single picture lacks.
    """
    bound = [registry.method(spec) for spec in methods]
    model: Model = registry.model(model_spec)().classifier()
    row, explained, probability = _row(
        Shown(model, read(path), path.name), bound, None if target is None else _class(model, target)
    )
    pictures.sheet([row[i : i + COLUMNS] for i in range(0, len(row), COLUMNS)], out)
    return f"{model.classes.names[explained]} (p = {probability:.2f}) explained by {', '.join(methods)}: {out}"


@host.restored()
def explain_dataset(spec: str, count: int, model_spec: str, methods: Sequence[str], target: str | None, out: Path) -> str:
    """The same for the first pictures of a dataset, a row each. target: a class of the model, None for each picture's label, or
    the prediction where that is not known, or no class of the model.

    Raises:
        XbenchError: as above.
    """
    bound = [registry.method(method) for method in methods]
    model: Model = registry.model(model_spec)().classifier()
    dataset = registry.dataset(spec)()
    same = dataset.classes.same_as(model.classes)
    known = range(len(model.classes)) if same else dataset.classes.matches(model.classes)
    rows = []
    for entry in dataset.entries()[:count]:
        label = known[entry.labels[0]] if entry.labels else None
        wanted = label if target is None else _class(model, target)
        row, explained, probability = _row(Shown(model, dataset.load(entry.id).image, entry.id), bound, wanted)
        rows.append([(f"{model.classes.names[explained]}, p = {probability:.2f}", row[0][1]), *row[1:]])
    pictures.sheet(rows, out)
    return f"{len(rows)} pictures of {spec} explained by {', '.join(methods)}: {out}"


@host.restored()
def explain_words(
    image: str,
    count: int | None,
    model_spec: str,
    methods: Sequence[str],
    texts: Sequence[str],
    concepts: Sequence[str],
    out: Path,
) -> str:
    """Write a sheet with a row for each text, and each concept of WordNet, on one picture or on each of several. The model is a
    CLIP; what it classifies otherwise has no part in it. -> a sentence that says what the sheet shows.

    image: a file; with a count a dataset, of which so many pictures are shown. concepts: synsets such as ``bird.n.01``; methods
    that need a sentence are given the synset's words.

    Raises:
        XbenchError: as ``explain_picture``; the model is no CLIP, a text is empty or too long, an unknown synset.
    """
    bound = [registry.method(spec) for spec in methods]
    synsets = [wordnet.compact().synset(name) for name in concepts]
    if not all(text.strip() for text in texts):
        raise XbenchError("--text is empty; write what to look for, such as 'a striped circle'")
    asked = ClassList((*texts, *(s.name for s in synsets)), (*("" for _ in texts), *(s.wnid for s in synsets)))
    prompts = [*((text,) for text in texts), *(s.lemmas for s in synsets)]
    model, rows, said = retold(registry.model(model_spec)(), asked, prompts), [], []
    for name, pixels in _pictures(image, count):
        shown = Shown(model, pixels, name)
        embedding = shown.view.embeddings(shown.batch(0), shown.inputs)[0]
        for target, words in enumerate(asked.names):
            row, _, _ = _row(shown, bound, target)
            cosine = float(shown.view.class_texts[target] @ embedding)
            said.append(f"{words!r} (cosine {cosine:.2f})")
            rows.append([("\n".join(textwrap.wrap(words, WRAPPED)), row[0][1]), *row[1:]])
    pictures.sheet(rows, out)
    where = "" if count is None else f" in {len(rows) // len(asked.names)} pictures of {image}"
    what = said if count is None else [repr(words) for words in asked.names]
    return f"{' and '.join(what)}{where} explained by {', '.join(methods)}: {out}"


def _pictures(image: str, count: int | None) -> Iterator[tuple[str, Tensor]]:
    """(name, uint8 ``[3, H, W]``) of a file, or of a dataset's first pictures."""
    if count is None:
        yield Path(image).name, read(Path(image))
        return
    dataset = registry.dataset(image)()
    for entry in dataset.entries()[:count]:
        yield entry.id, dataset.load(entry.id).image


class Shown:
    """A picture, uint8 ``[3, H, W]``, as a model sees it. What is computed of it once serves all its batches."""

    def __init__(self, model: Model, image: Tensor, name: str) -> None:
        self.model, self.image, self.name = model, image, name
        self.inputs, self.view = model.inputs([image], "crop"), ModelView(model, pass_size=PASS)

    def batch(self, target: int) -> Batch:
        """The picture alone, with a class to explain."""
        return Batch(self.inputs, torch.tensor([target]), (Item(self.name, self.name, None, self.name),), seed="0")


def _row(shown: Shown, methods: Sequence[Method], target: int | None) -> tuple[list[tuple[str, pictures.Pixels]], int, float]:
    """(captioned pictures: as the model sees it, then an overlay per method; the explained class; its probability)."""
    model, view, image = shown.model, shown.view, shown.image
    probabilities = view.logits(shown.batch(0)).softmax(dim=1)[0]
    explained = int(probabilities.argmax()) if target is None else target
    batch = shown.batch(explained)
    window = model.preprocessing.view("crop", *image.shape[-2:])
    seen = window.image(image, model.preprocessing.interpolation).permute(1, 2, 0).numpy()
    row = [("picture", seen)]
    for method in methods:
        if lacking := sorted(method.needs - model.capabilities):
            raise XbenchError(f"method {method.name} needs {' and '.join(lacking)}, which a single picture on {model.id} lacks")
        try:
            raw = method(view, batch.seeded(method.name))
        except XbenchError:
            raise
        except Exception as error:
            raise XbenchError(f"method {method.name} failed on {shown.name}: {type(error).__name__}: {error}") from error
        map_ = saliency.validated(raw, 1, 1, batch.size, method.name)[0]
        row.append((method.name, pictures.overlay(seen, map_.numpy())))
    return row, explained, float(probabilities[explained])


def _class(model: Model, target: str) -> int:
    try:
        return model.classes.index(target)
    except KeyError:
        hint = f"; classes are 0 to {len(model.classes) - 1}" if target.isdigit() else did_you_mean(target, model.classes.names)
        raise XbenchError(f"model {model.id} has no class {target!r}{hint}") from None
