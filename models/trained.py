"""Models that `xbench train` made: one's own, and the small ones that ship, which were trained on generated pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from xbench.plugin import Card, ClassList, Model, XbenchError, cards, classifier, fill, model, registry

from ._classlists import _lines, _parse
from ._templates import templates

SHIPPED = Path(__file__).parent / "weights"


def names() -> list[str]:
    """The models that ship."""
    return sorted(path.stem for path in SHIPPED.glob("*.json"))


@model("trained", licence="that of the pictures it was trained on")
def trained(checkpoint: str, template: str = "", prompts: str = "", classes: str = "", layer: str = "") -> Model:
    """What `xbench train` made, given by its folder, card or weights: ``trained@results/runs/train-mine``.

    For a CLIP, as the task contrast makes one: template says how prompts are made of class names, instead of the recipe's: ``"a
    picture of a {}"``, a file of several, ``openai_80`` or ``openai_7``; classes is a file of other classes, one a line; prompts
    is the name of one of the recipe's own sets, or a file with a JSON object, class -> list of sentences. layer: the feature layer,
    where it is not to be found by itself.
    """
    return _open(f"trained@{checkpoint}", Path(checkpoint).expanduser(), template, prompts, classes, layer)


@model("scenes/<name>", licence="Apache-2.0; trained by xbench on generated pictures", names=names)
def scenes(name: str, template: str = "", prompts: str = "", classes: str = "", layer: str = "") -> Model:
    """A small network that xbench trained itself on generated scenes: no photograph was seen.

    Its recipe, data, held-out figures and digest are in its card, ``models/weights/<name>.json``. Parameters: see ``trained``.
    """
    return _open(f"scenes/{name}", SHIPPED / f"{name}.json", template, prompts, classes, layer)


def _open(id: str, place: Path, template: str, prompts: str, classes: str, layer: str) -> Model:
    files = cards.find(place)
    card = cards.read(files[0])
    if card.task not in registry.ids("trainer"):
        raise XbenchError(f"model {id} is of the trainer {card.task!r}, which is not here; load its file with --plugin")
    trainer, preprocessing = registry.trainer(card.task), card.preprocessing.preprocessing()
    opened, made_by = trainer.open(card, files[1]), trainer.plugin.make
    if opened.encoder is None:
        if template or prompts or classes:
            raise XbenchError(f"model {id} is a classifier of its own classes; template, prompts and classes are for a CLIP")
        return Model(id, opened.network, preprocessing, card.class_list, layer, files=files, card=card.sentence(), made_by=made_by)
    named, sentences, more = _prompts(id, card, template, prompts, classes)
    all_files, about = (*files, *more), card.sentence()
    found = classifier(id, opened.network, opened.encoder, named, sentences, preprocessing, layer, all_files, about)
    return replace(found, made_by=made_by)


def _prompts(
    id: str, card: Card, template: str, prompts: str, classes: str
) -> tuple[ClassList, tuple[tuple[str, ...], ...], tuple[Path, ...]]:
    """Classes and the sentences of each, and the files that they were read from."""
    known = card.class_list
    if prompts and (template or classes):
        raise XbenchError(f"model {id}: prompts gives the sentences of every class; leave template and classes out")
    if prompts in card.prompts:
        given = card.prompts[prompts]
        return known, fill([given], known.names) if isinstance(given, str) else tuple((own,) for own in given), ()
    if prompts:
        path = Path(prompts).expanduser()
        found = _sentences(path, f"; the card's own sets: {', '.join(card.prompts)}" if card.prompts else "")
        listed = known if tuple(found) == known.names else ClassList(tuple(found))
        return listed, tuple(found.values()), (path,)
    listed = _parse(_lines(Path(classes).expanduser())) if classes else known
    sentences, more = templates(id, template or card.template)
    return listed, fill(sentences, listed.names), (*((Path(classes).expanduser(),) if classes else ()), *more)


def _sentences(path: Path, known: str) -> dict[str, tuple[str, ...]]:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): (own,) if isinstance(own, str) else tuple(map(str, own)) for name, own in given.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise XbenchError(
            f"cannot read prompts {path} ({error}); write a JSON object, class -> list of sentences{known}"
        ) from error
